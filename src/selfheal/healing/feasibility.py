"""
Settings that could never do what they promise, found when they are put together.
"""

from __future__ import annotations

from collections.abc import Iterable

from selfheal.errors import ConfigError
from selfheal.model import Budget, Climbable, HealingPolicy, Rung


def require_provable(policy: HealingPolicy, rungs: Iterable[Rung]) -> None:
    """
    Refuse a rung whose verification could never succeed.

    Raises:
        ConfigError: If a rung's ``verify_within`` (default: the policy's) is too short for ``rise`` good results.
    """
    for rung in rungs:
        try:
            policy.require_provable(settle=rung.settle, verify_within=rung.verify_within)
        except ConfigError as exc:
            msg = f"rung {rung.name!r}: {exc}"
            raise ConfigError(msg) from None


def require_feasible(policy: HealingPolicy, ladder: Climbable, budget: Budget | None, *, what: str) -> None:
    """
    Refuse a budget that could never close, and a verification that could never succeed.

    The shortest realistic time from one action to the next: nobody's action takes any time, the rung with the
    least to wait for is run again and again, and each run is refuted by ``fall`` bad results in a row.

    Args:
        policy: Of the check.
        ladder: Of the check; an empty one spends nothing.
        budget: That its actions are charged to, or `None`.
        what: Whose actions they are, for the message.

    Raises:
        ConfigError: If one of the two is the case.
    """
    rungs = ladder.as_ladder().rungs
    require_provable(policy, rungs)
    if budget is None or not rungs:
        return
    refuted = (policy.fall - 1) * policy.fast_interval
    budget.require_closable(spacing=min(rung.cooldown + rung.settle for rung in rungs) + refuted, what=what)
