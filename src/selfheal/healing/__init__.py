"""
From what is seen to what is done: the state machine, its gates and its ledgers. Pure: told the time, never waiting.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from selfheal.healing.machine import HealingStateMachine
from selfheal.lazy import lazily


if TYPE_CHECKING:
    from selfheal.healing.feasibility import require_feasible
    from selfheal.healing.gates import Dependency, GateVerdict, Spent, Surroundings, Trace, ask
    from selfheal.healing.ledgers import BudgetLedger, CooldownLedger, FlapLedger
    from selfheal.healing.walk import edges, mermaid


__all__ = [
    "BudgetLedger",
    "CooldownLedger",
    "Dependency",
    "FlapLedger",
    "GateVerdict",
    "HealingStateMachine",
    "Spent",
    "Surroundings",
    "Trace",
    "ask",
    "edges",
    "mermaid",
    "require_feasible",
]

# Lazy: who only names the machine does not pay for the gates' values.
__getattr__ = lazily(
    __name__,
    {
        "selfheal.healing.feasibility": ("require_feasible",),
        "selfheal.healing.gates": ("Dependency", "GateVerdict", "Spent", "Surroundings", "Trace", "ask"),
        "selfheal.healing.ledgers": ("BudgetLedger", "CooldownLedger", "FlapLedger"),
        "selfheal.healing.walk": ("edges", "mermaid"),
    },
)
