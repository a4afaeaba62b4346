"""
What a gate gives, to whom, and what it never gives.
"""

from __future__ import annotations

import functools
import math
import os
import random
import signal
import threading

from collections.abc import Callable, Iterator
from typing import Any

import anyio
import attrs
import cachetools
import pytest

from selfheal import ConfigError
from selfheal.errors import IllegalTransitionError, InvalidValueError
from selfheal.resources import CacheGate, GateMode, SharedCache
from selfheal.testing import VirtualClock


@attrs.define
class Source:
    """Where values are loaded from: counts, may fail, and may be held up."""

    loads: list[Any] = attrs.field(factory=list)
    error: Exception | None = None
    version: int = 1
    reached: threading.Event = attrs.field(factory=threading.Event)
    go_on: threading.Event = attrs.field(factory=threading.Event)
    is_slow: bool = False

    def load(self, key: Any) -> Any:
        self.loads.append(key)
        answer = f"{key}-{self.version}"
        if self.is_slow:
            self.reached.set()
            assert self.go_on.wait(10)
        if self.error is not None:
            raise self.error
        return answer

    async def aload(self, key: Any) -> Any:
        await anyio.sleep(0)
        return self.load(key)


class Server:
    """A cache outside: it holds bytes, may be gone, and may be asked by coroutines."""

    def __init__(self) -> None:
        self.data: dict[str, str] = {}
        self.error: Exception | None = None

    def get(self, key: str) -> Any:
        self._answer()
        return self.data.get(key)

    def set(self, key: str, value: str) -> None:
        self._answer()
        assert isinstance(value, str)
        self.data[key] = value

    def delete(self, key: str) -> None:
        self._answer()
        self.data.pop(key, None)

    async def aget(self, key: str) -> Any:
        await anyio.sleep(0)
        return self.get(key)

    async def aset(self, key: str, value: str) -> None:
        await anyio.sleep(0)
        self.set(key, value)

    async def adelete(self, key: str) -> None:
        await anyio.sleep(0)
        self.delete(key)

    def _answer(self) -> None:
        if self.error is not None:
            raise self.error

    def shared(self, **more: Any) -> SharedCache:
        return SharedCache(get=self.get, set=self.set, delete=self.delete, **more)

    def ashared(self) -> SharedCache:
        return SharedCache(get=self.aget, set=self.aset, delete=self.adelete)


@pytest.fixture
def source() -> Iterator[Source]:
    source = Source()
    yield source
    source.go_on.set()


@pytest.fixture
def server() -> Server:
    return Server()


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


def cached(load: Callable[[Any], Any]) -> Any:
    return functools.lru_cache(maxsize=2)(load)


CACHES = {
    "dict": lambda _load: {},
    "cachetools": lambda _load: cachetools.TTLCache(100, 60),
    "cachetools with a lock": lambda _load: cachetools.LRUCache(100),
    "lru_cache": cached,
    "shared": lambda _load: Server().shared(),
}


@pytest.fixture(params=CACHES)
def gate(request: pytest.FixtureRequest, source: Source) -> CacheGate[Any, Any]:
    """One gate for each kind of cache."""
    lock = threading.RLock() if "lock" in request.param else None
    return CacheGate(CACHES[request.param](source.load), source.load, lock=lock, name="things")


