"""
The same application, put in order.
"""

from __future__ import annotations

import asyncio
import functools
import threading

import aiohttp
import asyncpg
import cachetools
import httpx2
import redis
import sqlalchemy

from psycopg_pool import ConnectionPool
from redis.backoff import NoBackoff
from redis.retry import Retry
from sqlalchemy.ext.asyncio import create_async_engine

from selfheal import Budget, Healer, HealthCheck, Rebuildable, RecoveryAction, health_check
from selfheal.integrations.psycopg import PoolHealth, pool_ladder
from selfheal.integrations.sqlalchemy import EngineHealth, engine_ladder, treat_as_disconnect
from selfheal.resources import CacheGate, SdNotify


LIMITS = {
    "connect_timeout": 3,
    "tcp_user_timeout": 5000,
    "keepalives": 1,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
}
DSN = "postgresql://shop@127.0.0.1:1/orders"


def make_orders():
    return ConnectionPool(DSN, kwargs=LIMITS, min_size=1, max_size=4, reconnect_timeout=30, open=False)


orders = Rebuildable(make_orders, close=ConnectionPool.close, name="orders")
orders.ensure()
reports = sqlalchemy.create_engine("postgresql+psycopg://shop@127.0.0.1:1/reports", connect_args=LIMITS)
treat_as_disconnect(reports)
stock = create_async_engine(
    "postgresql+asyncpg://shop@127.0.0.1:1/stock", connect_args={"timeout": 3, "command_timeout": 10}, pool_recycle=300
)
carts = redis.Redis(
    host="127.0.0.1", port=1, socket_timeout=0.5, socket_connect_timeout=0.5, retry=Retry(NoBackoff(), 0)
)
payments = httpx2.AsyncClient(timeout=5.0)


cache = cachetools.TTLCache(1000, ttl=60)
condition = threading.Condition()


@cachetools.cached(cache, condition=condition)
def price(number):
    return number


discounts = CacheGate(cache, price, lock=condition)


@functools.cache
def settings():
    return {}


@functools.lru_cache(maxsize=100)
def tax(country):
    return country


async def _on_a_loop():
    session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=10))
    return session, asyncpg.create_pool(DSN, timeout=3, command_timeout=10)


parcels, ledger = asyncio.run(_on_a_loop())


class Divert(RecoveryAction):
    def recover(self, ctx):
        pass

    def revert(self, ctx):
        pass

    def revert_when(self):
        carts.ping()


@health_check(interval=5, timeout=1, recovery=Divert(), shared=True, budget=Budget(3, per=300))
def carts_answer():
    carts.ping()


orders_answer = HealthCheck(PoolHealth(orders), name="orders", interval=2, timeout=1, recovery=pool_ladder(orders))
reports_answer = HealthCheck(
    EngineHealth(reports), name="reports", interval=2, timeout=1, recovery=engine_ladder(reports)
)


def make_healer():
    return Healer([carts_answer, orders_answer, reports_answer, SdNotify().check()], journal="unused.db")
