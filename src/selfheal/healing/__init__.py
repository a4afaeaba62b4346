"""
From what is seen to what is done: the state machine, its gates and its ledgers. Pure: told the time, never waiting.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from selfheal.healing.machine import HealingStateMachine


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

_HOME = {
    "selfheal.healing.feasibility": ("require_feasible",),
    "selfheal.healing.gates": ("Dependency", "GateVerdict", "Spent", "Surroundings", "Trace", "ask"),
    "selfheal.healing.ledgers": ("BudgetLedger", "CooldownLedger", "FlapLedger"),
    "selfheal.healing.walk": ("edges", "mermaid"),
}
_ROOM = {name: room for room, names in _HOME.items() for name in names}


def __getattr__(name: str) -> object:
    # Lazy: who only names the machine does not pay for the gates' values.
    room = _ROOM.get(name)
    if room is None:
        msg = f"module 'selfheal.healing' has no attribute {name!r}"
        raise AttributeError(msg)
    from importlib import import_module

    value = getattr(import_module(room), name)
    globals()[name] = value
    return value
