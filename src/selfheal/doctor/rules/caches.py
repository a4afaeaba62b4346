"""
Caches: whether threads may use them, and how large they may get.
"""

from __future__ import annotations

from typing import Final

from selfheal.doctor.caches import Cache
from selfheal.doctor.findings import Rule, Severity, Sign, Signs, rule
from selfheal.doctor.kinds import CACHE, FRAGILE_CACHE


@rule(
    "SH571",
    Severity.WARNING,
    CACHE,
    "a cachetools cache without a lock",
    why="Threads that use it at the same time break it for good: from then on each read and write raises, until it is "
    "cleared.",
)
def unlocked(cache: Cache) -> Signs:
    """Somebody uses it without a lock."""
    bare = [name for name, lock in cache.users if lock is None]
    if bare and FRAGILE_CACHE.has(cache.mapping):
        yield Sign(
            f"{', '.join(bare)} uses it without a lock",
            "Pass condition=threading.Condition() to cachetools.cached, which also lets one caller load for all; "
            "or lock=, and where a gate has the cache too, the same one.",
        )


@rule(
    "SH572",
    Severity.WARNING,
    CACHE,
    "one cachetools cache under several locks",
    why="Two locks are as good as none: threads that hold different ones still use it at the same time, and break it.",
)
def locked_twice(cache: Cache) -> Signs:
    """Its users hold different locks."""
    if len({id(lock) for _, lock in cache.users if lock is not None}) > 1 and FRAGILE_CACHE.has(cache.mapping):
        names = ", ".join(name for name, _ in cache.users)
        yield Sign(f"its users hold different locks: {names}", "Pass the same lock= to all of them.")


@rule(
    "SH573",
    Severity.WARNING,
    CACHE,
    "a cache without a bound",
    why="It keeps every value that was ever asked for, until the process is out of memory.",
)
def unbounded(cache: Cache) -> Signs:
    """It is a mapping that only grows."""
    if cache.mapping is not None and not cache.is_bounded:
        yield Sign(
            "nothing bounds it",
            "Use cachetools.LRUCache(10_000) or lru_cache(maxsize=10_000); or, before a gate, "
            "CacheHealth(gate, max_entries=10_000) and cache_ladder(gate).",
        )


@rule(
    "SH574",
    Severity.INFO,
    CACHE,
    "a function under lru_cache without a bound",
    why="It keeps every value, and all arguments with it; that is fine only where few are possible.",
)
def unbounded_function(cache: Cache) -> Signs:
    """Its cache only grows."""
    if cache.mapping is None:
        yield Sign("its maxsize is None, and it takes arguments", "Pass maxsize=, such as lru_cache(maxsize=10_000).")


RULES: Final[tuple[Rule, ...]] = (unlocked, locked_twice, unbounded, unbounded_function)
