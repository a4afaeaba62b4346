"""
What is written down: entries, timelines, the times and the result of an incident.
"""

from __future__ import annotations

import pytest

from selfheal import names
from selfheal.healing.chronicle import PENDING_LIMIT
from selfheal.model import (
    TIMELINE_LIMIT,
    Check,
    Entry,
    Gate,
    HealingState,
    IncidentResult,
    Outcome,
    Recover,
    Revert,
)


IDLE, DETECTING, RECOVERING, VERIFYING, RESTORED, EXHAUSTED = HealingState


def restored_by_itself(hand, gate=Gate.BUSY):
    while hand.machine.state is RECOVERING:
        if isinstance(hand.ask(), Check):
            hand.good()
        else:
            hand.blocked(gate)


# Results


def test_healed(by_hand, rung):
    """
    An incident whose last verified action survived probation was healed.
    """
    hand = by_hand(rung("a"))
    hand.falls()
    hand.heals()
    hand.survives()
    assert IncidentResult.HEALED is hand.machine.last_incident.result


def test_healed_after_a_relapse(by_hand, rung):
    """
    What counts is the last verified action: a relapse before it does not matter.
    """
    hand = by_hand(rung("a"), rung("b"))
    for _ in range(2):
        hand.falls()
        hand.heals()
    hand.survives()
    assert IncidentResult.HEALED is hand.machine.last_incident.result


def test_healed_after_having_been_exhausted(by_hand, rung):
    """
    A pass of an exhausted ladder that is verified makes the incident healed.
    """
    hand = by_hand(rung("a"), retry_after=50)
    hand.falls()
    hand.fails()
    while isinstance(hand.ask(), Check):
        hand.bad()
    hand.heals()
    hand.survives()
    assert IncidentResult.HEALED is hand.machine.last_incident.result


def test_self_resolved_without_an_action(by_hand, rung):
    """
    Health that came back while no suppressing gate was closed is nobody's merit.
    """
    hand = by_hand(rung("a"))
    hand.falls()
    restored_by_itself(hand, Gate.COOLDOWN)
    hand.survives()
    assert IncidentResult.SELF_RESOLVED is hand.machine.last_incident.result


def test_self_resolved_after_an_action_that_did_not_help(by_hand, rung):
    """
    Health that came back by itself after a failed action is not the action's merit, and not a pause's either.
    """
    hand = by_hand(rung("a", attempts=2))
    hand.falls()
    hand.fails()
    restored_by_itself(hand, Gate.PAUSED)
    hand.survives()
    assert IncidentResult.SELF_RESOLVED is hand.machine.last_incident.result


def test_a_verified_action_that_relapsed_has_not_healed(by_hand, rung):
    """
    After a relapse that went away by itself the incident is self-resolved.
    """
    hand = by_hand(rung("a", attempts=2))
    hand.falls()
    hand.heals()
    hand.falls()
    restored_by_itself(hand)
    hand.survives()
    assert IncidentResult.SELF_RESOLVED is hand.machine.last_incident.result


@pytest.mark.parametrize("gate", [Gate.PAUSED, Gate.SHADOW, Gate.SELF_DOUBT, Gate.DEPENDENCY, Gate.STORM])
def test_suppressed(by_hand, rung, gate):
    """
    Health that came back while one of these gates was closed, and nothing was done, was suppressed healing.
    """
    hand = by_hand(rung("a"))
    hand.falls()
    restored_by_itself(hand, gate)
    hand.survives()
    assert IncidentResult.SUPPRESSED is hand.machine.last_incident.result


def test_only_the_gate_closed_at_the_end_suppresses(by_hand, rung):
    """
    A pause that was over when health came back does not count.
    """
    hand = by_hand(rung("a"))
    hand.falls()
    hand.blocked(Gate.PAUSED)
    hand.bad()
    restored_by_itself(hand, Gate.BUDGET)
    hand.survives()
    assert IncidentResult.SELF_RESOLVED is hand.machine.last_incident.result


def test_the_gate_of_one_incident_does_not_suppress_the_next(by_hand, rung):
    """
    An incident in which no gate was asked is not suppressed by what was closed in the one before.
    """
    hand = by_hand(rung("a"))
    hand.falls()
    restored_by_itself(hand, Gate.PAUSED)
    hand.survives()
    hand.falls()
    hand.machine.discard("resumed", now=hand.now)
    hand.good(2)
    hand.survives()
    assert IncidentResult.SELF_RESOLVED is hand.machine.last_incident.result


def test_exhausted(by_hand, rung):
    """
    An incident that was exhausted, and in which no later action was verified, ends as exhausted.
    """
    hand = by_hand(rung("a"))
    hand.falls()
    hand.heals()
    hand.falls()
    hand.fails()
    assert EXHAUSTED is hand.machine.state
    hand.good(2)
    hand.survives()
    assert IncidentResult.EXHAUSTED is hand.machine.last_incident.result


