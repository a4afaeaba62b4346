"""
From an object to the clients that it uses, through what it holds: attributes, closures, globals, containers.

Nothing is called on the way, no property is read, and no more than `THINGS_MAX` objects are looked into.
"""

from __future__ import annotations

import gc
import sys
import types

from collections import deque
from collections.abc import Iterator
from typing import Any, Final

import attrs

from selfheal.doctor import peek
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
        hidden: Why not all that it holds was looked at; else nothing.
    """

    thing: Any
    name: str
    owner: Any = None
    hidden: str = ""


def reached(thing: object, name: str, *, owner: object = None) -> tuple[Found, ...]:
    """
    All that *thing* holds, itself included, each object once.

    Clients of a library are not looked into.
    """
    waiting = deque([(Found(thing, name, owner), 0)])
    seen: dict[int, Found] = {}
    while waiting:
        found, depth = waiting.popleft()
        if id(found.thing) in seen or peek.is_a(found.thing, *_PLAIN):
            continue
        if len(seen) == THINGS_MAX:
            seen[id(thing)] = attrs.evolve(seen[id(thing)], hidden=f"it leads to more than {THINGS_MAX} objects")
            break
        seen[id(found.thing)] = found
        if depth < DEPTH_MAX and not is_end(found.thing):
            held, hidden = _looked_into(found)
            if hidden:
                seen[id(found.thing)] = attrs.evolve(found, hidden=hidden)
            inner = found.thing if REBUILDABLE.has(found.thing) else found.owner
            waiting.extend((Found(each, name, inner), depth + 1) for name, each in held)
    return tuple(seen.values())


def _looked_into(found: Found) -> tuple[list[tuple[str, Any]], str]:
    """
    What an object holds, by name, and why that is not all of it.
    """
    held: list[tuple[str, Any]] = []
    try:
        contents, size = peek.contents(found.thing, MEMBERS_MAX)
        held += [(f"{found.name}[{key!r}]" if _is_plain(key) else found.name, value) for key, value in contents]
        held.extend(_held(found.thing, found.name))
    except Exception as exc:  # noqa: BLE001 - one strange object must not hide the others
        return held, f"looking into it raised {peek.kind_of(exc)}"
    if size > MEMBERS_MAX and not all(peek.is_a(value, *_PLAIN) for _, value in contents):
        return held, f"it has {size} members, of which {MEMBERS_MAX} were looked at"
    return held, ""


def _held(thing: Any, name: str) -> Iterator[tuple[str, Any]]:
    if peek.is_a(thing, types.FunctionType):
        yield from _held_by_function(thing, name)
    elif peek.is_a(thing, types.MethodType):
        yield from ((name, thing.__self__), (name, thing.__func__))
    elif peek.is_a(thing, types.MappingProxyType):
        yield from ((name, mapping) for mapping in gc.get_referents(thing))
    package = peek.package_of(thing)
    if package in sys.stdlib_module_names and package not in _HOLDERS:
        return
    for attribute, value in list(peek.stored(thing)):
        if not attribute.startswith("__"):
            yield (name if attribute in _INSIDE or not attribute else f"{name}.{attribute.lstrip('_')}"), value


def _is_plain(key: object) -> bool:
    # A key may be an address with a password in it.
    return type(key) is str and key.replace("_", "").replace("-", "").isalnum()


def _held_by_function(function: types.FunctionType, name: str) -> Iterator[tuple[str, Any]]:
    for variable, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            yield f"{name}.{variable}", cell.cell_contents
        except ValueError:
            continue  # not assigned yet
    yield from ((name, defaults) for defaults in (function.__defaults__, function.__kwdefaults__))
    module: object = peek.DICT.get(function.__globals__, "__name__")
    if type(module) is str and module.partition(".")[0] not in _FOREIGN:
        yield from _globals(module, function.__globals__, _names(function.__code__))


def _globals(module: str, variables: dict[str, Any], names: frozenset[str]) -> Iterator[tuple[str, Any]]:
    """
    Those variables of a module that a function names, and what it may read from modules of the application.
    """
    for name in sorted(names & peek.DICT.keys(variables)):
        value: Any = peek.DICT.get(variables, name)
        if not peek.is_a(value, types.ModuleType):
            yield f"{module}:{name}", value
            continue
        inner = peek.variables_of(value)
        other = inner.get("__name__")
        if type(other) is str and other.partition(".")[0] not in _FOREIGN:
            yield from ((f"{other}:{each}", inner[each]) for each in sorted(names & inner.keys()))


def _names(code: types.CodeType) -> frozenset[str]:
    """
    The global names that a function, and what is written inside it, may use.
    """
    inner = [_names(constant) for constant in code.co_consts if type(constant) is types.CodeType]
    return frozenset(code.co_names).union(*inner)
