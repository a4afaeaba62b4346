"""
Fills the gates' surroundings, does the I/O for them, and begins what they let through.

Whether a gate is open is decided in `selfheal.healing.gates`.
"""

from __future__ import annotations

import threading

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Final

import attrs

from selfheal import names
from selfheal.errors import ConfigError
from selfheal.healing.gates import GateVerdict, Spent, Surroundings, Trace, ask
from selfheal.model import (
    Entry,
    Fault,
    Field,
    Gate,
    HealingState,
    HealthStatus,
    Incident,
    Recover,
    RecoveryContext,
    Revert,
)
from selfheal.recovery import RecoveryAction
from selfheal.recovery.plan import plan, revert_plan
from selfheal.runtime.actions import ActionRun
from selfheal.runtime.pauses import pause_of
from selfheal.runtime.probes import MAX_ABANDONED
from selfheal.runtime.questions import Question, asks_first, dependency, doubts_of, is_better, needs_of


if TYPE_CHECKING:
    from selfheal.model import Rung
    from selfheal.runtime.driver import Driver
    from selfheal.runtime.watch import Pause, Watch


@attrs.frozen(kw_only=True)
class Explanation:
    """
    Why a check is, or is not, being healed. Its ``str`` is a sentence.

    Args:
        check: Its name.
        status: How it is.
        state: Where its healing stands.
        trace: Every gate with its reason, or `None` if nothing is to be done.
        running: The action that runs on its resource, or `None`.
        pause: The pause that holds, or `None`.
        why: What there is to say without a trace.
    """

    check: str
    status: HealthStatus
    state: HealingState
    trace: Trace | None = None
    running: str | None = None
    pause: Pause | None = None
    why: str = ""

    def __str__(self) -> str:
        if self.trace is not None:
            return str(self.trace)
        why = self.why if self.running is None else f"{self.running} is running"
        paused = "" if self.pause is None else f"; actions are paused: {self.pause.reason}"
        return f"{self.check}: {self.status.value}, {why}{paused}"


_WHY: Final = {
    HealingState.IDLE: "nothing to heal",
    HealingState.DETECTING: "bad results were seen, but no fault is confirmed yet",
    HealingState.RECOVERING: "an action is due",
    HealingState.VERIFYING: "the last action has to prove that it helped",
    HealingState.RESTORED: "health is proved and on probation",
    HealingState.EXHAUSTED: "no rung is left to try; the harmless ones are tried again in a while",
}


def consider(driver: Driver, watch: Watch, step: Recover | Revert, now: float) -> bool:
    """
    Carry out *step* if the gates let it; whether the machine is to be asked again at once.
    """
    rung = watch.check.recovery.rungs[step.rung]
    if asks_first(driver, watch, now):
        return False
    trace = ask(surroundings(driver, watch, step, now))
    if not trace.open and trace.gate is not None:
        watch.waits = trace
        watch.machine.blocked(trace.gate, until=trace.until, now=now, reason=trace.closed[0].reason)
        return True
    if isinstance(step, Revert) and rung.revert_when is not None and not is_better(watch, now):
        if watch.unanswered is not None:  # its code still runs: that is a no, and no reason to run it twice
            watch.better(good=False, at=now, now=now)
        if watch.better_asked == now:  # answered just now, and not good for long enough
            reason = f"what {rung.name} names as revert_when has not been good for the whole probation"
            until = now + watch.check.policy.interval
            closed = GateVerdict(Gate.PRECONDITION, False, reason, until)
            watch.waits = Trace(check=watch.check.name, at=now, revert=True, verdicts=(closed,))
            watch.machine.blocked(Gate.PRECONDITION, until=until, now=now, reason=reason)
            return True
        watch.asking = Question(driver, watch, rung.revert_when, now)
        watch.asking.launch()
        return False
    begin(driver, watch, step, now)
    return True


def surroundings(driver: Driver, watch: Watch, step: Recover | Revert | None, now: float) -> Surroundings:
    """
    What the gates have to know about the world at *now*.
    """
    index = watch.machine.rung if step is None else step.rung
    rung = None if index is None else watch.check.recovery.rungs[index]
    resource = watch.resource
    pause = pause_of(driver, watch, now)
    running = [run for run in driver.running if run.watch.resource is resource]
    return Surroundings(
        check=watch.check.name,
        now=now,
        rung=rung,
        revert=isinstance(step, Revert),
        manual=watch.machine.manual,
        mode=driver.settings.mode,
        paused=None if pause is None else pause.reason,
        paused_until=None if pause is None else pause.until,
        running=tuple(run.rung.name for run in running),
        abandoned=len(running) < MAX_ABANDONED and all(run.answered for run in running),
        doubts=tuple(map(dependency, doubts_of(driver, watch))),
        dependencies=tuple(map(dependency, needs_of(driver, watch))),
        actions=len(driver.running),
        max_concurrent=driver.settings.max_concurrent,
        flapping_until=watch.flaps.opens_at(now=now),
        cooldown_until=None if rung is None else resource.cooldowns.opens_at(rung.name, now=now),
        spent=tuple(_spent(driver, watch, now)),
    )


