"""
What a call through `LatencyMonitor.timed` costs, beside breakers and retries, which users put in the same place.
"""

from __future__ import annotations

import asyncio
import functools
import time

from collections import deque
from collections.abc import Awaitable, Callable
from time import perf_counter
from typing import Any

import aiobreaker
import circuitbreaker
import purgatory
import pybreaker
import stamina
import tenacity

from hyx.circuitbreaker import consecutive_breaker

from benchmarks.harness import Case, Goal, Report, measure, nanoseconds, table
from selfheal import LatencyMonitor


CALLS = 10_000

Function = Callable[[], Any]


def floor(func: Function) -> Function:
    now, record = perf_counter, deque[float](maxlen=1024).append

    @functools.wraps(func)
    def inner(*args: Any, **kwargs: Any) -> Any:
        start = now()
        try:
            return func(*args, **kwargs)
        finally:
            record(now() - start)

    return inner


def async_floor(func: Function) -> Function:
    now, record = perf_counter, deque[float](maxlen=1024).append

    @functools.wraps(func)
    async def inner(*args: Any, **kwargs: Any) -> Any:
        start = now()
        try:
            return await func(*args, **kwargs)
        finally:
            record(now() - start)

    return inner


def timed(func: Function) -> Function:
    return LatencyMonitor(window_size=50, threshold_ms=500).timed(func)


def sync_purgatory(func: Function) -> Any:
    return purgatory.SyncCircuitBreakerFactory()("bench")(func)


def async_purgatory(func: Function) -> Any:
    return purgatory.AsyncCircuitBreakerFactory()("bench")(func)


_BARE = "the function alone"
_FLOOR = "reads the clock twice and appends: nothing that records latency is cheaper"
_TIMED = "records latency for a sliding window; no guard, no counter, no retry"
_BREAKER = "guard and failure counter; no latency, no window"
_LOCKED = "guard under a lock that is held while the function runs, failure counter; no latency, no window"
_STAMINA = "retry with hooks; no guard, no latency"
_TENACITY = "retry with statistics; no guard, no latency"

SYNC: dict[str, tuple[Callable[[Function], Function], str]] = {
    "bare": (lambda func: func, _BARE),
    "floor": (floor, _FLOOR),
    "selfheal timed": (timed, _TIMED),
    "circuitbreaker": (circuitbreaker.circuit(name="sync"), _BREAKER),
    "pybreaker": (pybreaker.CircuitBreaker(), _LOCKED),
    "purgatory": (sync_purgatory, _BREAKER),
    "aiobreaker": (aiobreaker.CircuitBreaker(), _BREAKER),
    "stamina": (stamina.retry(on=Exception, attempts=3), _STAMINA),
    "tenacity": (tenacity.retry(stop=tenacity.stop_after_attempt(3)), _TENACITY),
}

#: pybreaker is absent: around an async function it guards the making of the coroutine, not the call.
ASYNC: dict[str, tuple[Callable[[Function], Function], str]] = {
    "bare": (lambda func: func, _BARE),
    "floor": (async_floor, _FLOOR),
    "selfheal timed": (timed, _TIMED),
    "circuitbreaker": (circuitbreaker.circuit(name="async"), _BREAKER),
    "purgatory": (async_purgatory, _BREAKER),
    "aiobreaker": (aiobreaker.CircuitBreaker(), _BREAKER),
    "hyx": (consecutive_breaker(), _BREAKER),
    "stamina": (stamina.retry(on=Exception, attempts=3), _STAMINA),
    "tenacity": (tenacity.retry(stop=tenacity.stop_after_attempt(3)), _TENACITY),
}


def noop() -> None:
    pass


async def async_noop() -> None:
    pass


def _async_cost(runner: asyncio.Runner, call: Callable[[], Awaitable[object]], calls: int) -> Callable[[], float]:
    async def repeat() -> float:
        start = time.thread_time_ns()
        for _ in range(calls):
            await call()
        return (time.thread_time_ns() - start) / calls

    return lambda: runner.run(repeat())


def _calls(name: str) -> int:
    return CALLS // 20 if name in {"stamina", "tenacity"} else CALLS


def run() -> Report:
    sync = measure(
        [Case(name, nanoseconds(wrap(noop), _calls(name)), duty) for name, (wrap, duty) in SYNC.items()], rounds=31
    )
    with asyncio.Runner() as runner:
        asynchronous = measure(
            [
                Case(name, _async_cost(runner, wrap(async_noop), _calls(name)), duty)
                for name, (wrap, duty) in ASYNC.items()
            ],
            rounds=31,
        )
    text = "\n\n".join(
        f"{colour} function, success, nanoseconds of one call, loop included:\n\n"
        + table(figures, unit="ns", base="circuitbreaker")
        for colour, figures in (("Sync", sync), ("Async", asynchronous))
    )
    goals = [
        Goal(f"{colour} call through `timed` beside circuitbreaker, the fastest breaker", mine / breaker, 0.6)
        for colour, mine, breaker in (
            ("a sync", sync["selfheal timed"].median, sync["circuitbreaker"].median),
            ("an async", asynchronous["selfheal timed"].median, asynchronous["circuitbreaker"].median),
        )
    ]
    goals += [
        Goal(f"{colour} call through `timed` beside the floor", mine / least, 1.15)
        for colour, mine, least in (
            ("a sync", sync["selfheal timed"].median, sync["floor"].median),
            ("an async", asynchronous["selfheal timed"].median, asynchronous["floor"].median),
        )
    ]
    return Report("A timed call", text, goals)
