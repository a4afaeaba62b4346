"""
Probe, notice, decide, act, prove, step back down: self-healing for what an application owns.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from selfheal.lazy import lazily


if TYPE_CHECKING:
    from selfheal.checks import HealthCheck, health_check
    from selfheal.errors import ConfigError, Escalate, SelfHealError, Unhealthy
    from selfheal.healer import Healer
    from selfheal.healing import HealingStateMachine
    from selfheal.model import (
        Assessment,
        Blast,
        Budget,
        CheckResult,
        Fault,
        HealingPolicy,
        HealingState,
        HealthStatus,
        Incident,
        Ladder,
        Monitor,
        Outcome,
        RecoveryContext,
    )
    from selfheal.monitors.latency import LatencyMonitor
    from selfheal.recovery import RecoveryAction, by_fault, recovery_action, rung
    from selfheal.resources.rebuildable import Rebuildable


__version__ = "26.1.0"

__all__ = [
    "Assessment",
    "Blast",
    "Budget",
    "CheckResult",
    "ConfigError",
    "Escalate",
    "Fault",
    "Healer",
    "HealingPolicy",
    "HealingState",
    "HealingStateMachine",
    "HealthCheck",
    "HealthStatus",
    "Incident",
    "Ladder",
    "LatencyMonitor",
    "Monitor",
    "Outcome",
    "Rebuildable",
    "RecoveryAction",
    "RecoveryContext",
    "SelfHealError",
    "Unhealthy",
    "by_fault",
    "health_check",
    "recovery_action",
    "rung",
]

__getattr__ = lazily(
    __name__,
    {
        "selfheal.errors": ("ConfigError", "Escalate", "SelfHealError", "Unhealthy"),
        "selfheal.model.health": ("Assessment", "CheckResult", "Fault", "HealthStatus", "Monitor"),
        "selfheal.model.ladder": ("Blast", "Ladder", "RecoveryContext"),
        "selfheal.model.policy": ("Budget", "HealingPolicy"),
        "selfheal.model.records": ("Incident",),
        "selfheal.model.steps": ("HealingState", "Outcome"),
        "selfheal.monitors.latency": ("LatencyMonitor",),
        "selfheal.healing": ("HealingStateMachine",),
        "selfheal.recovery": ("RecoveryAction", "by_fault", "recovery_action", "rung"),
        "selfheal.checks": ("HealthCheck", "health_check"),
        "selfheal.resources.rebuildable": ("Rebuildable",),
        "selfheal.healer": ("Healer",),
    },
)


def __dir__() -> list[str]:
    return sorted((*globals(), *__all__))
