"""
What heals a cache, what its probes tell, and what a whole healing looks like.
"""

from __future__ import annotations

import threading

from typing import Any

import anyio
import cachetools
import pytest

from selfheal import ConfigError, Healer, HealingPolicy, HealthCheck, HealthStatus, SelfHealError, Unhealthy, names
from selfheal.model import Fault, RecoveryContext
from selfheal.resources import (
    BumpEpoch,
    CacheGate,
    CacheHealth,
    CacheMode,
    ClearCache,
    GateMode,
    RedisMemory,
    SharedCache,
    WarmCache,
    cache_ladder,
)
from selfheal.testing import VirtualClock, simulate


class Server:
    """A shared cache that may be gone."""

    def __init__(self) -> None:
        self.data: dict[str, Any] = {}
        self.is_gone = False

    def _data(self) -> dict[str, Any]:
        if self.is_gone:
            raise ConnectionError("redis://secret@host: gone")
        return self.data

    def cache(self) -> SharedCache:
        return SharedCache(
            get=lambda key: self._data().get(key),
            set=lambda key, value: self._data().__setitem__(key, value),
            delete=lambda key: self._data().pop(key, None),
        )


@pytest.fixture
def server() -> Server:
    return Server()


@pytest.fixture
def cache() -> dict[Any, Any]:
    return {}


@pytest.fixture
def gate(cache: dict[Any, Any]) -> CacheGate[Any, Any]:
    """Of a mapping, all of whose values are validated."""
    return CacheGate(cache, lambda key: f"<{key}>", validator=lambda _key, value: value != "poison", sample=1)


class Corrupt(dict[Any, Any]):
    """As a cachetools cache after threads used it without a lock: everything raises until it is cleared."""

    is_corrupt = False

    def __len__(self) -> int:
        if self.is_corrupt:
            raise KeyError("gone astray")
        return super().__len__()

    def __setitem__(self, key: Any, value: Any) -> None:
        len(self)
        super().__setitem__(key, value)

    def clear(self) -> None:
        self.is_corrupt = False
        super().clear()


def fault_of(probe: CacheHealth) -> tuple[str, str]:
    with pytest.raises(Unhealthy) as raised:
        probe()
    return raised.value.kind, raised.value.message


# -- probes --------------------------------------------------------------------------


def test_a_cache_that_works_is_healthy(gate: CacheGate[Any, Any], server: Server) -> None:
    """
    Looking at it changes nothing.
    """
    shared: CacheGate[Any, Any] = CacheGate(server.cache(), str)
    assert [None, None] == [CacheHealth(gate)(), CacheHealth(shared)()]
    assert {} == server.data


def test_a_corrupt_mapping_is_seen_by_its_size_and_by_what_it_raises() -> None:
    """
    It is corrupt if its size cannot be had, or if reads and writes have raised since the last look.
    """
    cache = Corrupt()
    gate: CacheGate[Any, Any] = CacheGate(cache, str)
    probe = CacheHealth(gate)
    cache.is_corrupt = True
    kind, message = fault_of(probe)
    assert "corrupt" == kind
    assert "KeyError" in message
    assert "ClearCache(gate)" in message
    assert "1" == gate.get(1)
    cache.is_corrupt = False
    assert ("corrupt", True) == (lambda kind, message: (kind, "1 reads and writes" in message))(*fault_of(probe))
    assert None is probe()


def test_poison_is_told_until_a_look_finds_no_more(gate: CacheGate[Any, Any], cache: dict[Any, Any]) -> None:
    """
    Values that were refused since the last look are a fault, as far as they are more than is allowed.
    """
    strict, lenient = CacheHealth(gate), CacheHealth(gate, max_invalid=1)
    cache[0, "a"] = "poison"
    assert "<a>" == gate.get("a")
    assert "poisoned" == fault_of(strict)[0]
    assert [None, None] == [strict(), lenient()]
    cache[0, "a"] = "poison"
    gate.get("a")
    gate.bump()
    assert None is strict()


