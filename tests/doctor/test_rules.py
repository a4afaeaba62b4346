"""
Every rule, asked about something bad, and about the same with the fix applied.
"""

from __future__ import annotations

import asyncio
import functools
import importlib.util
import statistics
import threading

from collections.abc import Callable
from typing import Any

import pytest
import tenacity

from selfheal import Blast, Budget, Healer, HealingPolicy, HealthCheck, Rebuildable, RecoveryAction, rung
from selfheal.doctor import RULES, audit
from selfheal.resources import CacheGate, CacheHealth, SharedCache


cachetools = pytest.importorskip("cachetools")
psycopg_pool = pytest.importorskip("psycopg_pool")
sqlalchemy = pytest.importorskip("sqlalchemy")
asyncpg = pytest.importorskip("asyncpg")
redis = pytest.importorskip("redis")
httpx = pytest.importorskip("httpx")
httpx2 = pytest.importorskip("httpx2")
aiohttp = pytest.importorskip("aiohttp")

from redis.asyncio import Redis as AsyncRedis  # noqa: E402
from redis.backoff import ExponentialBackoff, NoBackoff  # noqa: E402
from redis.retry import Retry  # noqa: E402
from sqlalchemy.ext.asyncio import create_async_engine  # noqa: E402

from selfheal.integrations.psycopg import PoolHealth  # noqa: E402
from selfheal.integrations.sqlalchemy import treat_as_disconnect  # noqa: E402
from selfheal.resources import DeadMan  # noqa: E402


DSN = "postgresql://shop@db/orders"
KEEPALIVES = {"keepalives": 1, "keepalives_idle": 5, "keepalives_interval": 2, "keepalives_count": 3}


def pool(dsn: str = DSN, **options: Any) -> Any:
    return psycopg_pool.ConnectionPool(dsn, open=False, **options)


def engine(url: str = "postgresql+psycopg://shop@db/orders", **options: Any) -> Any:
    return sqlalchemy.create_engine(url, **options)


def lenient(engine: Any) -> Any:
    treat_as_disconnect(engine)
    return engine


def connecting(**told: Any) -> Any:
    return engine(connect_args=told)


def aengine(**told: Any) -> Any:
    return create_async_engine("postgresql+asyncpg://shop@db/orders", connect_args=told)


def blocking(**options: Any) -> Any:
    return redis.Redis(connection_pool=redis.BlockingConnectionPool(host="db", **options))


def session(**options: Any) -> Any:
    return aiohttp.ClientSession(**options)


class Act(RecoveryAction):
    def recover(self, ctx: Any) -> None:
        pass


class Dearer(Act):
    pass


class Restart(Act):
    blast = Blast.PROCESS


class Delete(Act):
    destructive = True


class Divert(Act):
    def revert(self, ctx: Any) -> None:
        pass


class DivertUntil(Divert):
    def revert_when(self) -> None:
        pass


class Renew(Act):
    def __init__(self, client: Any) -> None:
        self.client = client


def fine() -> None:
    pass


def check(probe: Any = fine, *, name: str = "db", recovery: Any = None, **options: Any) -> HealthCheck:
    return HealthCheck(probe, name=name, recovery=Act() if recovery is None else recovery, **options)


def once() -> None:
    pass


def held_by(client: Any) -> Callable[[], object]:
    return functools.partial(print, client)


def two(*, resource: str) -> Healer:
    box = Rebuildable(dict, close=fine)
    return Healer([check(name="a", recovery=Renew(box)), check(name="b", resource=resource, recovery=Renew(box))])


def probes(count: int, **options: Any) -> Healer:
    return Healer([check(name=f"db{number}") for number in range(count)], **options)


def named(*names: str) -> None:
    pass


def own(function: Callable[..., Any], maxsize: int | None = None) -> Any:
    cached = functools.lru_cache(maxsize=maxsize)(function)
    if function.__module__ == __name__:
        cached.__wrapped__.__module__ = "app"
    return cached


def shared_cache(one: Any, other: Any, by: str = "lock") -> Any:
    cache: Any = cachetools.TTLCache(10, 60)
    lock = threading.Condition(one) if by == "condition" else one
    return [cachetools.cached(cache, **{by: lock})(str), CacheGate(cache, str, lock=other)]


NOBODY: dict[str, Any] = dict.fromkeys(("get", "set", "delete"), print)
CALM = Retry(NoBackoff(), 0)
AGAIN = tenacity.retry(stop=tenacity.stop_after_attempt(3))(once)
LADDER = Act() >> Dearer()

