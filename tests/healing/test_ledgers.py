"""
Ledgers against slow oracles that remember everything.
"""

from __future__ import annotations

import math

import pytest

from hypothesis import given
from hypothesis import strategies as st

from selfheal import names
from selfheal.healing import BudgetLedger, CooldownLedger, FlapLedger
from selfheal.model import Budget, Entry, HealingState


IDLE, DETECTING, RECOVERING, VERIFYING, RESTORED, EXHAUSTED = HealingState

gaps = st.lists(st.sampled_from([0.0, 1.0, 7.0, 59.0, 60.0, 61.0, 299.5, 600.0]), max_size=40)


def running(steps):
    now = 1000.0
    for step in steps:
        now += step
        yield now


# Budget


@given(steps=gaps, limit=st.integers(1, 5), per=st.sampled_from([1.0, 60.0, 600.0]))
def test_no_window_holds_more_than_the_budget(steps, limit, per):
    """
    Who charges only when the ledger says so never starts more than `limit` actions within any `per` seconds.
    """
    ledger, starts = BudgetLedger(Budget(limit, per=per)), []
    for now in running(steps):
        counted = sum(now - at < per for at in starts)
        assert counted == ledger.used(now=now)
        opens_at = ledger.opens_at(now=now)
        assert (opens_at is None) == (counted < limit)
        if opens_at is None:
            ledger.charge(now=now)
            starts.append(now)
        else:
            assert now < opens_at
            assert None is ledger.opens_at(now=opens_at)
            assert None is not ledger.opens_at(now=math.nextafter(opens_at, 0))
    assert all(sum(at <= other < at + per for other in starts) <= limit for at in starts)


@given(steps=gaps, limit=st.integers(1, 5), data=st.data())
def test_a_refund_is_as_if_it_had_not_been_charged(steps, limit, data):
    """
    After a refund the ledger says what one says that was never charged with those actions.
    """
    ledger, starts = BudgetLedger(Budget(limit, per=60)), {}
    for now in running(steps):
        if ledger.opens_at(now=now) is None:
            starts[ledger.charge(now=now)] = now
        elif data.draw(st.booleans()):
            tokens = data.draw(st.sets(st.sampled_from(sorted(starts))))
            ledger.refund(tokens | {10_000})
            starts = {token: at for token, at in starts.items() if token not in tokens}
        assert sum(now - at < 60 for at in starts.values()) == ledger.used(now=now)


def test_a_budget_ledger_is_bounded():
    """
    A driver that charges without asking fills no memory, and closes the gate for as long as it takes.
    """
    ledger = BudgetLedger(Budget(3, per=60))
    for now in range(100):
        ledger.charge(now=float(now))
    assert (3, 157.0) == (ledger.used(now=99.0), ledger.opens_at(now=99.0))


# Cooldown


@given(
    runs=st.integers(1, 80),
    cooldown=st.sampled_from([0.001, 1.0, 30.0, 3600.0, 7200.0]),
    number=st.floats(0, 1, exclude_max=True),
)
def test_a_cooldown_doubles_and_is_spread_downwards(runs, cooldown, number):
    """
    After its k-th run a rung rests between d/2 and d, d doubling up to an hour, and never less than half of its own.
    """
    ledger = CooldownLedger()
    for _ in range(runs):
        ledger.ended("a", cooldown, now=0.0, uniform=lambda: number)
    longest = cooldown
    for _ in range(runs - 1):
        longest = max(cooldown, min(3600.0, longest * 2))
    opens_at = ledger.opens_at("a", now=0.0)
    assert longest / 2 * (1 + number) == pytest.approx(opens_at)
    assert longest / 2 <= opens_at <= longest
    assert None is ledger.opens_at("a", now=opens_at)
    assert opens_at == ledger.opens_at("a", now=math.nextafter(opens_at, 0))