def test_a_two_hour_outage_ends_healed(by_hand, rung):
    """
    While the other side is down no rung applies and the incident does not age; what is broken afterwards is healed.
    """
    hand = by_hand(rung("kick", kinds=("backoff",)), rung("rebuild", kinds=("stale", "backoff")), max_incident_age=600)
    hand.falls("down")
    while hand.now < 7200:
        hand.bad(kind="down")
    assert (RECOVERING, 0) == (hand.machine.state, hand.machine.incident.actions)
    hand.bad(kind="stale")
    assert Recover(rung=1, attempt=1) == hand.tick()
    hand.heals()
    hand.survives()
    incident = hand.machine.last_incident
    assert (IncidentResult.HEALED, "down", 1) == (incident.result, incident.trigger.kind, incident.actions)


def test_a_two_hour_outage_that_ends_by_itself_is_self_resolved(by_hand, rung):
    """
    An outage against which nothing of ours applies is not exhausted when it ends.
    """
    hand = by_hand(rung("rebuild", kinds=("stale",)), max_incident_age=600)
    hand.falls("down")
    while hand.now < 7200:
        hand.bad(kind="down")
    hand.good(2)
    hand.survives()
    assert IncidentResult.SELF_RESOLVED is hand.machine.last_incident.result


def test_a_healing_by_hand_in_probation_has_to_survive_itself(by_hand, rung):
    """
    Healing by hand cuts a probation short, so what was verified before it has not survived.
    """
    hand = by_hand(rung("a", attempts=2))
    hand.falls()
    hand.heals()
    hand.machine.start_healing(now=hand.now)
    restored_by_itself(hand)
    hand.survives()
    assert IncidentResult.SELF_RESOLVED is hand.machine.last_incident.result


# Closing


def test_closing_aborts_the_open_incident(by_hand, rung):
    """
    `close` ends an incident as aborted, leads to IDLE and takes back the open step; what is held stays held.
    """
    hand = by_hand(rung("a", held=True), rung("b"))
    hand.falls()
    hand.heals()
    while not isinstance(hand.ask(), Revert):
        hand.good()
    hand.entries("")
    hand.machine.close("the healer stops", now=hand.now)
    assert not isinstance(hand.machine.tick(now=hand.now), Revert)
    incident = hand.machine.last_incident
    assert (IncidentResult.ABORTED, hand.now) == (incident.result, incident.ended)
    assert (IDLE, None, (0,)) == (hand.machine.state, hand.machine.incident, hand.machine.held)
    moved, closed = hand.machine.entries()
    assert "the healer stops" == moved.fields["reason"]
    assert "aborted" == closed.fields["result"]


def test_closing_a_suspicion_is_no_incident(by_hand):
    """
    Closed in DETECTING, there is neither an incident nor a suspicion to be counted.
    """
    hand = by_hand(fall=3)
    hand.bad()
    hand.machine.close("x", now=hand.now)
    assert (IDLE, None) == (hand.machine.state, hand.machine.last_incident)
    assert [] == hand.entries(names.SUSPICION_CLEARED)


def test_closing_an_idle_machine_is_silent(by_hand):
    """
    With nothing open there is nothing to write down.
    """
    hand = by_hand()
    hand.good()
    hand.machine.close("x", now=hand.now)
    assert [] == hand.machine.entries()


# Times and numbers


def test_the_times_of_an_incident(by_hand, rung):
    """
    It began with the first bad result counted, was opened when confirmed, recovered when proved, ended after probation.
    """
    hand = by_hand(rung("a"), probation=60)
    hand.good(2)
    hand.falls()
    assert (20.0, 21.0) == (hand.machine.incident.began, hand.machine.incident.opened)
    hand.ends(took=5.0)
    assert None is hand.machine.incident.recovered
    hand.good(2)
    hand.survives()
    incident = hand.machine.last_incident
    assert (1.0, 27.0, 7.0, 87.0) == (
        incident.time_to_detect, incident.recovered, incident.time_to_recover, incident.ended
    )  # fmt: skip
    closed = hand.entries(names.INCIDENT_CLOSED)
    expected = {"result": "healed", "actions": 1, "duration": 67.0, "time_to_recover": 7.0}
    assert [expected] == [entry.fields for entry in closed]


def test_an_incident_begins_when_the_first_bad_run_had_started(by_hand, rung):
    """
    A slow first bad run dates the incident back to its start.
    """
    hand = by_hand(rung("a"), fall=1, timeout=4)
    hand.tick()
    hand.now = 3.0
    from selfheal.model import CheckResult

    hand.machine.checked(CheckResult.unhealthy("timeout", started_at=0.0), now=3.0)
    incident = hand.machine.incident
    assert (0.0, 3.0, 3.0) == (incident.began, incident.opened, incident.time_to_detect)


def test_incidents_are_numbered_and_start_afresh(by_hand, rung):
    """
    Each incident has the next number, all attempts, and nothing of the one before.
    """
    hand = by_hand(rung("a"), rung("b"))
    for number in (1, 2, 3):
        hand.falls()
        assert Recover(rung=0, attempt=1) == hand.tick()
        hand.fails()
        hand.heals()
        hand.survives()
        assert (number, 2) == (hand.machine.last_incident.number, hand.machine.last_incident.actions)


