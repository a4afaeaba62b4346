"""
Checks as an editor sees them. Never run: mypy and pyright check it.
"""

from __future__ import annotations

import datetime as dt
import functools

from collections.abc import Callable, Coroutine
from typing import Any, assert_type

from selfheal.answers import interpret, interpret_error
from selfheal.checks import HealthCheck, health_check, resolve
from selfheal.model import Budget, CheckResult, HealingPolicy, Ladder, Monitor, RecoveryContext
from selfheal.recovery import RecoveryAction


@health_check
def bare() -> None:
    """Without parentheses."""


@health_check(interval=5, timeout=dt.timedelta(seconds=1), resource="db", kinds=["lagging"], depends_on=[bare])
async def with_options() -> bool:
    """With options, async."""
    return True


class Service:
    """
    Methods keep their type.
    """

    @health_check(name="service")
    def probe(self) -> CheckResult:
        """A method."""
        return CheckResult.healthy()


def helper(ctx: RecoveryContext) -> None:
    """A recovery function."""


def takes_one(url: str) -> None:
    """Bound by a partial."""


def build(action: RecoveryAction, monitor: Monitor) -> None:
    """The same for any callable."""
    assert_type(bare(), None)
    colour: Coroutine[Any, Any, bool] = with_options()
    colour.close()
    assert_type(Service().probe(), CheckResult)
    HealthCheck(Service().probe, name="x", recovery=action >> action)
    HealthCheck(functools.partial(takes_one, "u"), policy=HealingPolicy(interval=5), recovery=action)
    HealthCheck(name="m", monitors=[monitor], recovery=helper, budget=Budget(3, per=60), shared=True)
    check = resolve(bare)
    assert_type(check, HealthCheck)
    assert_type(check.policy, HealingPolicy)
    assert_type(check.recovery, Ladder)
    assert_type(check.monitors, tuple[Monitor, ...])
    assert_type(check.depends_on, tuple[str, ...])
    assert_type(check.kinds, frozenset[str])
    assert_type(check.probe, Callable[[], object] | None)
    assert_type(interpret(None, check.kinds), CheckResult)
    assert_type(interpret_error(OSError(), check.kinds, bare), CheckResult)


def mistakes() -> None:
    """What an editor underlines."""
    health_check("db")  # type: ignore[call-overload, type-var, unused-ignore]  # pyright: ignore[reportArgumentType]
    health_check(intervall=5)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
    HealthCheck(bare, "name")  # type: ignore[misc, call-arg, unused-ignore]  # pyright: ignore[reportCallIssue]
    HealthCheck(bare, recovery=3)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    bare(1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    resolve(bare).name = "x"  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]