def test_a_cooldown_is_drawn_once():
    """
    However often it is asked, the gate opens at the same time.
    """
    numbers = iter([0.25])
    ledger = CooldownLedger()
    ledger.ended("a", 100.0, now=10.0, uniform=lambda: next(numbers))
    assert {72.5} == {ledger.opens_at("a", now=now) for now in (10.0, 20.0, 72.0)}


def test_each_rung_has_its_own_cooldown():
    """
    The run of one rung keeps no other from running, and one without cooldown rests for no time.
    """
    ledger = CooldownLedger()
    ledger.ended("a", 100.0, now=0.0, uniform=lambda: 0.0)
    ledger.ended("b", 0.0, now=0.0, uniform=lambda: 0.0)
    assert (50.0, None, None) == tuple(ledger.opens_at(name, now=0.0) for name in "abc")


def test_a_reset_forgets_all_runs():
    """
    After a healing that survived, the next cooldown is the first again.
    """
    ledger = CooldownLedger()
    for _ in range(5):
        ledger.ended("a", 100.0, now=0.0, uniform=lambda: 0.0)
    ledger.reset()
    assert None is ledger.opens_at("a", now=0.0)
    ledger.ended("a", 100.0, now=0.0, uniform=lambda: 0.0)
    assert 50.0 == ledger.opens_at("a", now=0.0)


# Flapping


@given(steps=st.lists(st.tuples(st.sampled_from([0.0, 1.0, 100.0, 150.0, 200.0, 600.0]), st.booleans()), max_size=60))
def test_flapping_has_two_limits(steps):
    """
    It begins with 5 flaps within 600 s, and ends when 2 or fewer are left; asking changes nothing.
    """
    ledger, flaps, flapping, now = FlapLedger(), [], False, 0.0
    for step, is_flap in steps:
        # The oracle looks at every moment at which something can change.
        for moment in sorted({at + 600 for at in flaps if now < at + 600 <= now + step} | {now + step}):
            flapping = flapping and sum(moment - at < 600 for at in flaps) > 2
        now += step
        if is_flap:
            ledger.flap(now=now)
            flaps.append(now)
            flapping = flapping or sum(now - at < 600 for at in flaps) >= 5
        opens_at = ledger.opens_at(now=now)
        assert flapping == (opens_at is not None)
        if opens_at is not None:
            assert 2 >= sum(opens_at - at < 600 for at in flaps)
            assert 2 < sum(math.nextafter(opens_at, 0) - at < 600 for at in flaps)


def test_suspicions_that_came_to_nothing_and_relapses_are_flaps(by_hand, rung):
    """
    What the machine writes down about suspicions and relapses is counted.
    """
    ledger = FlapLedger()
    hand = by_hand(rung("a", attempts=9), fall=2, interval=2)
    for _ in range(3):
        hand.bad()
        hand.good(2)
    hand.falls()
    for _ in range(2):
        assert None is watched(ledger, hand)
        hand.heals()
        hand.falls()
    assert None is not watched(ledger, hand)


def test_healed_incidents_in_a_row_are_no_flapping(by_hand, rung):
    """
    Any number of real incidents, healed and survived, leaves the gate open.
    """
    ledger = FlapLedger()
    hand = by_hand(rung("a"), rung("b", held=True), interval=2, probation=4, verify_within=5)
    for _ in range(20):
        hand.falls()
        hand.fails()
        hand.heals()
        hand.survives()
    assert hand.now < 600
    assert None is watched(ledger, hand)


def test_what_is_no_relapse_is_no_flap():
    """
    Other changes out of RESTORED, and relapses of other words, are not counted.
    """
    ledger = FlapLedger()
    for _ in range(9):
        for before, reason in (("restored", "a new fault"), ("verifying", "relapse")):
            fields = {"from_state": before, "to_state": "recovering", "reason": reason}
            ledger.watch(Entry(0.0, names.STATE_CHANGED, fields))
    assert None is ledger.opens_at(now=0.0)


def watched(ledger, hand):
    for entry in hand.machine.entries():
        ledger.watch(entry)
    return ledger.opens_at(now=hand.now)
