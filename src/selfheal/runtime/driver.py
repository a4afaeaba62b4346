"""
Carries out what the machines ask for. No rule lives here.

Everything in this file runs on the loop's own thread; what comes from
elsewhere is posted. It keeps one heap of times, makes a task or takes a thread
only while a probe or an action runs, and serves asyncio, trio, the thread host
and the simulator alike.
"""

from __future__ import annotations

import math
import threading

from collections.abc import Callable
from typing import TYPE_CHECKING, Final, cast

from selfheal import names
from selfheal.healing import HealingStateMachine
from selfheal.healing.ledgers import BudgetLedger
from selfheal.model import Check, Outcome, Recover, Wait
from selfheal.runtime import gating, guards, probes, questions
from selfheal.runtime.actions import ActionRun
from selfheal.runtime.closing import Closing
from selfheal.runtime.held import Keeper, Waiting
from selfheal.runtime.reporter import Reporter
from selfheal.runtime.schedule import Schedule, Timed, slack_of
from selfheal.runtime.watch import Pause, Resource, Watch


if TYPE_CHECKING:
    from selfheal.checks import HealthCheck
    from selfheal.clock import Clock
    from selfheal.model import CheckResult, Incident, Journal
    from selfheal.runtime.hosts import Host
    from selfheal.runtime.listeners import Dispatcher
    from selfheal.runtime.settings import Settings
    from selfheal.runtime.threads import Caller

#: Things served in one go before the loop gets its turn: a healer that has fallen behind must not start thousands of
#: tasks before the first of them can run. Measured: they live long enough to cost half a second of garbage collection.
TURN_LIMIT: Final = 50

#: A first check is never later than this, so that readiness does not wait for a random phase.
FIRST_CHECK_WITHIN: Final = 1.0


