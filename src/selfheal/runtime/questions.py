"""
What has to be known before a decision: whether a better state is there, and how dependencies are.
"""

from __future__ import annotations

import inspect

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, cast

from selfheal.answers import interpret, interpret_error
from selfheal.healing.gates import Dependency
from selfheal.model import HealingState, HealthStatus
from selfheal.runtime import guards
from selfheal.runtime.leash import awaiting, let_go_of
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
        try:
            self._take(answer, error)
        except Exception as exc:  # noqa: BLE001 - a question that breaks must not take the checks along
            self._watch.asking = None
            self._driver.broken(self._watch, exc)

    def _take(self, answer: object, error: BaseException | None) -> None:
        if inspect.isawaitable(answer):  # a sync question that hands out something to wait for
            if self._open:
                self._handle = self._driver.host.start(*awaiting(answer, self._answered))
                return
            let_go_of(answer)
        if not self._open:
            self._watch.unanswered = None
            return
        if error is not None:
            self._driver.fatal(error)
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
        Nobody waits for the answer any more. No other question is asked beside its code.
        """
        self._open = False
        self._watch.asking = None
        if self._handle is not None:
            self._watch.unanswered = self
            self._handle.cancel()

    def _settle(self, *, good: bool) -> None:
        driver, watch = self._driver, self._watch
        self._open = False
        now = driver.clock.now()
        watch.asking = None
        watch.better(good=good, at=self._started, now=now)
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
    Whether the state that allows a step down has been there for ``probation``, the answer of *now* included.
    """
    since = watch.better_since
    return watch.better_asked == now and since is not None and now - since >= watch.check.policy.probation


def dependency(driver: Driver, name: str) -> Dependency:
    """
    What a gate has to know about one dependency.
    """
    watch = driver.watches[name]
    return Dependency(
        name=name,
        status=watch.machine.status,
        suspect=_is_suspect(watch),
    )


def _is_suspect(watch: Watch) -> bool:
    return watch.machine.state not in {HealingState.IDLE, HealingState.RESTORED}


def asks_dependencies(driver: Driver, watch: Watch, now: float) -> bool:
    """
    Look at dependencies whose last result is too old for a decision; whether the decision has to wait for one.
    """
    if watch.machine.manual:
        return False
    old = [driver.watches[name] for name in watch.check.depends_on if _is_in_doubt(driver.watches[name], now)]
    if not old:
        return False
    watch.asking = Awaited()
    for other in old:
        other.waiters.append(watch)
        driver.look_now(other, now)
    if all(watch not in other.waiters for other in old):
        watch.asking = None
    return watch.asking is not None


def _is_in_doubt(watch: Watch, now: float) -> bool:
    """
    Whether another look could change the answer: not if it is under suspicion anyway, or is being acted on.
    """
    if watch.action is not None or _is_suspect(watch):
        return False
    policy, last = watch.check.policy, watch.last
    return last is None or last.started_at is None or now - last.started_at > policy.timeout + policy.fast_interval


def restored(driver: Driver, watch: Watch, entry: Entry) -> None:
    """
    If *watch* is well again, whatever depends on it needs fresh evidence.
    """
    if entry.fields.get("to_state") != "restored":
        return
    for other in tuple(driver.watches.values()):
        if watch.check.name in other.check.depends_on:
            other.machine.discard(f"{watch.check.name} is restored", now=entry.at)
            guards.forget(driver, other)