#: Code, what is bad, and the same with the fix applied.
CASES: dict[str, tuple[str, Callable[[], Any], Callable[[], Any]]] = {
    "psycopg connects": ("SH101", pool, lambda: pool(f"{DSN}?connect_timeout=3")),
    "psycopg connects, by kwargs": ("SH101", pool, lambda: pool(kwargs={"connect_timeout": 3})),
    "psycopg connects, nobody knows how": ("SH101", pool, lambda: pool(lambda: DSN)),
    "psycopg connects, and cannot": ("SH101", pool, lambda: pool("what is this")),
    "psycopg sends": ("SH102", pool, lambda: pool(f"{DSN}?tcp_user_timeout=5000")),
    "psycopg sends, by a unix socket": ("SH102", pool, lambda: pool("host=/run/postgresql")),
    "psycopg awaits": ("SH103", pool, lambda: pool(kwargs=KEEPALIVES)),
    "psycopg awaits for long": (
        "SH103",
        lambda: pool(kwargs={**KEEPALIVES, "keepalives_idle": 600}),
        lambda: pool(kwargs=KEEPALIVES),
    ),
    "psycopg awaits without keepalives": (
        "SH103",
        lambda: pool(kwargs={**KEEPALIVES, "keepalives": 0}),
        lambda: pool("host=/run/postgresql"),
    ),
    "psycopg checks": (
        "SH104",
        lambda: pool(check=psycopg_pool.ConnectionPool.check_connection, min_size=5),
        lambda: pool(check=psycopg_pool.ConnectionPool.check_connection, min_size=4),
    ),
    "psycopg resets": ("SH105", lambda: pool(reset=print), lambda: pool(reset=print, num_workers=6)),
    "psycopg backs off": ("SH106", pool, lambda: pool(reconnect_timeout=30)),
    "engine connects": ("SH201", engine, lambda: connecting(connect_timeout=3)),
    "engine connects, by its URL": ("SH201", engine, lambda: engine("postgresql+psycopg://db/x?connect_timeout=3")),
    "asyncpg's engine connects": ("SH201", aengine, lambda: aengine(timeout=3)),
    "engine sends": ("SH202", engine, lambda: connecting(tcp_user_timeout=5000)),
    "engine awaits": ("SH203", engine, lambda: connecting(**KEEPALIVES)),
    "asyncpg's engine awaits": ("SH204", aengine, lambda: aengine(command_timeout=10)),
    "engine keeps": ("SH205", engine, lambda: engine(pool_recycle=300)),
    "engine keeps, and judges": ("SH205", engine, lambda: lenient(engine())),
    "engine keeps, without a pool": ("SH205", engine, lambda: engine(poolclass=sqlalchemy.pool.NullPool)),
    "engine pings": (
        "SH206",
        lambda: engine(pool_pre_ping=True),
        lambda: engine(pool_pre_ping=True, connect_args={"tcp_user_timeout": 5000, **KEEPALIVES}),
    ),
    "asyncpg answers": (
        "SH301",
        lambda: asyncpg.create_pool(DSN),
        lambda: asyncpg.create_pool(DSN, command_timeout=10),
    ),
    "asyncpg connects": ("SH302", lambda: asyncpg.create_pool(DSN), lambda: asyncpg.create_pool(DSN, timeout=3)),
    "redis tries again": (
        "SH401",
        lambda: redis.Redis(socket_timeout=5, retry=Retry(ExponentialBackoff(), 10)),
        lambda: redis.Redis(socket_timeout=2, retry=Retry(ExponentialBackoff(), 1)),
    ),
    "redis tries again for ever": ("SH401", lambda: redis.Redis(retry=Retry(NoBackoff(), -1)), blocking),
    "async redis answers": (
        "SH402",
        lambda: AsyncRedis(socket_timeout=None),
        lambda: AsyncRedis(socket_timeout=2),
    ),
    "redis connects": (
        "SH403",
        lambda: redis.Redis(socket_timeout=None, socket_connect_timeout=None),
        lambda: redis.Redis(socket_timeout=None, socket_connect_timeout=2),
    ),
    "redis blocks": ("SH404", lambda: blocking(timeout=None), lambda: blocking(timeout=5)),
    "httpx waits": ("SH501", lambda: httpx.Client(timeout=None), lambda: httpx.Client(timeout=5.0)),
    "httpx2 waits": ("SH501", lambda: httpx2.Client(timeout=None), lambda: httpx2.Client(timeout=5.0)),
    "httpx leaks": ("SH502", httpx.AsyncClient, httpx2.AsyncClient),
    "aiohttp waits": ("SH503", session, lambda: session(timeout=aiohttp.ClientTimeout(total=10))),
    "cached function is unlocked": (
        "SH571",
        lambda: cachetools.cached(cachetools.TTLCache(10, 60))(str),
        lambda: cachetools.cached(cachetools.TTLCache(10, 60), condition=threading.Condition())(str),
    ),
    "cached function is unlocked, and its cache never breaks": (
        "SH571",
        lambda: cachetools.cached(cachetools.LRUCache(10))(str),
        lambda: cachetools.cached({})(str),
    ),
    "gate and function each have a lock": (
        "SH572",
        lambda: shared_cache(threading.Lock(), None),
        lambda: shared_cache(*[threading.Lock()] * 2),
    ),
    "gate and function each have a lock, in a condition": (
        "SH572",
        lambda: shared_cache(threading.Lock(), threading.Lock(), by="condition"),
        lambda: shared_cache(*[threading.Lock()] * 2, by="condition"),
    ),
    "cache grows": (
        "SH573",
        lambda: CacheGate({}, str),
        lambda: CacheGate(cachetools.LRUCache(10), str),
    ),
    "cache grows, and is looked at": (
        "SH573",
        lambda: check(CacheHealth(CacheGate({}, str))),
        lambda: check(CacheHealth(CacheGate({}, str), max_entries=10)),
    ),
    "cache of a function grows": (
        "SH573",
        lambda: CacheGate(functools.lru_cache(maxsize=None)(len)),
        lambda: CacheGate(functools.lru_cache(len)),
    ),
    "cache that nobody can look into": (
        "SH573",
        lambda: CacheGate({}, str),
        lambda: CacheGate(SharedCache(**NOBODY), str),
    ),
    "function's cache grows": ("SH574", lambda: own(named), lambda: own(named, maxsize=10)),
    "function's cache has one place": ("SH574", lambda: own(named), lambda: own(once)),
    "function's cache is another's": ("SH574", lambda: own(named), lambda: own(statistics.mean)),
    "probe tries again": ("SH601", lambda: check(AGAIN, name="db"), lambda: check(AGAIN.__wrapped__, name="db")),
    "probe tries again inside": ("SH601", lambda: check(lambda: AGAIN()), lambda: check(lambda: once())),
    "probe's redis tries again": (
        "SH601",
        lambda: check(held_by(redis.Redis(retry=Retry(NoBackoff(), 3))), name="db"),
        lambda: check(held_by(redis.Redis(retry=CALM)), name="db"),
    ),
    "probe waits for the pool": (
        "SH602",
        lambda: check(held_by(pool(timeout=30)), name="db"),
        lambda: check(PoolHealth(pool(timeout=30)), name="db"),
    ),
    "probe waits for the engine": (
        "SH602",
        lambda: check(held_by(engine()), name="db"),
        lambda: check(held_by(engine(pool_timeout=3)), name="db"),
    ),
    "probe is cut off": (
        "SH603",
        lambda: check(PoolHealth(pool(), timeout=2), timeout=1),
        lambda: check(PoolHealth(pool(), timeout=0.8), timeout=1),
    ),
    "probe sets the pace": (
        "SH604",
        lambda: check(interval=1, timeout=5),
        lambda: check(interval=1, timeout=1),
    ),
    "nothing heals": ("SH701", lambda: HealthCheck(fine, name="db"), check),
    "nothing heals, and others wait": (
        "SH701",
        lambda: HealthCheck(fine, name="db"),
        lambda: Healer([HealthCheck(fine, name="db"), check(name="app", depends_on=["db"])]),
    ),
    "nothing heals, and it stops others": (
        "SH701",
        lambda: HealthCheck(fine, name="db"),
        lambda: HealthCheck(fine, name="db", self_doubt=True),
    ),
    "nothing heals, and it need not": ("SH701", lambda: HealthCheck(fine, name="db"), lambda: DeadMan(30).check()),
    "no room": (
        "SH702",
        lambda: check(policy=HealingPolicy(verify_within=7)),
        lambda: check(policy=HealingPolicy(verify_within=12)),
    ),
    "no room on a rung": (
        "SH702",
        lambda: check(recovery=rung(Act(), verify_within=7)),
        lambda: check(recovery=rung(Act(), verify_within=12)),
    ),
    "budget starves": (
        "SH703",
        lambda: check(recovery=LADDER, budget=Budget(1, per=900)),
        lambda: check(recovery=LADDER, budget=Budget(2, per=900)),
    ),
    "ladder is cut": (
        "SH704",
        lambda: check(recovery=LADDER, policy=HealingPolicy(max_actions=1)),
        lambda: check(
            recovery=Act().when(kinds={"stale"}) >> Dearer().when(kinds={"stuck"}), policy=HealingPolicy(max_actions=1)
        ),
    ),
    "budget stops nothing": (
        "SH705",
        lambda: check(budget=Budget(100, per=600)),
        lambda: check(budget=Budget(100, per=6000)),
    ),
    "fleet": (
        "SH706",
        lambda: check(recovery=Restart(), shared=True),
        lambda: check(recovery=Restart()),
    ),
    "blind revert": ("SH707", lambda: check(recovery=Divert()), lambda: check(recovery=DivertUntil())),
    "forbidden": (
        "SH801",
        lambda: Healer([check(recovery=Delete())]),
        lambda: Healer([check(recovery=Delete())], allow_destructive=True),
    ),
    "few threads": ("SH802", lambda: probes(3, max_threads=2), lambda: probes(3, max_threads=6)),
    "two resources": ("SH803", lambda: two(resource="b"), lambda: two(resource="a")),
    "process starves": (
        "SH804",
        lambda: Healer([check(recovery=LADDER)], budget=Budget(1, per=900)),
        lambda: Healer([check(recovery=LADDER)], budget=Budget(4, per=900)),
    ),
    "no journal": (
        "SH805",
        lambda: Healer([check(recovery=DivertUntil())]),
        lambda: Healer([check(recovery=DivertUntil())], journal="never-opened.db"),
    ),
}


