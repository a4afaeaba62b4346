"""
The healing of one check, as its driver sees it: `tick` says what to do next, the answer is fed back.

Rule 1: what a driver may call, and when, lives in this file; what it leads to lives in `states`.
Rule 2: this file is told the time (*now*), it never asks for it.
Rule 3: a rejected call changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeAlias

from selfheal import names
from selfheal.errors import ConfigError, IllegalTransitionError
from selfheal.healing.states import (
    CHECK,
    HEALTHY,
    IDLE,
    INF,
    RECOVERING,
    RESTORED,
    VERIFYING,
    States,
)
from selfheal.model import (
    Check,
    CheckResult,
    Entry,
    Fault,
    Gate,
    HealingState,
    HealthStatus,
    Incident,
    Outcome,
    Recover,
    Revert,
    Verdict,
    Wait,
)


Step: TypeAlias = Wait | Check | Recover | Revert


class HealingStateMachine(States):
    """
    Decides when to check, when to heal, with which rung, and whether it has helped.

    All times are monotonic seconds. A *now* smaller than the largest seen
    counts as the largest seen. It belongs to one driver: it is not thread-safe.

    Args:
        policy: How patient it is.
        ladder: What it may do, lowest rung first.
        uniform: Gives numbers in [0, 1) for the jitter. The default always says 0.5, which is none.
        allow_destructive: Whether destructive rungs may be asked for.

    Raises:
        ConfigError: If the verification of a rung could never succeed.

    .. versionadded:: 26.1.0
    """

    __slots__ = ()

    # What it asks for

    def tick(self, *, now: float) -> Step:
        """
        What to do next. Until a step is answered, the same one is given again.

        Raises:
            ConfigError: If *now* is not finite. Nothing has changed then.
        """
        if self._now < now < INF:
            self._now = now
        elif now != self._now:
            now = self._largest(now)
        if self._step is not None:
            return self._step
        if now < self._wake:
            return Wait(self._wake)
        if self._calm and self._due <= now < self._stale_at:
            self._step = CHECK
            return CHECK
        return self._turn(now)

    def _turn(self, now: float) -> Step:
        if self._seen_at == -INF:  # the first tick: there is nothing yet that could be stale
            self._seen_at = now
            self._stale_at = now + self._stale_after
            self._grace_until = now + self._policy.startup_grace if self._policy.startup_grace else -INF
        self._pass_deadlines(now)
        step: Check | Recover | Revert | None = None
        if self._state is RECOVERING:
            step = self._next_rung(now)
        elif self._state is RESTORED:
            step = self._next_revert(now)
        if step is None and now >= self._due:
            step = CHECK
        if step is not None:
            self._step, self._asked_at = step, now
            return step
        self._wake = min(at for at in (self._due, self._stale_at, self._ask_at, self._deadline) if at > now)
        return Wait(self._wake)

    # What it is told

    def checked(self, result: CheckResult, *, now: float) -> None:
        """
        Answer `Check`.

        Raises:
            IllegalTransitionError: If no check was asked for. Nothing has changed then.
            ConfigError: If *result* lacks ``started_at`` or began after *now*. Nothing has changed then.
        """
        if self._step is not CHECK:
            raise self._unexpected("checked()")
        if not self._now <= now < INF:
            now = self._largest(now)
        started = result.started_at
        if started is None or not started <= now:
            msg = f"started_at={started}: a result needs the time its run began, not later than now={now}."
            raise ConfigError(msg)
        self._now = now
        self._step = None
        if self._calm and result.status is HEALTHY:
            due = started + self._interval * (1.0 + self._jitter * (2.0 * self._uniform() - 1.0))
            if due > now:
                self._due = self._wake = due
                self._seen_at = now
                self._stale_at = now + self._stale_after
                if self._stale_at < due:
                    self._wake = self._stale_at
                return
        self._take(result, started, now)
        self._due = self._next_check(started, now)
        self._wake = -INF
        self._calm = self._state is IDLE and self._status is HEALTHY and self._grace_until <= now

    def recovered(self, outcome: Outcome, *, now: float) -> None:
        """
        Answer `Recover`: how the action ended.

        Raises:
            IllegalTransitionError: If no action was asked for. Nothing has changed then.
            ConfigError: If *now* is not finite. Nothing has changed then.
        """
        step, record = self._step, self._chronicle.record
        if not isinstance(step, Recover) or record is None:
            raise self._unexpected("recovered()")
        now = self._now = self._largest(now)
        index, rung, verdict = step.rung, self._rungs[step.rung], outcome.verdict
        self._finish(step, outcome, now)
        record.reopen(self._asked_at)
        record.actions += 1
        if verdict is not Verdict.CANCELLED:
            record.charged += 1
            self._cursor.tried(index, charged=index != self._forced)
            self._forced = None
        if verdict is Verdict.CANNOT_HELP:
            self._cursor.use_up(index)
        elif rung.held and verdict is not Verdict.CANCELLED:
            # Also when it failed: a change that was begun may be in force, and has to be taken back one day.
            self._probation.apply(index)
            self._chronicle.of_rung(now, names.HELD_APPLIED, index)
        if outcome.ok:
            self._merit = step
            self._enter(VERIFYING, now, "action ended well")
            self._deadline = self._settled + self._within(index)
        else:
            self._gives_up(now)

    def reverted(self, outcome: Outcome, *, now: float) -> None:
        """
        Answer `Revert`: how stepping down ended.

        Raises:
            IllegalTransitionError: If no revert was asked for. Nothing has changed then.
            ConfigError: If *now* is not finite. Nothing has changed then.
        """
        if not isinstance(step := self._step, Revert):
            raise self._unexpected("reverted()")
        now = self._now = self._largest(now)
        self._finish(step, outcome, now)
        if outcome.ok:
            self._probation.reverted(step.rung, now)
            self._chronicle.of_rung(now, names.HELD_REVERTED, step.rung)
        elif outcome.verdict is not Verdict.CANCELLED:
            self._probation.stuck(step.rung, now)
            self._chronicle.of_rung(
                now, names.HELD_STUCK, step.rung, reason=outcome.reason, until=self._probation.until
            )

    def blocked(self, gate: Gate, until: float | None = None, *, now: float, reason: str = "") -> None:
        """
        Answer `Recover` or `Revert`: a gate is closed. It is asked for again after each counted result, and at *until*.

        Args:
            gate: The gate.
            until: When it is expected to open; `None`, or not later than *now*: nobody knows.
            reason: For people.
            now: The time.

        Raises:
            IllegalTransitionError: If neither was asked for. Nothing has changed then.
            ConfigError: If *now* is not finite. Nothing has changed then.
        """
        if not isinstance(step := self._step, Recover | Revert):
            raise self._unexpected("blocked()")
        now = self._now = self._largest(now)
        self._step = None
        self._shut(gate, until, now, rung=step.rung, revert=isinstance(step, Revert), reason=reason)

    # What happens without having been asked for

    def start_healing(self, *, now: float) -> None:
        """
        Heal by hand: as if the fault had just been confirmed, with all attempts and bounds anew.

        Raises:
            IllegalTransitionError: If it is being healed already. Nothing has changed then.
            ConfigError: If *now* is not finite. Nothing has changed then.
        """
        if self._state in (RECOVERING, VERIFYING):
            msg = (
                f"start_healing() was called in state {self._state.name}: it is already being healed. "
                "Wait for the end of that healing, or see what keeps it from going on."
            )
            raise IllegalTransitionError(msg)
        now = self._now = self._largest(now)
        record, evidence = self._chronicle.record, self._evidence
        if evidence.fault is None:
            evidence.fault = Fault("error", message="healing was started by hand")
        if record is None:
            began = evidence.began if evidence.suspect else now
            record = self._chronicle.open(evidence.fault, began=began, now=now, manual=True)
        record.restart(now)
        record.verified = record.verified and self._probation.passed
        self._cursor.renew()
        self._manual = True
        self._enter(RECOVERING, now, "started by hand")
        self._gives_up(now)

    def discard(self, reason: str, *, now: float) -> None:
        """
        All evidence before *now* is void; what started earlier is recorded, never counted.

        Raises:
            ConfigError: If *now* is not finite. Nothing has changed then.
        """
        now = self._now = self._largest(now)
        self._chronicle.emit(now, names.EVIDENCE_DISCARDED, reason=reason)
        self._evidence.void(now)
        self._wake, self._calm = -INF, False
        record = self._chronicle.record
        if self._state is RECOVERING:
            self._reconfirm = True
            if record is not None:  # what comes now is looking, not a closed gate
                record.reopen(now)
        elif self._state is VERIFYING and self._merit is not None:
            self._deadline = max(now, self._settled) + self._within(self._merit.rung)

    def adopt(self, rungs: Iterable[int], *, now: float) -> None:
        """
        Take over held rungs that were found applied at start-up, oldest first; they are stepped down after a probation.

        Raises:
            IllegalTransitionError: If the state is not IDLE. Nothing has changed then.
            ConfigError: If *rungs* are not distinct indices of held rungs. Nothing has changed then.
        """
        if self._state is not IDLE:
            msg = f"adopt() was called in state {self._state.name}; call it in IDLE, before the first tick."
            raise IllegalTransitionError(msg)
        found = tuple(rungs)
        held = [index for index, rung in enumerate(self._rungs) if rung.held]
        if not found or len(set(found)) < len(found) or not set(found) <= set(held):
            msg = f"rungs={found}: must be distinct indices of held rungs, at least one. Held here are {held}."
            raise ConfigError(msg)
        now = self._now = self._largest(now)
        self._probation.applied[:] = found
        for index in found:
            self._chronicle.of_rung(now, names.HELD_APPLIED, index)
        self._merit = None
        self._enter(RESTORED, now, "held rungs adopted")

    def check_now(self, *, now: float) -> None:
        """
        Let the next check be due at once, but not before the resource has settled.

        Raises:
            ConfigError: If *now* is not finite. Nothing has changed then.
        """
        now = self._now = self._largest(now)
        self._due = max(now, self._settled)
        self._wake = -INF

    def close(self, reason: str, *, now: float) -> None:
        """
        The driver stops: an open incident is aborted. Held rungs stay applied; an answer still to come is rejected.

        Raises:
            ConfigError: If *now* is not finite. Nothing has changed then.
        """
        now = self._now = self._largest(now)
        self._step = None
        record = self._chronicle.record
        if record is not None:
            record.aborted = True
        if self._state is not IDLE:
            self._enter(IDLE, now, reason)

    def fingerprint(self) -> tuple[object, ...]:
        """
        What the next decisions depend on, times left out: equal prints behave alike until a deadline.
        """
        step, evidence, probation = self._step, self._evidence, self._probation
        return (
            self._state,
            (type(step).__name__, step.rung if isinstance(step, Recover | Revert) else None),
            self._cursor.left,
            (evidence.recent, evidence.proved, evidence.refuted, min(evidence.good, self._policy.rise)),
            (tuple(probation.applied), (probation.watched, probation.passed) if self._state is RESTORED else None),
            (self._forced, self._reconfirm, self._unbounded),
            self._gate is None,
        )

    def note(self, entry: Entry) -> None:
        """
        Write down what the driver has to say; it belongs to the open incident.
        """
        if entry.event == names.ACTION_STARTED:  # the gates may have taken their time
            self._asked_at = max(self._asked_at, entry.at)
        self._chronicle.note(entry)

    def entries(self) -> list[Entry]:
        """
        What has happened since the last call, oldest first.
        """
        return self._chronicle.drain()

    # What it shows

    @property
    def dropped(self) -> int:
        """
        Entries that fell off because nobody fetched them.
        """
        return self._chronicle.dropped

    @property
    def state(self) -> HealingState:
        """
        Where the healing stands.
        """
        return self._state

    @property
    def status(self) -> HealthStatus:
        """
        The latest known status; UNKNOWN before the first, and when that is too old.
        """
        return self._status

    @property
    def fault(self) -> Fault | None:
        """
        The latest fault counted since all was well, or `None`.
        """
        return self._evidence.fault

    @property
    def incident(self) -> Incident | None:
        """
        The open incident so far, or `None`.
        """
        record = self._chronicle.record
        return None if record is None else record.snapshot()

    @property
    def last_incident(self) -> Incident | None:
        """
        The incident closed last, or `None`.
        """
        return self._chronicle.last

    @property
    def held(self) -> tuple[int, ...]:
        """
        The held rungs in force, oldest first.
        """
        return tuple(self._probation.applied)

    @property
    def manual(self) -> bool:
        """
        Whether the present pass was started by `start_healing`.
        """
        return self._manual
