"""
What has to be known before a decision: whether a better state is there, and how dependencies are.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, cast

from selfheal.answers import interpret, interpret_error
from selfheal.healing.gates import Dependency
from selfheal.model import HealingState, HealthStatus
from selfheal.runtime.probes import is_async_callable


if TYPE_CHECKING:
    from selfheal.model import Entry
    from selfheal.runtime.driver import Driver
    from selfheal.runtime.threads import Handle
    from selfheal.runtime.watch import Watch


class Question:
    """
    One run of a ``revert_when``: is the better state there?
    """

    def __init__(self, driver: Driver, watch: Watch, probe: Callable[[], object], now: float) -> None:
        self._driver = driver
        self._watch = watch
        self._probe = probe
        self._started = now
        self._handle: Handle | None = None
        self._open = True

    def launch(self) -> None:
        """
        Ask; the answer has the check's timeout.
        """
        driver, watch = self._driver, self._watch
        driver.schedule.put(watch, self._started + watch.check.policy.timeout)
        if is_async_callable(self._probe):
            probe = cast("Callable[[], Awaitable[object]]", self._probe)
            self._handle = driver.host.start(probe, self._answered)
        else:
            self._handle = driver.threads.call(self._probe, self._answered, _nothing)

    def _answered(self, answer: object, error: BaseException | None) -> None:
        if not self._open:
            return
        kinds = self._watch.check.kinds
        if isinstance(error, Exception):
            result = interpret_error(error, kinds, self._probe)
        else:
            result = interpret(answer if error is None else False, kinds)
        self._settle(good=result.status is HealthStatus.HEALTHY)

    def expire(self, now: float) -> None:
        """
        No answer in time is no.
        """
        del now
        self.cancel()
        self._settle(good=False)

    def cancel(self) -> None:
        """
        Nobody waits for the answer any more.
        """
        if self._handle is not None:
            self._handle.cancel()

    def _settle(self, *, good: bool) -> None:
        driver, watch = self._driver, self._watch
        self._open = False
        now = driver.clock.now()
        watch.asking = None
        watch.better_asked = now
        if not good:
            watch.better_since = None
        elif watch.better_since is None:
            watch.better_since = self._started
        driver.advance(watch, now)
        driver.rearm()


def _nothing() -> None:
    """
    A question's time runs from when it is asked: the decision waits for it.
    """


class Awaited:
    """
    A decision that waits for the next result of a dependency, which has a deadline of its own.
    """

    def expire(self, now: float) -> None:
        """
        It has no time of its own.
        """

    def cancel(self) -> None:
        """
        Nothing of it runs.
        """


def is_better(watch: Watch, now: float) -> bool:
    """
    Whether the state that allows a step down has been there for ``probation``.
    """
    since = watch.better_since
    return since is not None and now - since >= watch.check.policy.probation


def dependency(driver: Driver, name: str) -> Dependency:
    """
    What a gate has to know about one dependency.
    """
    watch = driver.watches[name]
    return Dependency(
        name=name,
        status=watch.machine.status,
        suspect=watch.machine.state is not HealingState.IDLE and watch.machine.state is not HealingState.RESTORED,
    )


def asks_dependencies(driver: Driver, watch: Watch, now: float) -> bool:
    """
    Look at dependencies whose last result is too old for a decision; whether the decision has to wait for one.
    """
    old = [other for name in watch.check.depends_on if _too_old(other := driver.watches[name], now)]
    if not old or watch.machine.manual:
        return False
    watch.asking = Awaited()
    for other in old:
        other.waiters.append(watch)
        driver.look_now(other, now)
    if all(watch not in other.waiters for other in old):
        watch.asking = None
    return watch.asking is not None


def _too_old(watch: Watch, now: float) -> bool:
    policy = watch.check.policy
    last = watch.last
    return last is None or last.started_at is None or now - last.started_at > policy.timeout + policy.fast_interval


def restored(driver: Driver, watch: Watch, entry: Entry) -> None:
    """
    If *watch* is well again, whatever depends on it needs fresh evidence.
    """
    if entry.fields.get("to_state") != "restored":
        return
    for other in driver.watches.values():
        if watch.check.name in other.check.depends_on:
            other.machine.discard(f"{watch.check.name} is restored", now=entry.at)
            driver.forget(other)
