"""
What a user's callable is called, and whether it can be called the way it will be. Nothing is ever called here.
"""

from __future__ import annotations

import functools
import inspect

from collections.abc import Callable, Mapping
from typing import Any

from selfheal.errors import ConfigError


def snake_case(name: str) -> str:
    """
    *name* as a metric label would spell it.

    Examples:
        >>> snake_case("RebuildIndex"), snake_case("HTTPPool"), snake_case("_private")
        ('rebuild_index', 'http_pool', 'private')
    """
    # By hand: compiling a regular expression would cost every program more than all its names together.
    spelled = ""
    for before, letter, after in zip(f"_{name}", name, f"{name[1:]}_", strict=False):
        starts = letter.isupper() and (not before.isupper() or after.islower())
        spelled += f"_{letter}" if starts and before != "_" else letter
    return spelled.lower().strip("_")


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


def require_runnable(leaf: Any, inherited: Callable[..., object]) -> None:
    """
    Refuse an action that could only fail when it is needed.

    Args:
        leaf: The action.
        inherited: The base's ``recover``, which does nothing.

    Raises:
        ConfigError: If a method is missing or takes other arguments, or its attributes cannot work.
    """
    name = type(leaf).__name__
    if getattr(leaf.recover, "__func__", None) is inherited:
        msg = f"{name} does not say what it does: write def recover(self, ctx)."
        raise ConfigError(msg)
    for method in ("recover", "revert"):
        if not takes(getattr(leaf, method), 1):
            msg = f"{name}.{method} must take one argument: def {method}(self, ctx)."
            raise ConfigError(msg)
    if isinstance(leaf.kinds, str):
        msg = f"{name}.kinds={leaf.kinds!r}: give a set of fault kinds, such as {{{leaf.kinds!r}}}."
        raise ConfigError(msg)
    if leaf.revert_when is None:
        return
    if not leaf.held:
        msg = f"{leaf} names revert_when but has nothing to revert. Write revert(), or leave revert_when out."
        raise ConfigError(msg)
    if not takes(leaf.revert_when, 0):
        msg = f"revert_when of {leaf} must be a probe without arguments, or a method that takes only self."
        raise ConfigError(msg)


def require_strategies(strategies: Mapping[str, object]) -> None:
    """
    Refuse what cannot be asked when, how long and whether to try again. Only *stop* has to be given.

    Raises:
        ConfigError: If one is not callable.
    """
    for argument, strategy in strategies.items():
        if not callable(strategy) and (argument == "stop" or strategy is not None):
            msg = (
                f"retrying({argument}={strategy!r}): must be one of tenacity's {argument} strategies, "
                "such as tenacity.stop_after_attempt(3), tenacity.wait_fixed(1), "
                "tenacity.retry_if_exception_type(OSError)."
            )
            raise ConfigError(msg)
