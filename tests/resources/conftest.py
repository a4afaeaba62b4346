"""
What tests of resources share: an object that knows what was done to it, and a context for actions.
"""

from __future__ import annotations

import threading

from collections.abc import Callable, Mapping

import attrs
import pytest

from selfheal.model import Fault, Incident, RecoveryContext
from selfheal.model.records import Field


@attrs.define(eq=False)
class Thing:
    """Stands for a pool: numbered, and closed once."""

    number: int
    closings: int = 0
    closed: threading.Event = attrs.field(factory=threading.Event)

    def close(self) -> None:
        self.closings += 1
        self.closed.set()

    def use(self) -> int:
        assert not self.closings, f"thing {self.number} is used after it was closed"
        return self.number


@attrs.define
class Maker:
    """Makes things, and keeps them all."""

    made: list[Thing] = attrs.field(factory=list)
    verified: list[Thing] = attrs.field(factory=list)
    error: Exception | None = None
    verify_error: Exception | None = None

    def make(self) -> Thing:
        if self.error is not None:
            raise self.error
        self.made.append(Thing(len(self.made) + 1))
        return self.made[-1]

    def verify(self, thing: Thing) -> None:
        self.verified.append(thing)
        if self.verify_error is not None:
            raise self.verify_error

    async def amake(self) -> Thing:
        return self.make()

    async def averify(self, thing: Thing) -> None:
        self.verify(thing)

    async def aclose(self, thing: Thing) -> None:
        thing.close()


def soon(claim: Callable[[], bool], *, within: float = 5.0) -> bool:
    """Wait until *claim* holds: what a background thread will have done in a moment."""
    pause = threading.Event()
    for _ in range(int(within / 0.001)):
        if claim():
            return True
        pause.wait(0.001)
    return claim()


@pytest.fixture
def maker() -> Maker:
    return Maker()


@pytest.fixture
def eventually() -> Callable[..., bool]:
    return soon


@pytest.fixture
def said() -> list[tuple[str, Mapping[str, Field]]]:
    return []


@pytest.fixture
def ctx(said: list[tuple[str, Mapping[str, Field]]]) -> RecoveryContext:
    fault = Fault("stale")
    return RecoveryContext(
        incident=Incident(number=1, trigger=fault, began=0.0, opened=0.0),
        fault=fault,
        rung=0,
        attempt=1,
        deadline=60.0,
        clock=lambda: 0.0,
        stopped=lambda: None,
        note=lambda message, fields: said.append((message, fields)),
    )
