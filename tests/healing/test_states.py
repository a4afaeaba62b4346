"""
Every row of the state table.
"""

from __future__ import annotations

import pytest

from selfheal import names
from selfheal.model import Check, Gate, HealingState, Outcome, Recover, Revert


IDLE, DETECTING, RECOVERING, VERIFYING, RESTORED, EXHAUSTED = HealingState


def test_a_bad_result_arouses_suspicion(by_hand):
    """
    The first bad result that counts leads from IDLE to DETECTING.
    """
    hand = by_hand(fall=3)
    hand.good()
    assert IDLE is hand.machine.state
    hand.bad()
    assert DETECTING is hand.machine.state


def test_suspicion_is_cleared_by_rise_good_in_a_row(by_hand):
    """
    `rise` good results in a row lead back from DETECTING to IDLE: one suspicion is counted, and there was no incident.
    """
    hand = by_hand(fall=3, rise=2)
    hand.bad()
    hand.good()
    hand.bad()
    hand.good()
    assert DETECTING is hand.machine.state
    hand.good()
    assert IDLE is hand.machine.state
    cleared = hand.entries(names.SUSPICION_CLEARED)
    assert [{"age": 4.0}] == [entry.fields for entry in cleared]
    assert None is hand.machine.last_incident


def test_suspicion_is_cleared_when_nothing_is_known_any_more(by_hand):
    """
    Without a known result for `stale_after` DETECTING ends in IDLE, as a suspicion.
    """
    hand = by_hand(fall=3, stale_after=5)
    hand.bad()
    hand.unknown(4)
    assert DETECTING is hand.machine.state
    assert 4.0 == hand.now
    hand.now = 5.0
    hand.tick()
    assert IDLE is hand.machine.state
    assert 1 == len(hand.entries(names.SUSPICION_CLEARED))


def test_fall_bad_among_fall_window_confirm_a_fault(by_hand, rung):
    """
    `fall` bad results among the last `fall_window` known ones confirm the fault: alternating is found out too.
    """
    hand = by_hand(rung("a"), fall=3, fall_window=5, rise=2)
    for _ in range(2):
        hand.bad()
        hand.good()
    assert DETECTING is hand.machine.state
    assert None is hand.machine.incident
    hand.bad()
    assert RECOVERING is hand.machine.state
    assert 1 == hand.machine.incident.number


def test_a_bad_result_outside_the_window_does_not_help_to_confirm(by_hand, rung):
    """
    What has slid out of `fall_window` counts no longer.
    """
    hand = by_hand(rung("a"), fall=3, fall_window=4, rise=2)
    for _ in range(2):
        hand.bad()
        hand.good()
    hand.bad()
    assert DETECTING is hand.machine.state
    hand.bad()
    assert RECOVERING is hand.machine.state


def test_a_fault_is_not_confirmed_before_fall_for(by_hand, rung):
    """
    However many results are bad, the fault is confirmed only once DETECTING is as old as `fall_for`.
    """
    hand = by_hand(rung("a"), fall=2, fall_for=5)
    hand.bad(5)
    assert 4.0 == hand.now
    assert DETECTING is hand.machine.state
    hand.bad()
    assert 5.0 == hand.now
    assert RECOVERING is hand.machine.state


def test_a_fatal_fault_is_confirmed_at_once(by_hand, rung):
    """
    One fatal fault goes IDLE, DETECTING, RECOVERING at one time, whatever `fall` and `fall_for` say.
    """
    hand = by_hand(rung("a"), fall=5, fall_for=60)
    hand.bad(fatal=True)
    assert [("idle", "detecting"), ("detecting", "recovering")] == hand.moves()
    assert Recover(rung=0, attempt=1) == hand.tick()


def test_an_action_that_ended_well_is_verified(by_hand, rung):
    """
    RECOVERING leads to VERIFYING when the action ended well.
    """
    hand = by_hand(rung("a"))
    hand.falls()
    hand.ends()
    assert VERIFYING is hand.machine.state


