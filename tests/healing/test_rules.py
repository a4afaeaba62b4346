"""
The rules beneath the state table: time, evidence, schedule, outcomes, calls by hand.
"""

from __future__ import annotations

import math

import pytest

from selfheal import names
from selfheal.errors import ConfigError, IllegalTransitionError
from selfheal.healing import HealingStateMachine
from selfheal.model import (
    Check,
    CheckResult,
    Fault,
    Gate,
    HealingPolicy,
    HealingState,
    HealthStatus,
    Ladder,
    Outcome,
    Recover,
    Revert,
    Wait,
)


IDLE, DETECTING, RECOVERING, VERIFYING, RESTORED, EXHAUSTED = HealingState
HEALTHY, DEGRADED, UNHEALTHY, UNKNOWN = HealthStatus


# Time


def test_time_does_not_run_backwards(by_hand):
    """
    A `now` smaller than the largest seen counts as the largest seen, whichever call brings it.
    """
    hand = by_hand()
    hand.good()
    assert Wait(until=10.0) == hand.machine.tick(now=7.0)
    assert Wait(until=10.0) == hand.machine.tick(now=3.0)
    hand.machine.discard("test", now=1.0)
    assert [7.0] == [entry.at for entry in hand.entries(names.EVIDENCE_DISCARDED)]
    hand.machine.tick(now=10.0)
    hand.machine.checked(CheckResult.unhealthy("error", started_at=10.0), now=2.0)
    assert [10.0] == [entry.at for entry in hand.entries(names.STATE_CHANGED)]


@pytest.mark.parametrize("now", [math.nan, math.inf])
def test_a_time_that_is_no_time_is_rejected(by_hand, rung, memory, now):
    """
    NaN and infinity are refused by every call, and change nothing.
    """
    hand = by_hand(rung("a", held=True))
    calls = {
        Check: [lambda m: m.checked(CheckResult.healthy(started_at=0.0), now=now)],
        Recover: [lambda m: m.recovered(Outcome.done(), now=now), lambda m: m.blocked(Gate.BUSY, now=now)],
        Revert: [lambda m: m.reverted(Outcome.done(), now=now), lambda m: m.blocked(Gate.BUSY, now=now)],
    }
    always = [
        lambda m: m.tick(now=now),
        lambda m: m.discard("x", now=now),
        lambda m: m.check_now(now=now),
        lambda m: m.close("x", now=now),
    ]

    def refuses(more):
        for call in (*always, *more):
            before = memory(hand.machine)
            with pytest.raises(ConfigError, match=r"finite|started_at"):
                call(hand.machine)
            assert before == memory(hand.machine)

    hand.tick()
    refuses([*calls[Check], lambda m: m.start_healing(now=now), lambda m: m.adopt([0], now=now)])
    hand.falls()
    hand.tick()
    refuses(calls[Recover])
    hand.heals()
    while not isinstance(hand.ask(), Revert):
        hand.good()
    refuses(calls[Revert])


@pytest.mark.parametrize("started_at", [None, 0.1, math.nan])
def test_a_result_needs_the_time_it_began(by_hand, memory, started_at):
    """
    A result without a time, or from the future, is refused and changes nothing.
    """
    hand = by_hand()
    hand.tick()
    before = memory(hand.machine)
    with pytest.raises(ConfigError, match="started_at"):
        hand.machine.checked(CheckResult.healthy(started_at=started_at), now=0.0)
    assert before == memory(hand.machine)
    assert Check() == hand.tick()


def test_the_open_step_is_repeated_until_it_is_answered(by_hand, rung):
    """
    `tick` before the answer gives the same step again, however late it is.
    """
    hand = by_hand(rung("a", held=True))
    for _ in range(3):
        hand.now += 1000
        assert Check() == hand.tick()
    hand.falls()
    first = hand.tick()
    hand.now += 1000
    assert first is hand.tick()
    hand.heals()
    while not isinstance(hand.ask(), Revert):
        hand.good()
    hand.now += 1000
    assert Revert(rung=0) == hand.tick()


ANSWERS = {
    "checked": lambda m: m.checked(CheckResult.healthy(started_at=0.0), now=0.0),
    "recovered": lambda m: m.recovered(Outcome.done(), now=0.0),
    "reverted": lambda m: m.reverted(Outcome.done(), now=0.0),
    "blocked": lambda m: m.blocked(Gate.BUSY, now=0.0),
}


