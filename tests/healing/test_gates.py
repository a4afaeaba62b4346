"""
Gates: each closes for its reason, all are asked, and the trace is a sentence.
"""

from __future__ import annotations

import pytest

from selfheal.healing import Dependency, Spent, Surroundings, ask
from selfheal.model import Budget, Gate, HealthStatus, Rung


RUNG = Rung(action="rebuild", name="rebuild")
SAFE = Rung(action="safe", name="safe", safe_after_abandon=True)
ORDER = [
    Gate.PAUSED,
    Gate.BUSY,
    Gate.SELF_DOUBT,
    Gate.DEPENDENCY,
    Gate.STORM,
    Gate.FLAPPING,
    Gate.COOLDOWN,
    Gate.PRECONDITION,
    Gate.BUDGET,
    Gate.SHADOW,
]

#: What closes each gate, and when it then opens.
CLOSING = {
    Gate.PAUSED: ({"paused": "maintenance", "paused_until": 160.0}, 160.0),
    Gate.BUSY: ({"running": ("kick",)}, None),
    Gate.SELF_DOUBT: ({"doubts": (Dependency("open_files", HealthStatus.UNHEALTHY),)}, None),
    Gate.DEPENDENCY: ({"dependencies": (Dependency("disk", HealthStatus.UNHEALTHY),)}, None),
    Gate.STORM: ({"actions": 4}, None),
    Gate.FLAPPING: ({"flapping_until": 130.0}, 130.0),
    Gate.COOLDOWN: ({"cooldown_until": 120.0}, 120.0),
    Gate.PRECONDITION: ({"rung": None}, None),
    Gate.BUDGET: ({"spent": (Spent("process", Budget(10, per=600), 141.5),)}, 141.5),
    Gate.SHADOW: ({"mode": "observe"}, None),
}


def around(**what):
    return Surroundings(**{"check": "db", "now": 100.0, "rung": RUNG, **what})


def all_closed(**what):
    return around(**{key: value for closing, _ in CLOSING.values() for key, value in closing.items()}, **what)


def closed(trace):
    return [verdict.gate for verdict in trace.closed]


def test_with_nothing_in_the_way_every_gate_is_open():
    """
    All gates are asked, in their order, and open.
    """
    trace = ask(around())
    assert ORDER == [verdict.gate for verdict in trace.verdicts]
    assert (True, None, None) == (trace.open, trace.gate, trace.until)
    assert "db: may be healed: every gate is open" == str(trace)


@pytest.mark.parametrize("gate", ORDER)
def test_each_gate_closes_for_its_own_reason(gate):
    """
    What closes a gate closes no other, and the trace says when it opens.
    """
    what, until = CLOSING[gate]
    trace = ask(around(**what))
    assert [gate] == closed(trace)
    assert (False, gate, until) == (trace.open, trace.gate, trace.until)
    assert ORDER == [verdict.gate for verdict in trace.verdicts]


def test_the_first_closed_gate_gives_its_name():
    """
    With all closed, the trace has every verdict and the name of the first.
    """
    trace = ask(all_closed())
    assert ORDER == closed(trace)
    assert Gate.PAUSED is trace.gate


@pytest.mark.parametrize(
    ("what", "text"),
    [
        (
            CLOSING[Gate.BUDGET][0],
            "db: not healed: budget: 10 actions in 600 s (process) are used up, next in 41.5 s",
        ),
        (CLOSING[Gate.PAUSED][0], "db: not healed: paused: maintenance, next in 60.0 s"),
        (CLOSING[Gate.BUSY][0], "db: not healed: busy: kick runs"),
        ({"running": ("kick",), "abandoned": True}, "db: not healed: busy: kick was given up and has not ended"),
        (CLOSING[Gate.DEPENDENCY][0], "db: not healed: dependency: disk is unhealthy, and it needs that"),
        (
            CLOSING[Gate.SELF_DOUBT][0],
            "db: not healed: self_doubt: open_files is unhealthy, and the fault may be this process' own",
        ),
        (CLOSING[Gate.STORM][0], "db: not healed: storm: 4 actions run, and max_concurrent=4"),
        (CLOSING[Gate.FLAPPING][0], "db: not healed: flapping: it changes its mind too often, next in 30.0 s"),
        (CLOSING[Gate.COOLDOWN][0], "db: not healed: cooldown: rebuild has just run, next in 20.0 s"),
        (CLOSING[Gate.PRECONDITION][0], "db: not healed: precondition: no rung applies to the fault"),
        (CLOSING[Gate.SHADOW][0], "db: not healed: shadow: the mode is observe"),
        (
            {"revert": True, "paused": "night", "mode": "shadow"},
            "db: not reverted: paused: night; shadow: the mode is shadow",
        ),
    ],
)
def test_a_trace_is_a_sentence(what, text):
    """
    It says for each closed gate why, and in how many seconds it opens if that is known.
    """
    assert text == str(ask(around(**what)))