def test_a_failed_action_is_tried_again_then_the_next_rung(by_hand, rung):
    """
    After a failure the same rung is asked for while it has attempts left, then the next; the state stays.
    """
    hand = by_hand(rung("a", attempts=2), rung("b"))
    hand.falls()
    asked = []
    for _ in range(2):
        asked.append(hand.ask())
        hand.fails()
        assert RECOVERING is hand.machine.state
    assert [Recover(rung=0, attempt=1), Recover(rung=0, attempt=2)] == asked
    assert Recover(rung=1, attempt=1) == hand.tick()


def test_a_closed_gate_is_asked_again_after_each_result(by_hand, rung):
    """
    While a gate is closed checks go on at `fast_interval`, and each counted result asks again.
    """
    hand = by_hand(rung("a"))
    hand.falls()
    hand.blocked(Gate.BUSY)
    blocked_at = hand.now
    assert RECOVERING is hand.machine.state
    assert Check() == hand.ask()
    assert blocked_at + 1.0 == hand.now
    hand.bad()
    assert Recover(rung=0, attempt=1) == hand.tick()
    hand.blocked(Gate.BUSY)
    hand.good()
    assert Recover(rung=0, attempt=1) == hand.tick()


def test_a_closed_gate_is_asked_again_when_it_is_said_to_open(by_hand, rung):
    """
    A gate that says when it opens is asked again exactly then.
    """
    hand = by_hand(rung("a"))
    hand.falls()
    hand.blocked(Gate.COOLDOWN, until=hand.now + 0.5)
    until = hand.now + 0.5
    assert Recover(rung=0, attempt=1) == hand.ask()
    assert until == hand.now


@pytest.mark.parametrize("until", [None, 1.0, float("nan")])
def test_a_closed_gate_that_does_not_know_when_it_opens_waits_for_a_result(by_hand, rung, until):
    """
    Without a time, or with one that is not later than now, nothing is asked again before the next result.
    """
    hand = by_hand(rung("a"))
    hand.falls()
    assert 1.0 == hand.now
    hand.blocked(Gate.PAUSED, until=until)
    assert Check() == hand.ask()
    assert 2.0 == hand.now


def test_no_applicable_rung_closes_the_precondition_gate(by_hand, rung):
    """
    A ladder without a rung for the fault waits for another fault, and says so once.
    """
    hand = by_hand(rung("a", kinds=("stale",)))
    hand.falls("down")
    for _ in range(5):
        assert Check() == hand.ask()
        hand.bad(kind="down")
    assert RECOVERING is hand.machine.state
    assert None is hand.machine.rung
    blocked = hand.entries(names.ACTION_BLOCKED)
    assert ["precondition"] == [entry.fields["gate"] for entry in blocked]
    hand.bad(kind="stale")
    assert Recover(rung=0, attempt=1) == hand.tick()


def test_health_that_comes_back_before_an_action_is_nobodys_merit(by_hand, rung):
    """
    RECOVERING leads to RESTORED after `rise` good results, and no action is said to have helped.
    """
    hand = by_hand(rung("a"))
    hand.falls()
    hand.blocked(Gate.PAUSED)
    hand.good()
    hand.blocked(Gate.PAUSED)
    assert RECOVERING is hand.machine.state
    hand.good()
    assert RESTORED is hand.machine.state
    assert [] == hand.entries(names.HEALING_VERIFIED)


def test_good_results_in_recovering_count_from_the_last_actions_end(by_hand, rung):
    """
    A good result before a failed action does not add up with one after it.
    """
    hand = by_hand(rung("a", attempts=3))
    hand.falls()
    hand.blocked(Gate.BUSY)
    hand.good()
    hand.fails()
    hand.blocked(Gate.BUSY)
    hand.good()
    assert RECOVERING is hand.machine.state
    hand.blocked(Gate.BUSY)
    hand.good()
    assert RESTORED is hand.machine.state


def test_rise_good_after_the_action_verify_it(by_hand, rung):
    """
    VERIFYING leads to RESTORED after `rise` good results, and the merit is the action's.
    """
    hand = by_hand(rung("a"), rise=3)
    hand.falls()
    hand.ends()
    hand.good(2)
    assert VERIFYING is hand.machine.state
    hand.good()
    assert RESTORED is hand.machine.state
    verified = hand.entries(names.HEALING_VERIFIED)
    assert [{"action": "a", "rung": 0, "attempt": 1}] == [entry.fields for entry in verified]


