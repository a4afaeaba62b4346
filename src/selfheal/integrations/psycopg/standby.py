"""
Let *psycopg* and *psycopg_pool* follow a `selfheal.resources.Router` of connection strings::

    router = Router({"a": DSN_A, "b": DSN_B}, primary="a", role=role)
    pool = ConnectionPool(conninfo(router))
    recovery = switch_ladder(router, after=drain(pool)) >> pool_ladder(pool)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from selfheal.errors import ConfigError
from selfheal.integrations import require
from selfheal.integrations.colours import run
from selfheal.integrations.psycopg.io import _Blocking, _OnLoop
from selfheal.integrations.psycopg.probe import PoolHealth
from selfheal.integrations.standby import PATIENCE, POSTGRES_ROLE, postgres_role


if TYPE_CHECKING:
    from psycopg_pool import AsyncConnectionPool, ConnectionPool

    from selfheal.resources import Rebuildable, Router

    AnyPool = ConnectionPool[Any] | AsyncConnectionPool[Any]
    Source = AnyPool | Rebuildable[ConnectionPool[Any]] | Rebuildable[AsyncConnectionPool[Any]]


def role(conninfo: str) -> tuple[str, int | None]:
    """
    The role of a PostgreSQL server, asked over a connection of its own: the ``role=`` of a router.

    Args:
        conninfo: A connection string of that one server.

    Returns:
        ``"primary"`` or ``"standby"``, and the timeline of a primary.

    Raises:
        MissingExtraError: If psycopg is not installed (extra ``psycopg``).
        Exception: If it does not answer, within some seconds.

    .. versionadded:: 26.1.0
    """
    psycopg = require("psycopg", who=__name__, package="psycopg", extra="psycopg")
    connection = psycopg.connect(conninfo, autocommit=True, connect_timeout=PATIENCE, application_name="selfheal")
    try:
        ((read_only, walfile),) = run(_Blocking().query(connection, POSTGRES_ROLE, PATIENCE))
    finally:
        connection.close()
    return postgres_role(read_only == "t", walfile)


async def arole(conninfo: str) -> tuple[str, int | None]:
    """
    As `role`, from a coroutine: the ``role=`` of a router in an async program.
    """
    psycopg = require("psycopg", who=__name__, package="psycopg", extra="psycopg")
    connection = await psycopg.AsyncConnection.connect(
        conninfo, autocommit=True, connect_timeout=PATIENCE, application_name="selfheal"
    )
    try:
        ((read_only, walfile),) = await _OnLoop().query(connection, POSTGRES_ROLE, PATIENCE)
    finally:
        await connection.close()
    return postgres_role(read_only == "t", walfile)


def conninfo(router: Router[str]) -> Callable[[], str]:
    """
    The ``conninfo=`` of a pool, sync or async: where the router points to, for each new connection.

    A `PoolHealth` of that pool follows by itself.

    Raises:
        MissingExtraError: If psycopg_pool is not installed (extra ``psycopg``).
        ConfigError: If it is older than 3.3, and so takes no function.

    .. versionadded:: 26.1.0
    """
    module = require("psycopg_pool", who=__name__, package="psycopg-pool", extra="psycopg")
    if not hasattr(module.ConnectionPool, "drain"):
        msg = f"psycopg_pool {module.__version__} takes no function as conninfo. Install 3.3 or newer."
        raise ConfigError(msg)
    return lambda: router.target


def drain(pool: Source) -> Callable[[], object]:
    """
    The ``after=`` of a switch: replace every connection of the pool, idle ones at once, others when they come back.

    A pool that waits to reconnect to where it was is made to try where it has to go now.

    Args:
        pool: A pool, sync or async, or the `Rebuildable` that makes it.

    .. versionadded:: 26.1.0
    """
    health: PoolHealth[Any] = PoolHealth(pool)

    async def follow() -> None:
        async with health.looking() as looked:
            io, used, waits = looked.viewer.io, looked.viewer.pool, looked.usage().missing > 0
            await io.call(used.drain)
            if waits:
                smallest, largest = used.min_size, used.max_size
                await io.call(used.resize, smallest + 1, largest + 1)
                await io.call(used.resize, smallest, largest)

    return follow if health.is_async else lambda: run(follow())