def test_a_rejected_answer_changes_nothing_and_says_what_to_call(by_hand, rung, memory):
    """
    An answer that was not asked for is refused with the open step and its answer in the text, and changes nothing.
    """
    hand = by_hand(rung("a", held=True))

    def refuses(*legal, hint):
        for name, call in ANSWERS.items():
            if name in legal:
                continue
            before = memory(hand.machine)
            with pytest.raises(IllegalTransitionError) as caught:
                call(hand.machine)
            assert before == memory(hand.machine)
            assert str(caught.value).startswith(f"{name}() was called in state {hand.machine.state.name}: ")
            assert hint in str(caught.value)

    refuses(hint="no step is open; call tick() and answer the step it returns")
    hand.tick()
    refuses("checked", hint="the open step is Check(); answer it with checked()")
    hand.falls()
    hand.tick()
    refuses("recovered", "blocked", hint="answer it with recovered() or blocked()")
    hand.heals()
    while not isinstance(hand.ask(), Revert):
        hand.good()
    refuses("reverted", "blocked", hint="the open step is Revert(rung=0); answer it with reverted() or blocked()")


# Good, bad, unknown


@pytest.mark.parametrize(
    ("status", "heal_degraded", "state"),
    [
        (UNHEALTHY, False, DETECTING),
        (DEGRADED, False, IDLE),
        (DEGRADED, True, DETECTING),
        (HEALTHY, True, IDLE),
        (UNKNOWN, True, IDLE),
    ],
)
def test_what_is_bad(by_hand, status, heal_degraded, state):
    """
    UNHEALTHY is bad, DEGRADED is when `heal_degraded`; nothing else is.
    """
    hand = by_hand(heal_degraded=heal_degraded)
    hand.shows(status)
    assert state is hand.machine.state


@pytest.mark.parametrize(("status", "state"), [(HEALTHY, IDLE), (DEGRADED, IDLE), (UNKNOWN, DETECTING)])
def test_what_is_good(by_hand, status, state):
    """
    HEALTHY is good, and DEGRADED unless `heal_degraded`; UNKNOWN never is.
    """
    hand = by_hand(rise=2)
    hand.bad()
    hand.shows(status, 2)
    assert state is hand.machine.state


def test_a_degraded_result_that_is_bad_is_no_proof(by_hand):
    """
    With `heal_degraded` a DEGRADED result does not clear a suspicion.
    """
    hand = by_hand(rise=1, fall=3, heal_degraded=True)
    hand.bad()
    hand.shows(DEGRADED)
    assert DETECTING is hand.machine.state


def test_unknown_neither_extends_nor_breaks_a_streak(by_hand, rung):
    """
    UNKNOWN between two bad or two good results is as if it had not been.
    """
    hand = by_hand(rung("a"), fall=2, fall_window=2, rise=2)
    hand.bad()
    hand.unknown()
    assert DETECTING is hand.machine.state
    hand.bad()
    assert RECOVERING is hand.machine.state
    hand.ends()
    hand.good()
    hand.unknown()
    assert VERIFYING is hand.machine.state
    hand.good()
    assert RESTORED is hand.machine.state


def test_unknown_climbs_nothing(by_hand, rung):
    """
    After a closed gate an UNKNOWN result does not ask for the rung again.
    """
    hand = by_hand(rung("a"))
    hand.falls()
    hand.blocked()
    hand.unknown(3)
    assert Check() == hand.ask()


def test_a_bad_result_without_a_fault_is_an_error(by_hand, rung):
    """
    An UNHEALTHY result that names no fault counts with the kind `error`.
    """
    hand = by_hand(rung("a", kinds=("error",)), fall=1)
    hand.tick()
    hand.machine.checked(CheckResult(UNHEALTHY, started_at=0.0), now=0.0)
    assert Fault("error") == hand.machine.fault
    assert Recover(rung=0, attempt=1) == hand.tick()


# Evidence


@pytest.mark.parametrize(("before_the_end", "state"), [(0.001, VERIFYING), (0.0, RESTORED)])
def test_only_what_started_after_the_actions_end_proves_it(by_hand, rung, before_the_end, state):
    """
    A run that began before the action's end is recorded, never counted; one that began at its end counts.
    """
    hand = by_hand(rung("a"), rise=1)
    hand.falls()
    hand.ends()
    hand.ask()
    hand.machine.checked(CheckResult.healthy(started_at=hand.now - before_the_end), now=hand.now)
    assert state is hand.machine.state
    assert HEALTHY is hand.machine.status


