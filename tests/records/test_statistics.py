"""
The past in numbers.
"""

import pytest

from selfheal import Budget, HealingPolicy, Incident, names, recovery_action, rung
from selfheal.checks import HealthCheck
from selfheal.model import Entry, Fault, IncidentResult
from selfheal.records import statistics
from selfheal.testing.clock import VirtualClock
from selfheal.testing.simulator import simulate


def finished(action, outcome="done", duration=1.0, revert=False):
    """An action ended."""
    fields = {"action": action, "rung": 0, "outcome": outcome, "duration": duration, "revert": revert}
    return Entry(1.0, names.ACTION_FINISHED, fields)


def incident(result, *timeline, recovered=None):
    """An incident that began at 10 and was confirmed at 12."""
    return Incident(
        number=1,
        trigger=Fault("stale"),
        began=10.0,
        opened=12.0,
        check="orders",
        resource="orders_db",
        recovered=recovered,
        ended=None if result is None else 100.0,
        result=result,
        timeline=timeline,
    )


def test_nothing_has_happened():
    """
    Without incidents there are no means, and every result is 0.
    """
    numbers = statistics([])

    assert (0, None, None, ()) == (
        numbers.incidents,
        numbers.time_to_detect_mean,
        numbers.time_to_recover_mean,
        numbers.actions,
    )
    assert dict.fromkeys(IncidentResult, 0) == numbers.results


def test_means_are_over_those_that_have_the_number():
    """
    An incident that never recovered counts for the time to detect alone; an open one for nothing.
    """
    numbers = statistics(
        [
            incident(IncidentResult.HEALED, recovered=20.0),
            incident(IncidentResult.SELF_RESOLVED, recovered=40.0),
            incident(IncidentResult.ABORTED),
            incident(None),
        ]
    )

    assert (3, 2.0, 20.0) == (numbers.incidents, numbers.time_to_detect_mean, numbers.time_to_recover_mean)
    assert 1 == numbers.results[IncidentResult.ABORTED]


def test_an_action_is_credited_with_what_it_healed():
    """
    Only the action that was verified last has healed; one that relapsed has not, and a revert is no run.
    """
    drain = {"action": "drain", "rung": 0, "attempt": 1}
    rebuild = {"action": "rebuild", "rung": 1, "attempt": 1}
    numbers = statistics(
        [
            incident(
                IncidentResult.HEALED,
                finished("drain"),
                Entry(2.0, names.HEALING_VERIFIED, drain),
                Entry(3.0, names.HEALING_REFUTED, drain),
                finished("drain", "failed", 2.0),
                finished("rebuild", "done", 6.0),
                Entry(4.0, names.HEALING_VERIFIED, rebuild),
                finished("rebuild", revert=True),
            ),
            incident(IncidentResult.EXHAUSTED, finished("drain", "abandoned", 3.0)),
        ]
    )
    shown = [
        (of.action, of.runs, of.failed, of.verified, of.refuted, of.healed, of.seconds_mean, of.effectiveness)
        for of in numbers.actions
    ]

    assert [("drain", 3, 2, 1, 1, 0, 2.0, 0.0), ("rebuild", 1, 0, 1, 0, 1, 6.0, 1.0)] == shown


def test_understands_what_the_machine_writes():
    """
    The timeline of a simulated healing gives the numbers of its story.
    """
    clock = VirtualClock()
    world = {"broken": True}

    def probe():
        return clock.now() < 25 or not world["broken"]

    @recovery_action
    def drain(_ctx):
        raise ValueError

    @recovery_action
    def rebuild(_ctx):
        clock.pass_time(5)
        world["broken"] = False

    check = HealthCheck(
        probe,
        name="orders",
        policy=HealingPolicy(interval=10, fast_interval=1, timeout=1, fall=2, verify_within=10, jitter=0),
        recovery=rung(drain) >> rung(rebuild),
    )
    story = simulate([check], until=300, clock=clock, budget=Budget(10, per=600))
    numbers = statistics(story.incidents)

    assert 1 == numbers.results[IncidentResult.HEALED]
    assert pytest.approx(1.0, abs=0.1) == numbers.time_to_detect_mean
    assert pytest.approx(7.0, abs=0.5) == numbers.time_to_recover_mean
    assert [("drain", 1, 1, 0.0), ("rebuild", 1, 0, 1.0)] == [
        (of.action, of.runs, of.failed, of.effectiveness) for of in numbers.actions
    ]