def test_fall_bad_in_a_row_refute_a_healing(by_hand, rung):
    """
    VERIFYING leads back to RECOVERING after `fall` bad results in a row; a good one between them starts anew.
    """
    hand = by_hand(rung("a"), rung("b"), fall=2)
    hand.falls()
    hand.ends()
    hand.bad()
    hand.good()
    hand.bad()
    assert VERIFYING is hand.machine.state
    hand.bad()
    assert RECOVERING is hand.machine.state
    assert ["a"] == [entry.fields["action"] for entry in hand.entries(names.HEALING_REFUTED)]
    assert Recover(rung=1, attempt=1) == hand.tick()


def test_a_fatal_fault_refutes_a_healing_at_once(by_hand, rung):
    """
    One fatal fault ends a verification.
    """
    hand = by_hand(rung("a"), rung("b"), fall=3)
    hand.falls()
    hand.ends()
    hand.bad(fatal=True)
    assert RECOVERING is hand.machine.state


def test_a_healing_that_is_not_proved_in_time_is_refuted(by_hand, rung):
    """
    When `verify_within` is over, with something known and `rise` not reached, the healing is refuted.
    """
    hand = by_hand(rung("a"), rung("b"), fall=2, verify_within=4)
    hand.falls()
    hand.ends()
    for _ in range(2):
        hand.good()
        hand.bad()
    assert (VERIFYING, 5.0) == (hand.machine.state, hand.now)
    assert Recover(rung=1, attempt=1) == hand.ask()
    assert 6.0 == hand.now


def test_a_verification_without_any_known_result_goes_on(by_hand, rung):
    """
    Knowing nothing refutes nothing: the first known result after `verify_within` decides.
    """
    hand = by_hand(rung("a"), rung("b"), verify_within=4)
    hand.falls()
    hand.ends()
    hand.unknown(8)
    assert VERIFYING is hand.machine.state
    hand.bad()
    hand.tick()
    assert RECOVERING is hand.machine.state


def test_the_last_good_result_counts_though_it_comes_after_verify_within(by_hand, rung):
    """
    A proof that was begun in time is a proof, also when the run ends at the deadline or later.
    """
    hand = by_hand(rung("a"), rise=1, verify_within=4, timeout=3)
    hand.falls()
    hand.ends()
    hand.unknown(3)
    assert Check() == hand.ask()
    started = hand.now
    hand.now += 3
    hand.machine.checked(_healthy(started), now=hand.now)
    assert RESTORED is hand.machine.state


def _healthy(started_at):
    from selfheal.model import CheckResult

    return CheckResult.healthy(started_at=started_at)


def test_a_used_up_ladder_is_exhausted(by_hand, rung):
    """
    When every rung is used up RECOVERING leads to EXHAUSTED at once.
    """
    hand = by_hand(rung("a"), rung("b"))
    hand.falls()
    hand.fails()
    assert RECOVERING is hand.machine.state
    hand.fails()
    assert EXHAUSTED is hand.machine.state


def test_a_check_without_recovery_is_exhausted_by_its_first_fault(by_hand):
    """
    With an empty ladder a confirmed fault passes through RECOVERING into EXHAUSTED at one time.
    """
    hand = by_hand()
    hand.falls()
    assert [("idle", "detecting"), ("detecting", "recovering"), ("recovering", "exhausted")] == hand.moves()


def test_max_actions_exhaust_an_incident(by_hand, rung):
    """
    After `max_actions` actions of one incident nothing more is tried.
    """
    hand = by_hand(rung("a", attempts=9), max_actions=3)
    hand.falls()
    hand.fails()
    hand.fails()
    assert RECOVERING is hand.machine.state
    hand.fails()
    assert EXHAUSTED is hand.machine.state