def test_what_started_before_a_discard_does_not_count(by_hand):
    """
    A run that was in flight during a discard is recorded, never counted; one that begins at its time counts.
    """
    hand = by_hand()
    hand.tick()
    hand.machine.discard("dependency restored", now=1.0)
    hand.machine.checked(CheckResult.unhealthy("error", started_at=0.9), now=1.0)
    assert (IDLE, UNHEALTHY, None) == (hand.machine.state, hand.machine.status, hand.machine.fault)
    hand.machine.check_now(now=1.0)
    hand.machine.tick(now=1.0)
    hand.machine.checked(CheckResult.unhealthy("error", started_at=1.0), now=1.0)
    assert DETECTING is hand.machine.state


def test_verifying_begins_with_an_empty_window(by_hand, rung):
    """
    Bad results from before the action do not help to refute it.
    """
    hand = by_hand(rung("a"), fall=2)
    hand.falls()
    hand.ends()
    hand.bad()
    assert VERIFYING is hand.machine.state


def test_restored_begins_with_an_empty_window(by_hand, rung):
    """
    Bad results from the verification do not help to confirm a relapse.
    """
    hand = by_hand(rung("a"), fall=2, fall_window=4, rise=1)
    hand.falls()
    hand.ends()
    hand.bad()
    hand.good()
    assert RESTORED is hand.machine.state
    hand.bad()
    assert RESTORED is hand.machine.state
    hand.bad()
    assert RECOVERING is hand.machine.state


def test_idle_begins_with_an_empty_window(by_hand, rung):
    """
    Bad results of a suspicion that was cleared do not help to confirm the next one.
    """
    hand = by_hand(rung("a"), fall=2, fall_window=4, rise=1)
    hand.bad()
    hand.good()
    assert (IDLE, None) == (hand.machine.state, hand.machine.fault)
    hand.bad()
    assert DETECTING is hand.machine.state


def test_a_probation_does_not_end_on_a_bad_result(by_hand, rung):
    """
    A bad result late in the probation prolongs it until `rise` results in a row are good.
    """
    hand = by_hand(rung("a"), probation=30.5, rise=2, fall=2)
    hand.falls()
    hand.heals()
    restored = hand.now
    hand.good(2)
    hand.bad()
    assert restored + 30 == hand.now
    hand.good()
    hand.tick()
    assert (RESTORED, restored + 31) == (hand.machine.state, hand.now)
    hand.good()
    hand.tick()
    assert (IDLE, restored + 32) == (hand.machine.state, hand.now)


def test_a_probation_without_evidence_does_not_end(by_hand, rung):
    """
    A probation ends with `rise` good results seen in it, not with the mere passing of time.
    """
    hand = by_hand(rung("a"), probation=5, interval=10)
    hand.falls()
    hand.heals()
    hand.unknown(3)
    assert RESTORED is hand.machine.state
    hand.good(2)
    hand.tick()
    assert IDLE is hand.machine.state


# Discard


def test_after_a_discard_detecting_counts_from_nothing(by_hand, rung):
    """
    A discard takes back the bad results of a suspicion, and the time that `fall_for` counts from.
    """
    hand = by_hand(rung("a"), fall=2, fall_for=3)
    hand.bad(3)
    hand.machine.discard("resumed", now=hand.now)
    assert DETECTING is hand.machine.state
    hand.bad()
    began = hand.now
    hand.bad(2)
    assert DETECTING is hand.machine.state
    hand.bad()
    assert RECOVERING is hand.machine.state
    assert (began, began + 3) == (hand.machine.incident.began, hand.now)


def test_after_a_discard_recovering_asks_for_no_rung_until_the_fault_is_confirmed_anew(by_hand, rung):
    """
    What was seen before a discard justifies no action any more; fresh evidence does.
    """
    hand = by_hand(rung("a"), fall=2)
    hand.falls()
    hand.blocked(Gate.DEPENDENCY)
    hand.machine.discard("dependency restored", now=hand.now)
    hand.bad()
    assert Check() == hand.ask()
    hand.bad()
    assert Recover(rung=0, attempt=1) == hand.tick()


def test_a_discard_during_an_action_holds_back_the_next_one(by_hand, rung):
    """
    If the action fails after a discard, the next rung waits for a fault confirmed anew.
    """
    hand = by_hand(rung("a"), rung("b"), fall=2)
    hand.falls()
    hand.ask()
    hand.machine.discard("resumed", now=hand.now)
    hand.fails()
    hand.bad()
    assert Check() == hand.ask()
    hand.bad()
    assert Recover(rung=1, attempt=1) == hand.tick()


