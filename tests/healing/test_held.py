"""
Held rungs: applied once, kept while later rungs run, stepped down after probation, applied again if that was too early.
"""

from __future__ import annotations

import pytest

from selfheal import names
from selfheal.errors import ConfigError, IllegalTransitionError
from selfheal.model import Check, Gate, HealingState, IncidentResult, Outcome, Recover, Revert


IDLE, DETECTING, RECOVERING, VERIFYING, RESTORED, EXHAUSTED = HealingState


def to_revert(hand):
    """Good results until a revert is asked for; the seconds since."""
    began = hand.now
    while not isinstance(hand.ask(), Revert):
        hand.good()
    return hand.now - began


@pytest.fixture
def diverted(by_hand, rung):
    """A machine that has healed by a held rung and is on probation."""

    def make(*rungs, **numbers):
        hand = by_hand(rung("divert", held=True, attempts=3), *rungs, probation=30, **numbers)
        hand.falls()
        hand.heals()
        return hand

    return make


@pytest.mark.parametrize(
    ("outcome", "held"),
    [
        (Outcome.done(), (0,)),
        (Outcome.failed(RuntimeError()), (0,)),
        (Outcome.abandoned(), (0,)),
        (Outcome.cannot_help("no"), ()),
        (Outcome.cancelled("closing"), ()),
    ],
)
def test_what_counts_as_applied(by_hand, rung, outcome, held):
    """
    A held rung counts as applied also when its action failed or was abandoned, not when it said no or was cancelled.
    """
    hand = by_hand(rung("divert", held=True), rung("b"))
    hand.falls()
    hand.ends(outcome)
    assert held == hand.machine.held
    assert len(held) == len(hand.entries(names.HELD_APPLIED))


def test_a_held_rung_is_applied_once(by_hand, rung):
    """
    It stays applied while later rungs run, and is not asked for again however many attempts it has.
    """
    hand = by_hand(rung("divert", held=True, attempts=5), rung("b"))
    hand.falls()
    hand.fails()
    assert Recover(rung=1, attempt=1) == hand.tick()
    hand.fails()
    assert (EXHAUSTED, (0,)) == (hand.machine.state, hand.machine.held)


def test_a_revert_waits_for_health_proved_in_probation(diverted):
    """
    Probation over or not, a held rung is not taken back right after a bad result.
    """
    hand = diverted()
    restored = hand.now
    hand.good(2)
    hand.now = restored + 29.9
    hand.machine.check_now(now=hand.now)
    hand.bad()
    hand.good()
    assert Check() == hand.ask()
    hand.good()
    assert Revert(rung=0) == hand.ask()


def test_a_reverted_rung_is_watched_for_verify_within(diverted):
    """
    After the revert, health is watched for `verify_within` before the incident closes.
    """
    hand = diverted(verify_within=15)
    assert 30.0 == to_revert(hand)
    hand.ends()
    reverted = hand.now
    assert ((), ["divert"]) == (hand.machine.held, [e.fields["action"] for e in hand.entries(names.HELD_REVERTED)])
    hand.good(2)
    assert reverted + 10 == hand.now
    hand.now = reverted + 14.9
    hand.tick()
    assert RESTORED is hand.machine.state
    hand.now = reverted + 15
    hand.tick()
    assert IDLE is hand.machine.state


def test_a_watch_uses_the_rungs_own_numbers(by_hand, rung):
    """
    A rung's own `settle` and `verify_within` hold for its revert too.
    """
    hand = by_hand(rung("divert", held=True, settle=5, verify_within=40), probation=30)
    hand.falls()
    hand.heals()
    to_revert(hand)
    hand.ends()
    reverted = hand.now
    assert Check() == hand.ask()
    assert reverted + 5 == hand.now
    hand.survives()
    assert reverted + 45 == hand.now


def test_evidence_from_before_a_revert_is_void(diverted):
    """
    What was seen before the revert's end says nothing about what it has led to.
    """
    hand = diverted(fall=2)
    to_revert(hand)
    hand.ends()
    hand.bad()
    assert RESTORED is hand.machine.state
    hand.bad()
    assert RECOVERING is hand.machine.state


def test_a_closed_gate_holds_back_a_revert(diverted):
    """
    A blocked revert is asked for again after the next result, and at the time the gate names.
    """
    hand = diverted()
    to_revert(hand)
    hand.blocked(Gate.PAUSED)
    assert Check() == hand.ask()
    hand.good()
    assert Revert(rung=0) == hand.tick()
    hand.blocked(Gate.PAUSED, until=hand.now + 3)
    until = hand.now + 3
    assert Revert(rung=0) == hand.ask()
    assert (until, (0,)) == (hand.now, hand.machine.held)


def test_a_wait_for_the_better_state_does_not_age_the_incident(diverted, rung):
    """
    While a revert is blocked the incident does not age.
    """
    hand = diverted(rung("b"), max_incident_age=100)
    to_revert(hand)
    for _ in range(50):
        hand.blocked(Gate.PRECONDITION)
        hand.good()
    hand.blocked(Gate.PRECONDITION)
    hand.falls()
    assert Recover(rung=1, attempt=1) == hand.tick()


