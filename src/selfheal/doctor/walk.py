"""
From an object to the clients that it uses, through what it holds: attributes, closures, globals, containers.

Nothing is called on the way, no property is read, and no more than `THINGS_MAX` objects are looked into.
"""

from __future__ import annotations

import contextlib
import sys
import types

from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any, Final, cast

import attrs

from selfheal.doctor.kinds import REBUILDABLE, is_end


#: Objects looked into from one beginning, steps away from it, and members of one container.
THINGS_MAX: Final = 5000
DEPTH_MAX: Final = 12
MEMBERS_MAX: Final = 200

#: They lead from a thing to its own inside, so they are left out of its name.
_INSIDE: Final = frozenset({"_succession", "in_service", "value", "connection_pool", "sync_engine", "source"})

_PLAIN: Final = (str, bytes, int, float, type(None), type, types.ModuleType, types.BuiltinFunctionType)

#: The modules of the standard library whose objects may hold one of the application's.
_HOLDERS: Final = frozenset({"builtins", "collections", "functools", "types"})

#: Whose functions use no client of the application by a global name.
_FOREIGN: Final = sys.stdlib_module_names | {
    *("aiohttp", "anyio", "asyncpg", "attr", "attrs", "backoff", "httpcore", "httpx", "httpx2", "psycopg"),
    *("psycopg_pool", "redis", "requests", "selfheal", "sqlalchemy", "stamina", "tenacity", "trio", "urllib3"),
}


@attrs.frozen(eq=False)
class Found:
    """
    An object, and how the application gets at it.

    Args:
        thing: The object.
        name: For people.
        owner: The `Rebuildable` that makes it, or `None`.
    """

    thing: Any
    name: str
    owner: Any = None


def reached(thing: object, name: str, *, owner: object = None) -> tuple[Found, ...]:
    """
    All that *thing* holds, itself included, each object once.

    Clients of a library are not looked into.
    """
    waiting = deque([(Found(thing, name, owner), 0)])
    seen: dict[int, Found] = {}
    while waiting and len(seen) < THINGS_MAX:
        found, depth = waiting.popleft()
        if id(found.thing) in seen or _is(found.thing, *_PLAIN):
            continue
        seen[id(found.thing)] = found
        if depth < DEPTH_MAX and not is_end(found.thing):
            inner = found.thing if REBUILDABLE.has(found.thing) else found.owner
            waiting.extend((Found(held, name, inner), depth + 1) for name, held in _held(found))
    return tuple(seen.values())


def _held(found: Found) -> Iterator[tuple[str, Any]]:
    """
    What an object holds, by name.
    """
    thing, name = found.thing, found.name
    if _is(thing, types.FunctionType):
        yield from _held_by_function(thing, name)
    elif _is(thing, types.MethodType):
        yield from ((name, thing.__self__), (name, thing.__func__))
    elif _is(thing, dict, types.MappingProxyType):
        items = list(cast("dict[Any, Any]", thing).items())[:MEMBERS_MAX]
        yield from ((f"{name}[{key!r}]" if _is_plain(key) else name, value) for key, value in items)
    elif _is(thing, list, tuple, set, frozenset, deque):
        yield from ((name, member) for member in list(cast("list[Any]", thing))[:MEMBERS_MAX])
    for attribute, value in _stored(thing):
        if not attribute.startswith("__"):
            yield (name if attribute in _INSIDE else f"{name}.{attribute.lstrip('_')}"), value


def _is_plain(key: object) -> bool:
    # A key may be an address with a password in it.
    return type(key) is str and key.replace("_", "").replace("-", "").isalnum()


def _stored(thing: Any) -> Iterator[tuple[str, Any]]:
    """
    What is stored in an object, under which names.
    """
    module = type(thing).__module__.partition(".")[0]
    if module in sys.stdlib_module_names and module not in _HOLDERS:
        return
    with contextlib.suppress(AttributeError):  # it may have slots only
        yield from list(object.__getattribute__(thing, "__dict__").items())
    for owner in type(thing).__mro__:
        for name, descriptor in vars(owner).items():
            if isinstance(descriptor, types.MemberDescriptorType):
                with contextlib.suppress(AttributeError):  # nothing is stored in this slot
                    yield name, descriptor.__get__(thing, owner)


def _is(thing: object, *kinds: type) -> bool:
    # Not isinstance, which also asks a proxy what it stands for: that is a call, and fails outside of a request.
    return issubclass(type(thing), kinds)


def _held_by_function(function: types.FunctionType, name: str) -> Iterator[tuple[str, Any]]:
    for variable, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            yield f"{name}.{variable}", cell.cell_contents
        except ValueError:
            continue  # not assigned yet
    yield name, [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]
    module = str(function.__globals__.get("__name__", ""))
    if module.partition(".")[0] not in _FOREIGN:
        yield from _globals(module, function.__globals__, _names(function.__code__))


def _globals(module: str, variables: Mapping[str, Any], names: frozenset[str]) -> Iterator[tuple[str, Any]]:
    """
    Those variables of a module that a function names, and what it may read from modules of the application.
    """
    for name in sorted(names & variables.keys()):
        value = variables[name]
        if not _is(value, types.ModuleType):
            yield f"{module}:{name}", value
        elif value.__name__.partition(".")[0] not in _FOREIGN:
            inner: dict[str, Any] = vars(cast("types.ModuleType", value))
            yield from ((f"{value.__name__}:{other}", inner[other]) for other in sorted(names & inner.keys()))


def _names(code: types.CodeType) -> frozenset[str]:
    """
    The global names that a function, and what is written inside it, may use.
    """
    inner = [_names(constant) for constant in code.co_consts if isinstance(constant, types.CodeType)]
    return frozenset(code.co_names).union(*inner)
