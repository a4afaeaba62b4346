"""
Any driver, any world: a second, dumber model runs beside the machine.
"""

from __future__ import annotations

import itertools

import pytest

from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from selfheal import names
from selfheal.errors import IllegalTransitionError
from selfheal.healing import HealingStateMachine
from selfheal.model import (
    Check,
    CheckResult,
    Gate,
    HealingPolicy,
    HealingState,
    HealthStatus,
    IncidentResult,
    Ladder,
    Outcome,
    Recover,
    Revert,
    Rung,
    Wait,
)


IDLE, DETECTING, RECOVERING, VERIFYING, RESTORED, EXHAUSTED = HealingState
EMPTYING = (VERIFYING, RESTORED, IDLE)

POLICY = HealingPolicy(
    interval=4, fast_interval=1, timeout=1, jitter=0, fall=2, fall_window=3, rise=2, verify_within=5, probation=10,
    stale_after=9, max_actions=5, max_incident_age=60, retry_after=30,
)  # fmt: skip
LADDER = Ladder(
    (
        Rung(action="a", name="a", attempts=2, settle=1),
        Rung(action="s", name="s", applies=lambda fault: fault.kind == "stale"),
        Rung(action="h", name="h", held=True),
        Rung(action="d", name="d", destructive=True),
    )
)
OUTCOMES = [
    Outcome.done(),
    Outcome.done(),
    Outcome.failed(RuntimeError()),
    Outcome.cannot_help("no"),
    Outcome.abandoned(),
    Outcome.cancelled("x"),
]
CALLS = {
    "checked": lambda m, now: m.checked(CheckResult.healthy(started_at=0.0), now=now),
    "recovered": lambda m, now: m.recovered(Outcome.done(), now=now),
    "reverted": lambda m, now: m.reverted(Outcome.done(), now=now),
    "blocked": lambda m, now: m.blocked(Gate.BUSY, now=now),
    "start_healing": lambda m, now: m.start_healing(now=now),
    "adopt": lambda m, now: m.adopt([2], now=now),
}
LEGAL = {Check: {"checked"}, Recover: {"recovered", "blocked"}, Revert: {"reverted", "blocked"}, Wait: set()}


class Slow:
    """Knows every result there has been, and reads them anew each time."""

    def __init__(self):
        self.results = []  # (started, kind); those before `since` were seen in another state or before a discard
        self.floor = float("-inf")
        self.state = IDLE

    def counted(self):
        return [kind for started, kind in self.results if started >= self.floor and kind != "unknown"]

    def enters(self, state):
        if state is not self.state and state in EMPTYING:
            self.results.clear()
        self.state = state

    def after(self, kind):
        """The states that the latest result may lead to."""
        counted = self.counted()
        good = len(list(itertools.takewhile(lambda kind: kind == "good", reversed(counted))))
        bad = len(list(itertools.takewhile(lambda kind: kind != "good", reversed(counted))))
        fatal = kind == "fatal"
        confirmed = fatal or (kind == "bad" and sum(k != "good" for k in counted[-3:]) >= 2)
        healing = {RECOVERING, EXHAUSTED}
        match self.state:
            case HealingState.DETECTING if kind == "good" and good >= 2:
                return {IDLE}
            case HealingState.IDLE | HealingState.DETECTING if confirmed:
                return healing
            case HealingState.IDLE if kind == "bad":
                return {DETECTING}
            case HealingState.RECOVERING | HealingState.EXHAUSTED | HealingState.VERIFYING if good >= 2:
                return {RESTORED}
            case HealingState.VERIFYING if fatal or bad >= 2:
                return healing
            case HealingState.RESTORED if confirmed:
                return healing
            case HealingState.RECOVERING if confirmed:
                return healing  # confirmed anew after a discard, with nothing left to try
        return {self.state}