def test_all_closed_gates_have_to_open():
    """
    The trace opens with the last of its closed gates, and nobody knows when if one of them does not.
    """
    both = ask(around(cooldown_until=120.0, flapping_until=110.0))
    assert 120.0 == both.until
    assert None is ask(around(cooldown_until=120.0, running=("kick",))).until


def test_healing_by_hand_passes_over_some_gates():
    """
    Whoever heals by hand passes over self_doubt, dependency, storm, flapping and cooldown, and over nothing else.
    """
    trace = ask(all_closed(manual=True))
    assert [Gate.PAUSED, Gate.BUSY, Gate.PRECONDITION, Gate.BUDGET, Gate.SHADOW] == closed(trace)
    passed = [verdict.gate for verdict in trace.verdicts if "by hand" in verdict.reason]
    assert [Gate.SELF_DOUBT, Gate.DEPENDENCY, Gate.STORM, Gate.FLAPPING, Gate.COOLDOWN] == passed


def test_stepping_down_is_not_braked():
    """
    For a revert flapping, cooldown, precondition and budget do not apply; the others do.
    """
    trace = ask(all_closed(revert=True))
    assert [Gate.PAUSED, Gate.BUSY, Gate.SELF_DOUBT, Gate.DEPENDENCY, Gate.STORM, Gate.SHADOW] == closed(trace)


@pytest.mark.parametrize(
    ("what", "busy"),
    [
        ({"running": ("kick",), "rung": SAFE}, True),
        ({"running": ("kick",), "abandoned": True, "rung": SAFE}, False),
        ({"running": ("kick",), "abandoned": True, "rung": RUNG}, True),
        ({"running": ("kick",), "abandoned": True, "rung": SAFE, "revert": True}, True),
        ({"running": (), "abandoned": True}, False),
        ({"running": ("kick",), "abandoned": True, "rung": None}, True),
    ],
)
def test_who_may_run_beside_an_abandoned_action(what, busy):
    """
    A rung that is `safe_after_abandon` passes the gate when only abandoned actions run; its revert does not.
    """
    assert busy == (Gate.BUSY in closed(ask(around(**what))))


@pytest.mark.parametrize(
    ("dependency", "is_closed"),
    [
        (Dependency("a", HealthStatus.HEALTHY), False),
        (Dependency("a", HealthStatus.DEGRADED), False),
        (Dependency("a", HealthStatus.UNKNOWN), False),
        (Dependency("a", HealthStatus.UNHEALTHY), True),
        (Dependency("a", HealthStatus.HEALTHY, suspect=True), True),
        (Dependency("a", HealthStatus.UNKNOWN, suspect=True), True),
    ],
)
@pytest.mark.parametrize(("gate", "what"), [(Gate.DEPENDENCY, "dependencies"), (Gate.SELF_DOUBT, "doubts")])
def test_another_check_closes_when_it_is_bad_or_suspect(gate, what, dependency, is_closed):
    """
    What is known to be bad or under suspicion closes the gate, whichever of the checks it is; UNKNOWN does not.
    """
    others = (Dependency("b", HealthStatus.HEALTHY),)
    for checks in ((dependency, *others), (*others, dependency)):
        assert ([gate] if is_closed else []) == closed(ask(around(**{what: checks})))


def test_a_suspect_dependency_is_named():
    """
    The reason names the dependency that is in the way.
    """
    trace = ask(around(dependencies=(Dependency("disk", HealthStatus.HEALTHY, suspect=True),)))
    assert "db: not healed: dependency: disk is under suspicion, and it needs that" == str(trace)


@pytest.mark.parametrize(("actions", "is_closed"), [(0, False), (2, False), (3, True), (4, True)])
def test_a_storm_is_counted_with_the_candidate(actions, is_closed):
    """
    `max_concurrent` is how many may run, the one that asks included.
    """
    trace = ask(around(actions=actions, max_concurrent=3))
    assert is_closed == (Gate.STORM in closed(trace))


@pytest.mark.parametrize("mode", ["observe", "shadow", "approve"])
def test_only_enforce_acts(mode):
    """
    In every other mode the shadow gate is closed.
    """
    assert [Gate.SHADOW] == closed(ask(around(mode=mode)))


def test_several_budgets_open_with_the_last():
    """
    Of several used-up budgets the one that opens last is named.
    """
    spent = (Spent("process", Budget(10, per=600), 150.0), Spent("resource", Budget(2, per=60), 110.0))
    for order in (spent, spent[::-1]):
        trace = ask(around(spent=order))
        assert 150.0 == trace.until
        assert "(process)" in str(trace)
