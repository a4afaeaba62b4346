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


def listens(connection: Any) -> bool:
    """
    Whether a connection of psycopg or asyncpg is kept for the server's notifications: silent on purpose, and in use.
    """
    if getattr(connection, "_notify_handlers", None) or getattr(connection, "_listeners", None):
        return True
    return hasattr(connection, "pgconn") and waits_in_psycopg(connection)


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


def waits_in_queue(coroutine: Any) -> bool:
    """
    Whether a coroutine waits for an `asyncio.Queue` to give it something.
    """
    return any(frame.f_code is asyncio.Queue.get.__code__ for frame in _inside(coroutine))


def _of_threads() -> Iterator[FrameType]:
    for innermost in sys._current_frames().values():
        frame: FrameType | None = innermost
        while frame is not None:
            yield frame
            frame = frame.f_back


def _of_tasks() -> Iterator[FrameType]:
    try:
        tasks = asyncio.all_tasks()
    except RuntimeError:  # seen from outside the loop, they could change under us
        return
    for task in tasks:
        yield from _inside(task.get_coro())


def _inside(awaitable: Any) -> Iterator[FrameType]:
    while awaitable is not None:
        frame: FrameType | None = None
        if inspect.iscoroutine(awaitable):
            frame, awaitable = awaitable.cr_frame, awaitable.cr_await
        elif inspect.isasyncgen(awaitable):
            frame, awaitable = awaitable.ag_frame, awaitable.ag_await
        else:  # what ``async for`` waits for stands for its generator
            awaitable = next(filter(inspect.isasyncgen, gc.get_referents(awaitable)), None)
        if frame is not None:
            yield frame
