"""
``module:attribute``, imported and looked up.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
import types

from collections.abc import Generator
from typing import Any, Final, NamedTuple, cast

from selfheal.doctor import peek
from selfheal.errors import ConfigError
from selfheal.healer import Healer


#: Characters of the text of an error.
TEXT_MAX: Final = 1000


class Target(NamedTuple):
    """
    What a spelling stands for.
    """

    name: str
    module: Any
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
        with telling(f"{spelled} could not be looked up"):
            thing = getattr(thing, attribute)
    return Target(spelled, module, thing)


def healer_of(target: Target) -> Healer:
    """
    The healer that it is, or that it makes when it is called without arguments.

    Raises:
        ConfigError: If it is neither.
    """
    thing = target.thing
    if callable(thing) and not peek.is_a(thing, Healer):
        with telling(f"{target.name}() failed"):
            thing = thing()
    if not peek.is_a(thing, Healer):
        if peek.is_a(thing, types.CoroutineType):
            cast("types.CoroutineType[Any, Any, Any]", thing).close()
        msg = f"{target.name}: {peek.kind_of(thing)} is no Healer, and no function that returns one"
        raise ConfigError(msg)
    return cast("Healer", thing)


def _imported(name: str) -> Any:
    here = os.getcwd()
    if here not in sys.path:
        sys.path.insert(0, here)
    with telling(f"{name} could not be imported"):
        return importlib.import_module(name)


@contextlib.contextmanager
def telling(what: str) -> Generator[None]:
    """
    An error of the application, as one line that says where it was raised.
    """
    try:
        yield
    except BaseException as exc:
        where = exc.__traceback__
        while where is not None and where.tb_next is not None:
            where = where.tb_next
        here = where is None or where.tb_frame.f_code.co_filename == __file__
        place = "" if where is None or here else f" ({where.tb_frame.f_code.co_filename}:{where.tb_lineno})"
        msg = f"{what}: {peek.kind_of(exc)}{_text(exc)}{place}"
        raise ConfigError(msg) from exc


def _text(error: BaseException) -> str:
    try:
        text = " ".join(str(error).split())
    except BaseException:  # noqa: BLE001 - an error of the application that cannot even be told
        return ""
    return f": {text[:TEXT_MAX]}" if text else ""