def test_a_mapping_that_has_grown_is_a_fault(gate: CacheGate[Any, Any]) -> None:
    """
    More entries than are allowed are a fault that says how many there are.
    """
    probe = CacheHealth(gate, max_entries=2)
    for key in "abc":
        gate.get(key)
    assert ("grown", "cache has 3 entries, 2 are allowed. Use a cache with a bound.") == fault_of(probe)


def test_a_cold_cache_is_judged_by_enough_reads_only(gate: CacheGate[Any, Any]) -> None:
    """
    The hit ratio counts from the last look on, and says nothing of a few reads or of a new epoch.
    """
    probe = CacheHealth(gate, min_hit_ratio=0.5, min_reads=10)
    for number in range(9):
        gate.get(number)
    assert None is probe()
    for number in range(100, 110):
        gate.get(number)
    assert ("cold", True) == (lambda kind, message: (kind, "had 0% of 10 values" in message))(*fault_of(probe))
    for _ in range(10):
        gate.get(100)
    assert None is probe()


def test_a_server_that_is_gone_is_down_and_during_a_bypass_degraded(server: Server) -> None:
    """
    The fault names the type of the error and never its text; a bypassed cache hurts nobody.
    """
    gate: CacheGate[Any, Any] = CacheGate(server.cache(), str)
    probe = CacheHealth(gate)
    server.is_gone = True
    kind, message = fault_of(probe)
    assert ("down", True, False) == (kind, "ConnectionError" in message, "secret" in message)
    gate.mode = GateMode.BYPASS
    result: Any = probe()
    assert HealthStatus.DEGRADED is result.status


@pytest.mark.parametrize("options", [{"max_entries": -1}, {"min_hit_ratio": 1.1}, {"max_invalid": -1}])
def test_numbers_out_of_range_are_refused(gate: CacheGate[Any, Any], options: Any) -> None:
    """
    A probe that could never, or always, complain is not built.
    """
    with pytest.raises(ConfigError, match="out of range"):
        CacheHealth(gate, **options)


@pytest.mark.parametrize(
    ("memory", "is_full"),
    [
        ({"used_memory": 95, "maxmemory": 100, "maxmemory_policy": "noeviction"}, True),
        ({"used_memory": 95, "maxmemory": 100, "maxmemory_policy": "volatile-lru"}, True),
        ({"used_memory": 95, "maxmemory": 100, "maxmemory_policy": "allkeys-lru"}, False),
        ({"used_memory": 80, "maxmemory": 100, "maxmemory_policy": "noeviction"}, False),
        ({"used_memory": 95, "maxmemory": 0}, False),
    ],
)
def test_memory_is_full_where_writes_will_be_refused(memory: Any, is_full: bool) -> None:
    """
    A server that evicts what it likes is never full; sync and async clients are asked alike.
    """

    async def info() -> Any:
        return memory

    async def ask() -> None:
        answer: Any = RedisMemory(info)()
        await answer

    for ask_once in (RedisMemory(lambda: memory), lambda: anyio.run(ask)):
        try:
            ask_once()
        except Unhealthy as exc:
            assert is_full
            assert "full" == exc.kind
        else:
            assert not is_full
    with pytest.raises(ConfigError, match="max_share"):
        RedisMemory(info, max_share=0)


# -- actions ---------------------------------------------------------------------------


def test_a_mode_that_is_held_gives_the_one_before_back(gate: CacheGate[Any, Any], ctx: RecoveryContext) -> None:
    """
    Two held modes are taken back in any order; what was never applied is taken back without a change.
    """
    bypass, stale = CacheMode(gate, GateMode.BYPASS), CacheMode(gate, GateMode.STALE_ON_ERROR)
    bypass.revert(ctx)
    modes = [gate.mode]
    for step in (stale.recover, stale.recover, bypass.recover, stale.revert, bypass.revert):
        step(ctx)
        modes.append(gate.mode)
    normal, staling, bypassed = GateMode
    assert [normal, staling, staling, bypassed, bypassed, normal] == modes
    assert ("cache_bypass", "cache_stale_on_error", True) == (bypass.name, stale.name, bypass.held)
    assert "than BYPASS allows; it is at NORMAL" in bypass.plan()


