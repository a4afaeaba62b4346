"""
Where the values of a `CacheGate` are: a mapping of this process, or a cache that several share.

Every entry is stamped with the epoch in which it was loaded, so that what is
older than the present epoch cannot even be found. No policy lives here.
"""

from __future__ import annotations

import contextlib
import enum
import functools

from collections import OrderedDict
from collections.abc import Callable, MutableMapping
from typing import Any, Final, Protocol, TypeVar, cast

from selfheal.errors import ConfigError
from selfheal.resources.steps import Plan, is_async


K = TypeVar("K")
V = TypeVar("V")


class Nothing(enum.Enum):
    """
    What stands for a value that there is not. `None` may be a value.
    """

    #: There is no entry.
    MISSING = "missing"
    #: There is an entry, and it cannot be made sense of.
    UNREADABLE = "unreadable"


MISSING: Final = Nothing.MISSING
UNREADABLE: Final = Nothing.UNREADABLE


class Store(Protocol):
    """
    What a gate asks of a cache. The plans raise what the cache raises.
    """

    #: Other processes use it too, so that they must agree on the epoch.
    is_shared: bool
    #: Whether its plans need an event loop.
    is_async: bool
    #: How many values `peek` has given.
    hits: int

    def peek(self, epoch: int, key: Any) -> Any:
        """
        The value, if that can be told at once, or `MISSING`.
        """
        ...

    def reading(self, epoch: int, key: Any) -> Plan[Any]:
        """
        The value, `MISSING`, or `UNREADABLE`.
        """
        ...

    def writing(self, epoch: int, key: Any, value: Any) -> Plan[None]:
        """
        Put a value into it.
        """
        ...

    def deleting(self, epoch: int, key: Any) -> Plan[None]:
        """
        Take a value out of it.
        """
        ...

    def looking(self) -> Plan[int | None]:
        """
        Try whether it works; give the epoch that it remembers, if it is shared.
        """
        ...

    def remembering(self, epoch: int) -> Plan[None]:
        """
        Tell the epoch to whoever shares it.
        """
        ...

    def clear(self) -> None:
        """
        Give back the room that entries take, if nobody else has a right to them.
        """
        ...

    def size(self) -> int | None:
        """
        How many entries there are, or `None`: nobody can tell.
        """
        ...


class Bounded(OrderedDict[K, V]):
    """
    A mapping that keeps the entries used last, *limit* at most (`None`: all).
    """

    def __init__(self, limit: int | None) -> None:
        super().__init__()
        self.limit = limit

    def get(self, key: K, default: Any = None) -> Any:
        """
        As of any mapping; it counts as use.
        """
        if key not in self:
            return default
        self.move_to_end(key)
        return self[key]

    # Values are freed when nothing is half done, for their finalizers may come back here.

    def clear(self) -> None:
        """
        As of any mapping.
        """
        freed = list(self.values())
        super().clear()
        del freed

    def __setitem__(self, key: K, value: V) -> None:
        self.pop(key, None)
        super().__setitem__(key, value)
        if self.limit is not None and len(self) > self.limit:
            self.popitem(last=False)


class MappingStore:
    """
    A mapping of this process. Whatever is done to it is done under one lock.
    """

    is_shared = False
    is_async = False

    def __init__(
        self,
        mapping: MutableMapping[Any, Any],
        lock: contextlib.AbstractContextManager[Any],
        also_clear: Callable[[], object] | None = None,
    ) -> None:
        self._mapping = mapping
        self._lock = lock
        self._also_clear = also_clear
        self.hits = 0

    def peek(self, epoch: int, key: Any) -> Any:
        """
        The value, or `MISSING`.
        """
        with self._lock:
            try:
                value = self._mapping.get((epoch, key), MISSING)
            except KeyError:  # cachetools, if it expires at this very moment
                return MISSING
            if value is not MISSING:
                self.hits += 1  # here, because a lock of its own would cost a third of all that a hit does
            return value

    def reading(self, epoch: int, key: Any) -> Plan[Any]:
        """
        As `peek`, and not counted.
        """
        return (yield functools.partial(self._read, (epoch, key)))

    def writing(self, epoch: int, key: Any, value: Any) -> Plan[None]:
        """
        Put a value into it, unless it is larger than the whole cache may be.
        """
        yield functools.partial(self._write, (epoch, key), value)

    def deleting(self, epoch: int, key: Any) -> Plan[None]:
        """
        Take a value out of it.
        """
        yield functools.partial(self._delete, (epoch, key))

    def looking(self) -> Plan[int | None]:
        """
        Ask for its length, and of cachetools for its size: both raise, for good, once it is corrupt.
        """
        yield self._look
        return None

    def remembering(self, epoch: int) -> Plan[None]:
        """
        Nobody else has to know.
        """
        yield from ()

    def clear(self) -> None:
        """
        Empty it.
        """
        with self._lock:
            self._mapping.clear()
        if self._also_clear is not None:
            self._also_clear()

    def size(self) -> int:
        """
        How many entries there are.
        """
        with self._lock:
            return len(self._mapping)

    def reset_after_fork(self, lock: contextlib.AbstractContextManager[Any]) -> None:
        """
        Use *lock*, for a thread of the parent may hold the one before.
        """
        self._lock = lock

    def _read(self, stamped: Any) -> Any:
        with self._lock:
            try:
                return self._mapping.get(stamped, MISSING)
            except KeyError:  # as above
                return MISSING

    def _write(self, stamped: Any, value: Any) -> None:
        # cachetools: a value larger than the cache. `cachetools.cached` passes over it as well.
        with self._lock, contextlib.suppress(ValueError):
            self._mapping[stamped] = value

    def _delete(self, stamped: Any) -> None:
        with self._lock:
            self._mapping.pop(stamped, None)

    def _look(self) -> None:
        with self._lock:
            len(self._mapping)
            getattr(self._mapping, "currsize", None)


