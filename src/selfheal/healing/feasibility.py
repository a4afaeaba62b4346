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

    Args:
        policy: Of the check.
        ladder: Of the check; an empty one spends nothing.
        budget: That its actions alone are charged to, or `None`.
        what: Whose actions they are, for the message.

    Raises:
        ConfigError: If one of the two is the case.
    """
    rungs = ladder.as_ladder().rungs
    require_provable(policy, rungs)
    if budget is not None and rungs:
        budget.require_closable(spacing=_spacing(policy, rungs), what=what)


def require_closable(budget: Budget, checks: Iterable[tuple[HealingPolicy, Climbable]], *, what: str) -> None:
    """
    Refuse a budget that all *checks* together could never close.

    Raises:
        ConfigError: If that is the case. Checks whose ladders are empty spend nothing; with no others all is well.
    """
    ladders = [(policy, ladder.as_ladder().rungs) for policy, ladder in checks]
    spacings = [_spacing(policy, rungs) for policy, rungs in ladders if rungs]
    if spacings and all(spacings):
        budget.require_closable(spacing=1 / sum(1 / spacing for spacing in spacings), what=what)


def _spacing(policy: HealingPolicy, rungs: Iterable[Rung]) -> float:
    """
    The shortest realistic time from one action to the next.

    Nobody's action takes any time, the rung with the least to wait for is run again and again, and each run is
    refuted by ``fall`` bad results in a row.
    """
    return min(rung.cooldown + rung.settle for rung in rungs) + (policy.fall - 1) * policy.fast_interval