def test_max_incident_age_exhausts_an_incident(by_hand, rung):
    """
    An incident that is `max_incident_age` old, with its gates open, is given up before the next action.
    """
    hand = by_hand(rung("a", attempts=99), max_incident_age=20)
    hand.falls()
    opened = hand.now
    hand.fails(took=19.0)
    assert RECOVERING is hand.machine.state
    hand.fails(took=1.0)
    assert opened + 20 == hand.now
    assert EXHAUSTED is hand.machine.state


def test_the_age_is_looked_at_right_before_an_action(by_hand, rung):
    """
    A driver that comes back too late finds the incident given up, not an action.
    """
    hand = by_hand(rung("a"), max_incident_age=20)
    hand.falls()
    hand.now += 20
    assert Check() == hand.ask()
    assert EXHAUSTED is hand.machine.state


def test_an_incident_does_not_age_while_a_gate_is_closed(by_hand, rung):
    """
    Only time with gates open counts against `max_incident_age`.
    """
    hand = by_hand(rung("a", attempts=9), max_incident_age=20)
    hand.falls()
    for _ in range(100):
        hand.blocked(Gate.DEPENDENCY)
        hand.bad()
    assert Recover(rung=0, attempt=1) == hand.tick()
    hand.fails(took=19.0)
    assert RECOVERING is hand.machine.state
    hand.fails(took=1.0)
    assert EXHAUSTED is hand.machine.state


def test_a_relapse_tries_the_same_rung_while_it_has_attempts(by_hand, rung):
    """
    A fault confirmed in probation is charged to the action that claimed success: attempts left, the same rung again.
    """
    hand = by_hand(rung("a", attempts=2), rung("b"))
    hand.falls()
    hand.heals()
    number = hand.machine.incident.number
    hand.falls()
    assert RECOVERING is hand.machine.state
    assert number == hand.machine.incident.number
    assert None is hand.machine.incident.recovered
    assert Recover(rung=0, attempt=2) == hand.tick()
    refuted = hand.entries(names.HEALING_REFUTED)
    assert ["relapse"] == [entry.fields["reason"] for entry in refuted]


def test_a_relapse_without_attempts_goes_on_to_the_next_rung(by_hand, rung):
    """
    With no attempt left to the action that claimed success, a relapse climbs.
    """
    hand = by_hand(rung("a"), rung("b"))
    hand.falls()
    hand.heals()
    hand.falls()
    assert Recover(rung=1, attempt=1) == hand.tick()


def test_a_relapse_on_the_last_rung_gives_it_one_more_attempt(by_hand, rung):
    """
    What helped for a while may help again: with no rung left, each relapse grants the last one another attempt.
    """
    hand = by_hand(rung("a"), rung("b", kinds=("stale",)))
    hand.falls()
    for attempt in (1, 2, 3):
        assert Recover(rung=0, attempt=attempt) == hand.tick()
        hand.heals()
        hand.falls()
    hand.fails()
    assert RECOVERING is hand.machine.state
    hand.bad(kind="stale")
    assert Recover(rung=1, attempt=1) == hand.tick()


def test_a_relapse_of_nobodys_merit_is_charged_to_nobody(by_hand, rung):
    """
    After health that came back by itself, a relapse goes on where the ladder stands.
    """
    hand = by_hand(rung("a"), rung("b"))
    hand.falls()
    hand.fails()
    hand.blocked(Gate.BUSY)
    hand.good()
    hand.blocked(Gate.BUSY)
    hand.good()
    hand.falls()
    assert Recover(rung=1, attempt=1) == hand.tick()
    assert [] == hand.entries(names.HEALING_REFUTED)


def test_an_earlier_merit_does_not_outlive_a_relapse(by_hand, rung):
    """
    What came back by itself after a relapse, and goes again, is not charged to the action that had helped before.
    """
    hand = by_hand(rung("a"), rung("b"))
    hand.falls()
    hand.heals()
    hand.falls()
    for _ in range(2):
        hand.blocked(Gate.BUSY)
        hand.good()
    assert RESTORED is hand.machine.state
    hand.machine.entries()
    hand.falls()
    assert RECOVERING is hand.machine.state
    assert [] == hand.entries(names.HEALING_REFUTED)