def test_a_used_up_ladder_is_not_given_up_on_discarded_evidence(by_hand, rung):
    """
    A discard keeps the last failure from exhausting the incident until the fault is confirmed anew.
    """
    hand = by_hand(rung("a"), fall=2)
    hand.falls()
    hand.ask()
    hand.machine.discard("resumed", now=hand.now)
    hand.fails()
    hand.bad()
    assert RECOVERING is hand.machine.state
    hand.bad()
    assert EXHAUSTED is hand.machine.state


def test_after_a_discard_verifying_starts_anew(by_hand, rung):
    """
    A discard gives the verification its whole time again, and no result that was counted before.
    """
    hand = by_hand(rung("a"), rung("b"), fall=9, verify_within=5)
    hand.falls()
    hand.ends()
    hand.bad()
    hand.good()
    hand.bad()
    discarded = hand.now
    hand.machine.discard("self-doubt over", now=hand.now)
    hand.bad()
    while VERIFYING is hand.machine.state:
        hand.bad()
        hand.now += 1
        hand.tick()
    assert discarded + 5 == hand.now


def test_a_discard_while_settling_does_not_shorten_the_settling(by_hand, rung):
    """
    `verify_within` counts from the end of `settle`, also after a discard before it.
    """
    hand = by_hand(rung("a", settle=5, verify_within=8), rung("b"), fall=9)
    hand.falls()
    hand.ends()
    ended = hand.now
    hand.machine.discard("resumed", now=ended + 1)
    hand.bad(8)
    assert ended + 12 == hand.now
    assert Recover(rung=1, attempt=1) == hand.ask()
    assert ended + 13 == hand.now


def test_after_a_discard_idle_restored_and_exhausted_go_on(by_hand, rung):
    """
    A discard leaves these states, their deadlines and their schedule alone.
    """
    hand = by_hand(rung("a"), probation=20, retry_after=50)
    hand.good()
    hand.machine.discard("x", now=0.0)
    assert Wait(until=10.0) == hand.tick()
    hand.falls()
    hand.fails()
    exhausted = hand.now
    hand.bad(2)
    hand.machine.discard("x", now=hand.now)
    while isinstance(hand.ask(), Check):
        hand.bad()
    assert exhausted + 50 == hand.now
    hand.heals()
    restored = hand.now
    hand.machine.discard("x", now=hand.now)
    hand.good(2)
    hand.tick()
    assert (IDLE, restored + 20) == (hand.machine.state, hand.now)


# Start-up and staleness


def test_bad_results_do_not_count_in_startup_grace(by_hand):
    """
    For `startup_grace` from the first tick bad results, fatal ones too, are recorded and not counted.
    """
    hand = by_hand(startup_grace=25, fall=2)
    hand.now = 100.0
    hand.bad(fatal=True)
    hand.bad(2)
    assert (IDLE, UNHEALTHY, None) == (hand.machine.state, hand.machine.status, hand.machine.fault)
    assert 120.0 == hand.now
    hand.now = 125.0
    hand.machine.check_now(now=hand.now)
    hand.bad()
    assert DETECTING is hand.machine.state


def test_the_first_good_result_ends_startup_grace(by_hand):
    """
    Once it has been good, a bad result counts at once.
    """
    hand = by_hand(startup_grace=1000)
    hand.bad()
    hand.good()
    hand.bad()
    assert DETECTING is hand.machine.state


def test_a_known_bad_result_in_grace_keeps_the_grace(by_hand):
    """
    Neither bad nor unknown results end the grace.
    """
    hand = by_hand(startup_grace=1000)
    hand.unknown()
    hand.bad(3)
    assert IDLE is hand.machine.state


def test_a_check_that_knows_nothing_for_too_long_is_stale(by_hand):
    """
    After `stale_after` (3 intervals) without a known result it shows UNKNOWN and says so once, until something is known.
    """
    hand = by_hand(interval=10)
    assert UNKNOWN is hand.machine.status
    hand.good()
    assert HEALTHY is hand.machine.status
    hand.unknown(2)
    assert HEALTHY is hand.machine.status
    hand.now = 30.0
    hand.tick()
    assert UNKNOWN is hand.machine.status
    hand.unknown(5)
    assert [(30.0, {"age": 30.0})] == [(e.at, e.fields) for e in hand.entries(names.CHECK_STALE)]
    hand.good()
    assert HEALTHY is hand.machine.status
    hand.unknown(4)
    assert 1 == len(hand.entries(names.CHECK_STALE))


