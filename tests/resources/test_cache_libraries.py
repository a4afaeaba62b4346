"""
Caches of other libraries: how each of them fails, what it heals by itself, and what heals the rest.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import os
import pathlib
import sqlite3
import threading

from collections.abc import Callable
from typing import Any

import anyio
import pytest

from selfheal import Healer, HealingPolicy, HealthCheck, Rebuildable, RecoveryAction
from selfheal.model import RecoveryContext
from selfheal.resources import CacheGate, CacheHealth, CacheMode, GateMode, Rebuild, SharedCache, cache_ladder
from selfheal.testing import VirtualClock, simulate


CALLERS = 10


class Source:
    """What values are loaded from: it may be held up, or fail, and counts."""

    def __init__(self) -> None:
        self.calls = 0
        self.is_failing = False
        self.go = threading.Event()
        self.go.set()

    def load(self, key: str = "a") -> Any:
        self.calls += 1
        self.go.wait(10)
        if self.is_failing:
            raise OSError("unplugged")
        return f"{key}{self.calls}"


@pytest.fixture
def source() -> Source:
    return Source()


class Crowd:
    """Callers that ask at the same time."""

    def __init__(self, call: Callable[[], Any]) -> None:
        self.call = call
        self.answers: list[Any] = []
        self.threads = [threading.Thread(target=self.ask) for _ in range(CALLERS)]
        for thread in self.threads:
            thread.start()

    def ask(self) -> None:
        self.answers.append(self.call())

    def all(self) -> list[Any]:
        for thread in self.threads:
            thread.join(10)
        return sorted(self.answers)


# -- functools --------------------------------------------------------------------------


def test_poison_of_one_key_costs_an_lru_cache_all_of_them_and_a_gate_that_key(source: Source) -> None:
    """
    An lru_cache keeps poison until all is cleared; a gate drops one key, by itself or on request.
    """
    poison = iter(["poison"])
    bare = functools.lru_cache(lambda key: next(poison, f"<{key}>"))
    assert ["poison", "<b>", "poison"] == [bare("a"), bare("b"), bare("a")]
    bare.cache_clear()
    assert ["<a>", 0] == [bare("a"), bare.cache_info().hits]

    gate: CacheGate[str, str] = CacheGate(
        functools.lru_cache(source.load), validator=lambda key, value: value.startswith(key), sample=1
    )
    assert ["a1", "b2"] == [gate.get("a"), gate.get("b")]
    gate.drop("a")
    assert ["a3", "b2", "a3"] == [gate.get("a"), gate.get("b"), gate.get("a")]


# -- dogpile.cache ----------------------------------------------------------------------


@pytest.fixture
def region() -> Any:
    dogpile = pytest.importorskip("dogpile.cache")
    return dogpile.make_region().configure("dogpile.cache.memory", expiration_time=3600)


def read(region: Any, key: str) -> Any:
    value = region.get(key)
    return None if type(value).__name__ == "NoValue" else value


def before(region: Any) -> SharedCache:
    return SharedCache(get=functools.partial(read, region), set=region.set, delete=region.delete)


def test_a_region_that_was_invalidated_softly_is_regenerated_by_one_caller(
    region: Any, source: Source, eventually: Callable[..., bool]
) -> None:
    """
    While that one works the others have the old value at once.
    """
    assert "a1" == region.get_or_create("a", source.load)
    source.go.clear()
    region.invalidate(hard=False)
    crowd = Crowd(lambda: region.get_or_create("a", source.load))
    assert eventually(lambda: len(crowd.answers) == CALLERS - 1)
    assert {"a1"} == set(crowd.answers)
    source.go.set()
    assert [*["a1"] * (CALLERS - 1), "a2"] == crowd.all()


def test_a_region_that_was_invalidated_hard_is_regenerated_by_one_caller_for_all(region: Any, source: Source) -> None:
    """
    All wait for it: nobody gets the old value.
    """
    region.get_or_create("a", source.load)
    region.invalidate(hard=True)
    assert ["a2"] * CALLERS == Crowd(lambda: region.get_or_create("a", source.load)).all()


def test_a_region_has_nothing_for_callers_whose_creator_fails_and_a_gate_before_it_does(
    region: Any, source: Source, ctx: RecoveryContext
) -> None:
    """
    Invalidated values are no help against a creator that raises; a gate before the region gives the last good one.
    """
    region.get_or_create("bare", source.load)
    gate: CacheGate[str, str] = CacheGate(before(region), source.load)
    assert "a2" == gate.get("a")
    source.is_failing = True
    region.invalidate(hard=False)
    with pytest.raises(OSError, match="unplugged"):
        region.get_or_create("bare", source.load)
    with pytest.raises(OSError, match="unplugged"):
        gate.get("a")
    CacheMode(gate, GateMode.STALE_ON_ERROR).recover(ctx)
    assert ["a2"] * CALLERS == Crowd(lambda: gate.get("a")).all()


def test_a_new_epoch_makes_a_region_forget_and_is_no_stampede(region: Any, source: Source) -> None:
    """
    What the region still has under the old epoch is given to nobody, and one caller loads for all.
    """
    gate: CacheGate[str, str] = CacheGate(before(region), source.load)
    gate.get("a")
    gate.bump()
    assert ["a2"] * CALLERS == Crowd(lambda: gate.get("a")).all()
    assert None is CacheHealth(gate)()


# -- cashews ----------------------------------------------------------------------------


def test_failover_of_cashews_gives_the_last_good_value() -> None:
    """
    It needs nothing of ours for that.
    """
    cashews = pytest.importorskip("cashews")
    source = Source()

    async def main() -> list[str]:
        cache = cashews.Cache()
        cache.setup("mem://")

        @cache.failover(ttl="1h", key="price:{key}", exceptions=(OSError,))  # type: ignore[untyped-decorator]
        async def price(key: str) -> Any:
            return source.load(key)

        answers = [await price("a")]
        source.is_failing = True
        answers.append(await price("a"))
        await cache.close()
        return answers

    assert ["a1", "a1"] == asyncio.run(main())
    assert 2 == source.calls


def test_cashews_is_bypassed_for_all_by_a_middleware_and_for_one_task_by_disable() -> None:
    """
    What an action disables in its own task stays in use elsewhere; a middleware that asks the action is for all.
    """
    cashews = pytest.importorskip("cashews")
    from cashews.commands import Command

    clock = VirtualClock()
    source = Source()
    is_broken = False

    class BypassCache(RecoveryAction):
        is_on = False

        def recover(self, ctx: RecoveryContext) -> None:
            self.is_on = True

        def revert(self, ctx: RecoveryContext) -> None:
            self.is_on = False

        async def obey(self, call: Any, cmd: Any, backend: Any, *args: Any, **kwargs: Any) -> Any:
            if not self.is_on or cmd is Command.PING:
                return await call(*args, **kwargs)
            return kwargs.get("default") if cmd in {Command.GET, Command.GET_MANY} else None

    bypass = BypassCache()

    async def main() -> None:
        cache = cashews.Cache()
        cache.setup("mem://", middlewares=(bypass.obey,))

        @cache(ttl="1h", key="user:{key}")  # type: ignore[untyped-decorator]
        async def user(key: str) -> Any:
            return source.load(key)

        async def disable() -> None:
            cache.disable()

        async def answers() -> None:
            if is_broken:
                raise ConnectionError

        nonlocal is_broken
        await user("a")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(disable)
        assert "a1" == await user("a")

        policy = HealingPolicy(interval=5, timeout=1, jitter=0, probation=30)
        check = HealthCheck(answers, name="cache", policy=policy, recovery=bypass)
        bypass.revert_when = answers
        async with Healer([check], clock=clock, phase=0, slack=0):
            is_broken = True
            await clock.sleep(20)
            assert (True, "a2") == (bypass.is_on, await user("a"))
            is_broken = False
            await clock.sleep(60)
            assert (False, "a1") == (bypass.is_on, await user("a"))
        await cache.close()

    clock.run(main)


# -- diskcache --------------------------------------------------------------------------


def is_intact(database: pathlib.Path) -> bool:
    try:
        with contextlib.closing(sqlite3.connect(database)) as connection:
            return bool(connection.execute("PRAGMA quick_check").fetchone() == ("ok",))
    except sqlite3.OperationalError:
        raise  # it is in use, or cannot be opened: that says nothing of what is in it
    except sqlite3.DatabaseError:
        return False


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # it leaves one that it could not open
@pytest.mark.filterwarnings("ignore:unclosed database:ResourceWarning")
def test_a_diskcache_that_is_corrupt_is_moved_aside_and_made_anew(tmp_path: pathlib.Path, source: Source) -> None:
    """
    What is no database raises for good; its folder is moved aside, and callers do not notice any of it.
    """
    pytest.importorskip("diskcache")
    break_and_heal(tmp_path, source)
    gc.collect()  # while the warnings are ignored


def break_and_heal(tmp_path: pathlib.Path, source: Source) -> None:
    import diskcache

    folder = tmp_path / "cache"

    def make() -> Any:
        database = folder / "cache.db"
        if database.exists() and not is_intact(database):
            os.replace(folder, tmp_path / "broken")
        made.append(diskcache.Cache(folder))
        return made[-1]

    made: list[Any] = []
    box: Rebuildable[Any] = Rebuildable(make, close=diskcache.Cache.close, name="diskcache")

    def reading(key: str) -> Any:
        with box.use() as cache:
            return cache.get(key)

    def writing(key: str, value: Any) -> None:
        with box.use() as cache:
            cache.set(key, value)

    def deleting(key: str) -> None:
        with box.use() as cache:
            cache.delete(key)

    clock = VirtualClock()
    shared = SharedCache(get=reading, set=writing, delete=deleting)
    gate: CacheGate[str, str] = CacheGate(shared, source.load, clock=clock)
    ladder = Rebuild(box).when(kinds={"down"}) >> cache_ladder(gate)
    check = HealthCheck(CacheHealth(gate), name="diskcache", recovery=ladder)
    assert ["a1", "a1"] == [gate.get("a"), gate.get("a")]
    box.current.close()  # so that nothing of it is left in memory
    for left in folder.glob("cache.db-*"):
        left.unlink()
    (folder / "cache.db").write_bytes(b"no database at all" * 1000)
    with pytest.raises(sqlite3.DatabaseError, match="not a database"):
        reading("x")
    assert ["a2", "a3"] == [gate.get("a"), gate.get("a")]

    story = simulate([check], until=120, clock=clock)
    assert ["healed"] == [incident.result.value for incident in story.incidents if incident.result]
    assert ["rebuild"] == [action for _, action in story.actions()]
    assert (GateMode.NORMAL, True) == (gate.mode, (tmp_path / "broken" / "cache.db").exists())
    assert ["a4", "a4"] == [gate.get("a"), gate.get("a")]
    box.close()
    for cache in made:
        cache.close()  # of this thread: a cache has a connection in each
