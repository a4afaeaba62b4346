"""
The state diagram, found by running the machine: breadth first, at its deadlines, with every answer to every step.

What is drawn is what it does, not what somebody remembers that it should do.
"""

from __future__ import annotations

import copy
import functools

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Final, NamedTuple, TypeAlias, cast

from selfheal import names
from selfheal.healing.machine import HealingStateMachine
from selfheal.model import (
    Check,
    CheckResult,
    Entry,
    Gate,
    HealingPolicy,
    HealingState,
    HealthStatus,
    Ladder,
    Outcome,
    Recover,
    Revert,
    Rung,
    Wait,
)


#: Patience as short as it gets: every rule of the machine is reached within a few steps.
POLICY: Final = HealingPolicy(
    interval=2,
    fast_interval=1,
    timeout=1,
    jitter=0,
    stale_after=5,
    fall=2,
    fall_window=3,
    rise=2,
    verify_within=3,
    probation=4,
    max_actions=3,
    max_incident_age=40,
    retry_after=10,
)

#: One rung of each sort: tried twice, of use against one fault only, held.
LADDER: Final = Ladder(
    (
        Rung(action="again", name="again", attempts=2),
        Rung(action="special", name="special", applies=lambda fault: fault.kind == "stale"),
        Rung(action="hold", name="hold", held=True),
    )
)

#: More nodes than this mean that something grows without bound.
NODE_LIMIT: Final = 50_000

#: The fingerprint of a machine.
Node: TypeAlias = tuple[object, ...]

_ROOM: Final = f"{__package__}."
_SLOTS: Final[dict[type[object], tuple[str, ...]]] = {}

_HELD: Final = 2
_ACTION_TAKES: Final = 1.0
#: A driver that was suspended: what takes longer than the way to a node has time to happen.
_LATE: Final = POLICY.max_incident_age

_OUTCOMES: Final = (
    Outcome.done(),
    Outcome.failed(RuntimeError("walk")),
    Outcome.cannot_help("walk"),
    Outcome.abandoned(),
    Outcome.cancelled("walk"),
)

#: Arrows from a state to itself: what happened, if the state did not change.
_STAYS: Final = {
    names.ACTION_FINISHED: "it ended badly",
    names.ACTION_BLOCKED: "a gate is closed",
    names.HELD_REVERTED: "a held rung is reverted",
}


class Edge(NamedTuple):
    """
    One arrow of the diagram.

    Args:
        before: The state it leaves.
        after: The state it leads to.
        why: What has happened.
    """

    before: HealingState
    after: HealingState
    why: str


class Move(NamedTuple):
    """
    One step from a node of the walk to another.

    Args:
        source: Where it begins.
        target: Where it leads to.
        edges: The arrows it adds to the diagram.
        machine: The machine afterwards; the walk goes on with it, so do not touch it.
        at: The time afterwards.
    """

    source: Node
    target: Node
    edges: tuple[Edge, ...]
    machine: HealingStateMachine
    at: float


class Answer(NamedTuple):
    """
    Something that a driver may tell a machine.

    Args:
        at: When it is told.
        call: The method that is called ...
        args: ... and what with, besides the time.
    """

    at: float
    call: Callable[..., object]
    args: tuple[object, ...] = ()


def walk() -> Iterator[Move]:
    """
    Every move from every reachable node, in a fixed order.

    A node is a fingerprint of the machine; its times are those of the shortest way to it.

    Raises:
        RuntimeError: If there are more than `NODE_LIMIT` nodes.
    """
    queue: deque[tuple[HealingStateMachine, float]] = deque()
    seen: set[Node] = set()

    def meet(machine: HealingStateMachine, now: float) -> Node:
        machine.tick(now=now)
        node = machine.fingerprint()
        if node not in seen:
            seen.add(node)
            queue.append((machine, now))
        if len(seen) > NODE_LIMIT:
            msg = f"more than {NODE_LIMIT} nodes: some part of the fingerprint grows without bound."
            raise RuntimeError(msg)
        return node

    def move(machine: HealingStateMachine, answer: Answer) -> Move:
        after = copy_of(machine)
        answer.call(after, *answer.args, now=answer.at)
        target = meet(after, answer.at)
        return Move(machine.fingerprint(), target, _edges(machine.state, after.entries()), after, answer.at)

    start = HealingStateMachine(POLICY, LADDER)
    yield move(start, Answer(0.0, HealingStateMachine.adopt, ([_HELD],)))
    meet(start, 0.0)
    meet(HealingStateMachine(POLICY), 0.0)  # nothing to heal with
    while queue:
        machine, now = queue.popleft()
        for answer in _answers(machine.tick(now=now), machine.state, now):
            yield move(machine, answer)