def test_a_healthy_check_wakes_up_to_find_itself_stale(by_hand):
    """
    With `stale_after` shorter than the interval the machine waits for it, not for the next check.
    """
    hand = by_hand(interval=10, stale_after=4)
    hand.good()
    assert Wait(until=4.0) == hand.tick()
    hand.now = 4.0
    assert Wait(until=10.0) == hand.tick()
    assert UNKNOWN is hand.machine.status


def test_a_calm_check_wakes_up_to_find_itself_stale(by_hand):
    """
    The short cut for healthy results also waits for `stale_after` if that comes before the next check.
    """
    hand = by_hand(interval=10, stale_after=4)
    hand.good()
    hand.now = 1.0
    hand.machine.check_now(now=1.0)
    hand.good()
    assert Wait(until=5.0) == hand.tick()


def test_staleness_drops_the_streak(by_hand, rung):
    """
    A good result from before the silence does not add up with one after it.
    """
    hand = by_hand(rung("a"), rise=2, interval=2, stale_after=5)
    hand.falls()
    hand.fails()
    hand.good()
    hand.unknown(6)
    hand.good()
    assert EXHAUSTED is hand.machine.state
    hand.good()
    assert RESTORED is hand.machine.state


def test_an_action_does_not_make_a_check_stale(by_hand, rung):
    """
    While an action runs and settles nobody looks, so the silence is counted from its end.
    """
    hand = by_hand(rung("a", settle=50, verify_within=60), stale_after=20)
    hand.falls()
    hand.ends(took=100.0)
    hand.good()
    assert [] == hand.entries(names.CHECK_STALE)


# Which rung


def test_a_rung_that_does_not_apply_is_passed_over_for_now(by_hand, rung):
    """
    The lowest rung that applies to the latest fault is asked for; what was passed over is not used up.
    """
    hand = by_hand(rung("a", kinds=("stale",)), rung("b"), rung("c"))
    hand.falls("error")
    assert Recover(rung=1, attempt=1) == hand.tick()
    hand.fails()
    hand.blocked()
    hand.bad(kind="stale")
    assert Recover(rung=0, attempt=1) == hand.tick()


def test_a_destructive_rung_needs_permission(by_hand, rung):
    """
    Without permission a destructive rung is used up, with the reason recorded when the ladder gets there.
    """
    hand = by_hand(rung("a"), rung("wipe", destructive=True), rung("c"))
    hand.falls()
    assert [] == hand.entries(names.RUNG_REFUSED)
    hand.fails()
    assert Recover(rung=2, attempt=1) == hand.tick()
    refused = hand.entries(names.RUNG_REFUSED)
    assert [("wipe", 1)] == [(entry.fields["action"], entry.fields["rung"]) for entry in refused]
    assert "allow_destructive" in str(refused[0].fields["reason"])


def test_a_ladder_that_is_destructive_at_its_end_is_exhausted_before_it(by_hand, rung):
    """
    A refused rung does not keep an incident from being exhausted, and its refusal is recorded too.
    """
    hand = by_hand(rung("a"), rung("wipe", destructive=True, kinds=("corrupt",)))
    hand.falls()
    hand.fails()
    assert EXHAUSTED is hand.machine.state
    assert 1 == len(hand.entries(names.RUNG_REFUSED))


def test_a_destructive_rung_is_used_with_permission(by_hand, rung):
    """
    With `allow_destructive` it is a rung like others.
    """
    hand = by_hand(rung("wipe", destructive=True), destructive=True)
    hand.falls()
    assert Recover(rung=0, attempt=1) == hand.tick()


# Outcomes


def test_cannot_help_uses_the_rung_up(by_hand, rung):
    """
    An action that escalates is not tried again, however many attempts it has left.
    """
    hand = by_hand(rung("a", attempts=5), rung("b"))
    hand.falls()
    hand.ends(Outcome.cannot_help("no"))
    assert Recover(rung=1, attempt=1) == hand.tick()


def test_abandoned_is_as_failed(by_hand, rung):
    """
    An action that was given up is charged as one that failed.
    """
    hand = by_hand(rung("a", attempts=2), rung("b"))
    hand.falls()
    hand.ends(Outcome.abandoned())
    assert Recover(rung=0, attempt=2) == hand.tick()
    hand.ends(Outcome.abandoned())
    assert Recover(rung=1, attempt=1) == hand.tick()


def test_cancelled_is_not_charged(by_hand, rung):
    """
    A cancelled action costs neither an attempt nor one of `max_actions`, and is asked for again.
    """
    hand = by_hand(rung("a"), max_actions=1)
    hand.falls()
    for _ in range(3):
        hand.ends(Outcome.cancelled("lease lost"))
        assert Recover(rung=0, attempt=1) == hand.tick()
    assert 3 == hand.machine.incident.actions


