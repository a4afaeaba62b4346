"""
Who waits inside a driver: where the kernel cannot tell whether an answer has come, this does.
"""

from __future__ import annotations

import asyncio
import gc
import inspect
import sys

from collections.abc import Iterator
from types import FrameType
from typing import Any


def waits_in_psycopg(connection: Any) -> bool:
    """
    Whether a thread, or a task of the running loop, waits inside psycopg for *connection* to answer.

    Who reads a stream slowly does not: the connection is busy then as well, but the answer has come. One look costs
    some microseconds for each thread or task.
    """
    import psycopg

    is_async = isinstance(connection, psycopg.AsyncConnection)
    kind: Any = psycopg.AsyncConnection if is_async else psycopg.Connection
    frames = _of_tasks() if is_async else _of_threads()
    return any(frame.f_code is kind.wait.__code__ and frame.f_locals.get("self") is connection for frame in frames)


def waits_in_asyncpg(connection: Any) -> bool:
    """
    Whether an answer to *connection* is waited for, or the end of a cancellation.
    """
    # The protocol says so to nobody, but keeps a future for whoever waits.
    futures = (thing for thing in gc.get_referents(connection._protocol) if isinstance(thing, asyncio.Future))
    return not all(future.done() for future in futures)


def _of_threads() -> Iterator[FrameType]:
    for innermost in sys._current_frames().values():
        frame: FrameType | None = innermost
        while frame is not None:
            yield frame
            frame = frame.f_back


def _of_tasks() -> Iterator[FrameType]:
    for task in asyncio.all_tasks():
        awaitable: Any = task.get_coro()
        while inspect.iscoroutine(awaitable):
            if awaitable.cr_frame is not None:
                yield awaitable.cr_frame
            awaitable = awaitable.cr_await
