"""
Fifty callers at once, and a cache that is poisoned, corrupted, gone or slow under them.
"""

from __future__ import annotations

import itertools
import operator
import sys
import threading

from collections.abc import Callable, Iterator
from typing import Any, Self

import anyio
import cachetools
import pytest

from selfheal import Healer, HealingPolicy, HealthCheck
from selfheal.resources import CacheGate, CacheHealth, GateMode, SharedCache, cache_ladder
from selfheal.testing import VirtualClock


CALLERS = 50
KEYS = "abcde"


class Server(dict[str, Any]):
    """A shared cache in this process, which may be gone or slow."""

    is_gone = False
    slowness = 0.0

    def __init__(self) -> None:
        super().__init__()
        self.pause = threading.Event()

    def answer(self, call: Callable[..., Any], *args: Any) -> Any:
        self.pause.wait(self.slowness)
        if self.is_gone:
            raise ConnectionError
        return call(*args)

    def shared(self) -> SharedCache:
        return SharedCache(
            get=lambda key: self.answer(self.get, key),
            set=lambda key, value: self.answer(self.__setitem__, key, value),
            delete=lambda key: self.answer(self.pop, key, None),
        )


class Loads:
    """A loader that knows how many of its calls for a key run at the same time, and in which epoch each began."""

    def __init__(self) -> None:
        self.gate: CacheGate[str, Any] | None = None
        self.is_failing = False
        self.running = dict.fromkeys(KEYS, 0)
        self.most = 0
        self.pause = threading.Event()
        self._lock = threading.Lock()

    def load(self, key: str) -> Any:
        with self._lock:
            self.running[key] += 1
            self.most = max(self.most, self.running[key])
        try:
            assert self.gate is not None
            epoch = self.gate.epoch
            self.pause.wait(0.001)
            if self.is_failing:
                raise OSError("unplugged")
            return key, -1 if epoch is None else epoch
        finally:
            with self._lock:
                self.running[key] -= 1


class Crowd:
    """Callers that ask for all keys, again and again, until they are told to stop."""

    def __init__(self, gate: CacheGate[str, Any]) -> None:
        self.gate = gate
        self.problems: list[Any] = []
        self.answers = [0] * CALLERS
        self.stop = threading.Event()
        self.threads = [threading.Thread(target=self.ask, args=(number,)) for number in range(CALLERS)]

    def ask(self, number: int) -> None:
        for key in itertools.cycle(KEYS[number % 5 :] + KEYS[: number % 5]):
            if self.stop.is_set():
                return
            epoch = self.gate.epoch
            try:
                value = self.gate.get(key)
            except Exception as exc:
                self.problems.append(exc)
                return
            if value[0] != key or (epoch is not None and value[1] < epoch):
                self.problems.append((key, epoch, value))
            self.answers[number] += 1

    def __enter__(self) -> Self:
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self.stop.set()
        for thread in self.threads:
            thread.join(20)
        assert not any(thread.is_alive() for thread in self.threads), "somebody waits for ever"
        assert [] == self.problems

    def goes_on(self) -> None:
        """Wait until every caller has been answered three times more: whatever was under way has ended."""
        wanted = [answers + 3 for answers in self.answers]
        for _ in range(20_000):
            if self.problems or all(map(operator.ge, self.answers, wanted)):
                return
            self.stop.wait(0.001)
        raise AssertionError("somebody is not answered any more")