def test_a_bypass_goes_back_when_the_cache_itself_works(server: Server) -> None:
    """
    Whether it may is asked of the cache, though the gate does not use it.
    """
    gate: CacheGate[Any, Any] = CacheGate(server.cache(), str)
    bypass = CacheMode(gate, GateMode.BYPASS)
    assert None is bypass.revert_when()
    server.is_gone = True
    with pytest.raises(ConnectionError):
        bypass.revert_when()
    assert None is CacheMode(gate, GateMode.STALE_ON_ERROR).revert_when()


def test_a_new_epoch_is_logged(gate: CacheGate[Any, Any], ctx: RecoveryContext, said: list[Any]) -> None:
    """
    The timeline tells which epoch has begun.
    """
    action = BumpEpoch(gate)
    assert "now 0" in action.plan()
    action.recover(ctx)
    assert [("cache is in epoch 1", {"epoch": 1})] == said


def test_clearing_mends_a_cache_that_was_corrupted_for_good(ctx: RecoveryContext) -> None:
    """
    A TTLCache whose entries went astray raises at everything until it is cleared under its lock.
    """
    lock = threading.RLock()
    cache: Any = cachetools.TTLCache(100, 0.0)
    gate: CacheGate[Any, Any] = CacheGate(cache, str, lock=lock)
    gate.get(1)
    cachetools.Cache.__delitem__(cache, (0, 1))  # as another thread does between two steps of this one
    assert "corrupt" == fault_of(CacheHealth(gate))[0]
    ClearCache(gate).recover(ctx)
    assert None is CacheHealth(gate)()


def test_a_cache_that_clearing_does_not_mend_is_a_failed_action(ctx: RecoveryContext) -> None:
    """
    It is looked at after it was cleared.
    """
    cache = Corrupt()
    action = ClearCache(CacheGate(cache, str))
    cache.is_corrupt = True
    cache.clear = lambda: None  # type: ignore[method-assign]
    with pytest.raises(KeyError):
        action.recover(ctx)
    assert "empty cache" == action.plan()


def test_a_shared_cache_is_never_emptied(server: Server) -> None:
    """
    It may hold what is not ours: neither action nor gate does it, and the ladder has no such rung.
    """
    gate: CacheGate[Any, Any] = CacheGate(server.cache(), str)
    with pytest.raises(ConfigError, match="never emptied"):
        ClearCache(gate)
    with pytest.raises(ConfigError, match="never emptied"):
        gate.clear()
    assert ["bump_epoch", "cache_bypass"] == [rung.name for rung in cache_ladder(gate).rungs]


class Cold:
    """A probe that finds a cache cold, once, at second 10."""

    def __init__(self, clock: VirtualClock) -> None:
        self.clock = clock
        self.is_seen = False

    def __call__(self) -> None:
        if self.clock.now() >= 10 and not self.is_seen:
            self.is_seen = True
            raise Unhealthy("cold")


def warming(action: Any, clock: VirtualClock) -> HealthCheck:
    policy = HealingPolicy(interval=5, timeout=1, fall=1, jitter=0, action_timeout=300)
    return HealthCheck(Cold(clock), name="cache", policy=policy, recovery=action)


def ended(story: Any) -> Any:
    """How the action has ended."""
    return next(event.fields["outcome"] for event in story.events if event.name == names.ACTION_FINISHED)


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
def test_warming_up_keeps_to_its_rate_in_virtual_time(is_async: bool) -> None:
    """
    Between two values there is a pause in which others are looked at, and a value that cannot be had does not end it.
    """
    clock = VirtualClock()
    loaded: list[tuple[float, int]] = []
    looks: list[float] = []

    def load(key: int) -> int:
        loaded.append((clock.now(), key))
        if key == 2:
            raise LookupError(key)
        return key

    async def aload(key: int) -> int:
        return load(key)

    gate: CacheGate[int, int] = CacheGate({}, aload if is_async else load, clock=clock)
    check = warming(WarmCache(gate, lambda: iter([1, 2, 3]), per_second=0.1), clock)
    other = HealthCheck(lambda: looks.append(clock.now()), name="other", policy=HealingPolicy(interval=5, jitter=0))
    story = simulate([check, other], until=60, clock=clock)
    assert [(10.0, 1), (20.0, 2), (30.0, 3)] == loaded
    assert {15.0, 20.0, 25.0} <= set(looks)
    assert "done" == ended(story)
    assert "2 values of cache are there" in str(story.incidents or story.still_open)
    assert 2 == gate.size()


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_warming_up_takes_no_real_time_on_a_loop_of_virtual_time(backend: Any) -> None:
    """
    A minute's warm-up of an async gate is over at once, and is a minute long to its loop.
    """
    clock = VirtualClock()

    async def load(key: int) -> int:
        return key

    gate: CacheGate[int, int] = CacheGate({}, load, clock=clock)

    async def main() -> float:
        async with Healer([warming(WarmCache(gate, range(7), per_second=0.1), clock)], clock=clock, phase=0, slack=0):
            while gate.size() != 7:
                await clock.sleep(1)
        return clock.now()

    assert 70 <= clock.run(main, backend=backend) <= 72