if importlib.util.find_spec("pymysql"):
    CASES["PyMySQL's engine awaits"] = (
        "SH204",
        lambda: engine("mysql+pymysql://db/x"),
        lambda: engine("mysql+pymysql://db/x", connect_args={"read_timeout": 10}),
    )


async def codes(make: Callable[[], Any]) -> set[str]:
    """The rules that find something in what is made, which is closed then."""
    thing = make()
    healer = thing if isinstance(thing, Healer) else Healer([thing] if isinstance(thing, HealthCheck) else [])
    others = {} if isinstance(thing, (Healer, HealthCheck)) else {"app:client": thing}
    found = {finding.code for finding in audit(healer, others=others).findings}
    for name in ("aclose", "close"):
        if not isinstance(thing, (Healer, asyncpg.Pool)) and hasattr(thing, name):
            closing = getattr(thing, name)()
            if closing is not None:
                await closing
            break
    return found


@pytest.mark.parametrize("case", CASES)
def test_a_rule_finds_what_is_bad_and_not_what_is_mended(case: str) -> None:
    """
    Each rule finds its defect in a real object, and nothing once its fix is applied.
    """
    code, bad, good = CASES[case]

    assert code in asyncio.run(codes(bad))
    assert code not in asyncio.run(codes(good))


@pytest.mark.parametrize(
    ("module", "version", "make", "code"),
    [
        (psycopg_pool, "3.2.6", pool, "SH107"),
        (asyncpg, "0.31.0", lambda: asyncpg.create_pool(DSN), "SH303"),
    ],
)
def test_a_version_that_loses_connections_is_found(monkeypatch, module, version, make, code) -> None:
    """
    An old version is found, the installed one is not.
    """
    assert code not in asyncio.run(codes(make))
    monkeypatch.setattr(module, "__version__", version)
    assert code in asyncio.run(codes(make))