class Driver:
    """
    Runs the checks of one healer on one loop.
    """

    def __init__(self, settings: Settings, clock: Clock, events: Dispatcher, journal: Journal | None = None) -> None:
        self.settings = settings
        self.clock = clock
        self.reporter = Reporter(clock, events, lambda watch, entry: questions.passed(self, watch, entry))
        self.watches: dict[str, Watch] = {}
        self.resources: dict[str, Resource] = {}
        #: Watches that speak for this process itself.
        self.doubts: list[Watch] = []
        self.schedule = Schedule()
        self.budget = BudgetLedger(settings.budget)
        self.pause: Pause | None = None
        self.failure: BaseException | None = None
        self.open = False
        self.turning = False
        #: Actions whose code runs, abandoned ones included.
        self.running: set[ActionRun] = set()
        self.closing: Closing | None = None
        self.keeper = None if journal is None else Keeper(self, journal)

    # --- starting -------------------------------------------------------------

    def start(self, host: Host, threads: Caller) -> None:
        """
        Begin on the running loop.
        """
        self.host, self.threads = host, threads
        self.ident = threading.get_ident()
        self.open = True
        self.reporter.announce(names.HEALER_STARTED, {"checks": len(self.watches), "mode": self.settings.mode})
        self._begin(tuple(self.watches.values()))

    def add(self, check: HealthCheck) -> None:
        """
        Watch one more check.
        """
        resource = self.resources.setdefault(check.resource, Resource(check.resource))
        machine = HealingStateMachine(
            check.policy,
            guards.ladder_of(self, check),
            uniform=self.settings.uniform,
            allow_destructive=self.settings.allow_destructive,
        )
        is_async = check.probe is not None and probes.is_async_callable(check.probe)
        watch = Watch(check, machine, resource, is_async=is_async)
        resource.watches.append(watch)
        if check.budget is not None and resource.budget is None:
            resource.budget = BudgetLedger(check.budget)
        self.watches[check.name] = watch
        if check.self_doubt:
            self.doubts.append(watch)
        if self.open:
            self._begin((watch,))

    def remove(self, name: str) -> None:
        """
        Watch a check no longer. Its open incident ends as aborted; held changes stay as they are.
        """
        watch = self.watches.pop(name)
        watch.gone = True  # whatever of it still runs begins nothing new
        self.doubts = [other for other in self.doubts if other is not watch]
        self.schedule.remove(watch)
        if watch.action is not None:
            watch.action.give_up(Outcome.cancelled("removed"), "removed", self.clock.now())
        if watch.run is not None:
            watch.run.cancel()
        if watch.asking is not None:
            watch.asking.cancel()
        for other in self.watches.values():
            other.waiters = [waiter for waiter in other.waiters if waiter is not watch]
        watch.end_hopes(well=False)
        watch.machine.close("removed", now=self.clock.now())
        self.reporter.publish(watch)
        watch.resource.watches.remove(watch)
        self._tidy(watch.resource)

    def _tidy(self, resource: Resource) -> None:
        # As long as an action runs on it, it is busy for whatever check comes next.
        if not resource.watches and all(run.watch.resource is not resource for run in self.running):
            self.resources.pop(resource.name, None)

    def _begin(self, watches: tuple[Watch, ...]) -> None:
        def begin() -> None:
            for watch in watches:
                if self.open and watch.rests:
                    self._first(watch)
            self.rearm()

        if self.keeper is None:
            begin()
        else:
            self.keeper.take_over(watches, begin)

    def _first(self, watch: Watch) -> None:
        settings = self.settings
        within = min(FIRST_CHECK_WITHIN, watch.check.policy.interval)
        phase = within * settings.uniform() if settings.phase is None else settings.phase
        watch.due = self.clock.now() + phase
        self.schedule.put(watch, watch.due)

    def close(self, *, revert: bool, on_closed: Callable[[], None]) -> None:
        """
        Stop within ``grace`` seconds, then call *on_closed*.
        """
        if self.closing is not None:
            if self.closed:
                on_closed()
            else:
                self.closing.on_closed.append(on_closed)
            return
        self.closing = Closing(self, grace=self.settings.grace, revert=revert, on_closed=on_closed)
        try:
            self.closing.begin()
        except Exception as exc:  # noqa: BLE001 - whatever breaks here must not keep anybody from leaving
            self.broken(self.closing, exc)

    def finish(self) -> None:
        """
        Stop at once: whoever was waiting for the end has been interrupted.
        """
        if self.closing is not None:
            self.closing.finish()

    @property
    def closed(self) -> bool:
        """
        Whether it has stopped for good.
        """
        return self.closing is not None and self.closing.done

    # --- turning --------------------------------------------------------------

    def turn(self) -> None:
        """
        Serve everything whose time has come; set the alarm for the next.
        """
        self.turning = True
        now = self.clock.now()
        try:
            for _ in range(TURN_LIMIT):
                thing = self.schedule.pop(now)
                if thing is None:
                    break
                try:
                    self._serve(thing, now)
                except Exception as exc:  # noqa: BLE001 - what breaks here must not stop the other checks
                    self.broken(thing, exc)
        finally:
            self.turning = False
            self.rearm()

    def broken(self, thing: Timed, error: Exception) -> None:
        """
        Something has raised that must not: say so, and let the check go on in an interval.
        """
        watch = thing.watch if isinstance(thing, ActionRun) else thing if isinstance(thing, Watch) else None
        self.reporter.failed(watch, "turn", error)
        if watch is not None and self.open and watch.rests:
            self.schedule.put(watch, self.clock.now() + watch.check.policy.interval)
            self.rearm()
        elif isinstance(thing, Closing):
            thing.finish()

    def _serve(self, thing: Timed, now: float) -> None:
        if isinstance(thing, (ActionRun, Waiting)):
            thing.wake(now)
        elif isinstance(thing, Watch):
            if thing.run is not None:
                thing.run.expire(now)
            elif thing.asking is not None:
                thing.asking.expire(now)
            else:
                self.advance(thing, now)
        elif self.closing is not None:
            self.closing.look()

    def rearm(self) -> None:
        """
        Set the loop's alarm to the earliest time in the heap.
        """
        if self.turning:
            return
        when = self.schedule.next()
        if when is not None and when != self._armed:
            self._armed = when
            self.host.alarm(when, self._ring)

    _armed: float = math.nan

    def _ring(self) -> None:
        self.reporter.late(self.clock.now() - self._armed)
        self._armed = math.nan
        self.turn()

    def advance(self, watch: Watch, now: float) -> None:
        """
        Ask the machine of *watch* and carry out what it says, until it wants to wait.
        """
        machine = watch.machine
        while self.open and watch.rests:
            step = machine.tick(now=now)
            if isinstance(step, Wait):
                slack = self.settings.slack
                watch.due = step.until
                self.schedule.put(watch, step.until, slack_of(step.until - now) if slack is None else slack)
                break
            if isinstance(step, Check):
                if watch.check.probe is None:
                    self.record(watch, probes.assessed(self, watch, None, now), now)
                elif not probes.may_start(watch):
                    self.record(watch, probes.assessed(self, watch, probes.stuck(watch, now), now), now)
                else:
                    watch.fresh = False
                    watch.run = probes.ProbeRun(self, watch, now)
                    watch.run.launch(watch.check.probe, is_async=watch.is_async)
            elif not gating.consider(self, watch, step, now):
                break
        self.reporter.publish(watch)

    # --- probes report --------------------------------------------------------

    def take(self, watch: Watch, result: CheckResult, now: float) -> None:
        """
        A run has given its result.
        """
        if not self.open or watch.gone:
            return
        self.record(watch, result, now)
        self.advance(watch, now)
        self.rearm()

    def record(self, watch: Watch, result: CheckResult, now: float) -> None:
        """
        Feed a result to the machine and to the records.
        """
        if self.doubts:
            result = questions.judged(self, watch, result)
        started = now if result.started_at is None else result.started_at
        watch.remember(result, started)
        watch.machine.checked(result, now=now)
        self.reporter.completed(watch, result, started, now)
        if watch.hopes and watch.is_well:
            watch.end_hopes(well=True)
        while watch.waiters:
            waiter = watch.waiters.pop()
            waiter.asking = None
            self.advance(waiter, now)

    def run_abandoned(self, watch: Watch) -> None:
        """
        A run has outlived its deadline.
        """
        self.reporter.note(
            watch, names.CHECK_ABANDONED, timeout=watch.check.policy.timeout, abandoned=len(watch.abandoned)
        )

    def run_ended(self, watch: Watch, duration: float) -> None:
        """
        An abandoned run has ended after all.
        """
        self.reporter.note(watch, names.CHECK_ENDED, duration=duration, abandoned=len(watch.abandoned))
        self.reporter.publish(watch)
        if self.closing is not None:
            self.closing.look()

    # --- actions report -------------------------------------------------------

    def answer(self, run: ActionRun, outcome: Outcome, now: float) -> None:
        """
        An action has ended, or was given up.
        """
        watch = run.watch
        watch.action = None
        if not run.runs:
            self.running.discard(run)
        watch.resource.cooldowns.ended(run.rung.name, run.rung.cooldown, now=now, uniform=self.settings.uniform)
        if isinstance(run.step, Recover):
            watch.machine.recovered(outcome, now=now)
        elif self.closing is not None:
            self.closing.reverted(run, outcome)
        else:
            watch.machine.reverted(outcome, now=now)
        self.reporter.publish(watch, outcome.error)
        if not run.runs:
            self._free(run, now)
        self.advance(watch, self.clock.now())
        self._after_action()

    def action_ended(self, run: ActionRun, now: float) -> None:
        """
        An abandoned action has ended after all.
        """
        self.reporter.note(run.watch, names.ACTION_ENDED, action=run.rung.name, duration=now - run.started)
        self._free(run, now)
        run.watch.machine.discard(f"abandoned action {run.rung.name} ended", now=now)
        self.advance(run.watch, now)
        self._after_action()

    def _after_action(self) -> None:
        if self.closing is not None:
            self.closing.look()
        self.rearm()

    def _free(self, run: ActionRun, now: float) -> None:
        """
        The resource is free again; whatever its checks saw before is no evidence any more.
        """
        self.running.discard(run)
        self._tidy(run.watch.resource)
        for watch in tuple(run.watch.resource.watches):
            watch.fresh = bool(watch.abandoned)
            guards.forget(self, watch)
            if watch is not run.watch:
                watch.machine.discard(f"action {run.rung.name} ended", now=now)
                self.advance(watch, now)

    # --- commands -------------------------------------------------------------

    def heal(self, name: str) -> Incident:
        """
        Heal by hand; the incident so far.
        """
        watch, now = self.watches[name], self.clock.now()
        watch.machine.start_healing(now=now)
        self.advance(watch, now)
        self.rearm()
        return watch.named(watch.machine.incident or cast("Incident", watch.machine.last_incident))

    def check_now(self, name: str) -> None:
        """
        Run a check at once.
        """
        self.look_now(self.watches[name], self.clock.now())
        self.rearm()

    def look_now(self, watch: Watch, now: float) -> None:
        """
        Run a check at once, unless it runs already.
        """
        watch.machine.check_now(now=now)
        self.advance(watch, now)

    def fatal(self, error: BaseException) -> None:
        """
        Keep an exception that is not ours to swallow: it is raised again where the healer was entered.
        """
        if self.failure is None and not isinstance(error, (Exception, GeneratorExit, self.host.cancelled)):
            self.failure = error
