"""
What has to be remembered, and everything that changes a state.

Rule 1: everything that decides a state lives in this file.
Rule 2: this file is told the time (*now*), it never asks for it.
Rule 3: it is reached through `machine` only, which has validated the call.

What counts as evidence is in `evidence`, which rung is next in `cursor`, how
long health is watched in `probation`, what is written down in `chronicle`.
"""

from __future__ import annotations

import math

from collections.abc import Callable
from typing import Final

from selfheal import names
from selfheal.errors import ConfigError, IllegalTransitionError
from selfheal.healing.chronicle import Chronicle
from selfheal.healing.cursor import Cursor
from selfheal.healing.evidence import Evidence
from selfheal.healing.feasibility import require_provable
from selfheal.healing.probation import Probation
from selfheal.model import (
    Check,
    CheckResult,
    Climbable,
    Fault,
    Field,
    Gate,
    HealingPolicy,
    HealingState,
    HealthStatus,
    Ladder,
    Outcome,
    Recover,
    Revert,
)


#: Why a state was left, where others have to tell the reasons apart: relapses count as flaps.
RELAPSE: Final = "relapse"

#: One object for all: a healthy turn builds nothing but its `Wait`.
CHECK: Final = Check()

_NO_RUNGS: Final = Ladder()

# Read on every turn, so bound once: an attribute of an enum costs more than a global.
HEALTHY, _DEGRADED, _UNHEALTHY, _UNKNOWN = (
    HealthStatus.HEALTHY,
    HealthStatus.DEGRADED,
    HealthStatus.UNHEALTHY,
    HealthStatus.UNKNOWN,
)
IDLE, DETECTING, RECOVERING, VERIFYING, RESTORED, EXHAUSTED = (
    HealingState.IDLE,
    HealingState.DETECTING,
    HealingState.RECOVERING,
    HealingState.VERIFYING,
    HealingState.RESTORED,
    HealingState.EXHAUSTED,
)
_FAST: Final = frozenset({DETECTING, RECOVERING, VERIFYING})
_CLEAN: Final = frozenset({VERIFYING, RESTORED, IDLE})
INF: Final = math.inf


def half() -> float:
    """
    The middle of every jitter: none.
    """
    return 0.5


