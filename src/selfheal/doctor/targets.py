"""
``module:attribute``, imported and looked up.
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
import os
import sys
import types

from collections.abc import Generator
from typing import Any, NamedTuple

from selfheal.errors import ConfigError
from selfheal.healer import Healer


class Target(NamedTuple):
    """
    What a spelling stands for.
    """

    name: str
    module: types.ModuleType
    thing: Any


def find(spelled: str) -> Target:
    """
    Import the module and get the attribute. That import is all that runs of the application.

    Raises:
        ConfigError: If there is no such module or attribute, or the import failed.
    """
    name, _, path = spelled.partition(":")
    if not name or not path:
        msg = f"{spelled!r}: write module:attribute, as in orders.application:healer"
        raise ConfigError(msg)
    module = thing = _imported(name)
    for attribute in path.split("."):
        try:
            thing = getattr(thing, attribute)
        except AttributeError as exc:
            msg = f"{spelled}: {exc}"
            raise ConfigError(msg) from exc
    return Target(spelled, module, thing)


def healer_of(target: Target) -> Healer:
    """
    The healer that it is, or that it makes when it is called without arguments.

    Raises:
        ConfigError: If it is neither.
    """
    thing = target.thing
    if callable(thing) and not isinstance(thing, Healer):
        with telling(f"{target.name}() failed"), contextlib.redirect_stdout(sys.stderr):
            thing = thing()
    if not isinstance(thing, Healer):
        if inspect.iscoroutine(thing):
            thing.close()
        msg = f"{target.name}: {type(thing).__name__} is no Healer, and no function that returns one"
        raise ConfigError(msg)
    return thing


def _imported(name: str) -> Any:
    here = os.getcwd()
    if here not in sys.path:
        sys.path.insert(0, here)
    # What an application prints when it is imported must not stand in the middle of a report.
    with telling(f"{name} could not be imported"), contextlib.redirect_stdout(sys.stderr):
        return importlib.import_module(name)


@contextlib.contextmanager
def telling(what: str) -> Generator[None]:
    """
    An error of the application, as one line that says where it was raised.
    """
    try:
        yield
    except (Exception, SystemExit) as exc:
        where = exc.__traceback__
        while where is not None and where.tb_next is not None:
            where = where.tb_next
        place = f" ({where.tb_frame.f_code.co_filename}:{where.tb_lineno})" if where is not None else ""
        msg = f"{what}: {type(exc).__name__}: {exc}{place}"
        raise ConfigError(msg) from exc