def test_evidence_from_before_a_cancelled_action_is_void(by_hand, rung):
    """
    A cancelled action may have changed something: what was seen before its end does not count.
    """
    hand = by_hand(rung("a"), rise=2)
    hand.falls()
    hand.blocked()
    hand.good()
    hand.ends(Outcome.cancelled("closing"))
    hand.blocked()
    hand.good()
    assert RECOVERING is hand.machine.state


# By hand


def test_healing_by_hand_starts_from_idle(by_hand, rung):
    """
    `start_healing` opens an incident at once, as if the fault had just been confirmed.
    """
    hand = by_hand(rung("a", kinds=("error",)))
    hand.good()
    hand.machine.start_healing(now=5.0)
    incident = hand.machine.incident
    assert (RECOVERING, True) == (hand.machine.state, hand.machine.manual)
    assert (5.0, 5.0, "error") == (incident.began, incident.opened, incident.trigger.kind)
    assert Recover(rung=0, attempt=1) == hand.machine.tick(now=5.0)
    hand.now = 5.0
    opened = hand.entries(names.INCIDENT_OPENED)
    assert [{"kind": "error", "time_to_detect": 0.0, "manual": True}] == [entry.fields for entry in opened]
    hand.heals()
    assert not hand.machine.manual


def test_what_was_good_after_a_discard_counts_as_proof_for_healing_by_hand(by_hand, rung):
    """
    The first good result after a discard is counted, also where nothing was wrong before.
    """
    hand = by_hand(rung("a", kinds=("stale",)))
    hand.good(5)
    hand.machine.discard("test", now=hand.now)
    hand.machine.check_now(now=hand.now)
    hand.good()
    hand.machine.start_healing(now=hand.now)
    hand.good()
    assert RESTORED is hand.machine.state


def test_healing_by_hand_starts_from_detecting(by_hand, rung):
    """
    The fault under suspicion is the one that is healed, and the incident began with it.
    """
    hand = by_hand(rung("a"), rung("b", kinds=("stale",)), fall=5)
    hand.bad(2, "stale")
    hand.machine.start_healing(now=hand.now)
    incident = hand.machine.incident
    assert ("stale", 0.0, 1.0) == (incident.trigger.kind, incident.began, incident.opened)


def test_healing_by_hand_in_probation_has_all_attempts_anew(by_hand, rung):
    """
    From RESTORED the ladder is climbed from its lowest rung again, in the same incident.
    """
    hand = by_hand(rung("a"), rung("b"))
    hand.falls()
    hand.fails()
    hand.heals()
    hand.machine.start_healing(now=hand.now)
    assert Recover(rung=0, attempt=1) == hand.tick()
    assert 1 == hand.machine.incident.number
    assert hand.machine.manual


def test_healing_by_hand_from_exhausted_has_all_bounds_anew(by_hand, rung):
    """
    From EXHAUSTED all attempts, `max_actions` and `max_incident_age` count from nothing.
    """
    hand = by_hand(rung("a"), rung("b", destructive=True), destructive=True, max_actions=2, max_incident_age=30)
    hand.falls()
    hand.fails()
    hand.fails(took=40.0)
    assert EXHAUSTED is hand.machine.state
    hand.machine.start_healing(now=hand.now)
    for rung_asked in (0, 1):
        assert Recover(rung=rung_asked, attempt=1) == hand.tick()
        hand.fails()
    assert (EXHAUSTED, False) == (hand.machine.state, hand.machine.manual)


def test_healing_by_hand_is_rejected_while_healing(by_hand, rung, memory):
    """
    In RECOVERING and VERIFYING `start_healing` is refused, and changes nothing.
    """
    hand = by_hand(rung("a"))
    hand.falls()
    for _ in range(2):
        before = memory(hand.machine)
        with pytest.raises(IllegalTransitionError, match="already being healed"):
            hand.machine.start_healing(now=hand.now)
        assert before == memory(hand.machine)
        if hand.machine.state is RECOVERING:
            hand.ends()
    assert VERIFYING is hand.machine.state


def test_healing_by_hand_does_not_take_back_an_open_check(by_hand, rung):
    """
    A check in flight is answered first; then the rung is asked for.
    """
    hand = by_hand(rung("a"))
    assert Check() == hand.tick()
    hand.machine.start_healing(now=0.0)
    hand.good()
    assert Recover(rung=0, attempt=1) == hand.tick()


