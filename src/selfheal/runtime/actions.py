"""
Runs actions: plans of leaves and pauses, on deadlines that do not depend on their cooperation.
"""

from __future__ import annotations

import inspect

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, cast

from selfheal.errors import CancelledRecoveryError, Escalate
from selfheal.model import Outcome
from selfheal.recovery.plan import Pause, Plan, Run
from selfheal.runtime.leash import awaiting, let_go_of
from selfheal.runtime.schedule import Timed
from selfheal.runtime.threads import NotStarted


if TYPE_CHECKING:
    from selfheal.model import Recover, RecoveryContext, Revert, Rung
    from selfheal.runtime.driver import Driver
    from selfheal.runtime.held import Noted
    from selfheal.runtime.threads import Handle
    from selfheal.runtime.watch import Watch


class ActionRun(Timed):
    """
    One action on one resource, from its start until the last of its code has ended.

    When a deadline is over, the action is answered as abandoned at once; code
    that still runs keeps the resource busy until it ends.
    """

    __slots__ = (
        "_driver",
        "_handle",
        "_leaf_ctx",
        "_noted",
        "_plan",
        "_wake_at",
        "answered",
        "rung",
        "started",
        "step",
        "stopped",
        "watch",
    )

    def __init__(self, driver: Driver, watch: Watch, step: Recover | Revert, rung: Rung, now: float) -> None:
        super().__init__()
        self._driver = driver
        self.watch = watch
        self.step = step
        self.rung = rung
        self.started = now
        #: The machine has its answer; the code may still run.
        self.answered = False
        #: Why its code should stop, or `None`. Read from any thread.
        self.stopped: str | None = None
        self._handle: Handle | None = None
        #: What the journal is told about the held leaf that runs.
        self._noted: Noted | None = None
        self._wake_at = 0.0

    @property
    def runs(self) -> bool:
        """
        Whether code of it runs.
        """
        return self._handle is not None

    def launch(self, plan: Plan, context: Callable[[float], RecoveryContext]) -> None:
        """
        Begin *plan*; *context* makes what a leaf gets to know, from its deadline.
        """
        self._plan = plan
        self._leaf_ctx = context
        self._advance(None)

    def wake(self, now: float) -> None:
        """
        Its time has come: a pause is over, or the deadline of a leaf.
        """
        if self._handle is None:
            self._advance(None)
        else:
            self.give_up(Outcome.abandoned(), "its deadline is over", now)

    def give_up(self, outcome: Outcome, reason: str, now: float) -> None:
        """
        Stop waiting: answer with *outcome*, and ask the code to stop.
        """
        self.stopped = reason
        self._plan.close()
        self._driver.schedule.remove(self)
        handle = self._handle
        if not self.answered:
            self._answer(outcome, now)
        if handle is not None:
            handle.cancel()

    def _advance(self, sent: Outcome | None) -> None:
        driver = self._driver
        now = driver.clock.now()
        while True:
            try:
                instruction = self._plan.send(sent)
            except StopIteration as stop:
                self._answer(cast("Outcome", stop.value), now)
                return
            except Exception as exc:  # noqa: BLE001 - a strategy of the user's inside the plan
                self._answer(Outcome.failed(exc), now)
                return
            if isinstance(instruction, Pause):
                driver.schedule.put(self, now + instruction.seconds)
                driver.rearm()
                return
            try:
                self._start(instruction)
            except Exception as exc:  # noqa: BLE001 - the leaf cannot even be looked at: that is how it has ended
                sent = Outcome.failed(exc)
            else:
                driver.schedule.put(self, instruction.until)
                driver.rearm()
                return

    def _start(self, instruction: Run) -> None:
        keeper = self._driver.keeper
        if keeper is None or not instruction.leaf.held:
            self._call(instruction)
        else:
            self._handle = self._noted = keeper.note(self, instruction, self._noted_down)

    def _noted_down(self, instruction: Run) -> None:
        """
        The journal knows what is about to be done, or takes too long.
        """
        if self.answered:  # it was given up meanwhile
            self._ended(None, NotStarted(self.stopped))
            return
        try:
            self._call(instruction)
        except Exception as exc:  # noqa: BLE001 - the leaf cannot even be looked at: that is how it has ended
            self._ended(None, exc)

    def _call(self, instruction: Run) -> None:
        ctx = self._leaf_ctx(instruction.until)
        fn = instruction.leaf.revert if instruction.revert else instruction.leaf.recover
        if inspect.iscoroutinefunction(fn):
            self._handle = self._driver.host.start(lambda: cast("Awaitable[object]", fn(ctx)), self._ended)
        else:
            self._handle = self._driver.threads.call(lambda: fn(ctx), self._ended, _nothing)

    def _ended(self, value: object, error: BaseException | None) -> None:
        try:
            self._take(value, error)
        except Exception as exc:  # noqa: BLE001 - an action that breaks must not take the checks along
            self._driver.broken(self.watch, exc)

    def _take(self, value: object, error: BaseException | None) -> None:
        driver = self._driver
        if inspect.isawaitable(value):
            if not self.answered:
                self._handle = driver.host.start(*awaiting(value, self._ended))
                return
            let_go_of(value)
        self._handle = None
        noted, self._noted = self._noted, None
        if noted is not None:
            noted.ended(error)
        now = driver.clock.now()
        if self.answered:
            driver.action_ended(self, now)
            return
        driver.schedule.remove(self)
        self._advance(self._outcome(error))

    def _outcome(self, error: BaseException | None) -> Outcome:
        if error is None:
            return Outcome.done()
        if isinstance(error, Escalate):
            return Outcome.cannot_help(error.reason)
        if isinstance(error, CancelledRecoveryError) and self.stopped is not None:
            return Outcome.cancelled(self.stopped)
        self._driver.fatal(error)
        return Outcome.failed(error)

    def _answer(self, outcome: Outcome, now: float) -> None:
        self.answered = True
        self._driver.schedule.remove(self)
        self._driver.answer(self, outcome, now)


def _nothing() -> None:
    """
    An action's time runs from its start, a wait for a free thread included.
    """
