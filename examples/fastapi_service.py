"""
A FastAPI service with an async psycopg pool. Its server goes away for four seconds; the pool would stay away longer.

    python examples/fastapi_service.py
    ORDERS_DSN=postgresql://… uvicorn --app-dir examples fastapi_service:app
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sys
import time

from collections.abc import AsyncIterator

import httpx
import psycopg

from fastapi import FastAPI, HTTPException
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from selfheal import Healer, HealingPolicy, HealthCheck, Rebuildable
from selfheal.integrations.psycopg import PoolHealth, pool_ladder
from selfheal.records import tell
from selfheal.testing.servers import Postgres


DSN = os.environ.get("ORDERS_DSN", "")


async def connect() -> AsyncConnectionPool:
    made = AsyncConnectionPool(DSN, min_size=2, max_size=2, timeout=0.5, open=False)
    await made.open()
    return made


pool = Rebuildable(connect, close=AsyncConnectionPool.close, name="orders_db")

# Seconds instead of the defaults' minutes, because somebody is watching.
POLICY = HealingPolicy(interval=1, fast_interval=0.2, timeout=1, fall=2, rise=2, verify_within=5, probation=1)
check = HealthCheck(PoolHealth(pool), name="orders_db", policy=POLICY, recovery=pool_ladder(pool))


@contextlib.asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with pool.use():  # opened before the first request
        pass
    async with Healer([check]) as app.state.healer:
        yield
    await pool.aclose()


app = FastAPI(lifespan=lifespan)


@app.post("/orders")
async def order() -> str:
    try:
        async with pool.use() as connections, connections.connection() as connection:
            await connection.execute("SELECT 1")
    except (psycopg.Error, PoolTimeout):
        raise HTTPException(503) from None
    return "taken"


@app.get("/health")
async def health() -> str:
    return app.state.healer.status()["orders_db"].state.value


# -- a client, in place of a server and its users ----------------------------------------------------------------------


async def use(server: Postgres) -> bool:
    transport = httpx.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://orders") as client,
    ):

        async def post() -> int:
            return (await client.post("/orders")).status_code

        print("an order:", await post())
        await asyncio.to_thread(server.stop, "immediate")
        print("the server is gone; an order:", await post())
        await asyncio.sleep(4.5)  # the pool has tried after 1 and 3 s, and waits for the seventh, give or take one
        print("to its users it is", (await client.get("/health")).json())
        await asyncio.to_thread(server.start)
        returned = time.monotonic()
        while await post() != 200:
            await asyncio.sleep(0.05)
        print(f"the server is back; an order {time.monotonic() - returned:.1f} s later: 200")
        healer: Healer = app.state.healer
        while not healer.incidents():
            await asyncio.sleep(0.05)
        (incident,) = healer.incidents()
        print(tell(incident))
        return incident.result is not None and incident.result.value == "healed"


def main() -> None:
    logging.getLogger("psycopg").setLevel(logging.CRITICAL)  # it would report each connection that it loses
    global DSN
    with Postgres() as server:
        DSN = server.dsn
        sys.exit(not asyncio.run(use(server)))


if __name__ == "__main__":
    main()
