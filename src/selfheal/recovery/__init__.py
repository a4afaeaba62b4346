"""
Actions, the operators that compose them, and what the operators mean. Nothing here waits or runs an action.
"""

from __future__ import annotations

from selfheal.recovery.action import RecoveryAction, Retrying, Sequence, Tree, When, Within, leaves
from selfheal.recovery.function import ByFault, FunctionAction, as_action, by_fault, recovery_action, rung
from selfheal.recovery.plan import TRIES_LIMIT, Pause, Plan, Run, plan, revert_plan


__all__ = [
    "TRIES_LIMIT",
    "ByFault",
    "FunctionAction",
    "Pause",
    "Plan",
    "RecoveryAction",
    "Retrying",
    "Run",
    "Sequence",
    "Tree",
    "When",
    "Within",
    "as_action",
    "by_fault",
    "leaves",
    "plan",
    "recovery_action",
    "revert_plan",
    "rung",
]
