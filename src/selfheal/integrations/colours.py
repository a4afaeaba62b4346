"""
One text for two colours: coroutines that a thread runs to their end in one go, or an event loop in its own time.
"""

from __future__ import annotations

import contextlib

from collections.abc import AsyncIterator, Coroutine
from typing import Any, TypeVar, cast


T = TypeVar("T")


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """
    The result of a coroutine that does blocking things only, and so never waits for a loop.
    """
    try:
        coroutine.send(None)
    except StopIteration as done:
        return cast("T", done.value)
    coroutine.close()
    msg = "this coroutine waits for an event loop, and there is none here"
    raise RuntimeError(msg)


@contextlib.asynccontextmanager
async def in_use(source: Any) -> AsyncIterator[Any]:
    """
    The pool itself, leased while it is looked at if *source* is a `Rebuildable`.
    """
    if not hasattr(source, "rebuild"):
        yield source
    elif source.is_async:
        async with source.use() as pool:
            yield pool
    else:
        with source.use() as pool:
            yield pool
