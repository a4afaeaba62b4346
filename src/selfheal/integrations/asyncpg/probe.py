"""
`PoolHealth`: what is wrong with an asyncpg pool, told apart by two views of it.
"""

from __future__ import annotations

import asyncio
import contextlib

from collections.abc import AsyncIterator, Awaitable
from typing import TYPE_CHECKING, Any, Literal

from selfheal.errors import ConfigError
from selfheal.integrations.asyncpg.registry import driver
from selfheal.integrations.asyncpg.views import Connect, LookedAt
from selfheal.integrations.colours import in_use
from selfheal.integrations.pooled import PooledHealth
from selfheal.model import CheckResult
from selfheal.model.settings import seconds


if TYPE_CHECKING:
    import datetime as dt


class PoolHealth(PooledHealth[Awaitable[CheckResult]]):
    """
    A probe of an *asyncpg* pool that says which of eight things is wrong: see `PooledHealth`.

    What helps: `ExpireConnections` against ``stale`` and ``read_only``,
    `TerminateHung` against ``stuck``, `RebuildPool` against ``backoff`` and
    ``exhausted``; all of them in `pool_ladder`. Against an outage nothing has
    to help: asyncpg connects anew with the first request afterwards.

    Call it in a check, or give it to a `HealthCheck` as the probe; it is awaited
    on the pool's own loop, so the healer is entered there, by ``async with``.

    It ends by itself within *timeout*, though a hung operation of asyncpg takes
    2 s or longer to honour a cancellation: it is not waited for, and its
    connection is terminated. It uses one connection of the pool, and at most one
    more. Queries that hang are recognised on Linux, over TCP, and without a
    pooler such as PgBouncer in between.

    Args:
        pool: An ``asyncpg.Pool``, or a `Rebuildable` that makes them.
        role: ``"primary"``: connections must be able to write. ``"any"``: reading is enough.
        timeout: Seconds for one run, all of it; keep it below the check's timeout. It must do for connecting twice.
        connect: Makes a fresh connection; `None`: as the pool makes its own.
        hung_after: A query that the server does not work on hangs after so many seconds.
        leak_after: A connection that is given out and silent for so many seconds has leaked, unless it listens for
            notifications. asyncpg does not tell since when it is out: they count from the look that sees it first.

    Raises:
        MissingExtraError: If asyncpg is not installed (extra ``asyncpg``).
        ConfigError: If an argument cannot work.

    .. versionadded:: 26.1.0
    """

    is_async = True

    def __init__(
        self,
        pool: Any,
        *,
        role: Literal["primary", "any"] = "primary",
        timeout: float | dt.timedelta = 0.8,
        connect: Connect | None = None,
        hung_after: float | dt.timedelta = 1.0,
        leak_after: float | dt.timedelta = 10.0,
    ) -> None:
        super().__init__(pool, role=role, timeout=timeout)
        driver()
        self._connect = connect
        self._hung_after = seconds(hung_after)
        self._leak_after = seconds(leak_after)

    @contextlib.asynccontextmanager
    async def looking(self) -> AsyncIterator[LookedAt]:
        """
        As `PooledHealth.looking`.
        """
        async with in_use(self.source) as pool:
            if pool._loop is not asyncio.get_running_loop():
                # Before anything is touched: to use a connection from here would break it.
                msg = "this pool lives on another event loop: enter the healer there, with `async with Healer(...)`."
                raise ConfigError(msg)
            yield LookedAt(pool=pool, connect=self._connect, hung_after=self._hung_after, leak_after=self._leak_after)