def test_warming_up_ends_with_its_time() -> None:
    """
    With no time left for another value it ends well.
    """
    clock = VirtualClock()
    gate: CacheGate[str, str] = CacheGate({}, str, clock=clock)
    story = simulate([warming(WarmCache(gate, "abcdef", per_second=1).within(4.5), clock)], until=60, clock=clock)
    assert "done" == ended(story)
    assert 4 == gate.size()


def test_warming_up_ends_with_its_healer() -> None:
    """
    A healer that stops in a pause waits for no more values.
    """
    clock = VirtualClock()
    gate: CacheGate[str, str] = CacheGate({}, str, clock=clock)
    with Healer([warming(WarmCache(gate, "abcdef", per_second=0.1), clock)], clock=clock, phase=0, slack=0):
        clock.advance(25)
    assert 2 == gate.size()


def test_warming_up_where_it_cannot_help_says_so(gate: CacheGate[Any, Any], ctx: RecoveryContext) -> None:
    """
    A bypassed cache cannot be warmed, a source that gives nothing fails the action, and a rate of 0 is refused.
    """

    def outcome(action: WarmCache) -> str:
        clock = VirtualClock()
        return str(ended(simulate([warming(action, clock)], until=60, clock=clock)))

    assert "failed" == outcome(WarmCache(CacheGate({}, {}.__getitem__), ["a"], per_second=1))
    assert "done" == outcome(WarmCache(gate, [], per_second=1))
    gate.mode = GateMode.BYPASS
    assert "cannot_help" == outcome(WarmCache(gate, lambda: ["a"], per_second=1))
    with pytest.raises(ConfigError, match="per_second"):
        WarmCache(gate, ["a"], per_second=0)
    with pytest.raises(SelfHealError, match="recovery of a check"):
        WarmCache(gate, ["a"], per_second=1).recover(ctx)


def test_actions_of_an_async_gate_run_on_the_loop(ctx: RecoveryContext) -> None:
    """
    They return what has to be awaited, and so does the probe.
    """

    async def load(key: str) -> str:
        return key

    gate: CacheGate[str, str] = CacheGate({}, load)

    async def heal() -> None:
        for call in (
            lambda: BumpEpoch(gate).recover(ctx),
            CacheMode(gate, GateMode.BYPASS).revert_when,
            CacheHealth(gate),
        ):
            answer: Any = call()
            await answer

    anyio.run(heal)
    assert 1 == gate.epoch


# -- ladders ---------------------------------------------------------------------------


def test_every_kind_has_its_rungs(gate: CacheGate[Any, Any]) -> None:
    """
    The ladder does what its table says, and nothing against a full server.
    """
    ladder = cache_ladder(gate, keys=["a"])
    rungs = {
        kind: [rung.name for rung in ladder.rungs if rung.applies(Fault(kind))]
        for kind in ("corrupt", "grown", "poisoned", "cold", "down", "full")
    }
    assert {
        "corrupt": ["clear_cache", "cache_bypass"],
        "grown": ["clear_cache"],
        "poisoned": ["bump_epoch", "cache_bypass"],
        "cold": ["warm_cache"],
        "down": ["cache_bypass"],
        "full": [],
    } == rungs


