"""
Checks that are removed and added, listeners and probes that call the healer, while something is going on.
"""

from __future__ import annotations

import anyio
import pytest

from selfheal import Healer, HealingPolicy, HealthCheck, RecoveryAction, Unhealthy, names, recovery_action
from selfheal.errors import NotRunningError, UnknownCheckError
from selfheal.model import Event
from selfheal.testing import Even, VirtualClock


POLICY = HealingPolicy(interval=5, fast_interval=1, timeout=2, jitter=0, fall=2, probation=10, action_timeout=20)


def healer_of(clock: VirtualClock, *checks: HealthCheck) -> tuple[Healer, list[Event]]:
    """A healer without phase and slack, and what it tells."""
    events: list[Event] = []
    healer = Healer(checks, clock=clock, phase=0, slack=0, random=Even())
    healer.on_event(events.append)
    return healer, events


def started(events: list[Event]) -> list[tuple[float, str, object]]:
    """When which check has started what."""
    return [(event.at, event.check, event.fields["action"]) for event in events if event.name == names.ACTION_STARTED]


async def stubborn(clock: VirtualClock, seconds: float) -> None:
    """Sleeps on, whatever it is told."""
    until = clock.now() + seconds
    while clock.now() < until:
        try:
            await clock.sleep(until - clock.now())
        except BaseException:
            continue


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize("at", [0.5, 1.5, 25, 50])
def test_a_removed_check_does_nothing_any_more(backend: str, at: float) -> None:
    """
    Removed during a run, an action, an abandoned action or after it: it never runs again, and starts nothing.
    """
    clock = VirtualClock()

    @recovery_action
    async def hangs(ctx) -> None:
        await stubborn(clock, 40)

    async def probe() -> None:
        await clock.sleep(0.9)
        raise Unhealthy("stale")

    healer, events = healer_of(
        clock,
        HealthCheck(probe, name="db", policy=POLICY, recovery=hangs),
        HealthCheck(lambda: None, name="fine", policy=POLICY),
    )

    async def main() -> None:
        async with healer:
            await clock.sleep(at)
            healer.remove("db")
            await clock.sleep(200 - at)
            assert ["fine"] == list(healer.status())

    clock.run(main, backend=backend)

    assert [] == [
        event
        for event in events
        if event.check == "db"
        and event.at > at
        and event.name in {names.CHECK_COMPLETED, names.ACTION_STARTED, names.STATE_CHANGED, names.INCIDENT_OPENED}
    ]
    assert healer.step_errors == 0


def test_a_check_removed_while_it_asks_for_the_better_state_rests() -> None:
    """
    Removed while its `revert_when` is being asked, it steps nothing down.
    """
    clock = VirtualClock()
    diverted = [False]

    class Divert(RecoveryAction):
        async def recover(self, ctx) -> None:
            diverted[0] = True

        async def revert(self, ctx) -> None:
            raise AssertionError("it was removed")

        async def revert_when(self) -> bool:
            asked.append(clock.now())
            await clock.sleep(1)
            return True

    asked: list[float] = []
    healer, events = healer_of(clock, HealthCheck(lambda: diverted[0], name="db", policy=POLICY, recovery=Divert()))

    async def main() -> None:
        async with healer:
            while not asked:
                await clock.sleep(0.5)
            healer.remove("db")
            await clock.sleep(200)

    clock.run(main)

    assert 1 == len(asked)
    assert [(1.0, "db", "divert")] == started(events)


def test_a_resource_stays_busy_for_the_next_check_of_it() -> None:
    """
    An abandoned action of a check that was removed keeps its resource busy for a check that is added meanwhile.
    """
    clock = VirtualClock()

    @recovery_action
    async def hangs(ctx) -> None:
        await stubborn(clock, 40)

    @recovery_action
    async def mend(ctx) -> None:
        return None

    healer, events = healer_of(
        clock, HealthCheck(lambda: False, name="old", resource="db", policy=POLICY, recovery=hangs)
    )

    async def main() -> None:
        async with healer:
            await clock.sleep(5)
            healer.remove("old")
            healer.add(HealthCheck(lambda: False, name="new", resource="db", policy=POLICY, recovery=mend))
            await clock.sleep(20)
            assert "busy" in str(healer.explain("new"))
            await clock.sleep(40)

    clock.run(main)

    assert [(1.0, "old", "hangs")] == started(events)[:1]
    assert "mend" == started(events)[1][2]
    assert started(events)[1][0] > 41


