"""
To look at an object without asking it: what is read is where the interpreter keeps it, so no code of its class or of
its metaclass runs, however it overrides iteration, attributes or comparison.
"""

from __future__ import annotations

import gc
import itertools
import sys
import types

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final


#: A class's own answers, past its metaclass.
_mro: Final[Callable[[Any], tuple[type, ...]]] = type.__dict__["__mro__"].__get__
_namespace: Final[Callable[[type], Mapping[Any, Any]]] = type.__dict__["__dict__"].__get__
_name: Final[Callable[[type], str]] = type.__dict__["__name__"].__get__
_module: Final[Callable[[type], object]] = type.__dict__["__module__"].__get__
_dictoffset: Final[Callable[[type], int]] = type.__dict__["__dictoffset__"].__get__

#: How the class statement describes the ``__dict__`` of the instances that it makes.
_ORDINARY: Final = type("_Ordinary", (), {}).__dict__["__dict__"].__doc__

#: Its methods, past what a class derived from it makes of them.
DICT: Final[Any] = dict

_CONTAINERS: Final[tuple[Any, ...]] = (list, tuple, set, frozenset, deque)

#: What stands in a module, past what its class makes of attributes.
variables_of: Final[Callable[[types.ModuleType], dict[str, Any]]] = vars(types.ModuleType)["__dict__"].__get__


def is_a(thing: object, *kinds: type) -> bool:
    """
    Whether its type is one of those, or derived from one.

    Unlike `isinstance` it does not ask a proxy what it stands for, which is a call, and fails outside of a request;
    nor does it ask an abstract class whom it takes for its own.
    """
    return any(base is kind for base in _mro(type(thing)) for kind in kinds)


def kind_of(thing: object) -> str:
    """
    The name of its type.
    """
    return _name(type(thing))


def package_of(thing: object) -> str:
    """
    The package in which its type was written; nothing if that is not told.
    """
    return _package(type(thing))


def of_class(thing: object, name: str) -> Any:
    """
    What its type, or a base of it, has under a name, as it stands there.
    """
    return next((_namespace(base)[name] for base in _mro(type(thing)) if name in _namespace(base)), None)


def contents(thing: Any, limit: int) -> tuple[list[tuple[object, Any]], int]:
    """
    What a dict, list, tuple, set or deque holds, each with its key if it has one; *limit* of it, and how much there is.
    """
    if is_a(thing, dict):
        return list(itertools.islice(DICT.items(thing), limit)), DICT.__len__(thing)
    for kind in _CONTAINERS:
        if is_a(thing, kind):
            return list(itertools.islice(zip(itertools.repeat(None), kind.__iter__(thing)), limit)), kind.__len__(thing)
    return [], 0


def stored(thing: Any) -> Iterator[tuple[str, Any]]:
    """
    What is stored in an object, in its ``__dict__`` and in its slots, under which names.

    Where a class hides its ``__dict__`` behind something else, what the garbage collector knows of, without names.
    """
    bases = _mro(type(thing))
    if _dictoffset(bases[0]):
        namespace = _dict_of(thing, bases)
        entries: Any = (("", held) for held in gc.get_referents(thing)) if namespace is None else DICT.items(namespace)
        yield from ((name, held) for name, held in entries if type(name) is str)
    for base in bases:
        for name, descriptor in _namespace(base).items():
            if type(descriptor) is types.MemberDescriptorType and type(name) is str:
                try:
                    held = descriptor.__get__(thing)
                except AttributeError:
                    continue  # nothing is stored in this slot
                yield name, held


def _dict_of(thing: object, bases: tuple[type, ...]) -> Any:
    for base in bases:
        descriptor = _namespace(base).get("__dict__")
        if type(descriptor) is types.MemberDescriptorType:
            return descriptor.__get__(thing)
        if descriptor is not None:
            # One that was written in C may do anything: a lazy proxy makes what it stands for.
            plain = type(descriptor) is types.GetSetDescriptorType and (
                descriptor.__doc__ == _ORDINARY or _package(base) in sys.stdlib_module_names
            )
            return descriptor.__get__(thing) if plain else None
    return None


def _package(kind: type) -> str:
    module = _module(kind)
    return module.partition(".")[0] if type(module) is str else ""