@pytest.mark.parametrize("outcome", [Outcome.failed(RuntimeError("x")), Outcome.abandoned(), Outcome.cannot_help("no")])
def test_a_revert_that_fails_is_tried_again_after_twice_the_wait(diverted, outcome):
    """
    A failed revert leaves the rung applied, says so, and waits twice as long each time, an hour at most.
    """
    hand = diverted()
    waits = [to_revert(hand)]
    while len(waits) < 10:
        hand.ends(outcome, took=0.0)
        assert (0,) == hand.machine.held
        stuck = hand.entries(names.HELD_STUCK)
        assert [hand.now + min(2 * waits[-1], 3600)] == [entry.fields["until"] for entry in stuck]
        waits.append(to_revert(hand))
    assert [30.0, 60.0, 120.0, 240.0, 480.0, 960.0, 1920.0, 3600.0, 3600.0, 3600.0] == waits


def test_a_long_probation_is_not_cut_by_the_cap(by_hand, rung):
    """
    Twice the wait is never shorter than the wait, should the probation be longer than an hour.
    """
    hand = by_hand(rung("divert", held=True), probation=5000, interval=1000)
    hand.falls()
    hand.heals()
    to_revert(hand)
    hand.fails(took=0.0)
    assert 5000.0 == to_revert(hand)


def test_a_revert_without_probation_is_not_tried_again_at_once(by_hand, rung):
    """
    With `probation=0` a failed revert still waits.
    """
    hand = by_hand(rung("divert", held=True), probation=0, rise=1)
    hand.falls()
    hand.heals()
    to_revert(hand)
    hand.fails(took=0.0)
    assert 2 * hand.policy.fast_interval == to_revert(hand)


def test_a_cancelled_revert_is_asked_for_again(diverted):
    """
    A cancelled revert is charged to nobody, and asked for again once health is proved again.
    """
    hand = diverted()
    to_revert(hand)
    hand.ends(Outcome.cancelled("paused"), took=0.0)
    assert [] == hand.entries(names.HELD_STUCK)
    assert (0,) == hand.machine.held
    cancelled = hand.now
    hand.good(2)
    assert Revert(rung=0) == hand.ask()
    assert cancelled + 10 == hand.now


def test_a_fault_in_the_watch_is_the_reverts(diverted, rung):
    """
    A fault confirmed while a revert is watched applies that rung again, whatever lies below it or has attempts left.
    """
    hand = diverted(rung("b"))
    to_revert(hand)
    hand.ends()
    hand.falls("stale")
    assert [("restored", "recovering")] == hand.moves()[-1:]
    assert 0 == hand.machine.rung
    assert Recover(rung=0, attempt=2) == hand.tick()
    hand.heals()
    assert (RESTORED, (0,)) == (hand.machine.state, hand.machine.held)


def test_applying_again_is_charged_to_nothing_but_max_actions(by_hand, rung):
    """
    A rung without attempts left is applied again and again, until `max_actions`.
    """
    hand = by_hand(rung("divert", held=True), probation=30, max_actions=3)
    hand.falls()
    hand.heals()
    for attempt in (2, 3):
        to_revert(hand)
        hand.ends()
        hand.falls()
        assert Recover(rung=0, attempt=attempt) == hand.tick()
        hand.heals()
    to_revert(hand)
    hand.ends()
    hand.falls()
    assert EXHAUSTED is hand.machine.state


def test_applying_again_takes_no_attempt(diverted, rung):
    """
    After it was applied again, the rung has the attempts that it had before.
    """
    hand = diverted()
    left = hand.machine.fingerprint()[2]
    to_revert(hand)
    hand.ends()
    hand.falls()
    hand.ends()
    assert left == hand.machine.fingerprint()[2]


def test_a_revert_that_was_too_early_waits_twice_as_long(diverted):
    """
    Each time it had to be applied again, the next revert waits twice as long.
    """
    hand = diverted()
    waits = []
    for _ in range(9):
        waits.append(to_revert(hand))
        hand.ends()
        hand.falls()
        hand.heals()
    assert [30.0, 60.0, 120.0, 240.0, 480.0, 960.0, 1920.0, 3600.0, 3600.0] == waits


def test_a_fault_after_probation_is_no_relapse(diverted, rung):
    """
    A fault after probation, while something waits to be stepped down, is a fault of its own: all attempts anew.
    """
    hand = diverted(rung("b"), max_actions=2)
    to_revert(hand)
    hand.fails()
    hand.good(2)
    hand.falls()
    assert RECOVERING is hand.machine.state
    assert [] == hand.entries(names.HEALING_REFUTED)
    assert Recover(rung=1, attempt=1) == hand.tick()
    hand.heals()
    assert 2 == hand.machine.incident.actions
    hand.falls()
    assert RECOVERING is hand.machine.state
    assert 1 == len(hand.entries(names.HEALING_REFUTED))