@functools.cache
def edges() -> tuple[Edge, ...]:
    """
    The arrows of the diagram, in the order of the states and then of their reasons. Found once: it takes seconds.
    """
    order = {state: number for number, state in enumerate(HealingState)}
    found = {edge for move in walk() for edge in move.edges}
    return tuple(sorted(found, key=lambda edge: (order[edge.before], order[edge.after], edge.why)))


def mermaid() -> str:
    """
    The diagram as Mermaid text.
    """
    reasons: dict[tuple[str, str], list[str]] = {}
    for edge in edges():
        reasons.setdefault((edge.before.name, edge.after.name), []).append(edge.why)
    lines = ["stateDiagram-v2", f"    [*] --> {HealingState.IDLE.name}"]
    lines += [f"    {before} --> {after}: {', '.join(whys)}" for (before, after), whys in reasons.items()]
    return "\n".join(lines) + "\n"


def copy_of(machine: HealingStateMachine) -> HealingStateMachine:
    """
    A machine that goes on from where *machine* is, which may be any within this walk.
    """
    return cast("HealingStateMachine", _copied(machine))


def _copied(part: object) -> object:
    # What changes are the parts of the machine, which this room makes, and their containers. All else is a value: to
    # copy it as well, as `deepcopy` does, takes most of the time, and the machine knows CHECK by identity.
    made = object.__new__(type(part))
    for name in _slots(type(part)):
        value: object = getattr(part, name)
        if isinstance(value, (list, dict, deque)):
            value = copy.copy(cast("object", value))
        elif _slots(type(value)):
            value = _copied(value)
        object.__setattr__(made, name, value)  # a part may be frozen
    return made


def _slots(kind: type[object]) -> tuple[str, ...]:
    """
    What a part of the machine consists of; nothing, for any other value.
    """
    if kind not in _SLOTS:
        room = kind.__module__.startswith(_ROOM)
        _SLOTS[kind] = tuple(name for base in kind.__mro__ for name in getattr(base, "__slots__", ()) if room)
    return _SLOTS[kind]


def _answers(step: Wait | Check | Recover | Revert, state: HealingState, now: float) -> list[Answer]:
    does = HealingStateMachine
    if isinstance(step, Check):
        known = [Answer(now, does.checked, (result,)) for result in _results(now)]
        # Nobody knows for a long time: the next tick finds it stale.
        unknown = CheckResult(HealthStatus.UNKNOWN, started_at=now)
        return [*known, Answer(now + POLICY.stale_after, does.checked, (unknown,))]
    if isinstance(step, Recover | Revert):
        told = does.recovered if isinstance(step, Recover) else does.reverted
        ended = [Answer(now + _ACTION_TAKES, told, (outcome,)) for outcome in _OUTCOMES]
        return [*ended, Answer(now, does.blocked, (Gate.COOLDOWN, now + 3 * _ACTION_TAKES))]
    answers = [
        Answer(step.until, does.tick),
        Answer(now + _LATE, does.tick),
        Answer(now, does.discard, ("walk",)),
    ]
    if state not in (HealingState.RECOVERING, HealingState.VERIFYING):
        answers.append(Answer(now, does.start_healing))
    return answers


def _results(now: float) -> tuple[CheckResult, ...]:
    return (
        CheckResult.healthy(started_at=now),
        CheckResult.unhealthy("error", started_at=now),
        CheckResult.unhealthy("stale", started_at=now),
        CheckResult.unhealthy("error", fatal=True, started_at=now),
    )


def _edges(before: HealingState, entries: Sequence[Entry]) -> tuple[Edge, ...]:
    moved = [entry.fields for entry in entries if entry.event == names.STATE_CHANGED]
    if moved:
        return tuple(
            Edge(HealingState(fields["from_state"]), HealingState(fields["to_state"]), str(fields["reason"]))
            for fields in moved
        )
    stays = [_STAYS[entry.event] for entry in entries if entry.event in _STAYS]
    return (Edge(before, before, stays[-1]),) if stays else ()
