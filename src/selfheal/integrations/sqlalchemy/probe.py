"""
`EngineHealth`: what is wrong with an engine's database, told apart by two views of it.
"""

from __future__ import annotations

import contextlib

from collections.abc import AsyncIterator, Awaitable
from typing import TYPE_CHECKING, Any, Literal, TypeVar, overload

from selfheal.clock import SystemClock
from selfheal.errors import ConfigError, Unhealthy
from selfheal.integrations import require
from selfheal.integrations.colours import in_use
from selfheal.integrations.pooled import PooledHealth
from selfheal.integrations.sqlalchemy.errands import io_for
from selfheal.integrations.sqlalchemy.leases import EngineLeases
from selfheal.integrations.sqlalchemy.views import LookedAt, Memory, shorten_connects
from selfheal.model import CheckResult
from selfheal.model.settings import seconds


if TYPE_CHECKING:
    import datetime as dt

    from sqlalchemy import Engine
    from sqlalchemy.ext.asyncio import AsyncEngine

    from selfheal.resources.rebuildable import Rebuildable


R = TypeVar("R")


class EngineHealth(PooledHealth[R]):
    """
    A probe of a SQLAlchemy engine that says what is wrong with its database: see `PooledHealth`.

    SQLAlchemy never waits before it connects: ``backoff`` means that most of the
    pool waits for a server that has accepted and never answered. What helps is
    in `engine_ladder`.

    Call it in a check, or give it to a `HealthCheck` as the probe. With an
    `AsyncEngine` (or a `Rebuildable` of one) it returns an awaitable, to be
    awaited on the engine's loop.

    Build it beside the engine: connections that were given out before are
    unknown to it. It ends by itself within *timeout*, also if the server never
    answers: the borrowed connection is cut and replaced then. It uses one
    connection of the pool, never waits in the pool's queue, and takes at most
    one connection more, by the engine's own way to connect. Where users do not
    wait for a connection (a ``pool_timeout`` below a quarter of *timeout*), what it
    uses does not count against the pool's limit. A dead connection
    that it meets is answered as SQLAlchemy always does: the whole pool is
    replaced as it is used, so that the application meets none. Only if that has
    not helped the fault is ``stale``.

    Read-only servers and hung queries are recognised on PostgreSQL alone; the
    latter with psycopg and asyncpg, on Linux, over TCP, and without a pooler such
    as PgBouncer in between.

    Args:
        engine: An engine, sync or async, or a `Rebuildable` that makes them.
        role: ``"primary"``: connections must be able to write. ``"any"``: reading is enough.
        timeout: Seconds for one run, all of it; keep it below the check's timeout.
        hung_after: A query that the server does not work on hangs after so many seconds.
        leak_after: A connection that is given out and silent for so many seconds has leaked, unless it listens for
            notifications.

    Raises:
        MissingExtraError: If SQLAlchemy is not installed (extra ``sqlalchemy``).
        ConfigError: If an argument cannot work.

    .. versionadded:: 26.1.0
    """

    @overload
    def __init__(
        self: EngineHealth[CheckResult],
        engine: Engine | Rebuildable[Engine],
        *,
        role: Literal["primary", "any"] = ...,
        timeout: float | dt.timedelta = ...,
        hung_after: float | dt.timedelta = ...,
        leak_after: float | dt.timedelta = ...,
    ) -> None: ...
    @overload
    def __init__(
        self: EngineHealth[Awaitable[CheckResult]],
        engine: AsyncEngine | Rebuildable[AsyncEngine],
        *,
        role: Literal["primary", "any"] = ...,
        timeout: float | dt.timedelta = ...,
        hung_after: float | dt.timedelta = ...,
        leak_after: float | dt.timedelta = ...,
    ) -> None: ...
    def __init__(
        self,
        engine: Any,
        *,
        role: Literal["primary", "any"] = "primary",
        timeout: float | dt.timedelta = 0.8,
        hung_after: float | dt.timedelta = 1.0,
        leak_after: float | dt.timedelta = 10.0,
    ) -> None:
        super().__init__(engine, role=role, timeout=timeout)
        require("sqlalchemy", who=__name__, package="sqlalchemy", extra="sqlalchemy")
        is_rebuildable = hasattr(engine, "rebuild")
        self.is_async = bool(engine.is_async) if is_rebuildable else hasattr(engine, "sync_engine")
        self._io = io_for(is_async=self.is_async)
        self._memory = Memory()
        self._hung_after = seconds(hung_after)
        self._leak_after = seconds(leak_after)
        if not is_rebuildable:
            self._prepare(engine)

    @contextlib.asynccontextmanager
    async def looking(self) -> AsyncIterator[LookedAt]:
        """
        As `PooledHealth.looking`.
        """
        async with in_use(self.source) as engine:
            yield LookedAt(
                self._prepare(engine),
                self._io,
                self._memory,
                hung_after=self._hung_after,
                leak_after=self._leak_after,
            )

    async def _look(self) -> CheckResult:
        until = SystemClock.now() + self._timeout
        try:
            return await super()._look()
        except Unhealthy as fault:
            left = until - SystemClock.now()
            if fault.kind != "stale" or left <= 0:
                raise
            # SQLAlchemy has heard of it and replaces its connections: what matters is what the next one meets.
            async with self.looking() as looked:
                view = await looked.pooled(left)
            if not view.good or self._cannot_write(view):
                raise
            return CheckResult.healthy()

    def _prepare(self, engine: Any) -> Engine:
        sync: Engine = getattr(engine, "sync_engine", engine)
        if sync.dialect.is_async != self.is_async:
            msg = "a Rebuildable of an AsyncEngine needs coroutine functions: close=AsyncEngine.dispose."
            raise ConfigError(msg)
        from sqlalchemy import pool

        if isinstance(sync.pool, (pool.StaticPool, pool.SingletonThreadPool)):
            msg = (
                f"{type(sync.pool).__name__} gives everybody, or each thread, one and the same connection: looking "
                "through it would end the transactions of its users. Use an engine with a QueuePool or a NullPool."
            )
            raise ConfigError(msg)
        EngineLeases.of(sync)
        shorten_connects(sync)
        return sync