# Entries


def test_the_timeline_tells_the_whole_story(by_hand, rung):
    """
    Everything from the opening to the closing is in the incident's timeline, in order, and nothing from before.
    """
    hand = by_hand(rung("a"), rung("b", held=True), probation=30)
    hand.falls()
    hand.machine.entries()
    hand.fails()
    hand.heals()
    while not isinstance(hand.ask(), Revert):
        hand.good()
    hand.ends()
    hand.survives()
    timeline = hand.machine.last_incident.timeline
    assert [
        "incident.opened",
        "state.changed",
        "action.finished",
        "action.finished",
        "held.applied",
        "state.changed",
        "healing.verified",
        "state.changed",
        "action.finished",
        "held.reverted",
        "state.changed",
        "incident.closed",
    ] == [entry.event.removeprefix("selfheal.") for entry in timeline]
    assert list(timeline[2:]) == hand.machine.entries()
    for entry in timeline:
        assert set(names.EVENTS[entry.event].fields) == set(entry.fields)


def test_how_an_action_ended_is_written_down(by_hand, rung):
    """
    The entry has action, attempt, outcome, reason and duration, counted from the driver's own start if it told one.
    """
    hand = by_hand(rung("a", attempts=2))
    hand.falls()
    hand.machine.entries()
    hand.ends(Outcome.failed(ValueError("secret")), took=3.0)
    hand.tick()
    started = Entry(hand.now + 2, names.ACTION_STARTED, {"action": "a"})
    hand.machine.note(started)
    hand.ends(Outcome.cannot_help("no such file"), took=5.0)
    finished = hand.entries(names.ACTION_FINISHED)
    assert [
        {"action": "a", "rung": 0, "attempt": 1, "outcome": "failed", "reason": "ValueError", "duration": 3.0,
         "revert": False},
        {"action": "a", "rung": 0, "attempt": 2, "outcome": "cannot_help", "reason": "no such file", "duration": 3.0,
         "revert": False},
    ] == [entry.fields for entry in finished]  # fmt: skip
    assert started in hand.machine.incident.timeline


def test_a_closed_gate_is_written_down_when_it_is_news(by_hand, rung):
    """
    The same gate, rung and time are written down once; another gate or time is news, and so is the same one later.
    """
    hand = by_hand(rung("a", attempts=2))
    hand.falls()
    hand.machine.entries()

    def blocked(*args, **options):
        hand.ask()
        hand.machine.blocked(*args, now=hand.now, **options)
        news = [entry.fields for entry in hand.entries(names.ACTION_BLOCKED)]
        if isinstance(hand.tick(), Check):
            hand.bad()
        return news

    first = blocked(Gate.PAUSED, 100.0, reason="maintenance")
    assert [
        {"action": "a", "rung": 0, "gate": "paused", "until": 100.0, "reason": "maintenance", "revert": False}
    ] == first
    hand.bad()
    assert [] == blocked(Gate.PAUSED, 100.0)
    hand.bad()
    assert 1 == len(blocked(Gate.PAUSED, 200.0))
    hand.bad()
    assert 1 == len(blocked(Gate.BUSY, 200.0))
    hand.bad()
    assert [] == blocked(Gate.BUSY, 200.0)
    hand.bad()
    hand.fails()
    assert 1 == len(blocked(Gate.BUSY, 200.0))


def test_a_closed_gate_is_news_in_the_next_incident(by_hand, rung):
    """
    The gate that was closed in the last incident is written down again in the next, though nothing was done between.
    """
    hand = by_hand(rung("a"))
    for _ in range(2):
        hand.falls()
        restored_by_itself(hand, Gate.PAUSED)
        assert 1 == len(hand.entries(names.ACTION_BLOCKED))
        hand.survives()


def test_entries_are_drained_once(by_hand, rung):
    """
    `entries` gives each entry once, the driver's own included.
    """
    hand = by_hand()
    note = Entry(0.0, names.ACTION_LOGGED, {"message": "hello"})
    hand.machine.note(note)
    assert [note] == hand.machine.entries()
    assert [] == hand.machine.entries()


def test_entries_nobody_fetches_are_bounded(by_hand):
    """
    The newest entries are kept, and how many fell off is counted.
    """
    hand = by_hand()
    for at in range(PENDING_LIMIT + 3):
        hand.machine.note(Entry(float(at), names.ACTION_LOGGED))
    entries = hand.machine.entries()
    assert (PENDING_LIMIT, 3.0) == (len(entries), entries[0].at)
    assert 3 == hand.machine.dropped


def test_a_timeline_is_bounded(by_hand, rung):
    """
    A timeline keeps its first entries and counts the others.
    """
    hand = by_hand(rung("a"))
    hand.falls()
    already = len(hand.machine.incident.timeline)
    for at in range(TIMELINE_LIMIT):
        hand.machine.note(Entry(float(at), names.ACTION_LOGGED))
    incident = hand.machine.incident
    assert (TIMELINE_LIMIT, already) == (len(incident.timeline), incident.dropped)
    assert names.INCIDENT_OPENED == incident.timeline[0].event