def test_a_new_epoch_can_be_warmed_up_in_one_rung(gate: CacheGate[Any, Any]) -> None:
    """
    What follows a new epoch applies to what the epoch is against.
    """
    both = BumpEpoch(gate) + WarmCache(gate, ["a"], per_second=10)
    assert [True, False] == [both.applies(Fault(kind)) for kind in ("poisoned", "cold")]


def test_a_mode_can_be_changed_by_whoever_has_the_lock_of_the_mapping() -> None:
    """
    The end of a bypass waits for the lock of the mapping, and keeps nobody from changing the mode meanwhile.
    """
    lock = threading.RLock()
    gate: CacheGate[str, Any] = CacheGate({}, str, lock=lock)
    gate.mode = GateMode.BYPASS
    with lock:
        other = threading.Thread(target=lambda: setattr(gate, "mode", GateMode.NORMAL))
        other.start()
        while gate.mode is not GateMode.NORMAL:
            threading.Event().wait(0.001)
        gate.mode = GateMode.STALE_ON_ERROR
    other.join(10)
    assert (GateMode.STALE_ON_ERROR, 1) == (gate.mode, gate.epoch)


def test_a_server_that_is_gone_is_bypassed_and_used_again_when_it_is_back(server: Server) -> None:
    """
    The bypass heals the application at once, stays for as long as the server is gone, and a probation more.
    """
    clock = VirtualClock()
    gate: CacheGate[Any, Any] = CacheGate(server.cache(), str, clock=clock)
    probe = CacheHealth(gate)
    modes: list[tuple[float, GateMode]] = []

    def look() -> Any:
        server.is_gone = 60 <= clock.now() < 300
        if not modes or modes[-1][1] is not gate.mode:
            modes.append((clock.now(), gate.mode))
        return probe()

    check = HealthCheck(look, name="cache", interval=5, timeout=1, recovery=cache_ladder(gate))
    story = simulate([check], until=600, clock=clock)
    assert [GateMode.NORMAL, GateMode.BYPASS, GateMode.NORMAL] == [mode for _, mode in modes]
    assert 60 < modes[1][0] < 70
    assert 300 <= modes[2][0] < 400
    assert ["healed"] == [incident.result.value for incident in story.incidents if incident.result]


def test_poison_that_comes_once_is_gone_with_its_epoch(gate: CacheGate[Any, Any], cache: dict[Any, Any]) -> None:
    """
    Looks that keep finding poison begin a new epoch, and the cache is in use all the time.
    """
    clock = VirtualClock()
    cache.update({(0, number): "poison" for number in range(100)})
    probe, keys = CacheHealth(gate), iter(range(1000))

    def look() -> Any:
        number = next(keys)
        assert f"<{number}>" == gate.get(number)
        return probe()

    check = HealthCheck(look, name="cache", interval=1, timeout=0.5, recovery=cache_ladder(gate))
    story = simulate([check], until=120, clock=clock)
    assert ["bump_epoch"] == [action for _, action in story.actions()]
    assert (GateMode.NORMAL, 1) == (gate.mode, gate.epoch)
    assert ["healed"] == [incident.result.value for incident in story.incidents if incident.result]


def test_a_source_that_fails_is_bridged_with_stale_values(cache: dict[Any, Any]) -> None:
    """
    In the ladder of what the values are loaded from, stale values are allowed for as long as it is gone.
    """
    clock = VirtualClock()
    is_gone = False

    def load(key: str) -> str:
        if is_gone:
            raise ConnectionError
        return key

    gate: CacheGate[str, str] = CacheGate(cache, load, clock=clock)
    gate.get("a")
    errors: list[float] = []

    def source() -> None:
        nonlocal is_gone
        is_gone = 30 <= clock.now() < 200
        cache.clear()
        try:
            gate.get("a")
        except ConnectionError:
            errors.append(clock.now())
        if is_gone:
            raise Unhealthy("down")

    check = HealthCheck(source, interval=1, timeout=0.5, recovery=CacheMode(gate, GateMode.STALE_ON_ERROR))
    simulate([check], until=400, clock=clock)
    assert len(errors) < 10
    assert max(errors) < 40
    assert GateMode.NORMAL is gate.mode