def in_threads(*calls: Callable[[], Any]) -> list[Any]:
    """Make all calls at once; their answers or errors."""
    answers: list[Any] = [None] * len(calls)

    def run(index: int) -> None:
        try:
            answers[index] = calls[index]()
        except Exception as exc:
            answers[index] = exc

    threads = [threading.Thread(target=run, args=(index,)) for index in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert not any(thread.is_alive() for thread in threads)
    return answers


def begun(call: Callable[[], Any]) -> Callable[[], Any]:
    """Make the call in a thread; what is returned gives its answer."""
    answers: list[Any] = []
    thread = threading.Thread(target=lambda: answers.extend(in_threads(call)))
    thread.start()

    def answer() -> Any:
        thread.join(20)
        return answers[0]

    return answer


def joined(gate: CacheGate[Any, Any], callers: int, eventually: Callable[..., bool]) -> None:
    assert eventually(lambda: gate.statistics().joined == callers)


# -- the ordinary day -------------------------------------------------------------


def test_what_the_cache_has_is_not_loaded_again(gate: CacheGate[Any, Any], source: Source) -> None:
    """
    The first read of a key loads it, later ones find it.
    """
    assert ["a-1", "b-1", "a-1", "b-1"] == [gate.get(key) for key in "abab"]
    assert ["a", "b"] == source.loads
    seen = gate.statistics()
    assert (2, 2, 2) == (seen.hits, seen.misses, seen.loads)


def test_a_cached_function_is_called_through_the_gate() -> None:
    """
    A function under lru_cache is loaded from, its bound holds, and the gate can be called in its place.
    """
    calls: list[int] = []

    @functools.lru_cache(maxsize=2)
    def double(number: int) -> int:
        calls.append(number)
        return 2 * number

    gate: CacheGate[int, int] = CacheGate(double)
    assert [2, 4, 2, 6, 2, 4] == [gate(number) for number in (1, 2, 1, 3, 1, 2)]
    assert [1, 2, 3, 2] == calls
    double(7)
    gate.clear()
    assert 0 == double.cache_info().currsize


def test_none_is_a_value_of_a_mapping() -> None:
    """
    A loader that gives None is asked once.
    """
    calls: list[str] = []
    gate: CacheGate[str, None] = CacheGate({}, calls.append)
    assert [None, None] == [gate.get("a"), gate.get("a")]
    assert ["a"] == calls


def test_a_value_too_large_for_the_cache_is_given_all_the_same(source: Source) -> None:
    """
    What cachetools refuses to keep is no error and no sign of corruption.
    """
    gate: CacheGate[str, str] = CacheGate(cachetools.LRUCache(2, getsizeof=len), source.load)
    assert "a-1" == gate.get("a")
    assert 0 == gate.statistics().store_errors


@pytest.mark.parametrize(
    ("arguments", "options", "said"),
    [
        (([], len), {}, "is no cache"),
        (({},), {}, "load=None cannot be called"),
        (({}, len), {"validator": 3}, "validator=3"),
        (({}, len), {"sample": 1.1}, "sample=1.1 must be a number from 0 to 1"),
        (({}, len), {"sample": math.nan}, "sample=nan"),
        (({}, len), {"sample": True}, "sample=True"),
        (({}, len), {"stale_for": -1}, "stale_for"),
        (({}, len), {"stale_limit": -1}, "stale_limit"),
        (({}, len), {"name": "No Name"}, "No Name"),
    ],
)
def test_arguments_that_cannot_work_are_refused(arguments: Any, options: Any, said: str) -> None:
    """
    The error names the argument and says what it must be.
    """
    with pytest.raises(ConfigError, match=said):
        CacheGate(*arguments, **options)


def test_a_shared_cache_takes_functions_and_keys_that_are_strings(server: Server, source: Source) -> None:
    """
    Anything else could mean two things in the cache, and is an error.
    """
    with pytest.raises(ConfigError, match="delete=None"):
        SharedCache(get=server.get, set=server.set, delete=None)  # type: ignore[arg-type]
    gate: CacheGate[Any, Any] = CacheGate(server.shared(), source.load)
    with pytest.raises(ConfigError, match="is no string"):
        gate.get(1)


# -- one load for all -------------------------------------------------------------


def test_all_who_ask_at_once_get_one_load(
    gate: CacheGate[Any, Any], source: Source, eventually: Callable[..., bool]
) -> None:
    """
    Callers that come while a key is being loaded wait for that load, and other keys wait for nobody.
    """
    source.is_slow = True
    first = begun(lambda: gate.get("a"))
    assert source.reached.wait(10)
    others = begun(lambda: in_threads(*[lambda: gate.get("a")] * 9))
    joined(gate, 9, eventually)
    source.is_slow = False
    assert "b-1" == gate.get("b")
    source.go_on.set()
    assert ["a-1"] * 10 == [first(), *others()]
    assert ["a", "b"] == source.loads


def test_an_error_goes_to_all_who_waited_and_to_nobody_else(
    gate: CacheGate[Any, Any], source: Source, eventually: Callable[..., bool]
) -> None:
    """
    Those who waited for a load that fails get its error; the next caller loads anew.
    """
    source.is_slow, source.error = True, OSError("unplugged")
    first = begun(lambda: gate.get("a"))
    assert source.reached.wait(10)
    others = begun(lambda: in_threads(*[lambda: gate.get("a")] * 4))
    joined(gate, 4, eventually)
    source.go_on.set()
    assert [source.error] * 5 == [first(), *others()]
    source.error = None
    assert "a-1" == gate.get("a")


def test_a_loader_that_asks_for_its_own_key_is_told_so() -> None:
    """
    It would wait for itself for ever; another key is fine.
    """
    gate: CacheGate[int, int] = CacheGate({}, lambda number: gate.get(number - 1) if number else gate.get(0))
    with pytest.raises(IllegalTransitionError, match="the loader of 0 asks for 0 itself"):
        gate.get(2)


@pytest.mark.anyio
async def test_a_coroutine_that_loads_a_key_and_asks_for_it_is_told_so() -> None:
    """
    A task would wait for itself as well, whether it asks as a task or blocks its thread; other tasks are not concerned.
    """

    async def load(number: int) -> int:
        await anyio.sleep(0)
        return await gate.aget(max(0, number - 1))

    gate: CacheGate[int, int] = CacheGate({}, load)
    blocking: CacheGate[int, int] = CacheGate({}, lambda number: blocking.get(number))
    refused: list[str] = []

    async def ask(asked: CacheGate[int, int]) -> None:
        with pytest.raises(IllegalTransitionError, match="the loader of 0 asks for 0 itself") as caught:
            await asked.aget(0)
        refused.append(str(caught.value))

    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            for asked in (gate, gate, blocking):
                tasks.start_soon(ask, asked)
    assert 3 == len(refused)
    assert (1, 1) == (gate.statistics().joined, gate.statistics().loads)


def test_a_loader_that_is_stopped_by_ctrl_c_leaves_nobody_waiting(
    source: Source, eventually: Callable[..., bool]
) -> None:
    """
    What is no error of the load is raised where it belongs, and one of those who wait loads instead.
    """

    def load(key: str) -> Any:
        answer = source.load(key)
        if len(source.loads) == 1:
            raise KeyboardInterrupt
        return answer

    gate: CacheGate[str, Any] = CacheGate({}, load)
    source.is_slow = True
    stopped: list[BaseException] = []

    def interrupted() -> None:
        try:
            gate.get("a")
        except KeyboardInterrupt as exc:
            stopped.append(exc)

    first = begun(interrupted)
    assert source.reached.wait(10)
    others = begun(lambda: in_threads(*[lambda: gate.get("a")] * 4))
    joined(gate, 4, eventually)
    source.go_on.set()
    first()
    assert ["a-1"] * 4 == others()
    assert (1, 2) == (len(stopped), len(source.loads))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_forked_child_waits_for_no_load_of_its_parent(source: Source) -> None:
    """
    A child that is forked during a load loads by itself.
    """
    gate: CacheGate[str, Any] = CacheGate({}, source.load)
    source.is_slow = True
    parents = begun(lambda: gate.get("a"))
    assert source.reached.wait(10)
    child = os.fork()
    if not child:
        source.is_slow, status = False, 1
        try:
            status = 0 if gate.get("a") == "a-1" else 2
        finally:
            os._exit(status)
    assert 0 == os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    source.go_on.set()
    assert "a-1" == parents()


def test_finalizers_of_values_may_use_the_gate(eventually: Callable[..., bool]) -> None:
    """
    What the freed values do to the gate, under its lock, ends: also if they drop themselves and load others.
    """
    freed: list[str] = []
    is_over = False

    class Value:
        def __init__(self, key: str) -> None:
            self.key = key

        def __del__(self) -> None:
            if not is_over:
                freed.append(self.key)
                gate.drop(self.key)
                if self.key != "other":
                    gate.get("other")

    for cache in ({}, cachetools.LRUCache(2), functools.lru_cache(maxsize=2)(Value)):
        is_over = False
        gate: CacheGate[str, Value] = CacheGate(cache, Value, stale_limit=2)

        def use(gate: CacheGate[str, Value] = gate) -> None:
            for forget in (gate.bump, gate.clear, lambda: gate.drop("b")):
                for key in "abcab":
                    assert key == gate.get(key).key
                forget()
            assert gate.statistics().kept <= 2

        freed.clear()
        assert [None] == in_threads(use)
        assert {"a", "b", "c"} <= set(freed)
        is_over = True


@pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="no such signal here")
def test_a_signal_handler_may_use_the_gate(source: Source) -> None:
    """
    It may come in the middle of anything, also while the gate writes into a mapping.
    """

    class Interrupted(dict[Any, Any]):
        def __setitem__(self, key: Any, value: Any) -> None:
            signal.raise_signal(signal.SIGUSR1)
            super().__setitem__(key, value)

    gate: CacheGate[str, Any] = CacheGate(Interrupted(), source.load)
    before = signal.signal(signal.SIGUSR1, lambda *_: gate.bump())
    try:
        assert "a-1" == gate.get("a")
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert 2 == gate.epoch  # one for each load