def test_a_fault_within_probation_with_something_held_is_a_relapse(diverted, rung):
    """
    Before probation is over, a held rung that claimed success is charged, and cannot be tried again: the next rung.
    """
    hand = diverted(rung("b"))
    hand.good()
    hand.falls()
    assert 1 == len(hand.entries(names.HEALING_REFUTED))
    assert Recover(rung=1, attempt=1) == hand.tick()


def test_a_held_rung_gets_no_further_attempt_while_it_is_applied(diverted):
    """
    A relapse with nothing but an applied rung on the ladder is exhausted.
    """
    hand = diverted()
    hand.falls()
    assert EXHAUSTED is hand.machine.state


def test_applying_again_does_not_ask_for_the_incidents_age(diverted):
    """
    A rung that was taken back too early is put back, however long its waits have made the incident.
    """
    hand = diverted(max_incident_age=20)
    to_revert(hand)
    hand.ends()
    hand.falls()
    assert Recover(rung=0, attempt=2) == hand.tick()


def test_the_waits_of_one_incident_do_not_burden_the_next(diverted):
    """
    The doubling ends with the incident.
    """
    hand = diverted()
    to_revert(hand)
    hand.fails()
    hand.survives()
    hand.falls()
    hand.heals()
    assert 30.0 == to_revert(hand)


def test_a_longer_wait_of_a_lower_rung_is_kept(by_hand, rung):
    """
    The rung below one that was taken back still waits as long as it has to.
    """
    hand = by_hand(rung("a", held=True), rung("b", held=True, attempts=2), probation=30, verify_within=10)
    hand.falls()
    hand.heals()
    to_revert(hand)
    hand.ends()  # a is taken back too early: it waits 60 s from now on
    hand.falls()
    hand.fails()  # and applying it again fails, so b is applied on top
    hand.heals()
    restored = hand.now
    assert (0, 1) == hand.machine.held
    to_revert(hand)
    assert restored + 30 == hand.now
    hand.ends()
    to_revert(hand)
    assert restored + 60 == hand.now


def test_healing_by_hand_during_a_revert_takes_its_answer(diverted, rung):
    """
    A revert in flight is answered first, also when healing was started by hand meanwhile.
    """
    hand = diverted(rung("b"))
    to_revert(hand)
    hand.machine.start_healing(now=hand.now)
    hand.ends()
    assert (RECOVERING, ()) == (hand.machine.state, hand.machine.held)
    assert Recover(rung=0, attempt=1) == hand.tick()


def test_adopted_rungs_are_stepped_down(by_hand, rung):
    """
    Held rungs found at start-up lead to RESTORED and are reverted after probation, without an incident.
    """
    hand = by_hand(rung("a"), rung("b", held=True), rung("c", held=True), probation=30, verify_within=10)
    hand.machine.adopt([1, 2], now=0.0)
    assert (RESTORED, (1, 2), None) == (hand.machine.state, hand.machine.held, hand.machine.incident)
    assert ["b", "c"] == [entry.fields["action"] for entry in hand.entries(names.HELD_APPLIED)]
    assert 30.0 == to_revert(hand)
    assert Revert(rung=2) == hand.tick()
    hand.survives()
    assert ((), None) == (hand.machine.held, hand.machine.last_incident)


def test_a_fault_among_adopted_rungs_opens_an_incident(by_hand, rung):
    """
    A fault confirmed while adopted rungs are held opens an incident with its whole ladder.
    """
    hand = by_hand(rung("a"), rung("b", held=True))
    hand.machine.adopt([1], now=0.0)
    hand.falls()
    assert (RECOVERING, 1, 0.0) == (hand.machine.state, hand.machine.incident.number, hand.machine.incident.began)
    assert Recover(rung=0, attempt=1) == hand.tick()
    hand.heals()
    hand.survives()
    assert IncidentResult.HEALED is hand.machine.last_incident.result


@pytest.mark.parametrize("rungs", [[], [0], [1, 1], [7], [-1]])
def test_only_held_rungs_can_be_adopted(by_hand, rung, memory, rungs):
    """
    Adopting nothing, a rung that is not held, one twice, or one that does not exist is refused and changes nothing.
    """
    hand = by_hand(rung("a"), rung("b", held=True))
    before = memory(hand.machine)
    with pytest.raises(ConfigError, match="distinct indices of held rungs"):
        hand.machine.adopt(rungs, now=0.0)
    assert before == memory(hand.machine)


def test_rungs_are_adopted_in_idle_only(by_hand, rung, memory):
    """
    In any other state adopting is refused and changes nothing.
    """
    hand = by_hand(rung("b", held=True))
    hand.bad()
    before = memory(hand.machine)
    with pytest.raises(IllegalTransitionError, match="state DETECTING"):
        hand.machine.adopt([0], now=hand.now)
    assert before == memory(hand.machine)
