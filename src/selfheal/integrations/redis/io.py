"""
How a client and its server are reached, once for threads and once for an event loop.

Whatever takes a *timeout* raises `TimeoutError` after so many seconds.
"""

from __future__ import annotations

import asyncio
import inspect
import threading

from collections.abc import Callable
from typing import Any, Protocol

from selfheal.errors import ConfigError


class IO(Protocol):
    """
    The ways to reach a client and its server.
    """

    async def connect(self, pool: Any, timeout: float) -> Any:
        """
        A connection like those of *pool*, that tries once and belongs to nobody.
        """
        ...

    async def ask(self, connection: Any, command: tuple[Any, ...], timeout: float) -> Any:
        """
        The answer to *command*; an error that the server answers is raised. Without an answer it is closed.
        """
        ...

    async def close(self, connection: Any) -> None:
        """
        Close it, and wait for nobody.
        """
        ...

    async def nap(self, seconds: float) -> None:
        """
        Let others work.
        """
        ...

    async def call(self, fn: Callable[..., Any], *args: Any, **options: Any) -> Any:
        """
        The result of *fn*, waited for if it has to be.
        """
        ...


class _Blocking:
    """
    In a thread that may wait.
    """

    async def connect(self, pool: Any, timeout: float) -> Any:
        from redis import exceptions
        from redis.backoff import NoBackoff
        from redis.retry import Retry

        connection = pool.connection_class(**_settings(pool, timeout, Retry(NoBackoff(), 0)))
        try:
            connection.connect()
        except exceptions.TimeoutError as exc:
            raise _no_answer(timeout) from exc
        return connection

    async def ask(self, connection: Any, command: tuple[Any, ...], timeout: float) -> Any:
        connection.send_command(*command, check_health=False)
        # Its own timeout is the application's. An answer as short as ours comes in one piece.
        if not connection.can_read(timeout):
            connection.disconnect()
            raise _no_answer(timeout)
        return connection.read_response()

    async def close(self, connection: Any) -> None:
        connection.disconnect()

    async def nap(self, seconds: float) -> None:
        threading.Event().wait(seconds)

    async def call(self, fn: Callable[..., Any], *args: Any, **options: Any) -> Any:
        return fn(*args, **options)


class _OnLoop:
    """
    On the running asyncio loop.
    """

    async def connect(self, pool: Any, timeout: float) -> Any:
        from redis import exceptions
        from redis.asyncio.retry import Retry
        from redis.backoff import NoBackoff

        connection = pool.connection_class(**_settings(pool, timeout, Retry(NoBackoff(), 0)))
        try:
            await asyncio.wait_for(connection.connect(), timeout)
        except (TimeoutError, exceptions.TimeoutError) as exc:
            await self.close(connection)
            raise _no_answer(timeout) from exc
        except BaseException:
            await self.close(connection)
            raise
        return connection

    async def ask(self, connection: Any, command: tuple[Any, ...], timeout: float) -> Any:
        from redis import exceptions

        async def exchange() -> Any:
            await connection.send_command(*command, check_health=False)
            return await connection.read_response()

        try:
            return await asyncio.wait_for(exchange(), timeout)
        except (TimeoutError, exceptions.TimeoutError) as exc:
            await self.close(connection)
            raise _no_answer(timeout) from exc

    async def close(self, connection: Any) -> None:
        await connection.disconnect(nowait=True)

    async def nap(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def call(self, fn: Callable[..., Any], *args: Any, **options: Any) -> Any:
        result = fn(*args, **options)
        return await result if inspect.isawaitable(result) else result


def io_for(source: Any) -> IO:
    """
    What fits the colour of *source*: a client, or a `Rebuildable` of clients.
    """
    return _OnLoop() if is_async(source) else _Blocking()


def is_async(source: Any) -> bool:
    """
    Whether *source* is an async client, or a `Rebuildable` that makes them.

    Raises:
        ConfigError: If it is a client that has more than one pool.
    """
    if hasattr(source, "rebuild"):
        return bool(source.is_async)
    if not hasattr(source, "connection_pool"):
        msg = (
            f"{type(source).__name__} has no pool of its own to look at. Give a Redis or Valkey client, or a "
            f"Rebuildable of them; clients of a cluster and of several databases follow their servers by themselves."
        )
        raise ConfigError(msg)
    return inspect.iscoroutinefunction(source.connection_pool.disconnect)


def _settings(pool: Any, timeout: float, retry: Any) -> dict[str, Any]:
    """
    What the pool's connections are made with, but for how long and how often they try.
    """
    kept = {
        name: value
        for name, value in pool.connection_kwargs.items()
        # Handlers of its own pool, which this connection is not part of.
        if not name.startswith(("maint_notifications", "oss_cluster_maint", "orig_"))
    }
    once = {"retry": retry, "retry_on_error": [], "retry_on_timeout": False, "health_check_interval": 0}
    return {**kept, **once, "socket_timeout": timeout, **_patience(pool, timeout)}


def _patience(pool: Any, timeout: float) -> dict[str, float]:
    # A unix socket has no such setting in every version.
    return {} if "path" in pool.connection_kwargs else {"socket_connect_timeout": timeout}


def _no_answer(timeout: float) -> TimeoutError:
    return TimeoutError(f"no answer within {timeout:.2f} s")