def test_a_pass_by_hand_ends_with_its_relapse(by_hand, rung):
    """
    A relapse after a healing by hand is healed as any other: it passes over no gate.
    """
    hand = by_hand(rung("a"), rung("b"))
    hand.machine.start_healing(now=0.0)
    hand.heals()
    hand.falls()
    assert (RECOVERING, False) == (hand.machine.state, hand.machine.manual)


# When to look


def test_verify_within_counts_from_the_end_of_settle(by_hand, rung):
    """
    The resource is left alone for `settle`; only then the verification and its time begin.
    """
    hand = by_hand(rung("a", settle=20, verify_within=23), rung("b"), fall=99)
    hand.falls()
    hand.ends()
    ended = hand.now
    assert Check() == hand.ask()
    assert ended + 20 == hand.now
    while isinstance(hand.ask(), Check):
        hand.bad()
    assert ended + 43 == hand.now


def test_bounds_never_cut_a_verification(by_hand, rung):
    """
    `max_actions` and `max_incident_age` are looked at before an action; a running verification ends by itself.
    """
    hand = by_hand(rung("a"), rung("b"), max_actions=1, max_incident_age=5, fall=2)
    hand.falls()
    hand.ends(took=60.0)
    hand.good(2)
    assert RESTORED is hand.machine.state
    hand.falls()
    assert EXHAUSTED is hand.machine.state


def test_the_next_check_is_due_one_interval_after_the_start_of_the_last(by_hand):
    """
    A run that took its time does not shift the next one.
    """
    hand = by_hand(interval=10)
    hand.tick()
    hand.machine.checked(CheckResult.healthy(started_at=0.0), now=4.0)
    assert Wait(until=10.0) == hand.machine.tick(now=4.0)


@pytest.mark.parametrize(("took", "due"), [(9.9, 10.0), (10.0, 20.0), (14.0, 20.0), (20.0, 30.0), (31.0, 40.0)])
@pytest.mark.parametrize("first", ["good", "bad in grace"])
def test_due_times_that_fall_into_a_run_are_skipped(by_hand, took, due, first):
    """
    After a run longer than the interval the next due time after its end is taken, never its end itself.
    """
    hand = by_hand(interval=10, timeout=60, verify_within=62, startup_grace=1000 if first == "bad in grace" else 0)
    hand.tick()
    result = CheckResult.healthy(started_at=0.0) if first == "good" else CheckResult.unhealthy("x", started_at=0.0)
    hand.machine.checked(result, now=took)
    assert Wait(until=due) == hand.machine.tick(now=took)


def test_due_times_are_skipped_by_a_calm_check_too(by_hand):
    """
    The short cut for healthy results knows the rule as well: a run that ends at a due time skips it.
    """
    hand = by_hand(interval=10)
    hand.good()
    hand.ask()
    hand.machine.checked(CheckResult.healthy(started_at=10.0), now=20.0)
    assert Wait(until=30.0) == hand.machine.tick(now=20.0)


def test_it_looks_more_often_while_something_is_wrong(by_hand, rung):
    """
    `fast_interval` holds in DETECTING, RECOVERING, VERIFYING and with a bad result in the count, `interval` elsewhere.
    """
    hand = by_hand(rung("a"), interval=10, fast_interval=1, fall=2, fall_window=2, rise=3, probation=100)
    gaps = []

    def gap(state):
        assert state is hand.machine.state
        before = hand.now
        hand.ask()
        gaps.append(hand.now - before)

    hand.good()
    gap(IDLE)
    hand.bad()
    gap(DETECTING)
    hand.bad()
    hand.blocked()
    gap(RECOVERING)
    hand.bad()
    hand.ends()
    hand.good()
    gap(VERIFYING)
    hand.good(2)
    gap(RESTORED)
    hand.bad()
    gap(RESTORED)
    hand.good()
    gap(RESTORED)
    hand.good()
    gap(RESTORED)
    assert [10.0, 1.0, 1.0, 1.0, 10.0, 1.0, 1.0, 10.0] == gaps


def test_an_exhausted_check_looks_often_as_long_as_it_is_bad(by_hand):
    """
    In EXHAUSTED a bad result in the count keeps the fast interval, so that health is noticed soon.
    """
    hand = by_hand(interval=10, fast_interval=1)
    hand.falls()
    before = hand.now
    hand.bad(3)
    assert (EXHAUSTED, before + 3) == (hand.machine.state, hand.now)