def _spent(driver: Driver, watch: Watch, now: float) -> Iterator[Spent]:
    for scope, ledger in (("resource", watch.resource.budget), ("process", driver.budget)):
        opens_at = None if ledger is None else ledger.opens_at(now=now)
        if ledger is not None and opens_at is not None:
            yield Spent(scope, ledger.budget, opens_at)


def begin(driver: Driver, watch: Watch, step: Recover | Revert, now: float) -> None:
    """
    Start the action that *step* asks for. The budget is charged here, for what starts.
    """
    rung = watch.check.recovery.rungs[step.rung]
    resource, machine = watch.resource, watch.machine
    run = ActionRun(driver, watch, step, rung, now)
    watch.better_asked = watch.better_since = None  # of another rung, or of another diversion
    watch.waits = None
    watch.action = run
    driver.running.add(run)
    driver.schedule.remove(watch)
    fault = machine.fault or Fault("error")
    applied = watch.applied.setdefault(step.rung, [])
    until = now + watch.check.policy.action_timeout
    attempt = step.attempt if isinstance(step, Recover) else None
    if isinstance(step, Recover):
        watch.rung = step.rung
        for ledger in (driver.budget, resource.budget):
            if ledger is not None:
                watch.charged.append((ledger, ledger.charge(now=now)))
        steps = plan(_action(rung), fault=fault, applied=applied, now=driver.clock.now, until=until)
    else:
        steps = revert_plan(applied, now=driver.clock.now, until=until)
    driver.reporter.note(
        watch,
        names.ACTION_STARTED,
        action=rung.name,
        rung=step.rung,
        attempt=attempt,
        kind=fault.kind,
        revert=isinstance(step, Revert),
    )
    driver.reporter.publish(watch)

    def say(message: str, said: Mapping[str, Field]) -> None:
        if driver.closed:  # an action that was left behind may talk for ever
            return
        if threading.get_ident() == driver.ident:  # before the action's end, which is not posted either
            _say(driver, run, message, said)
        else:
            driver.host.post(lambda: _say(driver, run, message, said))

    def context(deadline: float) -> RecoveryContext:
        return RecoveryContext(
            incident=watch.named(machine.incident or machine.last_incident or _no_incident(fault, now)),
            fault=fault,
            rung=step.rung,
            attempt=attempt or 1,
            deadline=deadline,
            clock=driver.clock.now,
            stopped=lambda: run.stopped,
            note=say,
        )

    run.launch(steps, context)


def _action(rung: Rung) -> RecoveryAction:
    action = rung.action
    if not isinstance(action, RecoveryAction):
        msg = f"rung {rung.name!r} holds {action!r}, which is not a RecoveryAction"
        raise ConfigError(msg)
    return action


def _say(driver: Driver, run: ActionRun, message: str, fields: Mapping[str, Field]) -> None:
    own: dict[str, Field] = {"action": run.rung.name, "rung": run.step.rung, "message": message}
    run.watch.machine.note(Entry(driver.clock.now(), names.ACTION_LOGGED, {**fields, **own}))
    driver.reporter.publish(run.watch)


def _no_incident(fault: Fault, now: float) -> Incident:
    # A held change that was found applied at start-up is stepped down outside any incident.
    return Incident(number=0, trigger=fault, began=now, opened=now)


def explain(driver: Driver, watch: Watch, now: float) -> Explanation:
    """
    Why *watch* is, or is not, being healed.
    """
    machine = watch.machine
    running = [run.rung.name for run in driver.running if run.watch.resource is watch.resource]
    waits = driver.open and machine.state is HealingState.RECOVERING and watch.action is None
    return Explanation(
        check=watch.check.name,
        status=machine.status,
        state=machine.state,
        trace=ask(surroundings(driver, watch, None, now)) if waits else None,
        running=running[0] if running else None,
        pause=pause_of(driver, watch, now),
        why=_why(driver, watch),
    )


def _why(driver: Driver, watch: Watch) -> str:
    state, status = watch.machine.state, watch.machine.status
    if not driver.open:
        return "the healer does not run"
    if state is HealingState.RESTORED and watch.waiting is not None:
        return str(watch.waiting).partition(": ")[2]
    if state is HealingState.EXHAUSTED and not watch.check.recovery.rungs:
        return "and it has no recovery: nothing of ours can heal it"
    if state is HealingState.IDLE and status is HealthStatus.UNKNOWN:
        return "it has given no result yet" if watch.last is None else "it has given no known result for too long"
    return _WHY[state]