# -- modes ---------------------------------------------------------------------------


def test_the_last_good_value_stands_in_for_an_error(source: Source, clock: VirtualClock) -> None:
    """
    At STALE_ON_ERROR a value that cannot be loaded is given as it was, for as long as is allowed; at NORMAL never.
    """
    cache: dict[Any, Any] = {}
    gate: CacheGate[str, Any] = CacheGate(cache, source.load, stale_for=60, clock=clock)
    assert "a-1" == gate.get("a")
    source.error = OSError("unplugged")
    cache.clear()
    with pytest.raises(OSError, match="unplugged"):
        gate.get("a")
    gate.mode = GateMode.STALE_ON_ERROR
    assert "a-1" == gate.get("a")
    with pytest.raises(OSError, match="unplugged"):
        gate.get("never seen")
    clock.pass_time(60.1)
    with pytest.raises(OSError, match="unplugged"):
        gate.get("a")
    assert 1 == gate.statistics().stale


def test_nobody_waits_for_a_slow_load_where_stale_is_allowed(source: Source) -> None:
    """
    While one caller loads, the others get the last good value at once.
    """
    cache: dict[Any, Any] = {}
    gate: CacheGate[str, Any] = CacheGate(cache, source.load)
    gate.get("a")
    gate.mode = GateMode.STALE_ON_ERROR
    cache.clear()
    source.is_slow, source.version = True, 2
    first = begun(lambda: gate.get("a"))
    assert source.reached.wait(10)
    assert ["a-1"] * 5 == in_threads(*[lambda: gate.get("a")] * 5)
    source.go_on.set()
    assert "a-2" == first()