@pytest.fixture(autouse=True)
def often() -> Iterator[None]:
    """Threads take turns often, so that they meet at every place."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(interval)


@pytest.fixture
def loads() -> Loads:
    return Loads()


def is_valid(key: str, value: Any) -> bool:
    return bool(value[0] == key)


def made(cache: Any, loads: Loads, **options: Any) -> CacheGate[str, Any]:
    gate: CacheGate[str, Any] = CacheGate(cache, loads.load, validator=is_valid, sample=1, **options)
    loads.gate = gate
    return gate


@pytest.mark.parametrize("is_shared", [False, True], ids=["mapping", "shared"])
def test_poison_is_never_given_and_loaded_anew_once(is_shared: bool, loads: Loads) -> None:
    """
    With every read validated, fifty callers never see poison that keeps coming, and each key is loaded by one at a time.
    """
    store: Any = Server() if is_shared else {}
    gate = made(store.shared() if is_shared else store, loads)
    with Crowd(gate) as crowd:
        crowd.goes_on()
        for _ in range(10):
            for key in KEYS:
                store[f"cache:{gate.epoch}:{key}" if is_shared else (gate.epoch, key)] = ("poison", 0)
            crowd.goes_on()
        gate.bump()
        crowd.goes_on()
    assert 1 == loads.most
    assert gate.statistics().invalid >= len(KEYS)


def test_a_corrupted_cache_costs_loads_until_it_is_cleared(loads: Loads) -> None:
    """
    A TTLCache whose entries went astray answers nobody; its callers are served all the same, and clearing mends it.
    """
    lock = threading.RLock()
    cache: Any = cachetools.TTLCache(3, 3600)
    gate = made(cache, loads, lock=lock)
    health = CacheHealth(gate)
    with Crowd(gate) as crowd:
        crowd.goes_on()
        with lock:
            cache["astray"] = 1
            cachetools.Cache.__delitem__(cache, "astray")  # as another thread does that has no lock
        crowd.goes_on()
        assert gate.statistics().store_errors
        gate.clear()
        crowd.goes_on()
        with pytest.raises(Exception, match="corrupt"):
            health()  # what was raised before
        crowd.goes_on()
        assert None is health()
    assert 1 == loads.most


@pytest.mark.parametrize("is_shared", [False, True], ids=["mapping", "shared"])
def test_a_cache_that_vanishes_again_and_again_is_filled_once(is_shared: bool, loads: Loads) -> None:
    """
    Each time its content is lost, with the epoch, every key is loaded by one of fifty callers.
    """
    store: Any = Server() if is_shared else {}
    gate = made(store.shared() if is_shared else store, loads, epoch_every=0.01)
    with Crowd(gate) as crowd:
        for _ in range(5):
            crowd.goes_on()
            store.clear()
        crowd.goes_on()
    assert 1 == loads.most


def test_a_server_that_is_gone_or_slow_is_bypassed_and_comes_back(loads: Loads) -> None:
    """
    Nobody gets an error or an outdated value on the way through all modes and back, whatever the server does.
    """
    server = Server()
    gate = made(server.shared(), loads, epoch_every=0.01)
    with Crowd(gate) as crowd:
        crowd.goes_on()
        server.is_gone = True
        crowd.goes_on()
        gate.mode = GateMode.STALE_ON_ERROR
        loads.is_failing = True
        crowd.goes_on()
        loads.is_failing = False
        crowd.goes_on()
        gate.mode = GateMode.BYPASS
        server.is_gone = False
        server.slowness = 0.01
        crowd.goes_on()
        gate.mode = GateMode.NORMAL
        crowd.goes_on()
        server.slowness = 0.0
        crowd.goes_on()
        gate.bump()
        crowd.goes_on()
    assert 1 == loads.most
    assert gate.statistics().stale


def test_epochs_that_begin_all_the_time_show_nobody_the_past(loads: Loads) -> None:
    """
    A value is never older than the epoch in which its caller has asked.
    """
    gate = made(cachetools.LRUCache(4), loads)
    with Crowd(gate) as crowd:
        for _ in range(20):
            crowd.goes_on()
            gate.bump()
    assert 1 == loads.most
    assert 20 == gate.epoch


class SlowServer(dict[str, Any]):
    """A shared cache on an event loop; from second 30 to 120 it takes two seconds for an answer."""

    def __init__(self, clock: VirtualClock) -> None:
        super().__init__()
        self.clock = clock

    async def answer(self, call: Callable[..., Any], *args: Any) -> Any:
        await self.clock.sleep(2.0 if 30 <= self.clock.now() < 120 else 0.001)
        return call(*args)

    async def read(self, key: str) -> Any:
        return await self.answer(self.get, key)

    async def write(self, key: str, value: Any) -> None:
        await self.answer(self.__setitem__, key, value)

    async def drop(self, key: str) -> None:
        await self.answer(self.pop, key, None)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_healer_bypasses_a_slow_server_and_comes_back_without_a_stampede(backend: Any) -> None:
    """
    Fifty tasks wait for a server that takes seconds only until it is bypassed, and each key is loaded by one at a time.
    """
    clock = VirtualClock()
    server = SlowServer(clock)
    loading: list[str] = []
    waits: list[tuple[float, float]] = []

    async def load(key: str) -> str:
        assert key not in loading
        loading.append(key)
        await clock.sleep(0.05)
        loading.remove(key)
        return f"<{key}>"

    shared = SharedCache(get=server.read, set=server.write, delete=server.drop)
    gate: CacheGate[str, str] = CacheGate(shared, load, clock=clock)
    policy = HealingPolicy(interval=5, timeout=1, jitter=0, probation=30)
    check = HealthCheck(CacheHealth(gate), name="cache", policy=policy, recovery=cache_ladder(gate))

    async def ask(key: str) -> None:
        while (asked := clock.now()) < 200:
            assert f"<{key}>" == await gate.aget(key)
            waits.append((asked, clock.now() - asked))
            await clock.sleep(1)

    async def main() -> None:
        async with Healer([check], clock=clock, phase=0, slack=0), anyio.create_task_group() as tasks:
            for number in range(CALLERS):
                tasks.start_soon(ask, KEYS[number % 5])

    def longest(begin: float, end: float) -> float:
        return max(wait for asked, wait in waits if begin <= asked < end)

    clock.run(main, backend=backend)
    assert longest(30, 40) >= 2
    assert longest(45, 120) <= 0.1
    assert longest(125, 200) <= 0.1
    assert GateMode.NORMAL is gate.mode
