"""
Values and contracts that rooms share. Nothing here decides, waits or knows the time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from selfheal.lazy import lazily


if TYPE_CHECKING:
    from selfheal.model.health import Assessment, CheckResult, Fault, HealthStatus, Monitor, combine
    from selfheal.model.held import HeldChange, HeldKey, HeldPhase
    from selfheal.model.kinds import FAULT_KINDS
    from selfheal.model.ladder import Blast, Climbable, Ladder, RecoveryContext, Rung, applies_to_all
    from selfheal.model.policy import Budget, HealingPolicy
    from selfheal.model.records import TIMELINE_LIMIT, Entry, Event, Field, Incident, IncidentResult, Journal
    from selfheal.model.rings import INCIDENTS_KEPT, RESULTS_KEPT, IncidentRing, PastResult, ResultRing
    from selfheal.model.steps import Check, Gate, HealingState, Outcome, Recover, Revert, Verdict, Wait


__all__ = [
    "FAULT_KINDS",
    "INCIDENTS_KEPT",
    "RESULTS_KEPT",
    "TIMELINE_LIMIT",
    "Assessment",
    "Blast",
    "Budget",
    "Check",
    "CheckResult",
    "Climbable",
    "Entry",
    "Event",
    "Fault",
    "Field",
    "Gate",
    "HealingPolicy",
    "HealingState",
    "HealthStatus",
    "HeldChange",
    "HeldKey",
    "HeldPhase",
    "Incident",
    "IncidentResult",
    "IncidentRing",
    "Journal",
    "Ladder",
    "Monitor",
    "Outcome",
    "PastResult",
    "Recover",
    "RecoveryContext",
    "ResultRing",
    "Revert",
    "Rung",
    "Verdict",
    "Wait",
    "applies_to_all",
    "combine",
]

__getattr__ = lazily(
    __name__,
    {
        "selfheal.model.held": ("HeldChange", "HeldKey", "HeldPhase"),
        "selfheal.model.kinds": ("FAULT_KINDS",),
        "selfheal.model.health": (
            "Assessment",
            "CheckResult",
            "Fault",
            "HealthStatus",
            "Monitor",
            "combine",
        ),
        "selfheal.model.ladder": (
            "Blast",
            "Climbable",
            "Ladder",
            "RecoveryContext",
            "Rung",
            "applies_to_all",
        ),
        "selfheal.model.policy": (
            "Budget",
            "HealingPolicy",
        ),
        "selfheal.model.records": (
            "TIMELINE_LIMIT",
            "Entry",
            "Event",
            "Field",
            "Incident",
            "IncidentResult",
            "Journal",
        ),
        "selfheal.model.rings": (
            "INCIDENTS_KEPT",
            "RESULTS_KEPT",
            "IncidentRing",
            "PastResult",
            "ResultRing",
        ),
        "selfheal.model.steps": (
            "Check",
            "Gate",
            "HealingState",
            "Outcome",
            "Recover",
            "Revert",
            "Verdict",
            "Wait",
        ),
    },
)