def test_as_many_last_good_values_are_kept_as_was_said(source: Source) -> None:
    """
    What falls off is the value that was used longest ago; a limit of 0 keeps none.
    """
    gate: CacheGate[str, Any] = CacheGate({}, source.load, stale_limit=2)
    for key in "abc":
        gate.get(key)
    assert 2 == gate.statistics().kept
    without: CacheGate[str, Any] = CacheGate({}, source.load, stale_limit=0)
    without.get("a")
    assert 0 == without.statistics().kept


def test_a_bypass_neither_reads_nor_writes(gate: CacheGate[Any, Any], source: Source) -> None:
    """
    Everything is loaded; afterwards nothing comes from before, for much may have changed.
    """
    gate.get("a")
    gate.mode = GateMode.BYPASS
    source.version = 2
    assert ["a-2", "a-2"] == [gate.get("a"), gate.get("a")]
    gate.mode = GateMode.NORMAL
    source.version = 3
    assert ["a-3", "a-3"] == [gate.get("a"), gate.get("a")]
    assert ["a"] * 4 == source.loads


def test_a_bypass_and_the_way_back_are_no_stampede(source: Source, eventually: Callable[..., bool]) -> None:
    """
    Also without a cache one load serves all who wait, and on the way back it is done once more for all.
    """
    gate: CacheGate[str, Any] = CacheGate({}, source.load)
    gate.mode = GateMode.BYPASS
    source.is_slow = True
    callers = begun(lambda: in_threads(*[lambda: gate.get("a")] * 10))
    joined(gate, 9, eventually)
    gate.mode = GateMode.NORMAL
    source.go_on.set()
    assert ["a-1"] * 10 == callers()
    assert ["a", "a"] == source.loads


