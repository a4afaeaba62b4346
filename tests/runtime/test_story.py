"""
One story on every driver.
"""

from __future__ import annotations

import math

import pytest

from selfheal import Healer, HealingPolicy, HealthCheck, RecoveryAction, Unhealthy
from selfheal.model import Event, RecoveryContext
from selfheal.testing.clock import Even, VirtualClock
from selfheal.testing.simulator import simulate, states


UNTIL = 400.0

#: Breaks at 10 s; the first action takes a minute and helps for 13 s; the second one holds and is stepped down.
STORY = [
    (10.0, "detecting"),
    (11.0, "recovering"),
    (71.0, "verifying"),
    (72.0, "restored"),
    (88.0, "recovering"),
    (93.0, "verifying"),
    (94.0, "restored"),
    (155.0, "idle"),
]

ACTIONS = [(11.0, "restart"), (88.0, "divert"), (124.0, "divert")]


class Restart(RecoveryAction):
    """
    Helps for 13 seconds.
    """

    def __init__(self, world: World) -> None:
        self.world = world

    async def recover(self, ctx: RecoveryContext) -> None:
        await self.world.clock.sleep(60)
        self.world.good_until = self.world.clock.now() + 13


class Divert(RecoveryAction):
    """
    Helps for good, and is stepped down.
    """

    def __init__(self, world: World) -> None:
        self.world = world

    async def recover(self, ctx: RecoveryContext) -> None:
        await self.world.clock.sleep(5)
        self.world.good_until = math.inf

    async def revert(self, ctx: RecoveryContext) -> None:
        await self.world.clock.sleep(1)


class World:
    """
    A resource that breaks at 10 s, and the check that watches it.
    """

    def __init__(self, clock: VirtualClock) -> None:
        self.clock = clock
        self.good_until = 10.0
        policy = HealingPolicy(
            interval=5, fast_interval=1, timeout=2, jitter=0, fall=2, rise=2, probation=30, action_timeout=100
        )
        self.check = HealthCheck(self.probe, name="db", policy=policy, recovery=Restart(self) >> Divert(self))

    async def probe(self) -> None:
        if self.clock.now() >= self.good_until:
            raise Unhealthy("stale")


def healer_of(clock: VirtualClock) -> tuple[Healer, list[Event]]:
    """
    A healer without jitter, phase and slack, and everything that happens to it.
    """
    events: list[Event] = []
    healer = Healer([World(clock).check], clock=clock, phase=0, slack=0, random=Even())
    healer.on_event(events.append)
    return healer, events


def on_asyncio() -> list[Event]:
    return on_loop("asyncio")


def on_trio() -> list[Event]:
    return on_loop("trio")


def on_loop(backend: str) -> list[Event]:
    clock = VirtualClock()
    healer, events = healer_of(clock)

    async def main() -> None:
        async with healer:
            await clock.sleep(UNTIL)

    clock.run(main, backend=backend)
    return events


def on_thread() -> list[Event]:
    clock = VirtualClock()
    healer, events = healer_of(clock)
    with healer:
        clock.advance(UNTIL)
    return events


def simulated() -> list[Event]:
    clock = VirtualClock()
    return list(simulate([World(clock).check], until=UNTIL, clock=clock).events)


@pytest.mark.parametrize("driver", [on_asyncio, on_trio, on_thread, simulated])
def test_every_driver_tells_the_same_story(driver):
    """
    Event loops, thread and simulator make the same transitions and actions at the same times.
    """
    events = driver()

    assert STORY == states(events)
    assert ACTIONS == [
        (event.at, event.fields["action"]) for event in events if event.name == "selfheal.action.started"
    ]


def test_drivers_agree_on_every_event():
    """
    Whatever one driver reports until the end, the others report too, in the same order and at the same times.
    """
    told = {
        driver.__name__: [
            (event.at, event.name, event.check, dict(event.fields)) for event in driver() if event.at < UNTIL
        ]
        for driver in (on_asyncio, on_trio, on_thread, simulated)
    }

    assert told["simulated"] == told["on_asyncio"] == told["on_trio"] == told["on_thread"]
