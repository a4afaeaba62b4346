"""
The stream of events against the table of events.
"""

from __future__ import annotations

import itertools
import math

from collections.abc import Iterator

import pytest

from selfheal import Healer, HealingPolicy, HealthCheck, RecoveryAction, Unhealthy, names, recovery_action, rung
from selfheal.model import Entry, Event, HeldChange, HeldKey, HeldPhase
from selfheal.testing import Even, VirtualClock


POLICY = HealingPolicy(
    interval=5, fast_interval=1, timeout=2, jitter=0, fall=2, probation=10, action_timeout=20, max_actions=4,
    retry_after=100,
)  # fmt: skip


class Monitor:
    """Raises."""

    def assess(self, *, now: float) -> None:
        raise ValueError

    def forget(self) -> None:
        return None


class Wipe(RecoveryAction):
    """Is not allowed."""

    destructive = True

    def recover(self, ctx) -> None:
        raise AssertionError


class World:
    """
    Checks that go through everything there is an event for.
    """

    def __init__(self, clock: VirtualClock) -> None:
        self.clock = clock
        self.diverted = False

    def needs_diversion(self) -> None:
        if 10 <= self.clock.now() < 50 and not self.diverted:
            raise Unhealthy("down")

    async def hangs_once(self) -> None:
        if self.clock.now() < 1:
            try:
                await self.clock.sleep(50)
            except BaseException:
                await self.clock.sleep(5)

    def takes_time(self) -> None:
        self.clock.pass_time(0.3)

    def checks(self) -> Iterator[HealthCheck]:
        """One for each story."""
        clock = self.clock
        useless = recovery_action(lambda ctx: None, name="useless")
        twice = Wipe() >> rung(useless, attempts=2)
        yield HealthCheck(self.needs_diversion, name="diverted", policy=POLICY, recovery=Divert(self))
        yield HealthCheck(lambda: False, name="hopeless", policy=POLICY, recovery=twice)
        yield HealthCheck(lambda: False, name="stuck", policy=POLICY, recovery=Hangs(self))
        yield HealthCheck(self.hangs_once, name="slow", policy=POLICY)
        yield HealthCheck(lambda: clock.now() != 10, name="flicker", policy=POLICY)
        yield HealthCheck(lambda: 7, name="nonsense", policy=POLICY)
        yield HealthCheck(lambda: None, name="left", policy=POLICY, recovery=Leave())
        yield HealthCheck(lambda: None, name="blind", policy=POLICY, monitors=[Monitor()])
        yield HealthCheck(self.takes_time, name="first", policy=POLICY)
        yield HealthCheck(self.takes_time, name="second", policy=POLICY)
        yield HealthCheck(
            lambda: clock.now() < 60, name="waiting", policy=POLICY, recovery=useless, depends_on=["stuck"]
        )


class Divert(RecoveryAction):
    """Is stepped down at the second try."""

    def __init__(self, world: World) -> None:
        self.world = world

    def recover(self, ctx) -> None:
        ctx.log("there it goes")
        self.world.diverted = True

    def revert(self, ctx) -> None:
        if self.world.clock.now() < 80:
            raise RuntimeError("not yet")
        self.world.diverted = False


class Leave(RecoveryAction):
    """Was left by the process before."""

    def recover(self, ctx) -> None:
        raise AssertionError

    def revert(self, ctx) -> None:
        return None


class Troubled:
    """A journal that knows of two changes somebody has left, and takes in nothing."""

    def start(self, clock, tell) -> None:
        return None

    def write(self, event) -> None:
        return None

    def mark(self, key, phase, answer) -> None:
        answer(False)

    def claim(self, keys, answer) -> None:
        lefts = HeldKey("left", "leave", "leave", 0), HeldKey("gone", "leave", "leave", 0)
        answer([HeldChange(number, key, HeldPhase.APPLIED, 0.0, "", 0) for number, key in enumerate(lefts)])

    def close(self, done) -> None:
        done()


class Hangs(RecoveryAction):
    """Takes 40 seconds, whatever it is told."""

    def __init__(self, world: World) -> None:
        self.clock = world.clock

    async def recover(self, ctx) -> None:
        until = self.clock.now() + 40
        while self.clock.now() < until:
            try:
                await self.clock.sleep(until - self.clock.now())
            except BaseException:
                continue


