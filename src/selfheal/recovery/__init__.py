"""
Actions and the operators that compose them. Nothing here waits or runs an action.

What the operators mean is said by `selfheal.recovery.plan`, which only a runner needs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from selfheal.lazy import lazily


if TYPE_CHECKING:
    from selfheal.recovery.action import RecoveryAction, Retrying, Sequence, Tree, When, Within, leaves
    from selfheal.recovery.function import ByFault, FunctionAction, as_action, by_fault, recovery_action, rung


__all__ = [
    "ByFault",
    "FunctionAction",
    "RecoveryAction",
    "Retrying",
    "Sequence",
    "Tree",
    "When",
    "Within",
    "as_action",
    "by_fault",
    "leaves",
    "recovery_action",
    "rung",
]

__getattr__ = lazily(
    __name__,
    {
        "selfheal.recovery.action": ("RecoveryAction", "Retrying", "Sequence", "Tree", "When", "Within", "leaves"),
        "selfheal.recovery.function": (
            "ByFault",
            "FunctionAction",
            "as_action",
            "by_fault",
            "recovery_action",
            "rung",
        ),
    },
)
