"""
`PoolHealth`: what is wrong with a pooled PostgreSQL, told apart by two views of it.
"""

from __future__ import annotations

import contextlib

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, Any, Literal, TypeVar, overload

from selfheal.integrations import require
from selfheal.integrations.colours import in_use
from selfheal.integrations.pooled import PooledHealth, Usage
from selfheal.integrations.psycopg.io import io_for, is_async
from selfheal.integrations.psycopg.registry import ConnectionRegistry, Session
from selfheal.integrations.psycopg.views import Viewer
from selfheal.integrations.waiting import listens
from selfheal.model import CheckResult
from selfheal.model.settings import seconds


if TYPE_CHECKING:
    import datetime as dt

    from psycopg_pool import AsyncConnectionPool, ConnectionPool

    from selfheal.resources.rebuildable import Rebuildable


R = TypeVar("R")


class PoolHealth(PooledHealth[R]):
    """
    A probe of a *psycopg_pool* pool that says which of eight things is wrong: see `PooledHealth`.

    What helps: `CheckPool` against ``stale``, `KickPool` against ``backoff``,
    `DrainPool` against ``read_only``, `SeverHung` against ``stuck``,
    `RebuildPool` against ``exhausted``; all of them in `pool_ladder`.

    Call it in a check, or give it to a `HealthCheck` as the probe. With an async
    pool (or a `Rebuildable` of one) it returns an awaitable, to be awaited on
    the pool's loop.

    It ends by itself within *timeout*, also if the server never answers: the
    borrowed connection is closed then. It uses one connection of the pool, and
    at most one more. Queries that hang are recognised on Linux, over TCP, and
    without a pooler such as PgBouncer in between.

    Args:
        pool: A pool, or a `Rebuildable` that makes them.
        role: ``"primary"``: connections must be able to write. ``"any"``: reading is enough.
        timeout: Seconds for one run, all of it; keep it below the check's timeout.
        conninfo: Where a fresh connection goes to, or a function that tells; ``None``: where the pool's go to.
        hung_after: A query that the server does not work on hangs after so many seconds.
        leak_after: A connection that is given out and silent for so many seconds has leaked, unless it listens for
            notifications.

    Raises:
        MissingExtraError: If psycopg or psycopg_pool is not installed (extra ``psycopg``).
        ConfigError: If an argument cannot work.

    .. versionadded:: 26.1.0
    """

    @overload
    def __init__(
        self: PoolHealth[CheckResult],
        pool: ConnectionPool[Any] | Rebuildable[ConnectionPool[Any]],
        *,
        role: Literal["primary", "any"] = ...,
        timeout: float | dt.timedelta = ...,
        conninfo: str | Callable[[], str] | None = ...,
        hung_after: float | dt.timedelta = ...,
        leak_after: float | dt.timedelta = ...,
    ) -> None: ...
    @overload
    def __init__(
        self: PoolHealth[Awaitable[CheckResult]],
        pool: AsyncConnectionPool[Any] | Rebuildable[AsyncConnectionPool[Any]],
        *,
        role: Literal["primary", "any"] = ...,
        timeout: float | dt.timedelta = ...,
        conninfo: str | Callable[[], str] | Callable[[], Awaitable[str]] | None = ...,
        hung_after: float | dt.timedelta = ...,
        leak_after: float | dt.timedelta = ...,
    ) -> None: ...
    def __init__(
        self,
        pool: Any,
        *,
        role: Literal["primary", "any"] = "primary",
        timeout: float | dt.timedelta = 0.8,
        conninfo: str | Callable[[], Any] | None = None,
        hung_after: float | dt.timedelta = 1.0,
        leak_after: float | dt.timedelta = 10.0,
    ) -> None:
        super().__init__(pool, role=role, timeout=timeout)
        require("psycopg", who=__name__, package="psycopg", extra="psycopg")
        require("psycopg_pool", who=__name__, package="psycopg-pool", extra="psycopg")
        self.is_async = is_async(pool)
        self._io = io_for(pool)
        self._conninfo = conninfo
        self._hung_after = seconds(hung_after)
        self._leak_after = seconds(leak_after)

    @contextlib.asynccontextmanager
    async def looking(self) -> AsyncIterator[LookedAt]:
        """
        As `PooledHealth.looking`.
        """
        async with in_use(self.source) as pool:
            viewer = Viewer(
                pool=pool,
                io=self._io,
                registry=ConnectionRegistry.of(pool),
                conninfo=self._conninfo,
                hung_after=self._hung_after,
            )
            yield LookedAt(viewer, self._leak_after)


class LookedAt:
    """
    One pool, as `selfheal.integrations.pooled.Pooled` wants to see it.
    """

    def __init__(self, viewer: Viewer, leak_after: float) -> None:
        self.viewer = viewer
        self.pooled, self.direct = viewer.pooled, viewer.direct
        self._pool, self._registry = viewer.pool, viewer.registry
        self._leak_after = leak_after

    def reconnecting(self) -> bool:
        """
        As `Pooled.reconnecting`.
        """
        leased = len(self._leased())
        return leased == 0 and self._pool.get_stats()["pool_available"] == 0 and self._missing(leased) > 0

    def usage(self) -> Usage:
        """
        As `Pooled.usage`.
        """
        leased = self._leased()
        silent = sum(
            not session.busy and (session.silent_for or 0.0) >= self._leak_after and not listens(connection)
            for connection, session in leased.items()
        )
        return Usage(
            leased=len(leased),
            leaked=silent,
            missing=self._missing(len(leased)),
            closed=self._pool.closed,
            opens=self._pool.min_size,
        )

    def _leased(self) -> dict[Any, Session]:
        sessions = self._registry.sessions(self._pool)
        return {connection: session for connection, session in sessions.items() if session.leased}

    def _missing(self, leased: int) -> int:
        """
        Connections that the pool counts as its own and does not have: it is making them, or waits to try again.
        """
        stats = self._pool.get_stats()
        return int(stats["pool_size"] - stats["pool_available"] - leased)
