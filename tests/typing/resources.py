"""
A pool of somebody else's, made replaceable: what both checkers make of the README's example and of its async sibling.
"""

from __future__ import annotations

from typing import assert_type

from psycopg import AsyncConnection, Connection
from psycopg_pool import AsyncConnectionPool, ConnectionPool

from selfheal import LatencyMonitor, Rebuildable, health_check
from selfheal.integrations.psycopg import PoolHealth, pool_ladder


Sync = ConnectionPool[Connection]
Async = AsyncConnectionPool[AsyncConnection]


def make() -> Sync:
    return ConnectionPool("")


async def amake() -> Async:
    pool: Async = AsyncConnectionPool("", open=False)
    await pool.open()
    return pool


inferred = Rebuildable(lambda: ConnectionPool(""), close=ConnectionPool.close, name="inferred")
sync = Rebuildable(make, close=ConnectionPool.close, name="sync")
asynchronous = Rebuildable(amake, close=AsyncConnectionPool.close, name="async")

assert_type(sync, Rebuildable[Sync])
assert_type(sync.current, Sync)
assert_type(sync.rebuild(), Sync)
assert_type(asynchronous, Rebuildable[Async])

latency = LatencyMonitor(window_size=50, threshold_ms=500)
healthy = PoolHealth(sync, role="primary")
ahealthy = PoolHealth(asynchronous)


@health_check(interval=5, timeout=1, resource="orders_db", monitors=[latency], recovery=pool_ladder(sync))
def orders_db() -> None:
    healthy()


@health_check(recovery=pool_ladder(asynchronous))
async def invoices_db() -> None:
    await ahealthy()


async def use() -> None:
    with sync.use() as pool, pool.connection() as connection:
        assert_type(connection, Connection)
    async with asynchronous.use() as apool:
        assert_type(apool, Async)