def test_the_first_check_after_an_action_is_due_at_once(by_hand, rung):
    """
    Without `settle` the check is due when the action has ended, whether it ended well or not.
    """
    hand = by_hand(rung("a"), rung("b"))
    hand.falls()
    hand.fails()
    hand.blocked()
    assert Check() == hand.tick()
    hand.bad()
    hand.ends()
    assert Check() == hand.tick()


def test_a_healing_that_starts_by_hand_looks_soon(by_hand, rung):
    """
    Entering RECOVERING brings the next check forward to one `fast_interval` from now.
    """
    hand = by_hand(rung("a"), interval=1000)
    hand.good()
    hand.now = 5.0
    hand.machine.start_healing(now=5.0)
    hand.blocked()
    assert Wait(until=6.0) == hand.tick()


def test_a_check_asked_for_by_hand_is_due_at_once(by_hand, rung):
    """
    `check_now` brings the next check forward, but not into the settling of an action.
    """
    hand = by_hand(rung("a", settle=5))
    hand.good()
    hand.now = 3.0
    hand.machine.check_now(now=3.0)
    assert Check() == hand.tick()
    hand.falls()
    hand.ends()
    hand.machine.check_now(now=hand.now)
    assert Wait(until=hand.now + 5) == hand.tick()


@pytest.mark.parametrize(("number", "due"), [(0.0, 8.0), (0.5, 10.0), (0.75, 11.0)])
def test_due_times_are_spread_by_the_jitter(by_hand, number, due):
    """
    The interval is stretched or shrunk by at most `jitter`; 0.5 is no jitter at all.
    """
    hand = by_hand(interval=10, jitter=0.2, uniform=lambda: number)
    hand.good()
    hand.good()
    assert Wait(until=2 * due) == hand.tick()


def test_the_fast_interval_is_spread_too_but_not_in_a_verification(by_hand, rung):
    """
    Spreading never pushes the last proof out of `verify_within`.
    """
    hand = by_hand(rung("a"), jitter=0.5, uniform=lambda: 0.0)
    hand.bad()
    assert Wait(until=0.5) == hand.tick()
    hand.bad()
    hand.ends()
    hand.good()
    assert Wait(until=hand.now + 1.0) == hand.tick()


def test_without_a_source_of_jitter_there_is_none(rung):
    """
    The default source always says 0.5, so times are exact whatever the policy's jitter.
    """
    machine = HealingStateMachine(HealingPolicy(interval=0.7, jitter=0.3), Ladder((rung("a"),)))
    machine.tick(now=0.0)
    machine.checked(CheckResult.healthy(started_at=0.0), now=0.0)
    assert Wait(until=0.7) == machine.tick(now=0.0)


def test_a_wait_is_always_later_than_now(by_hand):
    """
    An interval too small for the clock's size still leads to a later time.
    """
    hand = by_hand(interval=1e-6, fast_interval=1e-6, timeout=1e-6)
    hand.now = 1e12
    hand.good()
    step = hand.machine.tick(now=hand.now)
    assert isinstance(step, Wait)
    assert step.until > hand.now


# Building


def test_a_verification_that_cannot_succeed_is_refused(rung):
    """
    A rung whose `settle` and `rise` do not fit into its `verify_within` is a ConfigError that names it.
    """
    with pytest.raises(ConfigError, match="rung 'a': verify_within=30"):
        HealingStateMachine(HealingPolicy(), Ladder((rung("a", settle=25),)))
    with pytest.raises(ConfigError, match="rung 'a': verify_within=5"):
        HealingStateMachine(HealingPolicy(), Ladder((rung("a", verify_within=5),)))


@pytest.mark.parametrize(
    "numbers",
    [{"fall": 3, "fall_window": 2}, {"interval": 1, "fast_interval": 2}, {"interval": math.nan}, {"verify_within": 5}],
)
def test_a_policy_that_cannot_work_is_refused(numbers):
    """
    A window too small, a fast interval too long, NaN and too short a verification are ConfigErrors.
    """
    with pytest.raises(ConfigError):
        HealingPolicy(**numbers)


def test_the_same_calls_give_the_same_steps(by_hand, rung):
    """
    Two machines that are told the same say and write down the same.
    """

    def story():
        hand = by_hand(rung("a", attempts=2), rung("b", held=True), jitter=0.3, uniform=lambda: 0.3)
        hand.falls()
        hand.fails()
        hand.heals()
        hand.falls()
        hand.heals()
        hand.survives()
        return hand.now, hand.machine.entries()

    assert story() == story()