def test_whoever_waits_for_health_learns_that_it_will_not_come() -> None:
    """
    Waiting ends with an error when the check is removed, and when the healer stops; it never goes on for ever.
    """
    clock = VirtualClock()
    healer, _ = healer_of(
        clock, *(HealthCheck(lambda: False, name=name, policy=POLICY) for name in ("removed", "stopped"))
    )
    errors: dict[str, type[Exception]] = {}

    async def wait(name: str) -> None:
        try:
            await healer.await_healthy(name)
        except Exception as exc:
            errors[name] = type(exc)

    async def main() -> None:
        async with anyio.create_task_group() as waits, healer:
            for name in ("removed", "stopped"):
                waits.start_soon(wait, name)
            await clock.sleep(3)
            healer.remove("removed")
            await clock.sleep(1)
            assert {"removed": UnknownCheckError} == errors

    clock.run(main)

    assert {"removed": UnknownCheckError, "stopped": NotRunningError} == errors


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_listeners_may_call_the_healer(backend: str) -> None:
    """
    A listener that heals, pauses, adds and removes, at every event there is, breaks nothing.
    """
    clock = VirtualClock()
    calls: list[str] = []
    other = HealthCheck(lambda: None, name="other", policy=POLICY)

    @recovery_action
    async def mend(ctx) -> None:
        await clock.sleep(1)

    healer, events = healer_of(
        clock,
        HealthCheck(lambda: clock.now() > 30, name="db", policy=POLICY, recovery=mend),
        HealthCheck(lambda: None, name="fine", policy=POLICY),
    )

    def meddle(event: Event) -> None:
        calls.append(event.name)
        match len(calls) % 6:
            case 0 if "other" not in healer.status():
                healer.add(other)
            case 1 if "other" in healer.status():
                healer.remove("other")
            case 2 if event.name == names.CHECK_COMPLETED:
                healer.check_now("fine")
            case 3 if event.name != names.RESOURCE_PAUSED:
                healer.pause("meddling", resource="db", ttl=1)
            case 4 if event.name == names.STATE_CHANGED:
                healer.explain("db")
            case _ if event.name == names.CHECK_COMPLETED and event.check == "fine" and len(calls) < 2000:
                healer.resume(resource="db")

    healer.on_event(meddle)

    async def main() -> None:
        async with healer:
            await clock.sleep(100)

    clock.run(main, backend=backend)

    assert 0 == healer.step_errors == healer.listener_errors
    assert [event.at for event in events] == sorted(event.at for event in events)
    assert len([event for event in events if event.check == "fine"]) >= 20


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize("colour", ["sync", "async"])
def test_probes_may_call_the_healer(backend: str, colour: str) -> None:
    """
    A probe that asks for another run, pauses and adds checks, even as it runs itself, breaks nothing.
    """
    clock = VirtualClock()
    runs: list[float] = []

    def sync() -> None:
        runs.append(clock.now())
        healer.check_now("self")
        healer.check_now("fine")
        healer.pause("probing", ttl=1)
        healer.resume()
        if len(runs) == 2:
            healer.add(HealthCheck(lambda: None, name="late", policy=POLICY))

    async def is_async() -> None:
        sync()

    probe = sync if colour == "sync" else is_async
    healer, _ = healer_of(
        clock, HealthCheck(probe, name="self", policy=POLICY), HealthCheck(lambda: None, name="fine", policy=POLICY)
    )

    async def main() -> None:
        async with healer:
            await clock.sleep(30)
            assert {"self", "fine", "late"} == set(healer.status())

    clock.run(main, backend=backend)

    assert 0 == healer.step_errors
    assert 6 <= len(runs) <= 8