def _same(value: Any) -> Any:
    return value


class SharedCache:
    """
    A cache outside this process, such as Redis, as three functions of a key. They may be coroutine functions.

    Entries are kept under ``<name of the gate>:<epoch>:<key>``, so keys must be
    strings, and a new epoch makes all older entries unreachable, in every
    process. **Let entries expire**: nothing else removes those of old epochs.
    The epoch is kept beside them, as ``<name of the gate>:epoch``.

    Args:
        get: Gives what was set under a key, as `bytes` or `str`, or `None`.
        set: Takes a key and what *encode* made of a value. Should set a time to live.
        delete: Takes a key, which need not exist.
        encode: Makes `bytes` or `str` of a value, such as `json.dumps`.
        decode: Makes a value of what *get* gave, such as `json.loads`. What it cannot read, and raises at, is dropped
            and loaded anew. Do not use pickle: whoever can write into the cache could run code here.

    Raises:
        ConfigError: If one of them cannot be called.

    .. versionadded:: 26.1.0
    """

    def __init__(
        self,
        *,
        get: Callable[[str], Any],
        set: Callable[[str, Any], Any],  # noqa: A002 - as caches call it
        delete: Callable[[str], Any],
        encode: Callable[[Any], Any] = _same,
        decode: Callable[[Any], Any] = _same,
    ) -> None:
        self.get: Final = get
        self.set: Final = set
        self.delete: Final = delete
        self.encode: Final = encode
        self.decode: Final = decode
        for what in ("get", "set", "delete", "encode", "decode"):
            if not callable(getattr(self, what)):
                msg = f"SharedCache: {what}={getattr(self, what)!r} cannot be called. Give a function."
                raise ConfigError(msg)


class SharedStore:
    """
    A `SharedCache` as one gate sees it.
    """

    is_shared = True
    hits = 0

    def __init__(self, cache: SharedCache, name: str) -> None:
        self._cache = cache
        self._name = name
        self.is_async = any(map(is_async, (cache.get, cache.set, cache.delete)))

    def peek(self, epoch: int, key: Any) -> Any:
        """
        `MISSING`: nothing can be told at once.
        """
        return MISSING

    def reading(self, epoch: int, key: Any) -> Plan[Any]:
        """
        Ask for a value.
        """
        told = yield functools.partial(self._cache.get, self._stamped(epoch, key))
        if told is None:
            return MISSING
        try:
            return self._cache.decode(told)
        except Exception:  # noqa: BLE001 - whatever it is, it is not ours
            return UNREADABLE

    def writing(self, epoch: int, key: Any, value: Any) -> Plan[None]:
        """
        Set a value.
        """
        yield functools.partial(self._cache.set, self._stamped(epoch, key), self._cache.encode(value))

    def deleting(self, epoch: int, key: Any) -> Plan[None]:
        """
        Delete a value.
        """
        yield functools.partial(self._cache.delete, self._stamped(epoch, key))

    def looking(self) -> Plan[int | None]:
        """
        Ask for the epoch.
        """
        told = yield functools.partial(self._cache.get, f"{self._name}:epoch")
        try:
            epoch = -1 if told is None else int(told)
        except (TypeError, ValueError):
            return None
        return None if epoch < 0 else epoch  # somebody else has written there: as good as nothing

    def remembering(self, epoch: int) -> Plan[None]:
        """
        Set the epoch.
        """
        yield functools.partial(self._cache.set, f"{self._name}:epoch", str(epoch))

    def clear(self) -> None:
        """
        Nothing: it belongs to others, too. Entries of old epochs expire.
        """

    def size(self) -> None:
        """
        Nobody can tell.
        """

    def _stamped(self, epoch: int, key: object) -> str:
        if not isinstance(key, str):
            msg = f"{self._name}: the key {key!r} is no string; in a shared cache 1 and '1' would be the same."
            raise ConfigError(msg)
        return f"{self._name}:{epoch}:{key}"


def store_of(cache: Any, lock: contextlib.AbstractContextManager[Any], name: str) -> Store:
    """
    The store behind what a gate was given.

    Raises:
        ConfigError: If it is nothing that can be used as a cache.
    """
    if isinstance(cache, SharedCache):
        return SharedStore(cache, name)
    if isinstance(cache, MutableMapping):
        return MappingStore(cast("Any", cache), lock)
    if cached_function(cache) is not None:
        # lru_cache stores what was loaded before a clear after it, so its own store can hold to no epoch.
        limit = cache.cache_parameters()["maxsize"]
        return MappingStore(Bounded(limit), lock, cache.cache_clear)
    msg = (
        f"{name}: {cache!r} is no cache. Give a mutable mapping, a function that functools.lru_cache wraps, "
        "or a SharedCache of three functions."
    )
    raise ConfigError(msg)


def cached_function(cache: Any) -> Callable[..., Any] | None:
    """
    The function that `functools.lru_cache` has wrapped, if *cache* is that.
    """
    return cache.__wrapped__ if hasattr(cache, "cache_clear") and hasattr(cache, "cache_parameters") else None
