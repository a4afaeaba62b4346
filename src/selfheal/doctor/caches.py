"""
The caches that gates and cached functions use: what holds the values, and who uses it under which lock.
"""

from __future__ import annotations

import inspect
import threading
import types

from collections import OrderedDict, defaultdict
from collections.abc import Iterable
from typing import Any, Final, NamedTuple

from selfheal.doctor import peek
from selfheal.doctor.kinds import CACHE_GATE, CACHE_PROBE, CACHED_FUNCTION
from selfheal.doctor.walk import Found


#: A function with one of these flags takes any number of arguments.
_STARS: Final = inspect.CO_VARARGS | inspect.CO_VARKEYWORDS


class Cache(NamedTuple):
    """
    One of them.

    Attributes:
        name: The shortest that one of its users has.
        mapping: What holds the values; `None`: nobody but `functools.lru_cache` knows.
        users: Their names, each with the lock that it holds around what it does, if any.
        is_bounded: Whether nothing has to be said about how large it may get.
    """

    name: str
    mapping: Any
    users: tuple[tuple[str, Any], ...]
    is_bounded: bool


def caches(found: Iterable[Found]) -> tuple[Cache, ...]:
    """
    Those that are used by something among *found*, each once. No cache is asked anything.
    """
    found = tuple(found)
    # Whoever looks at the number of entries has it mended.
    watched = {
        id(held["gate"])
        for each in found
        if CACHE_PROBE.has(each.thing)
        for held in [dict(peek.stored(each.thing))]
        if held["_max_entries"] is not None
    }
    users: dict[int, tuple[Any, tuple[tuple[str, Any], ...], bool]] = {}
    for each in found:
        used = _used(each.thing)
        if used is not None:
            mapping, lock = used
            _, locks, is_watched = users.get(id(mapping), (mapping, (), False))
            users[id(mapping)] = mapping, (*locks, (each.name, lock)), is_watched or id(each.thing) in watched
    return (
        *(
            Cache(min((name for name, _ in locks), key=len), mapping, locks, is_watched or _has_bound(mapping))
            for mapping, locks, is_watched in users.values()
        ),
        *(Cache(each.name, None, (), False) for each in found if _grows(each)),
    )


def is_cached(thing: object) -> bool:
    """
    Whether cachetools has decorated it. It makes an object of its own, or in older versions a function.
    """
    is_one = peek.is_a(thing, types.FunctionType) or peek.package_of(thing) == "cachetools"
    return is_one and {"cache", "cache_lock"} <= dict(peek.stored(thing)).keys()


def _used(thing: Any) -> tuple[Any, Any] | None:
    """The mapping that something uses, and the lock that it holds meanwhile."""
    if CACHE_GATE.has(thing):
        store = dict(peek.stored(dict(peek.stored(thing))["_store"]))
        return (store["_mapping"], _inner(store["_lock"])) if "_mapping" in store else None
    if is_cached(thing):
        held = dict(peek.stored(thing))
        return None if held["cache"] is None else (held["cache"], _inner(held["cache_lock"]))
    return None


def _inner(lock: Any) -> Any:
    return dict(peek.stored(lock))["_lock"] if peek.is_a(lock, threading.Condition) else lock


#: Whatever is derived from them may bound itself.
_UNBOUNDED: Final = (dict, OrderedDict, defaultdict)


def _has_bound(mapping: Any) -> bool:
    # A gate before a function under lru_cache has a mapping of ours, which knows the limit of that.
    return type(mapping) not in _UNBOUNDED and dict(peek.stored(mapping)).get("limit", 0) is not None


def _grows(found: Found) -> bool:
    """
    Whether it is a function of the application under an lru_cache without a bound, for more than one value.
    """
    if not CACHED_FUNCTION.has(found.thing):
        return False
    held = dict(peek.stored(found.thing))
    inner: Any = held.get("__wrapped__")
    if not peek.is_a(inner, types.FunctionType) or not _is_own(found, inner):
        return False
    takes_none = not (inner.__code__.co_argcount + inner.__code__.co_kwonlyargcount or inner.__code__.co_flags & _STARS)
    return not takes_none and _limit(held.get("cache_parameters")) is None


def _is_own(found: Found, function: types.FunctionType) -> bool:
    # A function of a library stands in the modules that import it, too.
    return function.__module__.partition(".")[0] == found.name.partition(":")[0].partition(".")[0]


def _limit(parameters: Any) -> Any:
    # It is a function of functools that has the limit in its closure; a number: it is something else.
    if not peek.is_a(parameters, types.FunctionType) or "maxsize" not in parameters.__code__.co_freevars:
        return 0
    return parameters.__closure__[parameters.__code__.co_freevars.index("maxsize")].cell_contents
