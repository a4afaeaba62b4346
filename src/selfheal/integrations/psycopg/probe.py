"""
`PoolHealth`: what is wrong with a pooled database, told apart by two views of it.
"""

from __future__ import annotations

import re

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final, Generic, Literal, TypeVar, overload

from selfheal.clock import SystemClock
from selfheal.errors import ConfigError, Unhealthy
from selfheal.integrations import require
from selfheal.integrations.psycopg.io import in_use, io_for, is_async, run
from selfheal.integrations.psycopg.registry import ConnectionRegistry, Session
from selfheal.integrations.psycopg.views import View, Viewer
from selfheal.model import CheckResult, Fault, HealthStatus
from selfheal.model.settings import seconds


if TYPE_CHECKING:
    import datetime as dt

    from psycopg_pool import AsyncConnectionPool, ConnectionPool

    from selfheal.resources.rebuildable import Rebuildable


R = TypeVar("R")
_now = SystemClock.now

#: What a server says about class 28. libpq keeps no SQLSTATE of a connection that failed, so the text has to do.
_REFUSED: Final = re.compile(
    "authentication failed|no password supplied|pg_hba.conf|role .* does not exist|not permitted to log in"
)


class PoolHealth(Generic[R]):
    """
    A probe of a *psycopg_pool* pool that says which of eight things is wrong.

    It looks through the pool first. Only if that shows anything bad does it open
    a connection of its own, and the two views together name the fault:

    ============= ============================================================ =============================
    kind          what is seen                                                 what helps
    ============= ============================================================ =============================
    ``down``      no fresh connection, or none that can write                  nothing of ours: wait, divert
    ``auth``      a fresh connection is refused for who it is                  a person
    ``stale``     fresh ones work, the pool's fail at once                     `CheckPool`
    ``backoff``   fresh ones work, the pool has none and waits to reconnect    `KickPool`
    ``read_only`` fresh ones can write, the pool's cannot (certain: *fatal*)   `DrainPool`
    ``stuck``     queries wait for an answer that the server does not work on  `SeverHung`
    ``exhausted`` most connections are given out and long silent: a leak       `RebuildPool`
    ``slow``      all are given out and busy: overload, DEGRADED               shed load; healing would hurt
    ============= ============================================================ =============================

    Call it in a check, or give it to a `HealthCheck` as the probe. It raises
    `Unhealthy`, or returns a `CheckResult`; with an async pool (or a
    `Rebuildable` of one) it returns an awaitable, to be awaited on the pool's loop.

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
        leak_after: A connection that is given out and silent for so many seconds has leaked.

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
        require("psycopg", who=__name__, package="psycopg", extra="psycopg")
        require("psycopg_pool", who=__name__, package="psycopg-pool", extra="psycopg")
        if role not in {"primary", "any"}:
            msg = f"role={role!r}: must be 'primary' or 'any'."
            raise ConfigError(msg)
        self._pool = pool
        self._io = io_for(pool)
        self._role = role
        self._timeout = seconds(timeout)
        self._conninfo = conninfo
        self._hung_after = seconds(hung_after)
        self._leak_after = seconds(leak_after)
        if not self._timeout > 0:
            msg = f"timeout={timeout}: must be greater than 0 seconds."
            raise ConfigError(msg)

    def __call__(self) -> R:
        """
        Look once.

        Returns:
            A healthy result, or a degraded one of kind ``slow``; an awaitable of it for an async pool.

        Raises:
            Unhealthy: With one of the kinds above.
        """
        if is_async(self._pool):
            return self._look()  # type: ignore[return-value]
        return run(self._look())  # type: ignore[return-value]

    async def _look(self) -> CheckResult:
        until = _now() + self._timeout
        async with in_use(self._pool) as pool:
            registry = ConnectionRegistry.of(pool)
            viewer = Viewer(
                pool=pool, io=self._io, registry=registry, conninfo=self._conninfo, hung_after=self._hung_after
            )
            pooled = None
            if not _is_reconnecting(pool, registry):
                pooled = await viewer.pooled(0.5 * self._timeout)
                if self._is_good(pooled):
                    return CheckResult.healthy()
            direct = await viewer.direct(max(0.05, 0.8 * (until - _now())))
            if pooled is None and direct.error is None:
                # Long enough for a try that is under way; the sooner it is kicked, the shorter the outage.
                pooled = await viewer.pooled(until - _now(), wait=0.05)
            sessions = list(registry.sessions(pool).values())
            fault = self._fault(pool, pooled, direct, sessions)
        if fault is None:
            return CheckResult.healthy()
        if fault.kind == "slow":
            return CheckResult(HealthStatus.DEGRADED, fault=fault)
        raise Unhealthy(fault.kind, fault.message, fatal=fault.fatal) from fault.error

    def _is_good(self, view: View) -> bool:
        return view.error is None and not view.hung and not view.elsewhere and not self._cannot_write(view)

    def _cannot_write(self, view: View) -> bool:
        return view.read_only and self._role == "primary"

    def _fault(self, pool: Any, pooled: View | None, direct: View, sessions: list[Session]) -> Fault | None:
        """
        The decision table, from the top down.
        """
        import psycopg

        if direct.error is not None:
            kind = "auth" if _REFUSED.search(str(direct.error)) else "down"
            return Fault(kind, message=f"no fresh connection: {direct.error}", error=direct.error)
        if self._cannot_write(direct):
            return Fault("down", message="not writable anywhere: a fresh connection leads to a read-only server")
        if pooled is None:
            return None
        error = pooled.error
        if self._cannot_write(pooled) or getattr(error, "sqlstate", None) == "25006":
            message = "the pool's connections are read-only, a fresh one is not"
            return Fault("read_only", message=message, error=error, fatal=True)
        hung = len(direct.hung or pooled.hung)
        if hung:
            return Fault("stuck", message=f"{hung} queries wait, and the server does not work on them")
        if error is None:
            return None
        if isinstance(error, TimeoutError):
            return Fault("stuck", message="a pooled connection does not answer, a fresh one does")
        if isinstance(error, psycopg.OperationalError) and not _from_pool(error):
            return Fault("stale", message=f"a pooled connection is dead, a fresh one works: {error}", error=error)
        if not _from_pool(error):
            return Fault("error", message=str(error), error=error)
        return self._why_none(pool, sessions, error)

    def _why_none(self, pool: Any, sessions: list[Session], error: Exception | None) -> Fault:
        """
        Why the pool gave no connection.
        """
        if pool.closed:
            return Fault("exhausted", message=f"the pool gives no connections: {error}", error=error)
        leased = [session for session in sessions if session.leased]
        leaked = [s for s in leased if not s.busy and (s.silent_for or 0.0) >= self._leak_after]
        if 2 * len(leaked) >= max(1, len(leased)) and leaked:
            message = f"{len(leaked)} of {len(leased)} connections are given out and silent for {self._leak_after:g} s"
            return Fault("exhausted", message=message, error=error)
        if _missing(pool, len(leased)) > 0:
            return Fault("backoff", message="the pool waits to reconnect, a fresh connection works", error=error)
        return Fault("slow", message=f"all {len(leased)} connections are in use", error=error)


def _missing(pool: Any, leased: int) -> int:
    """
    Connections that the pool counts as its own and does not have: it is making them, or waits to try again.
    """
    stats = pool.get_stats()
    return int(stats["pool_size"] - stats["pool_available"] - leased)


def _is_reconnecting(pool: Any, registry: ConnectionRegistry) -> bool:
    # Then a request of ours would only join the queue, once for every look of a long outage.
    leased = sum(session.leased for session in registry.sessions(pool).values())
    return leased == 0 and pool.get_stats()["pool_available"] == 0 and _missing(pool, leased) > 0


def _from_pool(error: Exception | None) -> bool:
    import psycopg_pool

    kinds = (psycopg_pool.PoolTimeout, psycopg_pool.PoolClosed, psycopg_pool.TooManyRequests)
    return isinstance(error, kinds)
