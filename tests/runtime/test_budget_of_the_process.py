"""
The budget of the whole process, as it is put together with the checks.
"""

from __future__ import annotations

import pytest

from selfheal import Budget, ConfigError, Healer, HealthCheck, RecoveryContext, rung


def check(name: str) -> HealthCheck:
    """A check whose only action has a cooldown of five minutes."""

    def restart(ctx: RecoveryContext) -> None:
        pass

    return HealthCheck(lambda: None, name=name, recovery=rung(restart, cooldown=300))


def test_one_slow_ladder_goes_with_the_default_budget() -> None:
    """
    The default budget is a net: it refuses nobody who acts too seldom to reach it.
    """
    assert ["log"] == [check.name for check in Healer([check("log")]).checks]


def test_a_budget_that_the_checks_together_could_never_close_is_refused() -> None:
    """
    A budget of one's own must be within reach of all checks together, of those added later as well.
    """
    healer = Healer([check("a"), check("b")], budget=Budget(4, per=700))
    healer.add(check("c"))
    with pytest.raises(ConfigError, match="could never close for the process, through all its checks"):
        Healer([check("a"), check("b")], budget=Budget(5, per=700))
