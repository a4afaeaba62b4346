"""
A machine driven by hand: results and outcomes in, steps out, time as far as the machine wants to wait.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from selfheal import names
from selfheal.healing import HealingStateMachine
from selfheal.model import (
    Check,
    CheckResult,
    Entry,
    Fault,
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


Step = Wait | Check | Recover | Revert

#: Numbers that are easy to reckon with; a test names those that it is about.
NUMBERS = {"interval": 10, "fast_interval": 1, "timeout": 1, "jitter": 0, "fall": 2, "rise": 2, "verify_within": 10}


def only(*kinds: str) -> Callable[[Fault], bool]:
    return lambda fault: fault.kind in kinds


class Hand:
    """Drives a machine; `now` moves on by itself to where the next check is due."""

    def __init__(self, *rungs: Rung, destructive: bool = False, uniform: Callable[[], float] | None = None, **numbers):
        self.policy = HealingPolicy(**{**NUMBERS, **numbers})
        options = {} if uniform is None else {"uniform": uniform}
        self.machine = HealingStateMachine(self.policy, Ladder(rungs), allow_destructive=destructive, **options)
        self.now = 0.0

    def tick(self) -> Step:
        step = self.machine.tick(now=self.now)
        assert not isinstance(step, Wait) or step.until > self.now
        return step

    def ask(self) -> Step:
        """The next step that is no wait; the time moves on to it."""
        step = self.tick()
        while isinstance(step, Wait):
            self.now = step.until
            step = self.tick()
        return step

    def check(self, result: CheckResult) -> None:
        step = self.ask()
        assert Check() == step
        self.machine.checked(result, now=self.now)

    def good(self, count: int = 1) -> None:
        for _ in range(count):
            self.check(CheckResult.healthy(started_at=self._due()))

    def bad(self, count: int = 1, kind: str = "error", *, fatal: bool = False) -> None:
        for _ in range(count):
            self.check(CheckResult.unhealthy(kind, fatal=fatal, started_at=self._due()))

    def shows(self, status: HealthStatus, count: int = 1) -> None:
        for _ in range(count):
            self.check(CheckResult(status, fault=Fault("error"), started_at=self._due()))

    def unknown(self, count: int = 1) -> None:
        self.shows(HealthStatus.UNKNOWN, count)

    def ends(self, outcome: Outcome | None = None, *, took: float = 1.0) -> None:
        """The action or the revert that is asked for now ends."""
        step = self.ask()
        self.now += took
        answer = self.machine.recovered if isinstance(step, Recover) else self.machine.reverted
        answer(outcome or Outcome.done(), now=self.now)

    def fails(self, *, took: float = 1.0) -> None:
        self.ends(Outcome.failed(RuntimeError()), took=took)

    def blocked(self, gate: Gate = Gate.PAUSED, until: float | None = None) -> None:
        self.ask()
        self.machine.blocked(gate, until, now=self.now)

    def falls(self, kind: str = "error") -> None:
        """A fault is confirmed."""
        self.bad(self.policy.fall, kind)

    def heals(self) -> None:
        """The action that is asked for now helps."""
        self.ends()
        self.good(self.policy.rise)

    def survives(self) -> None:
        """Health holds until the machine is idle again."""
        step = self.tick()
        while self.machine.state is not HealingState.IDLE:
            if isinstance(step, Wait):
                self.now = step.until
            elif isinstance(step, Revert):
                self.ends()
            else:
                self.good()
            step = self.tick()

    def moves(self) -> list[tuple[str, str]]:
        """The changes of state since `moves` or `events` was called last."""
        return [
            (str(entry.fields["from_state"]), str(entry.fields["to_state"]))
            for entry in self.machine.entries()
            if entry.event == names.STATE_CHANGED
        ]

    def entries(self, event: str) -> list[Entry]:
        return [entry for entry in self.machine.entries() if entry.event == event]

    def _due(self) -> float:
        step = self.ask()
        assert Check() == step
        return self.now


@pytest.fixture
def by_hand() -> type[Hand]:
    return Hand


@pytest.fixture
def rung() -> Callable[..., Rung]:
    def make(name: str, *, kinds: tuple[str, ...] = (), **options) -> Rung:
        if kinds:
            options["applies"] = only(*kinds)
        return Rung(action=name, name=name, **options)

    return make


def inside(value: object) -> object:
    """All that an object of the machine remembers, comparable."""
    if isinstance(value, list | tuple):
        return [inside(item) for item in value]
    slots = [name for cls in type(value).__mro__ for name in getattr(cls, "__slots__", ())]
    if not type(value).__module__.startswith("selfheal.healing"):
        return repr(value)
    return {name: inside(getattr(value, name)) for name in slots}


@pytest.fixture
def memory() -> Callable[[HealingStateMachine], object]:
    return inside
