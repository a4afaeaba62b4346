"""
The walk over every node that the machine can reach: its diagram, and that it never gets stuck.
"""

from __future__ import annotations

import pytest

from selfheal.healing import edges, mermaid
from selfheal.healing import walk as walking
from selfheal.model import Check, CheckResult, HealingState, Outcome, Recover, Revert, Wait


IDLE, DETECTING, RECOVERING, VERIFYING, RESTORED, EXHAUSTED = HealingState


@pytest.fixture(scope="module")
def moves():
    return list(walking.walk())


def test_every_state_is_reachable(moves):
    """
    The walk meets all six states.
    """
    assert set(HealingState) == {move.target[0] for move in moves}


def test_there_is_no_dead_end(moves):
    """
    From every node on, if all goes well, an end comes: IDLE with nothing held, within an hour and a few checks.
    """
    met = {}
    for move in moves:
        met.setdefault(move.target, move)
    for move in met.values():
        machine, now = walking.copy_of(move.machine), move.at
        for _ in range(5_000):
            step = machine.tick(now=now)
            match step:
                case Wait(until):
                    if machine.state is IDLE:
                        break
                    now = until
                case Check():
                    machine.checked(CheckResult.healthy(started_at=now), now=now)
                case Recover():
                    machine.recovered(Outcome.done(), now=now)
                case Revert():
                    machine.reverted(Outcome.done(), now=now)
        assert (IDLE, ()) == (machine.state, machine.held), move.target


def test_the_diagram_has_every_arrow_of_the_table():
    """
    Running the machine finds the arrows that its documentation promises, and no other.
    """
    expected = {
        (IDLE, DETECTING), (IDLE, RECOVERING), (IDLE, RESTORED),
        (DETECTING, IDLE), (DETECTING, RECOVERING),
        (RECOVERING, RECOVERING), (RECOVERING, VERIFYING), (RECOVERING, RESTORED), (RECOVERING, EXHAUSTED),
        (VERIFYING, RECOVERING), (VERIFYING, RESTORED),
        (RESTORED, IDLE), (RESTORED, RECOVERING), (RESTORED, RESTORED),
        (EXHAUSTED, RECOVERING), (EXHAUSTED, RESTORED),
    }  # fmt: skip
    assert expected == {(edge.before, edge.after) for edge in edges()}


def test_the_diagram_is_the_same_every_time(moves):
    """
    Two walks find the same arrows, and the Mermaid text has one line for each pair of states.
    """
    assert {edge for move in moves for edge in move.edges} == set(edges())
    lines = mermaid().splitlines()
    assert ["stateDiagram-v2", "    [*] --> IDLE", "    IDLE --> DETECTING: a bad result"] == lines[:3]
    assert 16 == len(lines) - 2
    assert "    EXHAUSTED --> RECOVERING: next pass, started by hand" in lines


def test_a_walk_without_an_end_is_refused(monkeypatch):
    """
    If something in the fingerprint grew without bound, the walk would say so instead of running for ever.
    """
    monkeypatch.setattr(walking, "NODE_LIMIT", 20)
    with pytest.raises(RuntimeError, match="more than 20 nodes"):
        list(walking.walk())