class Healing(RuleBasedStateMachine):
    def __init__(self):
        super().__init__()
        self.machine = HealingStateMachine(POLICY, LADDER)
        self.slow = Slow()
        self.now = 0.0
        self.told = []
        self.written = []
        self.attempts = {}
        self.ask()

    # The driver

    def tell(self, name, *args, at=None):
        at = self.now if at is None else at
        self.told.append((name, args, at))
        getattr(self.machine, name)(*args, now=at)
        self.listen()

    def ask(self):
        self.told.append(("tick", (), self.now))
        before = self.machine.state
        self.step = self.machine.tick(now=self.now)
        assert self.step == self.machine.tick(now=self.now), "the open step is repeated"
        self.listen()
        if before is VERIFYING and self.machine.state is RECOVERING:
            assert self.slow.counted(), "a verification is not refuted by knowing nothing"
        self.slow.enters(self.machine.state)
        if isinstance(self.step, Recover):
            self.recovery_is_due()

    def listen(self):
        entries = self.machine.entries()
        for entry in entries:
            if entry.event == names.CHECK_STALE:
                self.slow.results.clear()
            if entry.event == names.STATE_CHANGED:
                self.slow.enters(HealingState(entry.fields["to_state"]))
            if entry.event == names.INCIDENT_OPENED:
                self.attempts.clear()
            self.written.append(entry)

    def recovery_is_due(self):
        rung, attempt = self.step.rung, self.step.attempt
        assert rung not in self.machine.held, "what is applied is not applied again"
        assert not LADDER.rungs[rung].destructive, "nothing destructive without permission"
        assert attempt >= self.attempts.get(rung, 1), "attempts only grow"
        self.attempts[rung] = attempt
        assert rung != 1 or self.machine.fault.kind == "stale" or self.machine.rung == 1

    # The world

    @precondition(lambda self: isinstance(self.step, Check))
    @rule(
        kind=st.sampled_from(["good", "good", "good", "bad", "bad", "fatal", "unknown"]),
        fault=st.sampled_from(["error", "stale"]),
        took=st.sampled_from([0.0, 0.25, 1.0, 5.0]),
        early=st.sampled_from([0.0, 0.0, 0.0, 2.0]),
    )
    def a_check_ends(self, kind, fault, took, early):
        started = self.now - early  # a driver that began it before it was asked to
        self.now += took
        result = {
            "good": CheckResult.healthy(started_at=started),
            "unknown": CheckResult(HealthStatus.UNKNOWN, started_at=started),
        }.get(kind, CheckResult.unhealthy(fault, fatal=kind == "fatal", started_at=started))
        self.slow.results.append((started, kind))
        counts = started >= self.slow.floor and kind != "unknown"
        expected = self.slow.after(kind) if counts else {self.slow.state}
        before, fault_before = self.slow.state, self.machine.fault
        self.tell("checked", result)
        assert self.machine.state in expected, (before, kind, self.machine.state)
        if not counts:
            assert fault_before is self.machine.fault, "what does not count steers nothing"
        self.ask()

    @precondition(lambda self: isinstance(self.step, Recover))
    @rule(outcome=st.sampled_from(OUTCOMES), took=st.sampled_from([0.0, 1.0, 7.5]))
    def an_action_ends(self, outcome, took):
        self.now += took
        held = self.machine.held
        rung = self.step.rung
        self.tell("recovered", outcome)
        self.slow.floor = self.now
        self.slow.results.clear()
        if outcome.ok:
            assert VERIFYING is self.machine.state
        else:
            assert self.machine.state in (RECOVERING, EXHAUSTED)
        applied = LADDER.rungs[rung].held and outcome.verdict.value in ("done", "failed", "abandoned")
        assert self.machine.held == ((*held, rung) if applied else held)
        self.ask()

    @precondition(lambda self: isinstance(self.step, Revert))
    @rule(outcome=st.sampled_from(OUTCOMES), took=st.sampled_from([0.0, 1.0]))
    def a_revert_ends(self, outcome, took):
        self.now += took
        held = self.machine.held
        assert held[-1] == self.step.rung, "last applied, first reverted"
        self.tell("reverted", outcome)
        self.slow.floor = self.now
        self.slow.results.clear()
        assert self.machine.held == (held[:-1] if outcome.ok else held)
        self.ask()

    @precondition(lambda self: isinstance(self.step, Recover | Revert))
    @rule(gate=st.sampled_from([Gate.PAUSED, Gate.COOLDOWN, Gate.BUSY]), until=st.sampled_from([None, 0.0, 0.5, 20.0]))
    def a_gate_is_closed(self, gate, until):
        blocked = self.step
        self.tell("blocked", gate, None if until is None else self.now + until)
        self.ask()
        assert blocked != self.step, "a closed gate is not asked again at once"

    @precondition(lambda self: isinstance(self.step, Wait))
    @rule()
    def time_passes_to_the_deadline(self):
        self.now = self.step.until
        self.ask()

    @precondition(lambda self: isinstance(self.step, Wait))
    @rule(share=st.sampled_from([0.1, 0.5, 0.999]))
    def time_passes_not_quite_to_the_deadline(self, share):
        until = self.step.until
        before = self.machine.fingerprint()
        self.now = min(self.now + (until - self.now) * share, until - 1e-6)
        self.ask()
        assert (Wait(until), before) == (self.step, self.machine.fingerprint()), "nothing happens before the deadline"

    @precondition(lambda self: isinstance(self.step, Wait))
    @rule(late=st.sampled_from([3.0, 40.0]))
    def time_passes_beyond_the_deadline(self, late):
        self.now = self.step.until + late
        self.ask()

    @rule()
    def evidence_is_discarded(self):
        self.tell("discard", "test")
        self.slow.floor = self.now
        self.slow.results.clear()
        self.ask()

    @precondition(lambda self: self.machine.state not in (RECOVERING, VERIFYING))
    @rule()
    def somebody_heals_by_hand(self):
        self.tell("start_healing")
        assert self.machine.state is RECOVERING
        self.attempts.clear()
        self.ask()

    @rule(call=st.sampled_from(sorted(CALLS)))
    def a_driver_has_a_bug(self, call):
        busy = self.machine.state in (RECOVERING, VERIFYING)
        if call in LEGAL[type(self.step)]:
            return
        if (call == "start_healing" and not busy) or (call == "adopt" and self.machine.state is IDLE):
            return
        before = self.machine.fingerprint(), self.machine.incident, self.machine.held
        with pytest.raises(IllegalTransitionError):
            CALLS[call](self.machine, self.now + 1000)
        assert before == (self.machine.fingerprint(), self.machine.incident, self.machine.held)
        assert [] == self.machine.entries()
        assert self.step == self.machine.tick(now=self.now)

    # What always holds

    @invariant()
    def a_wait_is_later_than_now(self):
        assert not isinstance(self.step, Wait) or self.step.until > self.now

    @invariant()
    def what_counts_is_what_the_slow_model_counts(self):
        # Good results before the first bad one change nothing, and a calm machine does not keep them.
        def from_the_first_bad(results):
            return list(itertools.dropwhile(lambda is_bad: not is_bad, results))

        recent = [kind != "good" for kind in self.slow.counted()[-3:]]
        assert from_the_first_bad(recent) == from_the_first_bad(self.machine.fingerprint()[3][0])

    @invariant()
    def every_inaction_has_a_reason(self):
        if self.machine.state is RECOVERING and isinstance(self.step, Wait):
            *_, (_, reconfirm, _), no_gate = self.machine.fingerprint()
            assert reconfirm or not no_gate

    @invariant()
    def an_incident_is_open_in_all_but_the_quiet_states(self):
        quiet = self.machine.state in (IDLE, DETECTING)
        assert quiet == (self.machine.incident is None)

    @invariant()
    def incidents_open_and_close_in_turn_with_one_result_each(self):
        turns = [e for e in self.written if e.event in (names.INCIDENT_OPENED, names.INCIDENT_CLOSED)]
        for opened, closed in zip(turns[::2], turns[1::2], strict=False):
            assert (names.INCIDENT_OPENED, names.INCIDENT_CLOSED) == (opened.event, closed.event)
            assert closed.fields["result"] in {result.value for result in IncidentResult}

    @invariant()
    def what_is_held_is_held_once(self):
        assert len(set(self.machine.held)) == len(self.machine.held)
        assert IDLE is not self.machine.state or () == self.machine.held

    @invariant()
    def entries_are_in_the_order_of_time(self):
        times = [entry.at for entry in self.written]
        assert sorted(times) == times

    def teardown(self):
        """The same calls give the same entries."""
        again = HealingStateMachine(POLICY, LADDER)
        for name, args, at in self.told:
            getattr(again, name)(*args, now=at)
        assert self.written == again.entries()
        assert self.machine.fingerprint() == again.fingerprint()


TestHealing = Healing.TestCase
# Explaining a failure traces every line, which takes minutes for a machine of this size.
TestHealing.settings = settings(
    stateful_step_count=40,
    max_examples=min(300, settings.default.max_examples),
    phases=set(Phase) - {Phase.explain},
)
