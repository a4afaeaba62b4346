"""
Listeners for an engine that others use meanwhile.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from selfheal.integrations import require


if TYPE_CHECKING:
    from sqlalchemy import Engine


def listen(engine: Engine, name: str, fn: Callable[..., Any], *, insert: bool = False) -> None:
    """
    As ``event.listen``, whatever other threads do with the engine; nothing if *fn* listens already.

    SQLAlchemy adds listeners to the very list that a thread which connects may be going through just now, and that
    one's user gets ``RuntimeError: deque mutated during iteration``.

    Raises:
        MissingExtraError: If SQLAlchemy is not installed (extra ``sqlalchemy``).
    """
    event = require("sqlalchemy.event", who=__name__, package="sqlalchemy", extra="sqlalchemy")
    if event.contains(engine, name, fn):
        return
    for dispatch in (engine.pool.dispatch, engine.dialect.dispatch):
        if hasattr(dispatch, name):
            listeners: Any = getattr(dispatch, name).for_modify(dispatch)
            if type(listeners.listeners) is deque:  # who goes through the old one goes on there
                listeners.listeners = _Steady(listeners.listeners)
    event.listen(engine, name, fn, insert=insert)


class _Steady(deque[Any]):
    """
    Who goes through it sees what was there when they began.
    """

    def __iter__(self) -> Iterator[Any]:
        return iter(tuple(super().__iter__()))
