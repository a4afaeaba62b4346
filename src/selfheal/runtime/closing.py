"""
Leaving in bounded time, whatever the code that still runs thinks of it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from selfheal import names
from selfheal.model import Outcome, Revert
from selfheal.runtime import gating
from selfheal.runtime.schedule import Timed


if TYPE_CHECKING:
    from selfheal.runtime.driver import Driver
    from selfheal.runtime.watch import Watch

#: A probe is only asked a question: it is not worth more seconds than this to let one clean up.
PROBES_WITHIN: Final = 1.0

#: Shares of the grace after which actions are asked to stop, and after which nothing is waited for any more. The
#: rest is for the way out: whoever leaves has left *within* the grace.
ASK_AT: Final = 0.8
END_AT: Final = 0.95


class Closing(Timed):
    """
    From the wish to stop to the end.

    Running actions get *grace* seconds, then are given up. Held changes stay as
    they are and are named, or are stepped down first.
    """

    __slots__ = ("_asked", "_ask_at", "_driver", "_end_at", "_on_closed", "_probes_until", "_revert", "done")

    def __init__(self, driver: Driver, *, grace: float, revert: bool, on_closed: Callable[[], None]) -> None:
        super().__init__()
        now = driver.clock.now()
        self._driver = driver
        self._revert = revert
        self._on_closed = on_closed
        self._asked = False
        self._probes_until = now + min(grace * ASK_AT, PROBES_WITHIN)
        self._ask_at = now + grace * ASK_AT
        self._end_at = now + grace * END_AT
        self.done = False

    def begin(self) -> None:
        """
        Start nothing any more; ask what runs to end.
        """
        driver = self._driver
        driver.open = False
        for watch in driver.watches.values():
            driver.schedule.remove(watch)
            if watch.run is not None:
                watch.run.cancel()
            if watch.asking is not None:
                watch.asking.cancel()
        self.look()

    def look(self) -> None:
        """
        Something has ended, or time has passed: go on if there is nothing left to wait for.
        """
        if self.done:
            return
        driver, now = self._driver, self._driver.clock.now()
        if now >= self._end_at:
            self._finish(now)
            return
        if now >= self._ask_at and not self._asked:
            self._asked = True
            for run in tuple(driver.running):
                run.give_up(Outcome.cancelled("closing"), "closing", now)
        if driver.running:
            self._wait_for(self._ask_at if not self._asked else self._end_at)
        elif self._revert and self._step_down(now):
            self._wait_for(self._ask_at if not self._asked else self._end_at)
        elif now < self._probes_until and any(
            run.is_task for watch in driver.watches.values() for run in watch.abandoned
        ):
            self._wait_for(self._probes_until)
        else:
            self._finish(now)

    def _wait_for(self, when: float) -> None:
        self._driver.schedule.put(self, when)
        self._driver.rearm()

    def _step_down(self, now: float) -> bool:
        """
        Revert the held rung that was applied last; whether there was one.
        """
        for watch in self._driver.watches.values():
            held = watch.machine.held
            if held and not self._asked and watch.action is None and held[-1] not in watch.refused:
                watch.refused.add(held[-1])  # one try each: closing is no time for patience
                gating.begin(self._driver, watch, Revert(held[-1]), now)
                return True
        return False

    def _finish(self, now: float) -> None:
        self.done = True
        driver = self._driver
        running = [run.rung.name for run in driver.running]
        for run in tuple(driver.running):
            if not run.answered:
                run.give_up(Outcome.cancelled("closing"), "closing", now)
            run.drop()
        for watch in driver.watches.values():
            for probe in watch.abandoned:
                probe.drop()
            watch.machine.close("closing", now=now)
            driver.reporter.publish(watch)
        held = [name for watch in driver.watches.values() for name in held_names(watch)]
        driver.reporter.announce(names.HEALER_STOPPED, {"held": ", ".join(held), "running": ", ".join(running)})
        self._on_closed()


def held_names(watch: Watch) -> list[str]:
    """
    The rungs of *watch* that are applied, each with its resource.
    """
    rungs = watch.check.recovery.rungs
    return [f"{watch.resource.name}/{rungs[index].name}" for index in watch.machine.held]
