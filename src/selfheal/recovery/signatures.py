"""
What a user's callable is called, and whether it can be called the way it will be. Nothing is ever called here.
"""

from __future__ import annotations

import functools
import inspect
import re

from collections.abc import Callable
from typing import Any


_WORD_STARTS = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")


def snake_case(name: str) -> str:
    """
    *name* as a metric label would spell it.

    Examples:
        >>> snake_case("RebuildIndex"), snake_case("HTTPPool"), snake_case("_private")
        ('rebuild_index', 'http_pool', 'private')
    """
    return _WORD_STARTS.sub("_", name).lower().strip("_")


def name_of(function: Callable[..., object]) -> str:
    """
    The name of a function, of what a `functools.partial` calls, or of a callable object's class, in snake_case.
    """
    while isinstance(function, functools.partial):
        function = function.func
    return snake_case(getattr(function, "__name__", None) or type(function).__name__)


def takes(function: Callable[..., object], arguments: int) -> bool:
    """
    Whether *function* can be called with so many positional arguments. Unknown counts as yes.
    """
    try:
        inspect.signature(function).bind(*[None] * arguments)
    except TypeError:
        return False
    except ValueError:  # some functions written in C do not tell
        return True
    return True


def is_generator(function: Any) -> bool:
    """
    Whether calling *function* would only build a generator, and run nothing.
    """
    return inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function)
