"""
Everything about a healer at one moment, for whoever shows it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Final, NamedTuple

import attrs

from selfheal.runtime.pauses import pause_of


if TYPE_CHECKING:
    from selfheal.model import Budget
    from selfheal.runtime.driver import Driver
    from selfheal.runtime.engine import Engine
    from selfheal.runtime.watch import CheckStatus, Pause


#: The budget of all actions, among those of resources. None of their names has a parenthesis.
PROCESS: Final = "(process)"


class Allowance(NamedTuple):
    """
    A budget, and how many actions of it are left.
    """

    budget: Budget
    left: int


@attrs.frozen(kw_only=True)
class Snapshot:
    """
    How a healer and all of its checks stand at one moment.

    Args:
        at: Monotonic seconds, by the healer's clock.
        wall: The same moment in seconds since 1970.
        running: Whether it runs.
        mode: "enforce" or "observe".
        lag: Seconds for which its loop has not answered.
        paused: The pause of everything, or `None`.
        pauses: The pauses of single resources.
        checks: Every check by its name.
        budgets: What is left of the budget of each resource that has one, and as "(process)" of everybody's.
    """

    at: float
    wall: float
    running: bool
    mode: str
    lag: float
    paused: Pause | None
    pauses: Mapping[str, Pause]
    checks: Mapping[str, CheckStatus]
    budgets: Mapping[str, Allowance] = attrs.field(factory=dict[str, Allowance])


def snapshot(engine: Engine, max_age: float) -> Snapshot:
    """
    Look at everything, from any thread, without waiting for the loop.

    Args:
        engine: Of the healer.
        max_age: The last snapshot will do if it is no older than that, in seconds, and nothing has changed since.
    """
    driver, now = engine.driver, engine.clock.now()
    seen, known = (driver, driver.reporter.changes), engine.seen
    if known is not None and known[0] == seen and now - known[1].at < max_age:
        return known[1]
    made = _look(engine, driver, now)
    engine.seen = seen, made
    return made


def _look(engine: Engine, driver: Driver, now: float) -> Snapshot:
    resources = tuple(driver.resources.items())
    return Snapshot(
        at=now,
        wall=engine.clock.wall(),
        running=engine.alive,
        mode=engine.settings.mode,
        lag=engine.ping(now),
        paused=pause_of(driver, None, now),
        pauses={
            name: resource.pause
            for name, resource in resources
            if resource.pause is not None and (resource.pause.until is None or now < resource.pause.until)
        },
        checks={name: watch.status() for name, watch in tuple(driver.watches.items())},
        budgets=dict(_budgets(driver, now)),
    )


def _budgets(driver: Driver, now: float) -> Iterator[tuple[str, Allowance]]:
    ledgers = [(PROCESS, driver.budget), *((name, one.budget) for name, one in tuple(driver.resources.items()))]
    for name, ledger in ledgers:
        if ledger is not None:
            yield name, Allowance(ledger.budget, ledger.budget.limit - ledger.used(now=now))
