"""
An application with selfheal beside the same application without, on the same server, through the same faults.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time

from collections.abc import Callable, Iterator
from typing import Any, Self

import pytest

from selfheal import Healer, HealingPolicy, HealthCheck, Rebuildable, names
from selfheal.integrations.psycopg import PoolHealth, RebuildPool, pool_ladder
from selfheal.model import Event, RecoveryContext
from selfheal.testing.servers import Postgres


psycopg = pytest.importorskip("psycopg")
psycopg_pool = pytest.importorskip("psycopg_pool")

POLICY = HealingPolicy(interval=1, fast_interval=0.2, timeout=1)
WORKERS = 4


class Application:
    """
    Four workers that send one request after the other through one pool; with or without a healer.
    """

    def __init__(
        self, dsn: str | Callable[[], str], sql: str = "select 1", *, healed: bool, idle: bool = False
    ) -> None:
        self.events: list[Event] = []
        self.sql = sql
        self.requests: list[tuple[float, float, Exception | None]] = []
        self.busy_since = [0.0] * WORKERS
        self._dsn = dsn
        self._healed = healed
        self._idle = threading.Event()
        self._stopping = threading.Event()
        if not idle:
            self._idle.set()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._live)

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def __exit__(self, *_exc: object) -> None:
        self._stopping.set()
        self._idle.set()
        self._thread.join()

    def wake(self) -> None:
        """Let the workers of an idle application begin."""
        self._idle.set()

    def ok_after(self, moment: float, *, within: float) -> float | None:
        """Seconds from *moment* to the end of the first good request after it, or `None`."""
        while True:
            ends = [end - moment for _, end, error in tuple(self.requests) if error is None and end > moment]
            if ends:
                return min(ends)
            if time.monotonic() > moment + within:
                return None
            time.sleep(0.01)

    def hanging(self, *, since: float) -> int:
        """Workers that still wait for what they had asked for before."""
        return sum(0 < began <= since for began in self.busy_since)

    def failed(self) -> list[Exception]:
        """What requests have failed with."""
        return [error for _, _, error in tuple(self.requests) if error is not None]

    def actions(self) -> list[tuple[float, Any]]:
        """When the healer has begun which action."""
        return [(event.at, event.fields["action"]) for event in self.events if event.name == names.ACTION_STARTED]

    def _note(self, worker: int, began: float, error: Exception | None) -> None:
        self.requests.append((began, time.monotonic(), error))
        self.busy_since[worker] = 0.0

    def _healer(self, pool: Any) -> Any:
        if not self._healed:
            return contextlib.nullcontext()
        healer = Healer([HealthCheck(PoolHealth(pool), name="db", policy=POLICY, recovery=pool_ladder(pool))])
        healer.on_event(self.events.append)
        return healer

    def _live(self) -> None:
        raise NotImplementedError


class SyncApplication(Application):
    """
    With threads.
    """

    def _live(self) -> None:
        def make() -> Any:
            return psycopg_pool.ConnectionPool(self._dsn, min_size=WORKERS, max_size=WORKERS, open=True)

        self.pool: Any = Rebuildable(make, close=lambda pool: pool.close(timeout=1), name="db", grace=1)
        self.pool.current.wait()
        with self._healer(self.pool):
            workers = [threading.Thread(target=self._work, args=(number,)) for number in range(WORKERS)]
            for worker in workers:
                worker.start()
            self._ready.set()
            self._stopping.wait()
            self.pool.close()  # whoever still waits for a connection is told so
            for worker in workers:
                worker.join()

    def _work(self, worker: int) -> None:
        self._idle.wait()
        while not self._stopping.wait(0.005):
            self.busy_since[worker] = began = time.monotonic()
            error = None
            try:
                with self.pool.use() as pool, pool.connection() as connection:
                    connection.execute(self.sql)
            except Exception as exc:
                error = exc
            self._note(worker, began, error)


class AsyncApplication(Application):
    """
    With tasks on a loop of its own.
    """

    def _live(self) -> None:
        asyncio.run(self._alive())

    async def _alive(self) -> None:
        async def make() -> Any:
            pool = psycopg_pool.AsyncConnectionPool(self._dsn, min_size=WORKERS, max_size=WORKERS, open=False)
            await pool.open(wait=True)
            return pool

        async def close(pool: Any) -> None:
            await pool.close(timeout=1)

        pool: Any = Rebuildable(make, close=close, name="db", grace=1)
        await pool.aensure()
        async with self._healer(pool) if self._healed else contextlib.nullcontext():
            self._ready.set()
            await asyncio.gather(*(self._work(pool, number) for number in range(WORKERS)))
        await pool.aclose()

    async def _work(self, box: Any, worker: int) -> None:
        while not self._idle.is_set():
            await asyncio.sleep(0.01)
        while not self._stopping.is_set():
            await asyncio.sleep(0.005)
            self.busy_since[worker] = began = time.monotonic()
            error = None
            try:
                async with box.use() as pool, pool.connection() as connection:
                    await connection.execute(self.sql)
            except Exception as exc:
                error = exc
            self._note(worker, began, error)


@contextlib.contextmanager
def applications(*args: Any, **options: Any) -> Iterator[tuple[Application, Application, Application]]:
    """
    A sync and an async application with selfheal, and one without.
    """
    with (
        SyncApplication(*args, healed=True, **options) as sync,
        AsyncApplication(*args, healed=True, **options) as asynchronous,
        SyncApplication(*args, healed=False, **options) as without,
    ):
        yield sync, asynchronous, without


def test_terminated_backends_are_replaced_before_anybody_meets_them(primary: Postgres) -> None:
    """
    Dead connections of an idle pool are healed by the first rung; without selfheal its users find them.
    """
    with applications(primary.dsn, idle=True) as (sync, asynchronous, without):
        time.sleep(1)
        primary.terminate_backends()
        time.sleep(3)
        for application in (sync, asynchronous, without):
            application.wake()
        time.sleep(0.5)
        assert ([], []) == (sync.failed(), asynchronous.failed())
        assert [] != without.failed()
        for application in (sync, asynchronous):
            assert {"check_pool"} == {action for _, action in application.actions()}


@pytest.mark.at_length
def test_a_long_outage_ends_with_the_server(primary: Postgres) -> None:
    """
    The first request succeeds within 0.5 s of the server's return, without selfheal not for seconds; until then
    nothing is done.
    """
    with applications(primary.dsn) as (sync, asynchronous, without):
        time.sleep(1)
        stopped = time.monotonic()
        primary.stop("immediate")
        # psycopg_pool tries again after 1, 3, 7 and 15 s, give or take a tenth; then not before 27.
        time.sleep(16.8)
        primary.start()
        back = time.monotonic()
        for application in (sync, asynchronous):
            healed_after = application.ok_after(back, within=5)
            assert healed_after is not None
            assert healed_after < 0.5
            assert [] == [action for at, action in application.actions() if stopped < at < back - 0.1]
            assert {"kick_pool"} == {action for _, action in application.actions()}
        assert without.ok_after(back, within=4) is None


@pytest.mark.at_length
def test_a_pool_that_knows_both_servers_follows_the_promoted_one_at_once() -> None:
    """
    libpq finds the server that can be written to; without selfheal the pool does not ask it for seconds.
    """
    with Postgres() as first, Postgres.standby_of(first) as second:
        ports = f"{first.port},{second.port}"
        dsn = f"host=127.0.0.1,127.0.0.1 port={ports} user=postgres dbname=postgres target_session_attrs=read-write"
        with applications(f"{dsn} connect_timeout=2") as (sync, asynchronous, without):
            time.sleep(1)
            stopped = time.monotonic()
            first.kill()
            time.sleep(8.5)  # after 7 s, psycopg_pool has tried; then not before 15
            second.promote()
            back = time.monotonic()
            for application in (sync, asynchronous):
                healed_after = application.ok_after(back, within=5)
                assert healed_after is not None
                assert healed_after < 3
                assert [] == [action for at, action in application.actions() if stopped < at < back - 0.5]
                assert {"kick_pool"} == {action for _, action in application.actions()}
            assert without.ok_after(back, within=3) is None


def test_a_pool_pinned_to_a_demoted_server_writes_again(primary: Postgres) -> None:
    """
    After a failover that leaves the old server readable, writes succeed again within 3 s; without selfheal never.
    """
    import psycopg

    with psycopg.connect(primary.dsn, autocommit=True) as connection:
        connection.execute("create table if not exists orders (x int)")
    with Postgres.standby_of(primary) as successor:
        writable = [primary.dsn]
        with applications(lambda: writable[0], "insert into orders values (1)") as (sync, asynchronous, without):
            time.sleep(1)
            successor.promote()
            with psycopg.connect(primary.dsn, autocommit=True) as connection:
                connection.execute("alter system set default_transaction_read_only = on")
                connection.execute("select pg_reload_conf()")
            failed_over = time.monotonic()
            writable[0] = successor.dsn
            try:
                time.sleep(0.3)  # writes that were under way are over
                for application in (sync, asynchronous):
                    healed_after = application.ok_after(failed_over + 0.3, within=5)
                    assert healed_after is not None
                    assert healed_after + 0.3 < 3
                    assert {"drain_pool"} == {action for _, action in application.actions()}
                assert without.ok_after(failed_over + 0.3, within=5) is None
            finally:
                with psycopg.connect(primary.dsn, autocommit=True) as connection:
                    connection.execute("set default_transaction_read_only = off")
                    connection.execute("alter system reset default_transaction_read_only")
                    connection.execute("select pg_reload_conf()")


def freeze(server: Postgres) -> float:
    """
    Freeze all backends so that new connections still work; return when.
    """
    while True:
        frozen = time.monotonic()
        server.freeze_backends()
        if server.accepts(timeout=0.5):
            return frozen
        server.thaw_backends()  # one of them held a lock that newcomers need
        time.sleep(0.1)


def test_callers_of_frozen_backends_are_free_in_five_seconds(primary: Postgres) -> None:
    """
    Callers that wait for frozen server processes are free within 5 s; without selfheal they are not.
    """
    with applications(primary.dsn) as (sync, asynchronous, without):
        time.sleep(1)
        frozen = freeze(primary)
        time.sleep(0.1)
        in_trouble = time.monotonic()
        while any(app.hanging(since=in_trouble) for app in (sync, asynchronous)) and time.monotonic() < frozen + 5:
            time.sleep(0.01)
        assert (0, 0) == (sync.hanging(since=in_trouble), asynchronous.hanging(since=in_trouble))
        for application in (sync, asynchronous):
            assert application.ok_after(time.monotonic(), within=1) is not None
            assert {"sever_hung"} == {action for _, action in application.actions()}
        assert without.hanging(since=in_trouble) > 0
        primary.thaw_backends()


def test_a_forgotten_transaction_is_ended_by_the_server_and_its_connection_by_the_pool(primary: Postgres) -> None:
    """
    With a limit set at connect, a connection that idles in a transaction is lost for its holder, and for nobody else.
    """
    dsn = f"{primary.dsn}?options=-c%20idle_in_transaction_session_timeout%3D300"
    with psycopg_pool.ConnectionPool(dsn, min_size=1, max_size=1, timeout=5, open=True) as pool:
        check = HealthCheck(PoolHealth(pool), name="db", policy=POLICY, recovery=pool_ladder(pool))
        events: list[Event] = []
        with Healer([check]) as healer:
            healer.on_event(events.append)
            with pool.connection() as connection:
                connection.execute("select 1")
                time.sleep(0.8)
                with pytest.raises(psycopg.errors.IdleInTransactionSessionTimeout):
                    connection.execute("select 1")
            with pool.connection() as connection:
                connection.execute("select 1")
            assert healer.wait_healthy("db", timeout=5)
    assert [] == [event.fields["action"] for event in events if event.name == names.ACTION_STARTED]


def test_ten_rebuilds_under_load_fail_nobody(primary: Postgres, context: RecoveryContext) -> None:
    """
    While four threads use a pool it is rebuilt ten times, and no request fails.
    """
    with SyncApplication(primary.dsn, healed=False) as application:
        for _ in range(10):
            RebuildPool(application.pool).recover(context)
        assert 11 == application.pool.generation
        assert application.ok_after(time.monotonic(), within=1) is not None
        assert [] == application.failed()
        assert len(application.requests) > 40