@pytest.fixture(params=["asyncio", "trio"])
def events(request: pytest.FixtureRequest) -> list[Event]:
    """All that happens in five minutes, and while the healer stops and steps down."""
    clock, told = VirtualClock(), []
    world = World(clock)
    healer = Healer(world.checks(), clock=clock, phase=0, slack=0, random=Even(), journal=Troubled())

    def raises(event: Event) -> None:
        if event.name == names.HEALER_STARTED:
            raise ValueError

    healer.on_event(raises)
    healer.on_event(told.append)

    async def main() -> None:
        await healer.astart()
        await clock.sleep(150)
        healer.audit("pause", "diverted")
        healer.pause("a look", ttl=20)
        await clock.sleep(10)
        healer.resume()
        healer.heal("diverted")
        await clock.sleep(5)
        await healer.astop(revert=True)

    clock.run(main, backend=request.param)
    return told


def test_every_event_has_the_fields_of_the_table(events: list[Event]) -> None:
    """
    Every event there is but a journal's own happens here, and each has exactly the fields that the table gives it.
    """
    own = {names.JOURNAL_LOST, names.JOURNAL_RESTORED, names.JOURNAL_REPLACED}
    assert set(names.EVENTS) - own == {event.name for event in events}
    assert [] == [
        (event.name, dict(event.fields))
        for event in events
        if set(names.EVENTS[event.name].fields) != set(event.fields)
    ]


def test_fields_are_plain_values(events: list[Event]) -> None:
    """
    A field is a word, a number, a truth or nothing; no number is infinite.
    """
    values = [value for event in events for value in event.fields.values()]

    assert {str, int, float, bool, type(None)} >= {type(value) for value in values}
    assert all(math.isfinite(value) for value in values if isinstance(value, float))


def test_every_event_of_an_incident_carries_its_number(events: list[Event]) -> None:
    """
    From the opening to the closing, both included, every event of a check has the number of the incident.
    """
    last: dict[str, int] = {}
    number: dict[str, int] = {}
    wrong = []
    for event in events:
        if event.name == names.INCIDENT_OPENED:
            number[event.check] = last[event.check] = last.get(event.check, 0) + 1
        if event.incident != number.get(event.check):
            wrong.append(event)
        if event.name == names.INCIDENT_CLOSED:
            del number[event.check]

    assert [] == wrong
    assert {} == number
    assert {"diverted": 2, "hopeless": 1, "slow": 1, "stuck": 1, "waiting": 1} == last


def test_events_come_in_the_order_in_which_they_happen(events: list[Event]) -> None:
    """
    Time never goes backwards in the stream.
    """
    assert [event.at for event in events] == sorted(event.at for event in events)


def test_whoever_is_not_healed_has_a_reason_in_the_timeline() -> None:
    """
    In RECOVERING there is, at every result, an action that runs or a reason written down why there is none.
    """
    clock, told = VirtualClock(), []
    healer = Healer(World(clock).checks(), clock=clock, phase=0, slack=0, random=Even())
    healer.on_event(told.append)

    async def main() -> None:
        async with healer:
            await clock.sleep(150)
            timelines.update(
                (name, status.incident.timeline) for name, status in healer.status().items() if status.incident
            )

    timelines: dict[str, tuple[Entry, ...]] = {}
    clock.run(main)
    timelines.update((incident.check, incident.timeline) for incident in healer.incidents())

    for check in ("hopeless", "stuck", "waiting"):
        entries = [entry for entry in timelines[check] if entry.event in _REASONS or entry.event == names.STATE_CHANGED]
        follows = [after for before, after in itertools.pairwise(entries) if _enters(before, "recovering")]
        assert follows
        assert [] == [entry for entry in follows if entry.event not in _REASONS and not _enters(entry, "exhausted")]


_REASONS = {names.ACTION_STARTED, names.ACTION_BLOCKED, names.RUNG_REFUSED}


def _enters(entry: Entry, state: str) -> bool:
    return entry.event == names.STATE_CHANGED and entry.fields["to_state"] == state