class States:
    """
    The memory of a `HealingStateMachine` and its transitions. It is not used alone.

    Args and errors are those of the machine.
    """

    __slots__ = (
        "_ask_at", "_asked_at", "_calm", "_chronicle", "_cursor", "_deadline", "_due", "_entered",
        "_evidence", "_forced", "_gate", "_grace_until", "_interval", "_jitter", "_manual", "_merit", "_now", "_policy",
        "_probation", "_reconfirm", "_rungs", "_seen_at", "_settled",  "_stale_after", "_stale_at", "_state",
        "_status", "_step", "_unbounded", "_uniform", "_wake",
    )  # fmt: skip

    def __init__(
        self,
        policy: HealingPolicy,
        ladder: Climbable = _NO_RUNGS,
        *,
        uniform: Callable[[], float] = half,
        allow_destructive: bool = False,
    ) -> None:
        rungs = ladder.as_ladder().rungs
        require_provable(policy, rungs)
        self._policy = policy
        self._rungs = rungs
        self._uniform = uniform
        self._interval, self._jitter, self._stale_after = policy.interval, policy.jitter, policy.stale_after

        self._evidence = Evidence(policy)
        self._cursor = Cursor(rungs, allow_destructive=allow_destructive)
        self._probation = Probation(policy, rungs)
        self._chronicle = Chronicle(rungs)

        self._state = IDLE
        self._status = _UNKNOWN
        self._step: Check | Recover | Revert | None = None
        self._calm = False  # IDLE, healthy, nothing to remember: a healthy result only moves the times
        self._now = self._seen_at = -INF
        self._entered = self._asked_at = self._settled = -INF
        self._wake = self._due = -INF  # before this there is nothing to do; the next check
        self._stale_at = self._grace_until = INF  # set by the first tick
        self._deadline = INF  # of the verification, of the wait when exhausted, of the probation
        self._ask_at = -INF  # not before this time, or the next counted result, is a rung asked for again

        self._merit: Recover | None = None  # whose verification runs, or who has claimed the last success
        self._forced: int | None = None  # taken back too early: to be applied again
        self._reconfirm = False  # after a discard: no rung until the fault is confirmed anew
        self._unbounded = False  # a pass of an exhausted ladder
        self._manual = False
        self._gate: Gate | None = None

    @property
    def rung(self) -> int | None:
        """
        The rung that it would ask for next, or `None`: no rung applies.
        """
        if self._forced is not None:
            return self._forced
        fault = self._evidence.fault
        return None if fault is None else self._cursor.pick(fault, self._probation.applied)

    def _pass_deadlines(self, now: float) -> None:
        if now >= self._stale_at:
            self._go_stale(now)
        if self._state is VERIFYING and now >= self._deadline and self._evidence.known:
            self._refute("no proof in time", now)
        elif self._state is EXHAUSTED and now >= self._deadline and self._cursor.renew_harmless():
            self._unbounded = True
            self._enter(RECOVERING, now, "next pass")

    def _next_rung(self, now: float) -> Recover | None:
        if self._reconfirm or now < self._ask_at or self._gives_up(now):
            return None
        rung = self.rung
        self._refuse(rung, now)
        if rung is None:
            self._shut(Gate.PRECONDITION, None, now, rung=None, revert=False, reason="no rung applies to the fault")
            return None
        return Recover(rung, self._cursor.attempt(rung))

    def _next_revert(self, now: float) -> Revert | None:
        over = self._probation.over(now, proved=self._evidence.proved)
        self._deadline = self._probation.until
        if not over:
            return None
        if not self._probation.applied:
            self._enter(IDLE, now, "probation over")
            return None
        return Revert(self._probation.applied[-1]) if now >= self._ask_at else None

    def _take(self, result: CheckResult, started: float, now: float) -> None:
        status = result.status
        if status is _UNKNOWN:
            return
        self._status = status
        self._seen_at, self._stale_at = now, now + self._stale_after
        bad = status is _UNHEALTHY or (status is _DEGRADED and self._policy.heal_degraded)
        if not bad:
            self._grace_until = -INF
        if started < self._evidence.floor or (bad and started < self._grace_until):
            return
        self._ask_at = now
        if bad:
            self._take_bad(result.fault or Fault("error"), started, now)
        else:
            self._take_good(now)

    def _take_good(self, now: float) -> None:
        self._evidence.add_good()
        if not self._evidence.proved:
            return
        record = self._chronicle.record
        if self._state is DETECTING:
            self._clear_suspicion("good again", now)
        elif self._state is VERIFYING and record is not None and self._merit is not None:
            record.verified, record.exhausted = True, False
            self._claim(names.HEALING_VERIFIED, now)
            self._enter(RESTORED, now, "healing verified")
        elif self._state in (RECOVERING, EXHAUSTED) and record is not None:
            record.gate = self._gate
            self._merit = None
            self._enter(RESTORED, now, "good again")

    def _take_bad(self, fault: Fault, started: float, now: float) -> None:
        self._evidence.add_bad(fault, started=started, now=now)
        if self._state is IDLE:
            self._enter(DETECTING, now, "a bad result")
        if self._state is VERIFYING:
            if self._evidence.refuted:
                self._refute("fatal fault" if fault.fatal else "still bad", now)
        elif self._evidence.confirms(now=now):
            if self._state is DETECTING:
                self._chronicle.open(fault, began=self._evidence.began, now=now, manual=False)
                self._enter(RECOVERING, now, "fatal fault" if fault.fatal else "fault confirmed")
                self._gives_up(now)
            elif self._state is RESTORED:
                self._relapse(fault, now)
            elif self._state is RECOVERING and self._reconfirm:
                self._reconfirm = False
                self._gives_up(now)

    def _enter(self, state: HealingState, now: float, reason: str) -> None:
        before, self._state = self._state, state
        self._chronicle.moved(before, state, reason, now)
        self._entered = self._ask_at = now
        self._deadline = INF
        self._wake = -INF
        self._gate = None
        self._calm = self._reconfirm = False
        record = self._chronicle.record
        if record is not None:
            record.reopen(now)
        if state in _CLEAN:
            self._evidence.empty()
        if state is RECOVERING:
            self._due = min(self._due, now + self._policy.fast_interval)
            if record is not None:
                record.recovered = None
        elif state is not VERIFYING:
            self._end_pass(state, now)

    def _end_pass(self, state: HealingState, now: float) -> None:
        record = self._chronicle.record
        self._manual = self._unbounded = False
        self._forced = None
        if state is RESTORED:
            self._probation.begin(now)
            if record is not None:
                record.recovered = now
        elif state is EXHAUSTED:
            self._deadline = now + self._policy.retry_after
            if record is not None:
                record.exhausted = True
        elif state is IDLE:
            self._evidence.fault = None
            self._cursor.renew()
            self._probation.forget()
            self._merit = None
            self._chronicle.close(now)

    def _clear_suspicion(self, reason: str, now: float) -> None:
        self._chronicle.emit(now, names.SUSPICION_CLEARED, age=now - self._entered)
        self._enter(IDLE, now, reason)

    def _go_stale(self, now: float) -> None:
        # Evidence of that age is no evidence: the bad results in the count go with the streak of good ones.
        self._chronicle.emit(now, names.CHECK_STALE, age=now - self._seen_at)
        self._stale_at = INF
        self._status = _UNKNOWN
        self._calm = False
        self._evidence.empty()
        if self._state is DETECTING:
            self._clear_suspicion("no known result", now)

    def _refute(self, reason: str, now: float) -> None:
        self._claim(names.HEALING_REFUTED, now, reason=reason)
        self._enter(RECOVERING, now, reason)
        self._gives_up(now)

    def _relapse(self, fault: Fault, now: float) -> None:
        probation, record, reason = self._probation, self._chronicle.record, RELAPSE
        if record is None:  # held rungs were adopted, and this is the first fault seen
            self._chronicle.open(fault, began=self._evidence.began, now=now, manual=False)
            reason = "fault confirmed"
        if probation.watched is not None:
            self._forced = probation.watched
            probation.double(self._forced)
            reason = "reverted too early"
        elif probation.passed:
            # The healing has kept its promise, and only waits to be stepped down, maybe for days: a fault of its own.
            self._cursor.renew()
            reason = "a new fault"
            if record is not None:
                record.restart(now)
        elif self._merit is not None and record is not None:
            record.verified = False
            self._claim(names.HEALING_REFUTED, now, reason=reason)
            held = probation.applied
            # "No rung is left" means none that is of use against this fault: one that does not apply heals nothing.
            if self._merit.rung not in held and self._cursor.pick(fault, held) is None:
                self._cursor.grant(self._merit.rung)
        self._enter(RECOVERING, now, reason)
        self._gives_up(now)

    def _gives_up(self, now: float) -> bool:
        record = self._chronicle.record
        if self._reconfirm or record is None:
            return False
        reason = ""
        if self._forced is None and not self._cursor.any_left(self._probation.applied):
            self._refuse(None, now)
            reason = "every rung used up" if self._rungs else "nothing can heal it"
        elif self._unbounded:
            return False
        elif record.charged >= self._policy.max_actions:
            reason = "max_actions reached"
        elif self._forced is None and record.age(now) >= self._policy.max_incident_age:
            # A rung that was taken back too early has waited for long, and is put back however old that has made it.
            reason = "max_incident_age reached"
        if reason:
            self._enter(EXHAUSTED, now, reason)
        return bool(reason)

    def _refuse(self, below: int | None, now: float) -> None:
        for index in self._cursor.refuse(below):
            reason = "destructive, and allow_destructive is not set"
            self._chronicle.of_rung(now, names.RUNG_REFUSED, index, reason=reason)

    def _shut(
        self, gate: Gate, until: float | None, now: float, *, rung: int | None, revert: bool, reason: str
    ) -> None:
        self._gate = gate
        self._ask_at = until if until is not None and until > now else INF
        self._wake = -INF
        record = self._chronicle.record
        if record is not None:
            record.shut(now)
        self._chronicle.blocked(gate, until, now, rung=rung, revert=revert, reason=reason)

    def _finish(self, step: Recover | Revert, outcome: Outcome, now: float) -> None:
        rung = self._rungs[step.rung]
        self._chronicle.finished(step, outcome, now, began=self._asked_at)
        self._step = None
        self._gate = None
        self._evidence.void(now)
        self._due = self._settled = now + rung.settle
        if self._stale_at < INF:  # nobody was asked while it ran
            self._seen_at = self._settled
            self._stale_at = self._settled + self._stale_after
        self._ask_at = now
        self._wake = -INF

    def _next_check(self, started: float, now: float) -> float:
        fast = self._state in _FAST or self._evidence.suspect
        gap = self._policy.fast_interval if fast else self._interval
        if self._state is not VERIFYING:  # there, spreading could push the last proof out of its time
            gap *= 1.0 + self._jitter * (2.0 * self._uniform() - 1.0)
        due = started + gap
        if due <= now:  # due times that fell into the run are skipped
            due = started + gap * (math.floor((now - started) / gap) + 1)
        return due if due > now else math.nextafter(now, INF)

    def _within(self, rung: int) -> float:
        own = self._rungs[rung].verify_within
        return self._policy.verify_within if own is None else own

    def _claim(self, event: str, now: float, **fields: Field) -> None:
        if self._merit is not None:
            self._chronicle.of_rung(now, event, self._merit.rung, attempt=self._merit.attempt, **fields)

    def _largest(self, now: float) -> float:
        if not -INF < now < INF:
            msg = f"now={now}: must be a finite number of seconds, from a clock that never goes backwards."
            raise ConfigError(msg)
        return max(now, self._now)

    def _unexpected(self, call: str) -> IllegalTransitionError:
        step = self._step
        hint = "no step is open; call tick() and answer the step it returns"
        if step is not None:
            answers = {Check: "checked()", Recover: "recovered() or blocked()", Revert: "reverted() or blocked()"}
            hint = f"the open step is {step}; answer it with {answers[type(step)]}"
        return IllegalTransitionError(f"{call} was called in state {self._state.name}: {hint}.")
