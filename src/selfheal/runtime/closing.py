"""
Leaving in bounded time, whatever the code that still runs thinks of it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from selfheal import names
from selfheal.model import Field, Outcome, Revert
from selfheal.runtime import gating
from selfheal.runtime.schedule import Timed


if TYPE_CHECKING:
    from selfheal.runtime.actions import ActionRun
    from selfheal.runtime.driver import Driver
    from selfheal.runtime.probes import ProbeRun

#: A probe is only asked a question: it is not worth more seconds than this to let one end, or clean up. But whoever leaves
#: closes next what it uses, and a pool that is closed keeps open what comes back to it.
PROBES_WITHIN: Final = 1.0

#: Shares of the grace after which actions are asked to stop, and after which nothing is waited for any more. The
#: rest is for the way out: whoever leaves has left *within* the grace.
ASK_AT: Final = 0.8
END_AT: Final = 0.95


class Closing(Timed):
    """
    From the wish to stop to the end.

    Running actions get *grace* seconds, then are given up, and probes that are in time
    a second at most. Held changes stay as they are and are named, or are stepped down first.
    """

    __slots__ = (
        "_ask_at",
        "_asked",
        "_driver",
        "_end_at",
        "_in_time",
        "_probes_until",
        "_revert",
        "_tried",
        "done",
        "on_closed",
    )

    def __init__(self, driver: Driver, *, grace: float, revert: bool, on_closed: Callable[[], None]) -> None:
        super().__init__()
        now = driver.clock.now()
        self._driver = driver
        self._revert = revert
        #: Called at the end: whoever else wants to stop is told as well.
        self.on_closed = [on_closed]
        self._asked = False
        #: Held rungs that were stepped down, or refused to be.
        self._tried: dict[tuple[str, int], bool] = {}
        #: Probes that were running, and not over their deadline.
        self._in_time: list[ProbeRun] = []
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
                self._in_time.append(watch.run)
                watch.run.cancel()
            if watch.asking is not None:
                watch.asking.cancel()
            watch.end_hopes(well=False)
        self.look()

    def look(self) -> None:
        """
        Something has ended, or time has passed: go on if there is nothing left to wait for.
        """
        if self.done:
            return
        driver, now = self._driver, self._driver.clock.now()
        if now >= self._end_at:
            self.finish()
            return
        if now >= self._ask_at and not self._asked:
            self._asked = True
            for run in tuple(driver.running):
                run.give_up(Outcome.cancelled("closing"), "closing", now)
        if driver.running or (self._revert and self._step_down(now)):
            self._wait_for(self._ask_at if not self._asked else self._end_at)
        elif now < self._probes_until and any(
            run.is_task or run in self._in_time for watch in driver.watches.values() for run in watch.abandoned
        ):
            self._wait_for(self._probes_until)
        else:
            self.finish()

    def _wait_for(self, when: float) -> None:
        self._driver.schedule.put(self, when)
        self._driver.rearm()

    def _step_down(self, now: float) -> bool:
        """
        Revert the held rung that was applied last; whether there was one.
        """
        for watch in self._driver.watches.values():
            held = [rung for rung in watch.machine.held if (watch.check.name, rung) not in self._tried]
            if held and not self._asked:
                self._tried[watch.check.name, held[-1]] = False  # one try each: closing is no time for patience
                gating.begin(self._driver, watch, Revert(held[-1]), now)
                return True
        return False

    def reverted(self, run: ActionRun, outcome: Outcome) -> None:
        """
        A held rung was stepped down, or was not.
        """
        watch, rung = run.watch, run.step.rung
        self._tried[watch.check.name, rung] = outcome.ok
        event = names.HELD_REVERTED if outcome.ok else names.HELD_STUCK
        reason: dict[str, Field] = {} if outcome.ok else {"reason": outcome.reason, "until": None}
        self._driver.reporter.note(watch, event, action=run.rung.name, rung=rung, **reason)

    def _held(self) -> list[str]:
        """
        What stays applied, each rung with its resource.
        """
        return [
            f"{watch.resource.name}/{watch.check.recovery.rungs[rung].name}"
            for watch in self._driver.watches.values()
            for rung in watch.machine.held
            if not self._tried.get((watch.check.name, rung), False)
        ]

    def finish(self) -> None:
        """
        Wait for nothing any more.
        """
        if self.done:
            return
        self.done = True
        try:
            self._settle(self._driver.clock.now())
        except Exception as exc:  # noqa: BLE001 - whatever breaks here must not keep anybody from leaving
            self._driver.reporter.failed(None, "closing", exc)
        self._driver.host.let_go()
        for call in self.on_closed:
            call()

    def _settle(self, now: float) -> None:
        driver = self._driver
        running = [run.rung.name for run in driver.running]
        held = self._held()
        for run in tuple(driver.running):
            if not run.answered:
                run.give_up(Outcome.cancelled("closing"), "closing", now)
        for watch in driver.watches.values():
            watch.machine.close("closing", now=now)
            driver.reporter.publish(watch)
        fields = {"held": ", ".join(held), "running": ", ".join(running)}
        driver.reporter.announce(names.HEALER_STOPPED, fields)
