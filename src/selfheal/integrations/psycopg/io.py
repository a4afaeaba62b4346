"""
What probe and actions do to a pool, once for threads and once for an event loop.

Both kinds have the same coroutine methods, so what is decided is written once.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import selectors
import threading
import time

from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future
from typing import Any, Final, Protocol, TypeAlias, cast


#: Attempts to connect that may hang at once: each holds a thread, for as long as name resolution and the kernel like.
ATTEMPTS: Final = 8

#: Held while a pool's limit is changed.
_counting: Final = threading.Lock()

#: The rows of an answer, all values as text.
Rows: TypeAlias = list[tuple[str | None, ...]]


class IO(Protocol):
    """
    The ways to reach a pool and its server. Whatever takes a *timeout* raises `TimeoutError` after so many seconds.
    """

    async def borrow(self, pool: Any, timeout: float) -> Any:
        """
        Take a connection out of *pool*, without its ``check`` callback, which has no bound.
        """
        ...

    async def connect(self, connect: Callable[[], Any], timeout: float) -> Any:
        """
        Call *connect* and give what it makes; what comes too late is closed.
        """
        ...

    async def query(self, connection: Any, sql: str, timeout: float) -> Rows:
        """
        Ask over *connection*, which must be idle. After a `TimeoutError` it is good for nothing but closing.
        """
        ...

    async def call(self, fn: Callable[..., Any], *args: Any) -> Any:
        """
        The result of *fn*, waited for if it has to be.
        """
        ...


class _Blocking:
    """
    In a thread that may wait.
    """

    def __init__(self) -> None:
        self._attempts = threading.BoundedSemaphore(ATTEMPTS)

    async def borrow(self, pool: Any, timeout: float) -> Any:
        return pool._getconn_unchecked(timeout)

    async def connect(self, connect: Callable[[], Any], timeout: float) -> Any:
        # In a thread of its own: name resolution has no bound at all, and psycopg counts in whole seconds, two at least.
        if not self._attempts.acquire(blocking=False):
            msg = f"{ATTEMPTS} earlier attempts have not ended"
            raise TimeoutError(msg)
        made: Future[Any] = Future()

        def work() -> None:
            connection = error = None
            try:
                connection = connect()
            except Exception as exc:  # noqa: BLE001 - handed over to the thread that waits
                error = exc
            finally:
                self._attempts.release()
            if not made.set_running_or_notify_cancel():
                if connection is not None:
                    connection.close()
            elif error is not None:
                made.set_exception(error)
            else:
                made.set_result(connection)

        threading.Thread(target=work, name="selfheal-direct", daemon=True).start()
        try:
            return made.result(timeout)
        except TimeoutError:
            if made.cancel():
                raise
            return made.result()

    async def query(self, connection: Any, sql: str, timeout: float) -> Rows:
        deadline = time.monotonic() + timeout
        asking = _ask(connection.pgconn, sql)
        try:
            with selectors.DefaultSelector() as selector:
                while True:
                    fd, event = next(asking)
                    selector.register(fd, event)
                    if not selector.select(max(0.0, deadline - time.monotonic())):
                        raise _no_answer(timeout)
                    selector.unregister(fd)
        except StopIteration as done:
            return cast("Rows", done.value)

    async def call(self, fn: Callable[..., Any], *args: Any) -> Any:
        return fn(*args)


class _OnLoop:
    """
    On the running asyncio loop.
    """

    async def borrow(self, pool: Any, timeout: float) -> Any:
        return await pool._getconn_unchecked(timeout)

    async def connect(self, connect: Callable[[], Any], timeout: float) -> Any:
        return await asyncio.wait_for(connect(), timeout)

    async def query(self, connection: Any, sql: str, timeout: float) -> Rows:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout
        asking = _ask(connection.pgconn, sql)
        try:
            while True:
                fd, event = next(asking)
                ready = asyncio.Event()
                reading = event == selectors.EVENT_READ
                (loop.add_reader if reading else loop.add_writer)(fd, ready.set)
                try:
                    await asyncio.wait_for(ready.wait(), max(0.0, deadline - loop.time()))
                except TimeoutError:
                    raise _no_answer(timeout) from None
                finally:
                    (loop.remove_reader if reading else loop.remove_writer)(fd)
        except StopIteration as done:
            return cast("Rows", done.value)

    async def call(self, fn: Callable[..., Any], *args: Any) -> Any:
        result = fn(*args)
        return await result if inspect.isawaitable(result) else result


def io_for(source: Any) -> IO:
    """
    What fits the colour of *source*: a pool, or a `Rebuildable` of pools.
    """
    return _OnLoop() if is_async(source) else _Blocking()


def is_async(source: Any) -> bool:
    """
    Whether *source* is an async pool, or a `Rebuildable` that makes them.
    """
    if hasattr(source, "rebuild"):
        return bool(source.is_async)
    return inspect.iscoroutinefunction(source.getconn)


@contextlib.contextmanager
def beside_its_users(pool: Any) -> Iterator[None]:
    """
    Let one more wait for *pool* than it allows, as long as we are among its users: nobody is sent away for our sake.
    """
    if not pool.max_waiting:  # as many as like
        yield
        return
    with _counting:
        pool.max_waiting += 1
    try:
        yield
    finally:
        with _counting:
            pool.max_waiting -= 1


async def give_back(io: IO, pool: Any, connection: Any, *, broken: bool) -> None:
    """
    Hand a borrowed connection back; a broken one is closed first, and the pool then replaces it.
    """
    if broken:
        await io.call(connection.close)
    await io.call(pool.putconn, connection)


def _no_answer(timeout: float) -> TimeoutError:
    return TimeoutError(f"no answer within {timeout:.2f} s")


def _ask(pgconn: Any, sql: str) -> Generator[tuple[int, int], None, Rows]:
    """
    Ask without ever blocking; yields what to wait for.
    """
    import psycopg

    status = psycopg.pq.ExecStatus
    pgconn.send_query(sql.encode())
    while pgconn.flush():
        yield pgconn.socket, selectors.EVENT_WRITE
    rows: Rows = []
    while True:
        while pgconn.is_busy():
            yield pgconn.socket, selectors.EVENT_READ
            pgconn.consume_input()
        result = pgconn.get_result()
        if result is None:
            return rows
        if result.status not in {status.TUPLES_OK, status.COMMAND_OK}:
            raise psycopg.errors.error_from_result(result)
        columns = range(result.nfields)
        for row in range(result.ntuples):
            values = (result.get_value(row, column) for column in columns)
            rows.append(tuple(None if value is None else value.decode() for value in values))
