"""
What has to be known before a decision: whether a better state is there, and how dependencies are.
"""

from __future__ import annotations

import inspect

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final, cast

import attrs

from selfheal.answers import interpret, interpret_error
from selfheal.healing.gates import Dependency
from selfheal.model import Fault, HealingState, HealthStatus
from selfheal.runtime import guards
from selfheal.runtime.leash import awaiting, let_go_of
from selfheal.runtime.probes import is_async_callable


if TYPE_CHECKING:
    from selfheal.model import CheckResult, Entry
    from selfheal.runtime.driver import Driver
    from selfheal.runtime.threads import Handle
    from selfheal.runtime.watch import Watch


_GOOD: Final = frozenset({HealthStatus.HEALTHY, HealthStatus.UNKNOWN})


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


def needs_of(driver: Driver, watch: Watch) -> list[Watch]:
    """
    What *watch* depends on.
    """
    return [driver.watches[name] for name in watch.check.depends_on]


def doubts_of(driver: Driver, watch: Watch) -> list[Watch]:
    """
    What speaks for this process when *watch* is to be judged. What speaks for it is not judged by others.
    """
    return [] if watch.check.self_doubt else driver.doubts


def dependency(watch: Watch) -> Dependency:
    """
    What a gate has to know about a check that another one's healing waits for.
    """
    return Dependency(name=watch.check.name, status=watch.machine.status, suspect=_is_suspect(watch))


def _is_suspect(watch: Watch) -> bool:
    return watch.machine.state not in {HealingState.IDLE, HealingState.RESTORED}


def asks_first(driver: Driver, watch: Watch, now: float) -> bool:
    """
    Look at what a decision needs and whose last result is too old; whether the decision has to wait for one.
    """
    if watch.machine.manual:
        return False
    needed = needs_of(driver, watch) + doubts_of(driver, watch)
    old = [other for other in needed if _is_in_doubt(other, now)]
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


def judged(driver: Driver, watch: Watch, result: CheckResult) -> CheckResult:
    """
    *result*, or UNKNOWN if it is bad and may be this process' own fault.
    """
    if result.status in _GOOD:  # what does not work here cannot make anything look well
        return result
    for other in doubts_of(driver, watch):
        if _is_suspect(other):
            fault = result.fault or Fault("error")
            seen = fault.message or fault.kind
            fault = attrs.evolve(
                fault, message=f"{seen} (while {other.check.name} is not well, which may be the cause)"
            )
            return attrs.evolve(result, status=HealthStatus.UNKNOWN, fault=fault)
    return result


def passed(driver: Driver, watch: Watch, entry: Entry) -> None:
    """
    If *watch* is well again, whatever has waited for it needs fresh evidence.
    """
    before, after = entry.fields.get("from_state"), entry.fields.get("to_state")
    is_doubt = watch.check.self_doubt
    # A doubt that was only a suspicion has spoilt evidence as well.
    if after != "restored" and not (is_doubt and (before, after) == ("detecting", "idle")):
        return
    for other in tuple(driver.watches.values()):
        if watch.check.name in other.check.depends_on or (is_doubt and not other.check.self_doubt):
            other.machine.discard(f"{watch.check.name} is well again", now=entry.at)
            guards.forget(driver, other)