def test_the_mode_is_the_strictest_that_anybody_wants(gate: CacheGate[Any, Any]) -> None:
    """
    Holds of several owners come and go in any order, and what was set by hand is there again after the last.
    """
    gate.mode = GateMode.STALE_ON_ERROR
    gate.hold("x", GateMode.BYPASS)
    gate.hold("y", GateMode.STALE_ON_ERROR)
    modes = [gate.mode]
    for owner in ("x", "y", "y"):
        gate.release(owner)
        modes.append(gate.mode)
    assert [GateMode.BYPASS, *[GateMode.STALE_ON_ERROR] * 3] == modes
    with pytest.raises(ValueError, match="7"):
        gate.mode = 7  # type: ignore[assignment]
    assert "<CacheGate things, STALE_ON_ERROR, epoch " in repr(gate)


# -- epochs ----------------------------------------------------------------------------


def test_nothing_of_an_older_epoch_is_given(gate: CacheGate[Any, Any], source: Source) -> None:
    """
    After a bump everything is loaded anew, and no last good value is left.
    """
    gate.get("a")
    source.version = 2
    gate.bump()
    assert "a-2" == gate.get("a")
    gate.mode = GateMode.STALE_ON_ERROR
    gate.bump()
    source.error = OSError("unplugged")
    with pytest.raises(OSError, match="unplugged"):
        gate.get("a")


def test_a_load_from_before_the_epoch_is_done_again(
    gate: CacheGate[Any, Any], source: Source, eventually: Callable[..., bool]
) -> None:
    """
    Who waits for a load that was under way at the bump gets the value of another one, and so does who comes later.
    """
    source.is_slow = True
    callers = begun(lambda: in_threads(*[lambda: gate.get("a")] * 4))
    joined(gate, 3, eventually)
    gate.bump()
    source.version = 2
    later = begun(lambda: gate.get("a"))
    joined(gate, 4, eventually)
    source.go_on.set()
    assert ["a-2"] * 5 == [*callers(), later()]
    assert ["a-2", 2] == [gate.get("a"), len(source.loads)]


def test_a_key_that_is_dropped_is_loaded_anew(
    gate: CacheGate[Any, Any], source: Source, eventually: Callable[..., bool]
) -> None:
    """
    Also by those who wait for a load that had begun before.
    """
    gate.get("a")
    source.version = 2
    gate.drop("a")
    source.is_slow = True
    caller = begun(lambda: gate.get("a"))
    assert source.reached.wait(10)
    source.version = 3
    gate.drop("a")
    source.go_on.set()
    assert "a-3" == caller() == gate.get("a")
    gate.mode = GateMode.BYPASS
    gate.drop("a")


@pytest.mark.parametrize("forget", [CacheGate.drop, lambda gate, _key: gate.bump()], ids=["drop", "bump"])
def test_a_key_that_changes_faster_than_it_is_loaded_is_given_and_not_kept(forget: Callable[..., None]) -> None:
    """
    The second load has begun after the caller asked, so its value is an answer; whoever asks later has it loaded anew.
    """
    loads: list[str] = []

    def load(key: str) -> int:
        loads.append(key)
        assert len(loads) < 10, "it is loaded for ever"
        forget(gate, key)
        return len(loads)

    cache: dict[Any, Any] = {}
    gate: CacheGate[str, int] = CacheGate(cache, load)
    assert [2, 4] == [gate.get("a"), gate.get("a")]
    assert ({}, 0, 4) == (cache, gate.statistics().kept, gate.statistics().outdated)


def test_nothing_stands_in_for_a_key_that_was_dropped(gate: CacheGate[Any, Any], source: Source) -> None:
    """
    Its last good value is gone with it.
    """
    gate.get("a")
    gate.mode = GateMode.STALE_ON_ERROR
    gate.drop("a")
    source.error = OSError("unplugged")
    with pytest.raises(OSError, match="unplugged"):
        gate.get("a")


