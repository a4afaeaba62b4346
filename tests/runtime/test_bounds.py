"""
What grows in the long run: nothing.
"""

from __future__ import annotations

import asyncio
import gc
import inspect
import logging
import sys
import threading

import pytest

from selfheal import Healer, HealingPolicy, HealthCheck, names
from selfheal.clock import SystemClock
from selfheal.model import Event
from selfheal.runtime.hosts import Stopped, running_host
from selfheal.runtime.leash import awaiting
from selfheal.runtime.listeners import LIMIT, Dispatcher
from selfheal.runtime.schedule import Schedule, Timed
from selfheal.testing import Even, VirtualClock


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize("what", ["flickers", "slow"])
def test_memory_stays_flat(backend: str, what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Thousands of runs, with suspicions, timeouts and abandoned runs among them, leave nothing behind.
    """
    monkeypatch.setattr(logging.getLogger("selfheal"), "disabled", True)  # pytest keeps every record
    clock, runs = VirtualClock(), [0]

    async def flickers() -> bool:
        runs[0] += 1
        return runs[0] % 7 != 0

    async def slow() -> None:
        runs[0] += 1
        if runs[0] % 11 == 0:
            try:
                await clock.sleep(5)
            except BaseException:
                await clock.sleep(3)

    policy = HealingPolicy(interval=2, fast_interval=1, timeout=1, jitter=0, fall=5, verify_within=6)
    probe = {"flickers": flickers, "slow": slow}[what]
    checks = [HealthCheck(probe, name=f"{what}{n}", policy=policy) for n in range(3)]
    healer = Healer(checks, clock=clock, phase=0, slack=0, random=Even())
    blocks = []

    async def main() -> None:
        async with healer:
            for seconds in (1_000, 2_000):  # after the first of them all rings are full
                await clock.sleep(seconds)
                gc.collect()
                blocks.append(sys.getallocatedblocks())

    clock.run(main, backend=backend)

    assert runs[0] > 4_000
    assert blocks[1] - blocks[0] < 500


def test_runs_that_find_all_well_keep_no_garbage_collector_busy() -> None:
    """
    Of a good run no object stays that is collected one day: the application's loop would stand still for it.
    """
    clock = VirtualClock()

    async def probe() -> None: ...

    policy = HealingPolicy(interval=2, timeout=1, jitter=0)
    checks = [HealthCheck(probe, name=f"check-{number}", policy=policy) for number in range(200)]
    healer = Healer(checks, clock=clock, slack=0, random=Even())
    survivors = []

    async def main() -> None:
        async with healer:
            await clock.sleep(10)
            gc.collect()
            gc.disable()
            try:
                await clock.sleep(10)
                gc.collect(0)
                survivors.extend(gc.get_objects(generation=1))
            finally:
                gc.enable()

    clock.run(main)

    assert len(survivors) < len(checks) / 2
    assert all(status.last is not None and status.last.duration == 0 for status in healer.status().values())


def test_a_heap_of_times_keeps_two_entries_a_thing() -> None:
    """
    However often times are replaced, the heap is compacted.
    """
    schedule, things = Schedule(), [Timed() for _ in range(50)]
    for turn in range(10_000):
        schedule.put(things[turn % 50], turn)

    assert 50 == len(schedule)
    assert len(schedule._heap) <= 101


def test_events_that_nobody_takes_in_are_dropped_and_counted() -> None:
    """
    A listener that hangs makes at most so many events wait; the rest is counted.
    """
    dispatcher, release, heard = Dispatcher(), threading.Event(), threading.Event()

    def hang(event: Event) -> None:
        heard.set()
        release.wait(30)

    dispatcher.add(hang)
    dispatcher.put(Event(name=names.HEALER_STARTED, at=0.0))
    assert heard.wait(5)
    for _ in range(LIMIT + 10):
        dispatcher.put(Event(name=names.HEALER_STARTED, at=0.0))
    release.set()

    assert 10 == dispatcher.dropped


@pytest.mark.parametrize("error", [ValueError, SystemExit, KeyboardInterrupt])
def test_whatever_a_listener_raises_the_next_event_comes(error: type[BaseException]) -> None:
    """
    No exception of a listener, of whatever kind, ends the thread that serves them.
    """
    dispatcher, heard, done = Dispatcher(), [], threading.Event()

    def bad(event: Event) -> None:
        raise error

    dispatcher.add(bad)
    dispatcher.add(heard.append, [names.HEALER_STARTED])
    for _ in range(3):
        dispatcher.put(Event(name=names.HEALER_STARTED, at=0.0))
    dispatcher.close(done.set)

    assert done.wait(5)
    assert 3 == len(heard) == dispatcher.failed


def test_an_awaitable_that_is_cancelled_before_it_is_awaited_is_closed() -> None:
    """
    A probe that hands out a coroutine, at the moment in which its healer stops, leaves none behind that nobody awaits.
    """
    told: list[tuple[object, BaseException | None]] = []

    async def look() -> None:
        raise AssertionError("it is never begun")

    async def main() -> None:
        coroutine = look()
        host = running_host(SystemClock())
        host.start(*awaiting(coroutine, lambda *ended: told.append(ended))).cancel()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert inspect.getcoroutinestate(coroutine) == inspect.CORO_CLOSED
        host.let_go()

    asyncio.run(main())

    ((value, error),) = told
    assert value is None
    assert isinstance(error, Stopped)
