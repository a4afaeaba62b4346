"""
Virtual time on asyncio, trio, beside a thread, and in the simulator; and what happens when nothing can happen.
"""

from __future__ import annotations

import math
import socket
import threading

from collections.abc import Awaitable, Callable

import anyio
import pytest

from selfheal import Healer, HealingPolicy, HealthCheck, RecoveryContext, Unhealthy, recovery_action
from selfheal.testing import Even, Flaky, VirtualClock, simulate
from selfheal.testing import clock as module


BACKENDS = pytest.mark.parametrize("backend", ["asyncio", "trio"])

POLICY = HealingPolicy(interval=10, fast_interval=1, timeout=5, jitter=0, fall=2, rise=2, probation=60)


class World:
    """
    A resource that breaks at 100 s and is healed by an action that takes half a minute.
    """

    def __init__(self, clock: VirtualClock) -> None:
        self.is_healed = False

        def probe() -> None:
            if clock.now() >= 100 and not self.is_healed:
                raise Unhealthy("stale")

        @recovery_action
        def renew(ctx: RecoveryContext) -> None:
            clock.pass_time(30)
            self.is_healed = True

        self.check = HealthCheck(probe, name="db", policy=POLICY, recovery=renew)


@BACKENDS
def test_time_jumps_to_what_is_next(backend: str) -> None:
    """
    A day of sleep takes no time, and whoever sleeps shorter wakes first.
    """
    clock = VirtualClock(start=5)
    woken: list[tuple[float, str]] = []

    async def sleep(seconds: float, name: str) -> None:
        await clock.sleep(seconds)
        woken.append((clock.now(), name))

    async def main() -> str:
        async with anyio.create_task_group() as group:
            group.start_soon(sleep, 86_400, "day")
            group.start_soon(sleep, 60, "minute")
        return "done"

    assert "done" == clock.run(main, backend=backend)
    assert [(65.0, "minute"), (86_405.0, "day")] == woken
    assert module.EPOCH + 86_405 == clock.wall()


@BACKENDS
def test_a_hang_on_a_loop_is_an_error(backend: str) -> None:
    """
    To wait for what can never come ends at once, with the time at which it was.
    """
    clock = VirtualClock()

    async def main() -> None:
        await clock.sleep(7)
        await anyio.Event().wait()

    with pytest.raises(RuntimeError, match="would wait for ever at 7: nothing is scheduled"):
        clock.run(main, backend=backend)


@BACKENDS
def test_what_is_ready_comes_before_time_passes(backend: str) -> None:
    """
    Bytes that lie in a socket are read before a timer fires.
    """
    clock = VirtualClock()
    left, right = socket.socketpair()

    async def main() -> bytes:
        left.sendall(b"ready")
        with anyio.fail_after(1):
            await anyio.wait_readable(right)
        return right.recv(5)

    with left, right:
        assert b"ready" == clock.run(main, backend=backend)
    assert 0 == clock.now()


@BACKENDS
def test_what_a_program_raises_gets_out(backend: str) -> None:
    """
    An error of the function under test is the error of the test.
    """

    async def main() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        VirtualClock().run(main, backend=backend)


def test_a_thread_of_a_healer_goes_as_far_as_it_is_let() -> None:
    """
    `advance` returns when everything due by then has been done, and not later.
    """
    clock = VirtualClock()
    seen: list[float] = []
    check = HealthCheck(lambda: seen.append(clock.now()), name="db", policy=POLICY)
    with Healer([check], clock=clock, phase=0, slack=0):
        clock.advance(25)
        assert [0, 10, 20] == seen
        clock.advance(5)
        assert [0, 10, 20, 30] == seen
        assert 30 == clock.now()


def test_waiting_for_health_passes_virtual_time() -> None:
    """
    `wait_healthy` of a sync program returns when the check is healthy, or after its timeout in virtual time.
    """
    clock = VirtualClock()
    probe = Flaky(script=[OSError("no")] * 3)
    with Healer([HealthCheck(probe, name="db", policy=POLICY)], clock=clock, phase=0, slack=0) as healer:
        assert not healer.wait_healthy("db", timeout=0.5)
        assert 0.5 == clock.now()
        assert healer.wait_healthy("db")
        assert 4 == clock.now()  # looked at 0, 1, 2 in vain; at 3 and 4 it is well


def test_a_hang_beside_a_thread_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    When the healer's thread does not move on, `advance` says so instead of waiting for ever.
    """
    monkeypatch.setattr(module, "HANG_AFTER", 0.05)
    clock = VirtualClock()
    released = threading.Event()
    check = HealthCheck(released.wait, name="db", policy=POLICY)
    with Healer([check], clock=clock, phase=0, slack=0, grace=0.1):
        try:
            with pytest.raises(TimeoutError, match="virtual time stands still at 0: something blocks"):
                clock.advance(1)
        finally:
            released.set()
            monkeypatch.setattr(module, "HANG_AFTER", 10.0)


def test_a_simulation_ends_when_it_is_told_to() -> None:
    """
    The clock stands at `until` afterwards, and what is not over is among the open incidents.
    """
    clock = VirtualClock()
    story = simulate([World(clock).check], until=140, clock=clock)
    assert 140 == clock.now() == story.until
    assert [] == list(story.incidents)
    assert ["db"] == [incident.check for incident in story.still_open]
    assert [(101.0, "renew")] == story.actions() == story.actions("db")
    assert [] == story.actions("nonesuch")


def test_the_same_checks_tell_the_same_story() -> None:
    """
    Nothing is left to chance: two simulations are equal, event by event, also with a policy that has jitter.
    """

    def story() -> list[tuple[float, str]]:
        clock = VirtualClock()
        told = simulate([World(clock).check], until=1000, clock=clock)
        return [(event.at, event.name) for event in told.events]

    assert story() == story()
    assert {0.5} == {Even().random() for _ in range(3)}


async def _for_ever(clock: VirtualClock) -> None:
    await clock.sleep(math.inf)


async def _elsewhere(_clock: VirtualClock) -> None:
    await anyio.sleep(1)


@pytest.mark.parametrize("hang", [_for_ever, _elsewhere])
def test_a_probe_that_never_ends_meets_its_deadline_in_a_simulation(
    hang: Callable[[VirtualClock], Awaitable[None]],
) -> None:
    """
    What waits for ever times out as anywhere; what waits for an event loop that is not there fails.
    """
    clock = VirtualClock()
    check = HealthCheck(lambda: hang(clock), name="db", policy=POLICY)
    story = simulate([check], until=100, clock=clock)
    kinds = {event.fields["kind"] for event in story.events if event.name == "selfheal.check.completed"}
    assert {"timeout" if hang is _for_ever else "error"} == kinds