def test_a_key_that_is_dropped_while_its_value_is_written_is_not_in_the_cache(server: Server, source: Source) -> None:
    """
    A write that overtakes the drop is taken back.
    """

    def overtaking(key: str, value: str) -> None:
        if source.version == 1 and key.endswith(":a"):
            source.version = 2
            gate.drop("a")
        server.set(key, value)

    shared = SharedCache(get=server.get, set=overtaking, delete=server.delete)
    gate: CacheGate[str, Any] = CacheGate(shared, source.load)
    assert ["a-2", "a-2"] == [gate.get("a"), gate.get("a")]
    assert ["a", "a"] == source.loads


def test_a_mapping_that_cannot_be_emptied_begins_its_epoch_all_the_same(source: Source) -> None:
    """
    Its entries carry the old number, so nobody finds them.
    """

    class Stubborn(dict[Any, Any]):
        def clear(self) -> None:
            raise RuntimeError("never")

    cache = Stubborn()
    gate: CacheGate[str, Any] = CacheGate(cache, source.load)
    gate.get("a")
    source.version = 2
    gate.bump()
    assert "a-2" == gate.get("a")
    assert {(0, "a"): "a-1", (1, "a"): "a-2"} == cache


def test_every_process_follows_the_epoch_of_a_shared_cache(server: Server, source: Source, clock: VirtualClock) -> None:
    """
    A bump of one gate is seen by another within ``epoch_every``, and by one that starts later at once.
    """
    here, there = (CacheGate(server.shared(), source.load, name="users", clock=clock) for _ in range(2))
    assert ["a-1", "a-1"] == [here.get("a"), there.get("a")]
    assert ["a"] == source.loads
    source.version = 2
    here.bump()
    assert ["a-2", "a-1"] == [here.get("a"), there.get("a")]
    clock.pass_time(1.0)
    assert "a-2" == there.get("a")
    started_later: CacheGate[str, Any] = CacheGate(server.shared(), source.load, name="users", clock=clock)
    assert "a-2" == started_later.get("a")
    assert here.epoch == there.epoch == started_later.epoch


def test_a_key_is_dropped_from_the_epoch_that_others_have_begun(
    server: Server, source: Source, clock: VirtualClock
) -> None:
    """
    A drop asks for the epoch anew, so what another process has stored in a newer one does not stay there.
    """
    here, there = (CacheGate(server.shared(), source.load, name="users", clock=clock) for _ in range(2))
    here.get("a")
    there.bump()
    there.get("a")
    source.version = 2
    here.drop("a")
    assert ["a-2", "a-2"] == [there.get("a"), here.get("a")]


def test_a_load_from_before_the_epoch_leaves_nothing_in_a_mapping(source: Source) -> None:
    """
    Entries that nobody could find are not stored.
    """
    cache: dict[Any, Any] = {}
    gate: CacheGate[str, Any] = CacheGate(cache, source.load)
    source.is_slow = True
    caller = begun(lambda: gate.get("a"))
    assert source.reached.wait(10)
    gate.bump()
    source.go_on.set()
    assert "a-1" == caller()
    assert {(1, "a"): "a-1"} == cache


def test_an_epoch_that_the_server_has_lost_never_comes_back(
    server: Server, source: Source, clock: VirtualClock
) -> None:
    """
    A server that has lost the epoch, or remembers an older one, is told it again; a new process makes a newer one.
    """
    gate: CacheGate[str, Any] = CacheGate(server.shared(), source.load, clock=clock)
    gate.get("a")
    before = server.data["cache:epoch"]
    gate.bump()
    for lost in (None, "nonsense", before):
        server.data.pop("cache:epoch")
        if lost:
            server.data["cache:epoch"] = lost
        clock.pass_time(1.0)
        gate.get("a")
        assert str(gate.epoch) == server.data["cache:epoch"]
    server.data.pop("cache:epoch")
    clock.pass_time(1.0)
    other: CacheGate[str, Any] = CacheGate(server.shared(), source.load, clock=clock)
    other.get("a")
    assert (other.epoch or 0) > (gate.epoch or 0)


