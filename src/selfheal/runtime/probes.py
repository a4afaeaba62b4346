"""
Runs probes, each on a deadline that does not depend on its cooperation.

Cancelling is not a deadline: a hung driver takes seconds, or for ever, to
honour a cancel. So at the deadline the runner stops waiting and says
``timeout``; the run is *abandoned*, counted, and never started a second time
beside itself, but for one fresh run after each action: a new path must be
provable.
"""

from __future__ import annotations

import functools
import inspect

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final, cast

import attrs

from selfheal import names
from selfheal.answers import interpret, interpret_error
from selfheal.model import CheckResult, Fault, HealthStatus, combine
from selfheal.runtime.guards import assess
from selfheal.runtime.leash import awaiting, let_go_of
from selfheal.runtime.threads import NotStarted


if TYPE_CHECKING:
    from selfheal.runtime.driver import Driver
    from selfheal.runtime.threads import Handle
    from selfheal.runtime.watch import Watch

#: Abandoned runs of one check at most. Every one may hold a thread and a connection for ever.
MAX_ABANDONED: Final = 4

#: A deadline that is served later than this share of the timeout was not missed by the probe. It gets as much again, once.
LATE_SHARE: Final = 0.5

#: Seconds that a due check has to wait for a free thread before it is worth an event.
DELAY_WORTH_TELLING: Final = 0.1


def is_async_callable(fn: object) -> bool:
    """
    Whether calling *fn* gives a coroutine; looks through partials, methods and ``__call__``.
    """
    while isinstance(fn, functools.partial):
        fn = cast("functools.partial[object]", fn).func
    call = inspect.getattr_static(type(fn), "__call__", None)
    return inspect.iscoroutinefunction(fn) or inspect.iscoroutinefunction(call)


class ProbeRun:
    """
    One run of one check.
    """

    __slots__ = ("_driver", "_excused", "_handle", "_watch", "settled", "started")

    _handle: Handle

    def __init__(self, driver: Driver, watch: Watch, now: float) -> None:
        self._driver = driver
        self._watch = watch
        self.started = now
        #: A result was given: later news of this run is no evidence.
        self.settled = False
        self._excused = False

    def launch(self, probe: Callable[[], object], *, is_async: bool) -> None:
        """
        Start it; its answer comes to `ended`.
        """
        driver = self._driver
        if is_async:
            self._launched()
            self._handle = driver.host.start(cast("Callable[[], Awaitable[object]]", probe), self.ended)
        else:
            self._handle = driver.threads.call(probe, self.ended, self._launched)

    def _launched(self) -> None:
        """
        The deadline runs from here: a probe that has waited for a thread has its full time.
        """
        driver, watch = self._driver, self._watch
        now = driver.clock.now()
        if now - self.started > DELAY_WORTH_TELLING:
            driver.reporter.note(watch, names.CHECK_DELAYED, delay=now - self.started)
            driver.reporter.publish(watch)
        self.started = now
        driver.schedule.put(watch, now + watch.check.policy.timeout)
        driver.rearm()

    def ended(self, answer: object, error: BaseException | None) -> None:
        """
        The user's code has ended, in time or not.
        """
        try:
            self._ended(answer, error)
        except Exception as exc:  # noqa: BLE001 - a check that breaks must not take the others along
            self._driver.broken(self._watch, exc)

    def _ended(self, answer: object, error: BaseException | None) -> None:
        driver, watch = self._driver, self._watch
        if answer is not None and inspect.isawaitable(answer):  # a sync probe that hands out something to wait for
            if self.settled:
                let_go_of(answer)
            else:
                self._handle = driver.host.start(*awaiting(answer, self.ended))
                return
        now = driver.clock.now()
        if self.settled:
            watch.abandoned.remove(self)
            driver.run_ended(watch, now - self.started)
            return
        self.settled = True
        watch.run = None
        driver.take(watch, self._result(answer, error, now), now)

    def _result(self, answer: object, error: BaseException | None, now: float) -> CheckResult:
        check = self._watch.check
        duration = now - self.started
        if error is None and (answer is None or answer is True) and not check.monitors:  # the path of a healthy run
            return CheckResult(HealthStatus.HEALTHY, started_at=self.started, duration=duration)
        if error is None:
            result = interpret(answer, check.kinds)
        elif isinstance(error, self._driver.host.cancelled):
            result = CheckResult(HealthStatus.UNKNOWN)  # neutral: no counter moves
        elif isinstance(error, NotStarted):  # it says nothing about what was to be probed
            result = CheckResult(HealthStatus.UNKNOWN, fault=Fault("probe_error", message=str(error), error=error))
        else:
            self._driver.fatal(error)
            result = interpret_error(error, check.kinds, probe=check.probe)
        return assessed(
            self._driver, self._watch, attrs.evolve(result, started_at=self.started, duration=duration), now
        )

    def expire(self, now: float) -> None:
        """
        The deadline is over: stop waiting, say so, and ask the run to stop.
        """
        watch = self._watch
        timeout = watch.check.policy.timeout
        if not self._excused and now - self.started > timeout * (1 + LATE_SHARE):
            # It is us who are late: the process was stopped, or something blocks the loop. The answer may lie there.
            self._excused = True
            self._driver.schedule.put(watch, now + timeout * LATE_SHARE)
            return
        self.settled = True
        watch.run = None
        watch.abandoned.append(self)
        self._driver.run_abandoned(watch)
        self._handle.cancel()
        result = CheckResult.unhealthy(
            "timeout", message=f"no answer within {timeout:g} s", started_at=self.started, duration=now - self.started
        )
        self._driver.take(watch, assessed(self._driver, watch, result, now), now)

    def cancel(self) -> None:
        """
        The healer closes: ask the run to stop; nothing it says counts any more.
        """
        if not self.settled:
            self.settled = True
            self._watch.run = None
            self._watch.abandoned.append(self)
        self._handle.cancel()

    @property
    def is_task(self) -> bool:
        """
        Whether it is a task, which can be asked to clean up; a thread cannot.
        """
        return self._handle.is_task


def assessed(driver: Driver, watch: Watch, result: CheckResult | None, now: float) -> CheckResult:
    """
    *result* and what the check's monitors say, the worst of them.
    """
    combined = combine(result, (assess(driver, watch, monitor, now) for monitor in watch.check.monitors))
    if combined.started_at is None:
        return attrs.evolve(combined, started_at=now, duration=0.0)
    return combined


def may_start(watch: Watch) -> bool:
    """
    Whether a run may start now: none that is abandoned, or one fresh one beside them.
    """
    if not watch.abandoned:
        return True
    return watch.fresh and len(watch.abandoned) < MAX_ABANDONED


def stuck(watch: Watch, now: float) -> CheckResult:
    """
    What a due time yields while an abandoned run has not ended.
    """
    message = f"{len(watch.abandoned)} earlier runs have not ended"
    return CheckResult.unhealthy("stuck", message=message, started_at=now, duration=0.0)