def test_a_pool_that_is_open_is_found_only_after_an_import() -> None:
    """
    In a program that serves, open pools and a healer that runs are as they should be.
    """
    opened = psycopg_pool.ConnectionPool("host=127.0.0.1 port=1", min_size=0, max_size=1, open=True)
    healer = Healer([check()])
    with opened, healer:
        look = functools.partial(audit, healer, others={"pool": opened})
        serving = {found.code for found in look().findings}
        imported = {found.code for found in look(imported=True).findings}

    assert {"SH901", "SH902"} == imported - serving


def test_every_rule_is_tried() -> None:
    """
    No rule is without a bad and a good example.
    """
    django = {f"SH15{number}" for number in range(1, 8)}
    elsewhere = {"SH107", "SH303", "SH901", "SH902"} | django | {"SH551", "SH552", "SH903", "SH806", "SH807"}

    assert {rule.code for rule in RULES} == elsewhere | {code for code, _, _ in CASES.values()}


def test_a_rule_that_breaks_hides_nothing_else() -> None:
    """
    What has changed inside a library is an info about one rule; the other rules still find what they find.
    """
    pool = psycopg_pool.ConnectionPool(DSN, open=False)
    del pool.reconnect_timeout  # as if a later version had renamed it
    healer = Healer([HealthCheck(PoolHealth(pool), name="orders_db")])

    found = {finding.code: finding for finding in audit(healer).findings}

    assert "SH101" in found
    assert any("cannot be told" in finding.problem for finding in found.values())