@pytest.mark.parametrize("told", ["-1", "nonsense", ""])
def test_an_epoch_that_is_none_is_replaced(server: Server, source: Source, told: str) -> None:
    """
    Whatever somebody has written in the place of the epoch, a gate that starts begins a new one and caches.
    """
    server.data["cache:epoch"] = told
    gate: CacheGate[str, Any] = CacheGate(server.shared(), source.load)
    assert ["a-1", "a-1", ["a"]] == [gate.get("a"), gate.get("a"), source.loads]
    assert str(gate.epoch) == server.data["cache:epoch"]


# -- a cache that breaks --------------------------------------------------------------


def test_a_server_that_is_gone_costs_loads_and_no_errors(server: Server, source: Source, clock: VirtualClock) -> None:
    """
    Values are loaded while it is gone, whether it was ever there or not, and what could not be told is told later.
    """
    server.error = ConnectionError("gone")
    gate: CacheGate[str, Any] = CacheGate(server.shared(), source.load, clock=clock)
    assert ["a-1", "a-1", None] == [gate.get("a"), gate.get("a"), gate.epoch]
    with pytest.raises(ConnectionError):
        gate.bump()
    with pytest.raises(ConnectionError):
        gate.drop("a")
    assert "a-1" == gate.get("a")
    server.error = None
    clock.pass_time(1.0)
    assert ["a-1", "a-1"] == [gate.get("a"), gate.get("a")]
    assert str(gate.epoch) == server.data["cache:epoch"]
    assert 4 == len(source.loads)


def test_what_cannot_be_decoded_is_loaded_anew(server: Server, source: Source) -> None:
    """
    An entry that makes no sense is dropped, counted as invalid and replaced.
    """

    def decode(told: str) -> str:
        if told == "poison":
            raise ValueError(told)
        return told

    gate: CacheGate[str, Any] = CacheGate(server.shared(decode=decode), source.load)
    gate.get("a")
    server.data[f"cache:{gate.epoch}:a"] = "poison"
    assert ["a-1", "a-1"] == [gate.get("a"), gate.get("a")]
    assert (2, 1) == (len(source.loads), gate.statistics().invalid)


def refuse_poison(_key: Any, value: Any) -> bool:
    if value == "broken":
        raise TypeError
    return bool(value != "poison")


@pytest.mark.parametrize("poison", ["poison", "broken"])
def test_an_invalid_value_is_dropped_and_loaded_anew(source: Source, poison: str) -> None:
    """
    What the validator refuses, or raises at, is counted and never given.
    """
    cache: dict[Any, Any] = {}
    gate: CacheGate[str, Any] = CacheGate(cache, source.load, validator=refuse_poison, sample=1)
    gate.get("a")
    cache[0, "a"] = poison
    assert ["a-1", "a-1"] == [gate.get("a"), gate.get("a")]
    seen = gate.statistics()
    assert (2, 1, 2) == (seen.sampled, seen.invalid, seen.loads)
    assert {(0, "a"): "a-1"} == cache


def test_poison_that_cannot_be_dropped_is_out_of_reach(source: Source) -> None:
    """
    A cache that refuses to drop an invalid value begins a new epoch, also if the value cannot be loaded.
    """

    class Clinging(dict[Any, Any]):
        def pop(self, *_args: Any) -> Any:
            raise RuntimeError("never")

        clear = pop

    cache = Clinging()
    gate: CacheGate[str, Any] = CacheGate(cache, source.load, validator=refuse_poison, sample=1)
    cache[0, "a"] = "poison"
    source.error = OSError("unplugged")
    with pytest.raises(OSError, match="unplugged"):
        gate.get("a")
    assert (1, MISSING) == (gate.epoch, cache.get((1, "a"), MISSING))


MISSING = object()


def test_a_share_of_the_reads_is_validated(source: Source) -> None:
    """
    About as many values are shown to the validator as was said, and none without one.
    """
    cache: dict[Any, Any] = {}
    gate: CacheGate[str, Any] = CacheGate(
        cache, source.load, validator=refuse_poison, sample=0.1, random=random.Random(1)
    )
    for _ in range(1000):
        gate.get("a")
    assert 60 < gate.statistics().sampled < 140


