"""
`CacheGate`: the one way to a cache, so that it may be wrong, broken or gone and the application is not.
"""

from __future__ import annotations

import math
import random as randomness
import threading

from collections.abc import Callable, MutableMapping
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

from selfheal.clock import SystemClock
from selfheal.errors import ConfigError, IllegalTransitionError
from selfheal.model.settings import require_name, seconds
from selfheal.resources.cache_fetching import CacheStatistics, Fetching, GateMode
from selfheal.resources.cache_stores import MISSING, MappingStore, SharedCache, cached_function, store_of
from selfheal.resources.forks import reset_in_children
from selfheal.resources.steps import Plan, adrive, drive, is_async


if TYPE_CHECKING:
    import contextlib
    import datetime as dt

    from selfheal.clock import Clock


K = TypeVar("K")
V = TypeVar("V")


class CacheGate(Generic[K, V]):
    """
    The one way to a cache: what it does not have is loaded, once for all who ask at the same time.

    What the cache itself raises is counted and costs a load, never an error.
    What the loader raises goes to all who waited for that load. Works from
    threads (`get`) and from tasks of asyncio and trio (`aget`). What waits for
    the network should be a coroutine function in an async program: others are
    called on the loop. A child process that is forked goes on with what its
    parent had, and a shared cache.

    Args:
        cache: A mutable mapping, such as a `dict` or a cachetools cache: the gate keeps its entries under
            ``(epoch, key)``, and must be the only one to write it. Or a function of one argument that
            `functools.lru_cache` wraps: then call the gate instead, which keeps as many values. Or a `SharedCache`.
        load: Gives the value of a key, sync or async. It must not ask for that key itself. Default: the wrapped
            function.
        lock: Held around everything that is done to a mapping, if others use it too. Default: one of its own. Make it an `threading.RLock`
            if finalizers of values, or signal handlers, use the gate.
        validator: Called with a key and a value; returns whether that can be right. What it raises means no. Every
            loaded value is shown to it, and a *sample* of those read.
        sample: Share of the reads that are validated, from 0 to 1.
        stale_for: Seconds for which a loaded value may stand in for one that cannot be loaded.
        stale_limit: How many loaded values are kept for that; those used last.
        epoch_every: Seconds between two looks at the epoch of a shared cache: so long may another process that
            has begun a new one go unnoticed here. Each look costs one read.
        name: Of the gate, and of the entries in a shared cache.
        clock: The time; tests pass a virtual one.
        random: For the sample; tests pass a seeded one.

    Raises:
        ConfigError: If an argument cannot work.

    Examples:
        >>> users = CacheGate({}, lambda number: f"user {number}", name="users")
        >>> users.get(7), users.get(7), users.statistics().loads
        ('user 7', 'user 7', 1)

    .. versionadded:: 26.1.0
    """

    def __init__(
        self,
        cache: MutableMapping[Any, Any] | SharedCache | Callable[[K], V],
        load: Callable[[K], Any] | None = None,
        *,
        lock: contextlib.AbstractContextManager[Any] | None = None,
        validator: Callable[[K, V], object] | None = None,
        sample: float = 0.01,
        stale_for: float | dt.timedelta = 3600.0,  # RFC 5861 shows a day, Varnish's grace is 10 s
        stale_limit: int = 1024,
        epoch_every: float | dt.timedelta = 1.0,
        name: str = "cache",
        clock: Clock | None = None,
        random: randomness.Random | None = None,
    ) -> None:
        self.name: Final = require_name(name)
        # One for all that is ours, and reentrant: values are freed under it whose finalizers may use the gate, and a
        # signal handler may come at any time.
        self._lock = threading.RLock()
        self._own_lock: Final = lock is None
        self._store: Final = store_of(cache, self._lock if lock is None else lock, name)
        load = _function(name, "load", cached_function(cache) if load is None else load)
        self._fetching: Final = Fetching(
            self._store,
            load,
            lock=self._lock,
            validator=None if validator is None else _function(name, "validator", validator),
            sample=_within(name, "sample", sample, 1.0),
            stale_for=_within(name, "stale_for", seconds(stale_for), math.inf),
            stale_limit=int(_within(name, "stale_limit", stale_limit, 1e9)),
            epoch_every=_within(name, "epoch_every", seconds(epoch_every), math.inf),
            name=name,
            clock=SystemClock() if clock is None else clock,
            uniform=(randomness.Random() if random is None else random).random,  # noqa: S311 - picks samples
        )
        self._validates = validator is not None
        #: Who wants how much less of the cache; what was set by hand is the gate's own wish.
        self._held: dict[object, GateMode] = {}
        self.is_async: Final = self._store.is_async or is_async(load)
        reset_in_children(self)

    # -- using it -------------------------------------------------------------

    def get(self, key: K) -> V:
        """
        The value of *key*, from the cache or loaded.

        Raises:
            Exception: What the loader raised, if nothing may stand in for it.
            InvalidValueError: If the validator refused what was loaded.
            IllegalTransitionError: If the gate is async: ``await aget(key)`` then; or if the loader asks for the very
                key that it loads.
        """
        if self.is_async:
            self._require_sync("await aget(key)")
        verify = self._validates and self._fetching.draw()
        value: Any = MISSING if verify else self._fetching.peek(key)
        if value is MISSING:
            value = drive(self._fetching.getting(key, None, verify=verify))
        answer: V = value
        return answer

    async def aget(self, key: K) -> V:
        """
        As `get`, from a coroutine. If it is cancelled while it loads for others, one of them loads.
        """
        verify = self._validates and self._fetching.draw()
        value: Any = MISSING if verify else self._fetching.peek(key)
        if value is MISSING:
            value = await adrive(self._fetching.getting(key, _task(), verify=verify))
        answer: V = value
        return answer

    __call__ = get

    def drop(self, key: K) -> None:
        """
        Forget the value of *key*, which has changed: also one that is being loaded right now.

        Raises:
            Exception: What the cache raised: it may still have the value. A new epoch makes sure.
            IllegalTransitionError: If the gate is async: ``await adrop(key)`` then.
        """
        self._require_sync("await adrop(key)")
        drive(self._fetching.dropping(key))

    async def adrop(self, key: K) -> None:
        """
        As `drop`, from a coroutine.
        """
        await adrive(self._fetching.dropping(key))

    # -- what is known about it -------------------------------------------------

    @property
    def epoch(self) -> int | None:
        """
        The present epoch: only what was loaded in it is given. `None`: the shared cache has not told it yet.
        """
        return self._fetching.epoch

    @property
    def is_shared(self) -> bool:
        """
        Whether other processes use the cache, too.
        """
        return self._store.is_shared

    def statistics(self) -> CacheStatistics:
        """
        The numbers so far.
        """
        return self._fetching.statistics()

    def size(self) -> int | None:
        """
        How many entries the mapping has, or `None`: a shared cache does not tell.
        """
        return self._store.size()

    def looking(self) -> Plan[None]:
        """
        The steps of trying whether the cache itself works, whatever the mode. They raise what it raises.
        """
        yield from self._store.looking()

    def __repr__(self) -> str:
        return f"<CacheGate {self.name}, {self.mode.name}, epoch {self.epoch}>"

    # -- what heals it -----------------------------------------------------------

    @property
    def mode(self) -> GateMode:
        """
        How much of the cache is used: the largest of what was set here and what is held. Set it to change the former.

        To leave `GateMode.BYPASS` begins a new epoch: what changed meanwhile is not in the cache.
        """
        return self._fetching.mode

    @mode.setter
    def mode(self, mode: GateMode) -> None:
        self._settle(self, GateMode(mode))

    def hold(self, owner: object, mode: GateMode) -> None:
        """
        Use no more of the cache than *mode* allows until *owner* releases it.
        """
        self._settle(owner, GateMode(mode))

    def release(self, owner: object) -> None:
        """
        Take back what *owner* holds, if anything.
        """
        self._settle(owner, None)

    def bump(self) -> None:
        """
        Begin a new epoch: nothing that was read or loaded before is given to anybody from now on.

        That holds here at once, also for the loads under way, which are done again. Who waits when epochs change or
        keys are dropped faster than they are loaded gets what the second load gives, and it is not kept. A shared cache
        is told; other processes follow within their ``epoch_every``. A mapping is emptied too, for nobody could find
        its entries.

        Raises:
            Exception: What a shared cache raised: the others do not know yet. They are told as soon as it answers.
            IllegalTransitionError: If the gate is async: ``await abump()`` then. Nothing has changed.
        """
        self._require_sync("await abump()")
        drive(self.bumping())

    async def abump(self) -> None:
        """
        As `bump`, from a coroutine.
        """
        await adrive(self.bumping())

    def bumping(self) -> Plan[None]:
        """
        The steps of `bump`.
        """
        self._fetching.begin(None)
        self._fetching.sweep()
        if self._store.is_shared:
            yield from self._fetching.agreeing()

    def clear(self) -> None:
        """
        Empty the mapping, under its lock. Last good values stay, and so does the epoch.

        Raises:
            ConfigError: If the cache is shared: it may hold what is not ours. Begin a new epoch.
        """
        if self._store.is_shared:
            msg = f"{self.name} is a shared cache, which is never emptied. Call bump(): old entries expire."
            raise ConfigError(msg)
        self._store.clear()

    def reset_after_fork(self) -> None:
        """
        Called by itself in a child made by `os.fork`: the loads of the parent's threads do not end here.
        """
        self._lock = threading.RLock()
        self._fetching.reset_after_fork(self._lock)
        if self._own_lock and isinstance(self._store, MappingStore):
            self._store.reset_after_fork(self._lock)

    def _settle(self, owner: object, mode: GateMode | None) -> None:
        with self._lock:
            if mode is None:
                self._held.pop(owner, None)
            else:
                self._held[owner] = mode
            wanted = max(self._held.values(), default=GateMode.NORMAL)
            leaves_bypass = self.mode is GateMode.BYPASS and wanted is not GateMode.BYPASS
            if leaves_bypass:
                self._fetching.begin(None)
            self._fetching.mode = wanted
        if leaves_bypass:  # not under our lock, for it needs the mapping's, too
            self._fetching.sweep()

    def _require_sync(self, instead: str) -> None:
        if self.is_async:
            msg = f"{self.name} has coroutine functions: use {instead}."
            raise IllegalTransitionError(msg)


def _task() -> object:
    """What the running task has for itself."""
    import anyio

    try:
        return anyio.get_current_task()
    except RuntimeError:  # a coroutine that something else than a loop drives, such as a simulation
        return object()


def _function(name: str, what: str, given: Callable[..., Any] | None) -> Callable[..., Any]:
    if not callable(given):
        msg = f"{name}: {what}={given!r} cannot be called. Give a function."
        raise ConfigError(msg)
    return given


def _within(name: str, what: str, value: Any, most: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= most:
        msg = f"{name}: {what}={value!r} must be a number from 0 to {most:g}."
        raise ConfigError(msg)
    return value
