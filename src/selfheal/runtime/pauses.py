"""
Wishes that nothing be done: by call, by environment, by a file.
"""

from __future__ import annotations

import os

from typing import TYPE_CHECKING, Final

from selfheal import names
from selfheal.runtime import guards
from selfheal.runtime.watch import Pause


if TYPE_CHECKING:
    from selfheal.model import Field
    from selfheal.runtime.driver import Driver
    from selfheal.runtime.watch import Watch

#: Pauses everything while it is set; its value is the reason.
PAUSED_VARIABLE: Final = "SELFHEAL_PAUSED"

#: Names a file that pauses everything while it exists; its first line is the reason.
PAUSE_FILE_VARIABLE: Final = "SELFHEAL_PAUSE_FILE"


def pause_of(driver: Driver, watch: Watch | None, now: float) -> Pause | None:
    """
    The pause that holds for *watch*, or for everything (`None`).
    """
    for pause in (driver.pause, None if watch is None else watch.resource.pause):
        if pause is not None and (pause.until is None or now < pause.until):
            return pause
    reason = os.environ.get(PAUSED_VARIABLE)
    if reason:
        return Pause(f"{PAUSED_VARIABLE}: {reason}")
    path = os.environ.get(PAUSE_FILE_VARIABLE)
    if path and os.path.exists(path):
        return Pause(f"{path} exists")
    return None


def pause(driver: Driver, resource: str | None, wish: Pause) -> None:
    """
    Start no action and no revert, on one resource or at all.
    """
    if resource is None:
        driver.pause = wish
    else:
        driver.resources[resource].pause = wish
    fields: dict[str, Field] = {"reason": wish.reason, "until": wish.until}
    driver.reporter.announce(names.RESOURCE_PAUSED, fields, resource=resource or "")


def resume(driver: Driver, resource: str | None, reason: str) -> None:
    """
    End a pause; what was seen during it is no evidence.
    """
    now = driver.clock.now()
    if resource is None:
        driver.pause = None
    else:
        driver.resources[resource].pause = None
    driver.reporter.announce(names.RESOURCE_RESUMED, {"reason": reason}, resource=resource or "")
    for watch in tuple(driver.watches.values()):
        if resource in {None, watch.resource.name}:
            watch.machine.discard(reason, now=now)
            guards.forget(driver, watch)
            if driver.open:
                driver.advance(watch, now)
    if driver.open:
        driver.rearm()


def carry_over(before: Driver, after: Driver) -> None:
    """
    A pause outlives a restart, and a fork: only time and `resume` end it.
    """
    after.pause = before.pause
    for name, resource in after.resources.items():
        if name in before.resources:
            resource.pause = before.resources[name].pause
