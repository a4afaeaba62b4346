"""
Small applications that hold a pool of each kind, with and without selfheal, and count what their users see.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time

from typing import Any, ClassVar, Self

from selfheal import Healer, HealingPolicy, HealthCheck, Rebuildable, names


WORKERS = 2
SIZE = 4
PACE = 0.05
LEAK_AFTER = 3.0
HUNG_AFTER = 1.0
POLICY = HealingPolicy(interval=1, fast_interval=0.2, timeout=1, fall=2, verify_within=5, probation=2, jitter=0)


class Application:
    """
    Workers that send one request after the other through one pool.

    Args:
        url: Of the server, through the proxy.
        healed: With selfheal or without.
    """

    name: ClassVar[str]

    def __init__(self, url: Any, *, healed: bool) -> None:
        self.url = url
        self.healed = healed
        self.opened: list[float] = []
        self.actions: list[str] = []
        self.ready = threading.Event()
        self.stopping = threading.Event()
        self._order = ""
        self._served: list[list[float]] = [[] for _ in range(WORKERS)]
        self._thread = threading.Thread(target=self.live, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        if not self.ready.wait(20):
            raise RuntimeError(f"{self.name} does not start")
        return self

    def __exit__(self, *_exc: object) -> None:
        self.stopping.set()
        self._thread.join(10)

    def order(self, what: str) -> None:
        """
        Let the first worker ``leak`` or ``hog``.
        """
        self._order = what

    def note(self, worker: int) -> None:
        """
        A request of *worker* was served.
        """
        self._served[worker].append(time.monotonic())

    def up_since(self, moment: float) -> float | None:
        """
        Seconds from *moment* until every worker had been served again, or `None`.
        """
        first = [next((at for at in tuple(served) if at > moment), None) for served in self._served]
        return None if None in first else max(at for at in first if at is not None) - moment

    def healer(self, checks: list[HealthCheck]) -> Healer:
        """
        Watches what the application holds.
        """
        healer = Healer(checks)
        healer.on_event(lambda event: self.opened.append(event.at), events=[names.INCIDENT_OPENED])
        healer.on_event(lambda event: self.actions.append(str(event.fields["action"])), events=[names.ACTION_STARTED])
        return healer

    def live(self) -> None:
        """
        Its whole life, in a thread of its own.
        """
        raise NotImplementedError


class Threaded(Application):
    """
    With threads.
    """

    source: Any

    def open(self) -> None:
        """
        Make `source`.
        """
        raise NotImplementedError

    def close(self) -> None:
        """
        Whoever still waits for a connection is told so.
        """

    def check(self) -> HealthCheck:
        """
        What selfheal is told.
        """
        raise NotImplementedError

    def request(self) -> None:
        """
        One write.
        """
        raise NotImplementedError

    def leak(self) -> None:
        """
        Take all connections, and never give them back.
        """
        raise NotImplementedError

    def long_request(self) -> None:
        """
        One that takes 5 s.
        """
        raise NotImplementedError

    def hog(self) -> None:
        """
        Use all connections for 5 s.
        """
        for _ in range(SIZE):
            threading.Thread(target=self.long_request, daemon=True).start()

    def live(self) -> None:
        self.open()
        workers = [threading.Thread(target=self._work, args=(number,), daemon=True) for number in range(WORKERS)]
        with self.healer([self.check()]) if self.healed else contextlib.nullcontext():
            for worker in workers:
                worker.start()
            self.ready.set()
            self.stopping.wait()
        self.close()

    def _work(self, worker: int) -> None:
        while not self.stopping.wait(PACE):
            if worker == 0 and self._order:
                order, self._order = self._order, ""
                getattr(self, order)()
            with contextlib.suppress(Exception):
                self.request()
                self.note(worker)


class Looped(Application):
    """
    With tasks on a loop of its own.
    """

    source: Any

    async def open(self) -> None:
        """
        Make `source`.
        """
        raise NotImplementedError

    def check(self) -> HealthCheck:
        """
        What selfheal is told.
        """
        raise NotImplementedError

    async def request(self) -> None:
        """
        One write.
        """
        raise NotImplementedError

    async def leak(self) -> None:
        """
        Take all connections, and never give them back.
        """
        raise NotImplementedError

    async def long_request(self) -> None:
        """
        One that takes 5 s.
        """
        raise NotImplementedError

    async def hog(self) -> None:
        """
        Use all connections for 5 s.
        """
        self.hogs = [asyncio.ensure_future(self.long_request()) for _ in range(SIZE)]

    def live(self) -> None:
        asyncio.run(self._alive())

    async def _alive(self) -> None:
        await self.open()
        async with self.healer([self.check()]) if self.healed else contextlib.nullcontext():
            tasks = [asyncio.ensure_future(self._work(number)) for number in range(WORKERS)]
            self.ready.set()
            while not self.stopping.is_set():
                await asyncio.sleep(PACE)
            for task in tasks:
                task.cancel()

    async def _work(self, worker: int) -> None:
        while True:
            await asyncio.sleep(PACE)
            if worker == 0 and self._order:
                order, self._order = self._order, ""
                await getattr(self, order)()
            with contextlib.suppress(Exception):
                await self.request()
                self.note(worker)


SQL = "INSERT INTO orders VALUES (1)"


class Psycopg(Threaded):
    name = "psycopg"

    def open(self) -> None:
        from psycopg_pool import ConnectionPool

        self.source = Rebuildable(
            lambda: ConnectionPool(self.url, min_size=SIZE, max_size=SIZE, timeout=1, open=True),
            close=lambda pool: pool.close(timeout=1),
            name="db",
            grace=1,
        )
        self.source.current.wait()

    def check(self) -> HealthCheck:
        from selfheal.integrations.psycopg import PoolHealth, pool_ladder

        probe = PoolHealth(self.source, leak_after=LEAK_AFTER)
        return HealthCheck(probe, name="db", policy=POLICY, recovery=pool_ladder(self.source))

    def request(self, sql: str = SQL) -> None:
        with self.source.use() as pool, pool.connection() as connection:
            connection.execute(sql)

    def long_request(self) -> None:
        self.request("SELECT pg_sleep(5)")

    def leak(self) -> None:
        self.leaked = [self.source.current.getconn() for _ in range(SIZE)]

    def close(self) -> None:
        self.source.close()


class PsycopgAsync(Looped):
    name = "psycopg, async"

    async def open(self) -> None:
        from psycopg_pool import AsyncConnectionPool

        async def make() -> Any:
            pool = AsyncConnectionPool(self.url, min_size=SIZE, max_size=SIZE, timeout=1, open=False)
            await pool.open(wait=True)
            return pool

        async def close(pool: Any) -> None:
            await pool.close(timeout=1)

        self.source = Rebuildable(make, close=close, name="db", grace=1)
        await self.source.aensure()

    def check(self) -> HealthCheck:
        from selfheal.integrations.psycopg import PoolHealth, pool_ladder

        probe = PoolHealth(self.source, leak_after=LEAK_AFTER)
        return HealthCheck(probe, name="db", policy=POLICY, recovery=pool_ladder(self.source))

    async def request(self, sql: str = SQL) -> None:
        async with self.source.use() as pool, pool.connection() as connection:
            await connection.execute(sql)

    async def long_request(self) -> None:
        await self.request("SELECT pg_sleep(5)")

    async def leak(self) -> None:
        self.leaked = [await self.source.current.getconn() for _ in range(SIZE)]


class Sqlalchemy(Threaded):
    name = "SQLAlchemy on psycopg"

    def open(self) -> None:
        from sqlalchemy import create_engine

        self.source = create_engine(
            self.url.replace("postgresql://", "postgresql+psycopg://"), pool_size=SIZE, max_overflow=0, pool_timeout=1
        )

    def check(self) -> HealthCheck:
        from selfheal.integrations.sqlalchemy import EngineHealth, engine_ladder

        probe = EngineHealth(self.source, leak_after=LEAK_AFTER)
        return HealthCheck(probe, name="db", policy=POLICY, recovery=engine_ladder(self.source))

    def request(self, sql: str = SQL) -> None:
        from sqlalchemy import text

        with self.source.begin() as connection:
            connection.execute(text(sql))

    def long_request(self) -> None:
        self.request("SELECT pg_sleep(5)")

    def leak(self) -> None:
        self.leaked = [self.source.connect() for _ in range(SIZE)]

    def close(self) -> None:
        self.source.dispose(close=False)


class SqlalchemyAsync(Looped):
    name = "SQLAlchemy on asyncpg, async"
    driver: ClassVar[str] = "asyncpg"

    async def open(self) -> None:
        from sqlalchemy.ext.asyncio import create_async_engine

        self.source = create_async_engine(
            self.url.replace("postgresql://", f"postgresql+{self.driver}://"),
            pool_size=SIZE,
            max_overflow=0,
            pool_timeout=1,
        )

    def check(self) -> HealthCheck:
        from selfheal.integrations.sqlalchemy import EngineHealth, engine_ladder

        probe = EngineHealth(self.source, leak_after=LEAK_AFTER)
        return HealthCheck(probe, name="db", policy=POLICY, recovery=engine_ladder(self.source))

    async def request(self, sql: str = SQL) -> None:
        from sqlalchemy import text

        async with self.source.begin() as connection:
            await connection.execute(text(sql))

    async def long_request(self) -> None:
        await self.request("SELECT pg_sleep(5)")

    async def leak(self) -> None:
        self.leaked = [await self.source.connect() for _ in range(SIZE)]


class Asyncpg(Looped):
    name = "asyncpg"

    async def open(self) -> None:
        import asyncpg

        async def make() -> Any:
            return await asyncpg.create_pool(self.url, min_size=SIZE, max_size=SIZE)

        async def close(pool: Any) -> None:
            pool.terminate()

        self.source = Rebuildable(make, close=close, name="db", grace=1)
        await self.source.aensure()

    def check(self) -> HealthCheck:
        from selfheal.integrations.asyncpg import PoolHealth, pool_ladder

        probe = PoolHealth(self.source, leak_after=LEAK_AFTER)
        return HealthCheck(probe, name="db", policy=POLICY, recovery=pool_ladder(self.source))

    async def request(self, sql: str = SQL) -> None:
        async with self.source.use() as pool, pool.acquire(timeout=1) as connection:
            await connection.execute(sql)

    async def long_request(self) -> None:
        await self.request("SELECT pg_sleep(5)")

    async def leak(self) -> None:
        self.leaked = [await self.source.current.acquire() for _ in range(SIZE)]


class RedisPy(Threaded):
    name = "redis-py"

    def open(self) -> None:
        from redis import Redis

        def make() -> Any:
            return Redis.from_url(self.url, max_connections=SIZE)

        self.source = Rebuildable(make, close=Redis.close, name="db", grace=1)
        self.request()

    def check(self) -> HealthCheck:
        from selfheal.integrations.redis import RedisHealth, redis_ladder

        probe = RedisHealth(self.source, expect_role="master", hung_after=HUNG_AFTER, leak_after=LEAK_AFTER)
        ladder = redis_ladder(self.source, hung_after=HUNG_AFTER)
        return HealthCheck(probe, name="db", policy=POLICY, recovery=ladder)

    def request(self) -> None:
        with self.source.use() as client:
            client.incr("orders")

    def leak(self) -> None:
        self.leaked = []
        while len(self.leaked) < SIZE:
            with contextlib.suppress(Exception):  # the other worker has it for a moment
                self.leaked.append(self.source.current.connection_pool.get_connection())


class RedisPyAsync(Looped):
    name = "redis-py, async"

    async def open(self) -> None:
        from redis.asyncio import Redis

        async def make() -> Any:
            return Redis.from_url(self.url, max_connections=SIZE)

        self.source = Rebuildable(make, close=Redis.aclose, name="db", grace=1)
        await self.source.aensure()
        await self.request()

    def check(self) -> HealthCheck:
        from selfheal.integrations.redis import RedisHealth, redis_ladder

        probe = RedisHealth(self.source, expect_role="master", hung_after=HUNG_AFTER, leak_after=LEAK_AFTER)
        ladder = redis_ladder(self.source, hung_after=HUNG_AFTER)
        return HealthCheck(probe, name="db", policy=POLICY, recovery=ladder)

    async def request(self) -> None:
        async with self.source.use() as client:
            await client.incr("orders")

    async def leak(self) -> None:
        self.leaked = []
        while len(self.leaked) < SIZE:
            with contextlib.suppress(Exception):  # the other worker has it for a moment
                self.leaked.append(await self.source.current.connection_pool.get_connection())
            await asyncio.sleep(0)


ON_POSTGRESQL: list[type[Application]] = [Psycopg, PsycopgAsync, Sqlalchemy, SqlalchemyAsync, Asyncpg]
ON_VALKEY: list[type[Application]] = [RedisPy, RedisPyAsync]
