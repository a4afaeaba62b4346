"""
Everything about a healer at one moment, for whoever shows it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import attrs

from selfheal.runtime.pauses import pause_of


if TYPE_CHECKING:
    from selfheal.runtime.driver import Driver
    from selfheal.runtime.engine import Engine
    from selfheal.runtime.watch import CheckStatus, Pause


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
    """

    at: float
    wall: float
    running: bool
    mode: str
    lag: float
    paused: Pause | None
    pauses: Mapping[str, Pause]
    checks: Mapping[str, CheckStatus]


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
    )
