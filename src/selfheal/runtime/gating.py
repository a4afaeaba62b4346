"""
Fills the gates' surroundings, does the I/O for them, and begins what they let through.

Whether a gate is open is decided in `selfheal.healing.gates`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Final

import attrs

from selfheal import names
from selfheal.errors import ConfigError
from selfheal.healing.gates import Spent, Surroundings, ask
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
from selfheal.runtime.questions import Question, asks_dependencies, dependency, is_better


if TYPE_CHECKING:
    from selfheal.healing.gates import Trace
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
    """

    check: str
    status: HealthStatus
    state: HealingState
    trace: Trace | None = None
    running: str | None = None
    pause: Pause | None = None

    def __str__(self) -> str:
        if self.trace is not None:
            return str(self.trace)
        why = _WHY[self.state]
        if self.running is not None:
            why = f"{self.running} is running"
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
    if asks_dependencies(driver, watch, now):
        return False
    trace = ask(surroundings(driver, watch, step, now))
    if not trace.open and trace.gate is not None:
        watch.machine.blocked(trace.gate, until=trace.until, now=now, reason=trace.closed[0].reason)
        return True
    if isinstance(step, Revert) and rung.revert_when is not None and not is_better(watch, now):
        if watch.better_asked == now:  # answered just now, and not good for long enough
            reason = f"what {rung.name} names as revert_when has not been good for the whole probation"
            watch.machine.blocked(Gate.PRECONDITION, until=now + watch.check.policy.interval, now=now, reason=reason)
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
        abandoned=all(run.answered for run in running),
        dependencies=tuple(dependency(driver, name) for name in watch.check.depends_on),
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
    watch.action = run
    driver.running.add(run)
    driver.schedule.remove(watch)
    fault = machine.fault or Fault("error")
    applied = watch.applied.setdefault(step.rung, [])
    until = now + watch.check.policy.action_timeout
    attempt = 1
    if isinstance(step, Recover):
        attempt = step.attempt
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

    def context(deadline: float) -> RecoveryContext:
        return RecoveryContext(
            incident=watch.named(machine.incident or machine.last_incident or _no_incident(fault, now)),
            fault=fault,
            rung=step.rung,
            attempt=attempt,
            deadline=deadline,
            clock=driver.clock.now,
            stopped=lambda: run.stopped,
            note=lambda message, fields: driver.host.post(lambda: _say(driver, run, message, fields)),
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
    waits = machine.state is HealingState.RECOVERING and watch.action is None
    return Explanation(
        check=watch.check.name,
        status=machine.status,
        state=machine.state,
        trace=ask(surroundings(driver, watch, None, now)) if waits else None,
        running=running[0] if running else None,
        pause=pause_of(driver, watch, now),
    )
