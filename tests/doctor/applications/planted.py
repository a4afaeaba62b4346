"""
An application of a shop as one finds them: every client with its defaults, and a healer that was never thought through.
"""

from __future__ import annotations

import asyncio
import functools
import threading

import aiohttp
import asyncpg
import cachetools
import httpx
import redis
import sqlalchemy
import tenacity

from psycopg_pool import ConnectionPool
from sqlalchemy.ext.asyncio import create_async_engine

from selfheal import Blast, Budget, Healer, HealingPolicy, HealthCheck, RecoveryAction, health_check
from selfheal.integrations.psycopg import PoolHealth, pool_ladder
from selfheal.resources import CacheGate


DSN = "postgresql://shop@127.0.0.1:1/orders"


# SH101 SH102 SH103 SH104 SH105 SH106
orders = ConnectionPool(
    DSN, min_size=5, check=ConnectionPool.check_connection, reset=lambda connection: None, open=False
)
# SH201 SH202 SH203 SH205 SH206
reports = sqlalchemy.create_engine("postgresql+psycopg://shop@127.0.0.1:1/reports", pool_pre_ping=True)
# SH204
stock = create_async_engine(
    "postgresql+asyncpg://shop@127.0.0.1:1/stock", connect_args={"timeout": 3}, pool_recycle=300
)
# SH401
carts = redis.Redis(host="127.0.0.1", port=1)
# SH402 SH403 SH404
sessions = redis.Redis(
    connection_pool=redis.BlockingConnectionPool(
        host="127.0.0.1", port=1, timeout=None, socket_timeout=None, socket_connect_timeout=None
    )
)
# SH501 SH502
payments = httpx.AsyncClient(timeout=None)


async def _on_a_loop():
    return aiohttp.ClientSession(), asyncpg.create_pool(DSN)


prices_cache = cachetools.TTLCache(1000, ttl=60)


# SH571
@cachetools.cached(prices_cache)
def price(number):
    return number


@cachetools.cached(prices_cache, lock=threading.Lock())
def net_price(number):
    return number


# SH572
discounts = CacheGate(prices_cache, price)
# SH573
customers = CacheGate({}, str)


# SH574
@functools.cache
def tax(country):
    return country


# SH503 and SH301 SH302
parcels, ledger = asyncio.run(_on_a_loop())


@tenacity.retry(stop=tenacity.stop_after_attempt(3))
def ask_carts():
    carts.ping()


class RestartProcess(RecoveryAction):
    blast = Blast.PROCESS
    destructive = True

    def recover(self, ctx):
        raise SystemExit


class Divert(RecoveryAction):
    def recover(self, ctx):
        pass

    def revert(self, ctx):
        pass


class OnceMore(RecoveryAction):
    def recover(self, ctx):
        pass


# SH601 SH706 SH703
@health_check(interval=5, timeout=1, recovery=OnceMore() >> RestartProcess(), shared=True, budget=Budget(1, per=900))
def carts_answer():
    ask_carts()


# SH602 SH604
@health_check(interval=1, timeout=5, resource="reports", recovery=OnceMore())
def reports_answer():
    with reports.connect() as connection:
        connection.execute(sqlalchemy.text("select 1"))


# SH701
def nobody_heals():
    pass


# SH603; with the next, SH803
orders_answer = HealthCheck(
    PoolHealth(orders, timeout=2), name="orders", interval=2, timeout=1, recovery=pool_ladder(orders)
)
# SH702 SH704 SH705 SH707
orders_again = HealthCheck(
    lambda: None,
    name="orders_again",
    policy=HealingPolicy(verify_within=7, max_actions=2),
    recovery=pool_ladder(orders) >> Divert(),
    budget=Budget(300, per=3600),
)

# SH801 SH802 SH805
healer = Healer(
    [
        carts_answer,
        reports_answer,
        HealthCheck(nobody_heals, name="nobody_heals"),
        orders_answer,
        orders_again,
    ],
    max_threads=2,
)

# SH901, without a server: the workers try to connect, and fail.
prices = ConnectionPool(DSN, min_size=1, open=True, num_workers=1, reconnect_timeout=1)