def test_a_loaded_value_that_is_invalid_is_an_error(source: Source) -> None:
    """
    It is neither given nor kept; the last good value may stand in for it.
    """
    cache: dict[Any, Any] = {}
    gate: CacheGate[str, Any] = CacheGate(cache, source.load, validator=lambda _key, value: value != "a-2")
    gate.get("a")
    source.version = 2
    gate.clear()
    with pytest.raises(InvalidValueError, match="'a' is refused by the validator"):
        gate.get("a")
    gate.mode = GateMode.STALE_ON_ERROR
    assert "a-1" == gate.get("a")


# -- event loops --------------------------------------------------------------------------


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.mark.anyio
@pytest.mark.parametrize("shared", [False, True])
async def test_tasks_share_a_load_as_threads_do(source: Source, server: Server, shared: bool) -> None:
    """
    Of tasks that ask at once one loads, on both event loops, with a mapping and with an async server.
    """
    gate: CacheGate[str, Any] = CacheGate(server.ashared() if shared else {}, source.aload)
    answers: list[Any] = []

    async def ask() -> None:
        answers.append(await gate.aget("a"))

    for _ in range(2):
        async with anyio.create_task_group() as group:
            for _ in range(10):
                group.start_soon(ask)
    assert ["a-1"] * 20 == answers
    assert ["a"] == source.loads
    source.version = 2
    await gate.abump()
    assert "a-2" == await gate.aget("a")
    source.version = 3
    await gate.adrop("a")
    assert "a-3" == await gate.aget("a")


@pytest.mark.anyio
async def test_a_load_that_is_cancelled_is_taken_over(source: Source) -> None:
    """
    When the task that loads is cancelled, another one that waits for it loads; one that waits can be cancelled alone.
    """
    begins: list[anyio.Event] = []

    async def load(key: str) -> str:
        begins.append(anyio.Event())
        await begins[-1].wait()
        return key

    gate: CacheGate[str, str] = CacheGate({}, load)
    answers: list[str] = []

    async def ask(scope: anyio.CancelScope) -> None:
        with scope:
            answers.append(await gate.aget("a"))

    scopes = [anyio.CancelScope() for _ in range(5)]
    with anyio.fail_after(10):
        async with anyio.create_task_group() as group:
            for scope in scopes:
                group.start_soon(ask, scope)
                await anyio.wait_all_tasks_blocked()
            scopes[1].cancel()
            scopes[0].cancel()
            while len(begins) < 2:
                await anyio.sleep(0)
            begins[1].set()
    assert ["a"] * 3 == answers


@pytest.mark.anyio
async def test_an_error_of_an_async_load_goes_to_all_tasks(source: Source) -> None:
    """
    Every task that waited gets it.
    """
    source.error = OSError("unplugged")
    gate: CacheGate[str, Any] = CacheGate({}, source.aload)
    errors: list[Exception] = []

    async def ask() -> None:
        try:
            await gate.aget("a")
        except OSError as exc:
            errors.append(exc)

    async with anyio.create_task_group() as group:
        for _ in range(5):
            group.start_soon(ask)
    assert [source.error] * 5 == errors


def test_sync_calls_of_an_async_gate_say_what_to_use(source: Source, server: Server) -> None:
    """
    They change nothing and name the coroutine.
    """
    gate: CacheGate[str, Any] = CacheGate(server.ashared(), source.load, name="things")
    for call, instead in ((lambda: gate.get("a"), "aget"), (lambda: gate.drop("a"), "adrop"), (gate.bump, "abump")):
        with pytest.raises(IllegalTransitionError, match=instead):
            call()
    assert (None, []) == (gate.epoch, source.loads)


def test_coroutines_that_nobody_could_see_coming_are_refused(server: Server, source: Source) -> None:
    """
    A plain function that gives a coroutine is no way to write an async cache, and says so instead of missing for ever.
    """
    shared = SharedCache(get=lambda key: server.aget(key), set=server.set, delete=server.delete)
    gate: CacheGate[str, Any] = CacheGate(shared, source.load)
    with pytest.raises(ConfigError, match="async def"):
        gate.get("a")


@pytest.mark.anyio
async def test_functions_that_are_not_async_work_from_tasks_too(source: Source) -> None:
    """
    A gate without a coroutine function can be used by threads and tasks alike.
    """
    gate: CacheGate[str, Any] = CacheGate({}, source.load)
    assert ["a-1", "a-1"] == [await gate.aget("a"), gate.get("a")]