def test_what_is_held_is_reverted_after_probation_last_first(by_hand, rung):
    """
    After probation held rungs are reverted one by one, the one applied last first, each watched for `verify_within`.
    """
    hand = by_hand(rung("a", held=True), rung("b", held=True), probation=30, verify_within=10)
    hand.falls()
    hand.fails()
    hand.heals()
    restored = hand.now
    assert (0, 1) == hand.machine.held
    steps = []
    while hand.machine.state is RESTORED:
        step = hand.ask()
        if isinstance(step, Revert):
            steps.append((hand.now - restored, step.rung))
            hand.ends(took=1.0)
        else:
            hand.good()
        hand.tick()
    assert [(30.0, 1), (41.0, 0)] == steps
    assert (IDLE, restored + 52.0) == (hand.machine.state, hand.now)


def test_an_incident_closes_after_probation(by_hand, rung):
    """
    RESTORED leads to IDLE when probation is over and nothing is held, and not a moment before.
    """
    hand = by_hand(rung("a"), probation=60)
    hand.falls()
    hand.heals()
    restored = hand.now
    hand.good(5)
    hand.now = restored + 59.9
    hand.tick()
    assert RESTORED is hand.machine.state
    hand.now = restored + 60.0
    hand.tick()
    assert IDLE is hand.machine.state
    assert (None, 1) == (hand.machine.incident, hand.machine.last_incident.number)


def test_an_exhausted_check_that_is_good_again_is_restored(by_hand, rung):
    """
    EXHAUSTED leads to RESTORED after `rise` good results, whatever the cause.
    """
    hand = by_hand(rung("a"))
    hand.falls()
    hand.fails()
    hand.good()
    assert EXHAUSTED is hand.machine.state
    hand.good()
    assert RESTORED is hand.machine.state


def test_an_exhausted_ladder_is_tried_again_after_retry_after(by_hand, rung):
    """
    Every `retry_after` EXHAUSTED leads to one pass over the rungs that are neither destructive nor held, one attempt each.
    """
    hand = by_hand(
        rung("a", attempts=2), rung("b", held=True), rung("c", destructive=True), rung("d"),
        destructive=True, retry_after=100, fall=1,
    )  # fmt: skip
    hand.falls()
    for _ in range(5):
        hand.fails()
    for _ in range(2):
        assert EXHAUSTED is hand.machine.state
        exhausted = hand.now
        while isinstance(hand.ask(), Check):
            hand.bad()
        assert exhausted + 100 == hand.now
        assert 0 == hand.tick().rung
        hand.fails()
        assert 3 == hand.tick().rung
        hand.fails()


def test_a_pass_of_an_exhausted_ladder_is_not_bounded(by_hand, rung):
    """
    Neither `max_actions` nor `max_incident_age` keeps an exhausted ladder from its next pass.
    """
    hand = by_hand(rung("a"), rung("b"), max_actions=1, max_incident_age=5, retry_after=100)
    hand.falls()
    hand.fails(took=10.0)
    assert EXHAUSTED is hand.machine.state
    while isinstance(hand.ask(), Check):
        hand.bad()
    asked = [hand.tick().rung]
    hand.fails()
    asked.append(hand.tick().rung)
    hand.ends()
    assert [0, 1] == asked
    assert VERIFYING is hand.machine.state


def test_the_bounds_hold_again_after_a_pass_has_been_verified(by_hand, rung):
    """
    A relapse after a successful pass is bounded as any other healing.
    """
    hand = by_hand(rung("a"), max_actions=1, retry_after=100)
    hand.falls()
    hand.fails()
    while isinstance(hand.ask(), Check):
        hand.bad()
    hand.heals()
    assert RESTORED is hand.machine.state
    hand.falls()
    assert EXHAUSTED is hand.machine.state


def test_a_ladder_without_a_harmless_rung_stays_exhausted(by_hand, rung):
    """
    There is no pass when every rung is destructive or held.
    """
    hand = by_hand(rung("a", held=True), rung("b", destructive=True), destructive=True, retry_after=20)
    hand.falls()
    hand.ends(Outcome.cannot_help("no"))
    hand.fails()
    hand.bad(100)
    assert EXHAUSTED is hand.machine.state
