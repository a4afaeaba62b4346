"""
What a value that is in the cache costs: through a `CacheGate`, and through what cachetools and functools offer.
"""

from __future__ import annotations

import functools
import threading

from collections.abc import Callable
from typing import Any

import cachetools

from benchmarks.harness import Case, Goal, Report, measure, nanoseconds, table
from selfheal.resources import CacheGate


CALLS = 10_000

_GATE = "lock, epoch, mode, counts; one load for all; ready for errors of the cache and of the loader"


def gate(cache: Any, **options: Any) -> Callable[[str], str]:
    return CacheGate(cache, str, **options).get


def cached(**options: Any) -> Callable[[str], str]:
    return cachetools.cached(cachetools.LRUCache(100), **options)(str)


ALTERNATIVES: dict[str, tuple[Callable[[str], str], str]] = {
    "cachetools, lock": (cached(lock=threading.Lock()), "lock; each caller loads for itself"),
    "cachetools, condition": (cached(condition=threading.Condition()), "lock; one load for all"),
    "CacheGate, cachetools": (gate(cachetools.LRUCache(100)), _GATE),
    "CacheGate, cachetools, validator": (
        gate(cachetools.LRUCache(100), validator=lambda key, value: value == key),
        f"{_GATE}; 1 % of the values are validated",
    ),
    "CacheGate, dict": (gate({}), f"{_GATE}; no bound"),
    "functools.lru_cache": (functools.lru_cache(str), "written in C; each caller loads for itself"),
}


def run() -> Report:
    figures = measure(
        [
            Case(name, nanoseconds(functools.partial(call, "key"), CALLS), duty)
            for name, (call, duty) in ALTERNATIVES.items()
        ],
        rounds=31,
    )
    text = "Nanoseconds of one hit, loop included:\n\n" + table(figures, unit="ns", base="cachetools, lock")
    mine, peer = figures["CacheGate, cachetools"].median, figures["cachetools, lock"].median
    return Report(
        "A cache hit", text, [Goal("a hit through `CacheGate` beside `cachetools.cached(lock=)`", mine / peer, 1.5)]
    )
