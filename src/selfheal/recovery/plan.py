"""
What the operators mean, in one place: a generator of leaves and pauses.

It waits for nothing and calls nothing of the user's but pure strategies. A
runner carries out each step and sends back how it ended, so threads, event
loops and the simulator share this file.
"""

from __future__ import annotations

import math

from collections.abc import Callable, Generator
from typing import Final, NamedTuple, TypeAlias, cast

from selfheal.errors import SelfHealError
from selfheal.model.health import Fault
from selfheal.model.steps import Outcome, Verdict
from selfheal.recovery.action import RecoveryAction, Retrying, Sequence, Tree, Within
from selfheal.recovery.function import ByFault
from selfheal.recovery.paced import Paced, Part


#: Tries of one `retrying` in one run, whatever its stop strategy says. Only a strategy that never stops gets there.
TRIES_LIMIT: Final = 1000


class Run(NamedTuple):
    """
    Run one leaf; answer with its `Outcome`.

    Args:
        leaf: What to run.
        revert: Call its `revert` instead of its `recover`.
        until: Monotonic seconds at which it is given up.
    """

    leaf: RecoveryAction
    revert: bool
    until: float


class Pause(NamedTuple):
    """
    Wait; answer with `None`.

    Args:
        seconds: Greater than 0. It ends before every deadline.
    """

    seconds: float


#: Both steps may also be answered with a cancelled `Outcome`, which ends the plan.
Plan: TypeAlias = Generator[Run | Pause, Outcome | None, Outcome]

_UNFINISHED: Final = frozenset({Verdict.ABANDONED, Verdict.CANCELLED})


def plan(
    action: RecoveryAction,
    *,
    fault: Fault,
    applied: list[RecoveryAction],
    now: Callable[[], float],
    until: float = math.inf,
) -> Plan:
    """
    The steps of *action*, one at a time.

    Args:
        action: A tree, or a single action.
        fault: What it is to heal.
        applied: Held leaves in force, oldest first. Each is appended when it is about to be run.
        now: Tells monotonic seconds.
        until: Monotonic seconds at which all of it is given up.
    """
    if not action.applies(fault):
        return Outcome.cannot_help(f"{action} is not for {fault.kind}")
    return (yield from _Planner(fault, applied, now, until).steps(action, until))


def revert_plan(applied: list[RecoveryAction], *, now: Callable[[], float], until: float = math.inf) -> Plan:
    """
    The steps that take back what is *applied*, last applied first, up to the first that fails.

    Each leaf is removed from the list when its revert has ended well.
    """
    return _reverted(applied, 0, now, until)


class _Planner:
    def __init__(self, fault: Fault, applied: list[RecoveryAction], now: Callable[[], float], until: float) -> None:
        self.fault = fault
        self.applied = applied
        self.now = now
        self.until = until

    def steps(self, action: RecoveryAction, until: float) -> Plan:
        match action:
            case Sequence():
                return self.sequence(action, until)
            case Within():
                return self.steps(action.branches[0], min(until, self.now() + action.limit))
            case Retrying():
                return self.retrying(action, until)
            case ByFault():
                # A tree applies only if what it would run does: asked before, so there is one.
                return self.steps(cast("RecoveryAction", action.chosen(self.fault)), until)
            case Tree():
                return self.steps(action.branches[0], until)
            case Paced():
                return self.paced(action.parts(), until)
            case _:
                return self.leaf(action, until)

    def sequence(self, action: Sequence, until: float) -> Plan:
        mark = len(self.applied)
        for part in action.branches:
            outcome = yield from self.steps(part, until)
            if outcome.verdict in _UNFINISHED:
                return outcome  # what still runs, or was told to stop, must not meet a revert
            if not outcome.ok:
                # An inner deadline that is over must not keep us from cleaning up: only the whole action's counts.
                undone = yield from _reverted(self.applied, mark, self.now, self.until)
                return undone if undone.verdict in _UNFINISHED else outcome
        return Outcome.done()

    def retrying(self, action: Retrying, until: float) -> Plan:
        from tenacity import RetryCallState, TryAgain
        from tenacity import Retrying as Controller

        controller = Controller(stop=action.stop)
        state = RetryCallState(controller, None, (), {})
        state.start_time = self.now()
        while True:
            outcome = yield from self.steps(action.branches[0], until)
            error = outcome.error
            if outcome.verdict is not Verdict.FAILED or not isinstance(error, Exception):
                return outcome
            state.set_exception((type(error), error, error.__traceback__))
            state.outcome_timestamp = self.now()
            if not (isinstance(error, TryAgain) or action.retry is None or action.retry(state)):
                return outcome
            state.upcoming_sleep = 0.0 if action.wait is None else float(action.wait(state))
            if action.stop(state) or state.attempt_number >= TRIES_LIMIT:
                return outcome
            if state.upcoming_sleep > 0:
                if self.now() + state.upcoming_sleep >= until:
                    return outcome  # nothing could be run after such a wait
                stopped = yield Pause(state.upcoming_sleep)
                if stopped is not None:
                    return stopped
                state.idle_for += state.upcoming_sleep
            state.prepare_for_next_attempt()

    def paced(self, part: Part, until: float) -> Plan:
        while True:
            outcome = yield from self.leaf(part, until)
            pause = part.pause
            if not outcome.ok or pause is None or self.now() + pause >= until:
                return outcome
            stopped = yield Pause(pause)
            if stopped is not None:
                return stopped

    def leaf(self, leaf: RecoveryAction, until: float) -> Plan:
        if self.now() >= until:
            return _late(leaf)
        if leaf.held and not any(leaf is held for held in self.applied):
            self.applied.append(leaf)
        return _answer((yield Run(leaf, False, until)))


def _reverted(applied: list[RecoveryAction], mark: int, now: Callable[[], float], until: float) -> Plan:
    while len(applied) > mark:
        leaf = applied[-1]
        if now() >= until:
            return _late(leaf)
        outcome = _answer((yield Run(leaf, True, until)))
        if not outcome.ok:
            return outcome
        del applied[-1]
    return Outcome.done()


def _late(leaf: RecoveryAction) -> Outcome:
    return Outcome.failed(TimeoutError(f"time was up before {leaf.name} could start"))


def _answer(outcome: Outcome | None) -> Outcome:
    if outcome is None:
        msg = "A Run is answered with its Outcome: plan.send(outcome)."
        raise SelfHealError(msg)
    return outcome
