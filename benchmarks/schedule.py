"""
What many checks cost: CPU beside APScheduler, lateness beside one asyncio task each, bytes in the schedule.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import gc
import random
import statistics
import time
import tracemalloc

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from apscheduler.schedulers.asyncio import AsyncIOScheduler

from benchmarks.harness import Case, Goal, Report, figure, measure, table
from selfheal import Healer, HealingPolicy, HealthCheck
from selfheal.runtime.schedule import Schedule, Timed


INTERVAL = 1.0
WARM_UP = 1.5
SECONDS = 3.0

Probe = Callable[[], Awaitable[None]]
Running = Callable[[list[Probe]], AbstractAsyncContextManager[None]]


@asynccontextmanager
async def healer(probes: list[Probe], *, slack: float | None = None) -> AsyncIterator[None]:
    policy = HealingPolicy(interval=INTERVAL, jitter=0.0)
    checks = [HealthCheck(probe, name=f"check-{number}", policy=policy) for number, probe in enumerate(probes)]
    async with Healer(checks, slack=slack):
        yield


def precise_healer(probes: list[Probe]) -> AbstractAsyncContextManager[None]:
    return healer(probes, slack=0.0)


@asynccontextmanager
async def tasks(probes: list[Probe]) -> AsyncIterator[None]:
    rng = random.Random()

    async def forever(probe: Probe) -> None:
        await asyncio.sleep(rng.random() * INTERVAL)
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + INTERVAL
            await probe()
            await asyncio.sleep(due - loop.time())

    running = [asyncio.ensure_future(forever(probe)) for probe in probes]
    try:
        yield
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


@asynccontextmanager
async def apscheduler(probes: list[Probe]) -> AsyncIterator[None]:
    rng = random.Random()
    scheduler = AsyncIOScheduler()
    now = dt.datetime.now(dt.UTC)
    for probe in probes:
        first = now + dt.timedelta(seconds=rng.random() * INTERVAL)
        scheduler.add_job(probe, "interval", seconds=INTERVAL, next_run_time=first, misfire_grace_time=None)
    scheduler.start()
    try:
        yield
    finally:
        scheduler.pause()
        await asyncio.sleep(0.1)  # what still runs may end, so that nothing is cancelled and complains
        scheduler.shutdown(wait=False)


def _microseconds(running: Running, count: int) -> Callable[[], float]:
    async def story() -> float:
        runs = 0

        async def probe() -> None:
            nonlocal runs
            runs += 1

        async with running([probe] * count):
            await asyncio.sleep(WARM_UP)
            first, start = runs, time.thread_time_ns()
            await asyncio.sleep(SECONDS)
            spent, done = time.thread_time_ns() - start, runs - first
        return spent / 1_000 / done

    return lambda: asyncio.run(story())


def _lateness(running: Running, count: int) -> float:
    """
    The 99th percentile, in milliseconds, of what two starts are further apart than the interval.
    """
    late: list[float] = []

    def make() -> Probe:
        last: float | None = None

        async def probe() -> None:
            nonlocal last
            now = time.perf_counter()
            if last is not None:
                late.append(now - last - INTERVAL)
            last = now

        return probe

    async def story() -> None:
        async with running([make() for _ in range(count)]):
            await asyncio.sleep(WARM_UP)
            late.clear()
            await asyncio.sleep(2 * SECONDS)

    gc.collect()
    asyncio.run(story())
    return 1_000 * statistics.quantiles(late, n=100)[98]


def _bytes_per_check(count: int = 10_000) -> float:
    """
    The peak of what the schedule holds for each check, replaced entries included.
    """
    things = [Timed() for _ in range(count)]
    rng = random.Random(3)
    tracemalloc.start()
    schedule = Schedule()
    for turn in range(4):
        for thing in things:
            schedule.put(thing, turn + rng.random(), 0.05)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return peak / count


def run() -> Report:
    cpu = measure(
        [
            Case("selfheal", _microseconds(healer, 1_000), "probe, deadline, state machine, events; slack 50 ms"),
            Case("selfheal, slack 0", _microseconds(precise_healer, 1_000), "the same, none late on purpose"),
            Case("asyncio task each", _microseconds(tasks, 1_000), "a timer and nothing else"),
            Case("APScheduler", _microseconds(apscheduler, 1_000), "job store, misfire rules, events; no deadline"),
        ],
        rounds=7,
    )
    late: dict[str, list[float]] = {"selfheal, slack 0": [], "asyncio task each": []}
    for _ in range(5):
        for name, running in random.sample([*zip(late, (precise_healer, tasks), strict=True)], 2):
            late[name].append(_lateness(running, 10_000))
    lateness = {name: figure(name, values) for name, values in late.items()}
    size = _bytes_per_check()
    text = (
        "CPU microseconds of one run, 1,000 checks a second, async probes that do nothing:\n\n"
        + table(cpu, unit="us", base="APScheduler", digits=1)
        + "\n\n99th percentile of lateness in milliseconds, 10,000 checks a second, median of 5 runs:\n\n"
        + table(lateness, unit="ms", base="asyncio task each", digits=2)
        + f"\n\nA check takes at most {size:.0f} bytes in the schedule, replaced entries included."
    )
    goals = [
        Goal(
            "CPU of 1,000 checks a second beside APScheduler", cpu["selfheal"].median / cpu["APScheduler"].median, 0.6
        ),
        Goal(
            "p99 lateness of 10,000 checks a second beside one asyncio task each, slack 0",
            lateness["selfheal, slack 0"].median / lateness["asyncio task each"].median,
            5.0,
        ),
        Goal("bytes of a check in the schedule", size, 512, unit="B"),
    ]
    return Report("Many checks", text, goals)
