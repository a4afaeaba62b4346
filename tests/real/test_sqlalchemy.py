"""
How engines fail on a real PostgreSQL, what SQLAlchemy heals by itself, and what our actions add; in three colours.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import inspect
import socket
import subprocess
import sys
import threading
import time
import weakref

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from selfheal import Healer, HealingPolicy, HealthCheck, Rebuildable, names
from selfheal.errors import ConfigError, Escalate, SelfHealError, Unhealthy
from selfheal.integrations.sqlalchemy import (
    DisposeEngine,
    EngineHealth,
    EngineLeases,
    RebuildEngine,
    RotateEngine,
    SeverHung,
    engine_ladder,
    treat_as_disconnect,
)
from selfheal.model import Event, Fault, RecoveryContext
from selfheal.testing.faults import FaultProxy
from selfheal.testing.servers import Postgres


sqlalchemy = pytest.importorskip("sqlalchemy")
pytest.importorskip("asyncpg")

from sqlalchemy import create_engine, event, exc, text  # noqa: E402
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine  # noqa: E402


class Engines:
    """
    Makes engines of one colour, and calls what belongs to them where it has to be called.
    """

    def __init__(self, colour: str) -> None:
        self.driver, self.is_async = {"sync": ("psycopg", False), "async": ("psycopg", True)}.get(
            colour, (colour, True)
        )
        self._made: list[Any] = []
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()

    def make(self, port: int, *, user: str = "postgres", name: str = "app", **options: Any) -> Any:
        """An engine of two connections at most; the server knows them by *name*."""
        named: Any = {"application_name": name}
        options["connect_args"] = {"server_settings": named} if self.driver == "asyncpg" else named
        make: Any = create_async_engine if self.is_async else create_engine
        options = {"pool_size": 2, "max_overflow": 0, "pool_timeout": 0.3, **options}
        engine = make(f"postgresql+{self.driver}://{user}@127.0.0.1:{port}/postgres", **options)
        self._made.append(engine)
        return engine

    def filled(self, port: int, **options: Any) -> Any:
        """An engine whose two connections are there."""
        engine = self.make(port, **options)
        for connection in [self.take(engine) for _ in range(2)]:
            self.call(connection.close)
        return engine

    def take(self, engine: Any) -> Any:
        """A connection of the pool."""

        async def connect() -> Any:
            return await engine.connect()

        return self.call(connect if self.is_async else engine.connect)

    def execute(self, engine: Any, sql: str = "select 1") -> Any:
        """Run one statement in a transaction of its own, as an application would."""

        def one(result: Any) -> Any:
            return result.scalar() if result.returns_rows else None

        async def on_loop() -> Any:
            async with engine.begin() as connection:
                return one(await connection.execute(text(sql)))

        def here() -> Any:
            with engine.begin() as connection:
                return one(connection.execute(text(sql)))

        return self.call(on_loop if self.is_async else here)

    def write(self, engine: Any) -> None:
        """Write something, which a read-only server refuses."""
        self.execute(engine, "create table if not exists orders (x int)")

    def errors(self, engine: Any, times: int, do: Callable[[Any], Any] | None = None) -> list[Exception]:
        """What so many statements have failed with."""
        failed = []
        for _ in range(times):
            try:
                (do or self.execute)(engine)
            except Exception as error:
                failed.append(error)
        return failed

    def look(self, probe: Any) -> str:
        """The verdict in one word."""
        try:
            result = self.call(probe)
        except Unhealthy as error:
            return f"{error.kind}!" if error.fatal else error.kind
        return str(result.status.value)

    def call(self, fn: Callable[..., Any], *args: Any, timeout: float = 10.0) -> Any:
        """What *fn* gives; async, on the loop."""
        return self.start(fn, *args).result(timeout) if self.is_async else fn(*args)

    def start(self, fn: Callable[..., Any], *args: Any) -> Any:
        """Start *fn* on the loop."""

        async def on_loop() -> Any:
            result = fn(*args)
            return await result if inspect.isawaitable(result) else result

        return asyncio.run_coroutine_threadsafe(on_loop(), self._loop)

    def behind(self, fn: Callable[..., Any], *args: Any) -> Callable[[float], bool]:
        """Start *fn* in a thread; the answer says whether it has ended in so many seconds."""

        def run() -> None:
            with contextlib.suppress(exc.SQLAlchemyError):
                fn(*args)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()

        def ended(within: float) -> bool:
            thread.join(within)
            return not thread.is_alive()

        return ended

    def close(self) -> None:
        """Close what was made, and the loop."""
        for engine in self._made:
            with contextlib.suppress(exc.SQLAlchemyError):
                self.call(engine.dispose)

        async def rest() -> None:
            tasks = asyncio.all_tasks() - {asyncio.current_task()}
            for task in tasks:
                task.cancel()
            if tasks:
                await asyncio.wait(tasks, timeout=5)

        self.start(rest).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


@pytest.fixture(params=["sync", "async", "asyncpg"])
def engines(request: pytest.FixtureRequest) -> Iterator[Engines]:
    """Engines in three colours: psycopg in threads, psycopg and asyncpg on a loop."""
    engines = Engines(request.param)
    yield engines
    engines.close()


@pytest.fixture
def moving(primary: Postgres, standby: Postgres) -> Iterator[FaultProxy]:
    """An address that leads to the standby, until it is led to the primary."""
    with FaultProxy(standby.port) as proxy:
        yield proxy


def eventually(claim: Callable[[], bool], within: float = 3.0) -> bool:
    give_up = time.monotonic() + within
    while not claim():
        if time.monotonic() > give_up:
            return False
        time.sleep(0.01)
    return True


# -- what the probe tells apart ------------------------------------------------


def test_a_good_engine_is_healthy_and_costs_no_connection_of_its_own(engines: Engines, primary: Postgres) -> None:
    """
    A healthy engine is looked at through its own pool alone, and what is borrowed is given back.
    """
    engine = engines.filled(primary.port)
    probe, before = EngineHealth(engine), primary.backends()
    assert ["healthy"] * 10 == [engines.look(probe) for _ in range(10)]
    assert set(primary.backends()) <= set(before)
    assert () == EngineLeases.of(engine).holders()


def test_a_pool_in_use_is_slow_and_nobody_is_kept_waiting_by_the_look(engines: Engines, primary: Postgres) -> None:
    """
    With every connection in use the look ends in time, joins no queue, and finds nothing that healing could mend.
    """
    engine = engines.make(primary.port, pool_timeout=30)
    probe = EngineHealth(engine)
    used = [engines.take(engine) for _ in range(2)]
    started = time.monotonic()
    assert "degraded" == engines.look(probe)
    assert time.monotonic() - started < 0.8
    for connection in used:
        engines.call(connection.close)
    assert "healthy" == engines.look(probe)


def test_a_stopped_server_is_down_and_nothing_is_done(
    engines: Engines, primary: Postgres, context: RecoveryContext
) -> None:
    """
    While no fresh connection can be had the fault is `down`, no rung applies, and actions refuse to act.
    """
    engine = engines.filled(primary.port)
    probe = EngineHealth(engine)
    primary.stop()
    assert "down" == engines.look(probe)
    assert [] == [rung.name for rung in engine_ladder(engine).rungs if rung.applies(Fault("down"))]
    for action in (RotateEngine(engine), DisposeEngine(engine), SeverHung(engine)):
        with pytest.raises(Escalate, match="a fresh connection fails as well"):
            engines.call(action.recover, context)


def test_a_server_that_does_not_answer_is_down_in_time(engines: Engines, primary: Postgres) -> None:
    """
    A server that accepts and never answers is `down` within the probe's own timeout, look after look.
    """
    with FaultProxy(primary.port) as proxy:
        engine = engines.filled(proxy.port, pool_pre_ping=True)
        probe = EngineHealth(engine, timeout=0.6)
        proxy.blackhole()
        for _ in range(3):
            started = time.monotonic()
            assert "down" == engines.look(probe)
            assert time.monotonic() - started < 0.9
        proxy.heal()
        assert eventually(lambda: engines.look(probe) == "healthy")


def test_who_is_refused_is_told_apart(engines: Engines, primary: Postgres) -> None:
    """
    A server that does not let us in is `auth`.
    """
    assert "auth" == engines.look(EngineHealth(engines.make(primary.port, user="nobody")))


def test_a_read_only_server_is_down_where_writing_is_needed(engines: Engines, standby: Postgres) -> None:
    """
    A standby is `down` as a primary, and healthy where reading is enough.
    """
    engine = engines.filled(standby.port)
    assert "down" == engines.look(EngineHealth(engine))
    assert "healthy" == engines.look(EngineHealth(engine, role="any"))


# -- what SQLAlchemy heals by itself -------------------------------------------


def test_dead_connections_cost_one_error_or_the_look_meets_them_first(engines: Engines, primary: Postgres) -> None:
    """
    The first request on dead connections fails and all others succeed; a look before it takes the error upon itself.
    """
    without, with_us = engines.filled(primary.port), engines.filled(primary.port)
    probe = EngineHealth(with_us)
    primary.terminate_backends()
    assert eventually(lambda: not primary.backends())
    assert [True] == [error.connection_invalidated for error in engines.errors(without, 4)]
    assert "healthy" == engines.look(probe)
    assert [] == engines.errors(with_us, 4)


def test_disposing_before_anybody_comes_costs_no_error(
    engines: Engines, primary: Postgres, context: RecoveryContext
) -> None:
    """
    After `DisposeEngine` nobody meets the dead connections.
    """
    engine = engines.filled(primary.port)
    primary.terminate_backends()
    engines.call(DisposeEngine(engine).recover, context)
    assert [] == engines.errors(engine, 4)


def test_after_an_outage_the_next_request_succeeds(engines: Engines, primary: Postgres) -> None:
    """
    SQLAlchemy connects anew at the first request after the server's return, and is healthy at the first look.
    """
    engine = engines.filled(primary.port)
    probe = EngineHealth(engine)
    primary.stop("immediate")
    assert 3 == len(engines.errors(engine, 3))
    primary.start()
    assert "healthy" == engines.look(probe)
    assert [] == engines.errors(engine, 3)


# -- pinned to a server that cannot write --------------------------------------


def test_a_pinned_engine_fails_for_ever_and_rotating_heals_it(
    engines: Engines, primary: Postgres, moving: FaultProxy, context: RecoveryContext
) -> None:
    """
    Writes fail after a failover though the address leads to the primary, `pool_pre_ping` or not; after `RotateEngine`
    none fails.
    """
    engine = engines.filled(moving.port, pool_pre_ping=True)
    probe = EngineHealth(engine)
    moving.retarget(primary.port)
    failed = engines.errors(engine, 5, engines.write)
    assert [("25006", False)] * 5 == [(error.orig.sqlstate, error.connection_invalidated) for error in failed]
    assert "read_only!" == engines.look(probe)
    engines.call(RotateEngine(engine).recover, context)
    assert [] == engines.errors(engine, 5, engines.write)
    assert "healthy" == engines.look(probe)


def test_an_error_that_counts_as_a_disconnect_is_met_once(
    engines: Engines, primary: Postgres, moving: FaultProxy
) -> None:
    """
    With `treat_as_disconnect` one write fails and the next succeeds; undone, nothing heals again.
    """
    engine = engines.filled(moving.port)
    undo = treat_as_disconnect(engine)
    moving.retarget(primary.port)
    assert [True] == [error.connection_invalidated for error in engines.errors(engine, 5, engines.write)]
    undo()
    moving.retarget(0)
    assert [] == engines.errors(engine, 2, engines.write)


def test_rotating_cuts_nobody_and_keeps_nothing(
    engines: Engines, primary: Postgres, moving: FaultProxy, context: RecoveryContext
) -> None:
    """
    A connection in use goes on working after `RotateEngine`; it is closed when it comes back, others when they are
    taken.
    """
    engine = engines.filled(moving.port)
    rotate = RotateEngine(engine)
    used = engines.take(engine)
    assert 2 == moving.connections
    engines.call(rotate.recover, context)
    moving.retarget(primary.port)
    engines.call(used.execute, text("select 1"))
    engines.call(used.close)
    assert eventually(lambda: moving.connections == 1)
    engines.write(engine)
    engines.write(engine)
    assert eventually(lambda: moving.connections <= 2)
    assert {False} == {engines.execute(engine, "select pg_is_in_recovery()") for _ in range(4)}


def test_a_listener_that_leads_elsewhere_is_followed(
    engines: Engines, primary: Postgres, standby: Postgres, context: RecoveryContext
) -> None:
    """
    Where `do_connect` leads, fresh connections of the probe lead as well, and the pool after `DisposeEngine`.
    """
    engine, port = engines.make(standby.port), [standby.port]

    @event.listens_for(getattr(engine, "sync_engine", engine), "do_connect")
    def lead(_dialect: Any, _record: Any, _args: Any, options: dict[str, Any]) -> None:
        options["port"] = port[0]

    probe = EngineHealth(engine)
    assert "down" == engines.look(probe)
    port[0] = primary.port
    assert "read_only!" == engines.look(probe)
    engines.call(DisposeEngine(engine).recover, context)
    assert [] == engines.errors(engine, 3, engines.write)


# -- hung, leaked, exhausted ----------------------------------------------------


def test_a_pool_full_of_hung_queries_serves_at_once_and_the_hung_are_freed(
    engines: Engines, primary: Postgres, context: RecoveryContext
) -> None:
    """
    With both queries lost nobody gets a connection; after `DisposeEngine` everybody does, after `SeverHung` the callers
    that hung have their error, and a busy connection beside them was not touched.
    """
    with FaultProxy(primary.port) as proxy:
        engine, other = engines.filled(proxy.port), engines.filled(primary.port)
        probe = EngineHealth(engine, hung_after=0.3)
        EngineHealth(other)
        proxy.blackhole()
        hung = [engines.behind(engines.execute, engine, "select 1") for _ in range(2)]
        busy = engines.behind(engines.execute, other, "select pg_sleep(1.5)")
        time.sleep(0.4)
        proxy.heal()
        assert ["TimeoutError"] == [type(error).__name__ for error in engines.errors(engine, 1)]
        assert "stuck" == engines.look(probe)
        engines.call(DisposeEngine(engine).recover, context)
        assert [] == engines.errors(engine, 3)
        assert [False, False] == [ended(0.0) for ended in hung]
        engines.call(SeverHung(engine, older_than=0.3).recover, context)
        assert [True, True] == [ended(1.0) for ended in hung]
        engines.call(SeverHung(other, older_than=0.3).recover, context)
        assert not busy(0.0)
        assert busy(3.0)
        assert "healthy" == engines.look(probe)


def test_idle_connections_that_are_mute_never_hold_up_a_dispose(
    engines: Engines, primary: Postgres, context: RecoveryContext
) -> None:
    """
    `DisposeEngine` comes back at once though the server hears no goodbye, and the old sockets are closed soon after.
    """
    engine = engines.make(primary.port)
    action = DisposeEngine(engine)
    for connection in [engines.take(engine) for _ in range(2)]:
        engines.call(connection.close)
    old = EngineLeases.of(engine).sockets()
    assert 2 == len(old)
    primary.freeze_backends()
    started = time.monotonic()
    engines.call(action.recover, context)
    assert time.monotonic() - started < 0.5
    assert [] == engines.errors(engine, 2)
    assert eventually(lambda: all(socket.silent_for() is None for socket in old))


def test_leaked_connections_are_named_replaced_and_closed_when_they_come_back(
    engines: Engines, primary: Postgres, context: RecoveryContext
) -> None:
    """
    A leak is `exhausted` with its holders known; `DisposeEngine` serves again, and each leaked connection is closed the
    moment it comes back, not kept by the old pool.
    """
    engine = engines.make(primary.port)
    probe = EngineHealth(engine, leak_after=0.2)
    leases = EngineLeases.of(engine, stacks=True)
    assert eventually(lambda: not primary.backends())
    leaked = [engines.take(engine) for _ in range(2)]
    time.sleep(0.25)
    assert ["TimeoutError"] == [type(error).__name__ for error in engines.errors(engine, 1)]
    assert "exhausted" == engines.look(probe)
    holder = "Task-" if engines.is_async else "MainThread"
    assert [True, True] == [lease.holder.startswith(holder) for lease in leases.holders()]
    assert ["in take" in (lease.stack or "") or "in connect" in (lease.stack or "") for lease in leases.holders()]
    engines.call(DisposeEngine(engine).recover, context)
    assert [] == engines.errors(engine, 3)
    assert [True, True] == [lease.replaced for lease in leases.holders()]
    assert 3 == len(primary.backends())
    for left, connection in ((2, leaked[0]), (1, leaked[1])):
        engines.call(connection.close)
        assert eventually(lambda left=left: len(primary.backends()) == left)
    assert () == leases.holders()
    assert "healthy" == engines.look(probe)


def test_a_connection_that_listens_has_not_leaked(engines: Engines, primary: Postgres) -> None:
    """
    Silent connections on which the application listens for notifications are in use.
    """
    engine = engines.make(primary.port)
    probe = EngineHealth(engine, leak_after=0.2)
    taken = [engines.take(engine) for _ in range(2)]

    async def adriver(connection: Any) -> Any:
        return (await connection.get_raw_connection()).driver_connection

    def driver(connection: Any) -> Any:
        return connection.connection.driver_connection

    drivers = [engines.call(adriver if engines.is_async else driver, connection) for connection in taken]
    for each in drivers:
        engines.call(
            *((each.add_listener, "news", print) if engines.driver == "asyncpg" else (each.add_notify_handler, print))
        )
    time.sleep(0.3)
    assert "degraded" == engines.look(probe)
    assert [True, True] == [lease.busy for lease in EngineLeases.of(engine).holders()]
    for each in drivers:
        engines.call(
            *(
                (each.remove_listener, "news", print)
                if engines.driver == "asyncpg"
                else (each.remove_notify_handler, print)
            )
        )
    time.sleep(0.3)
    assert "exhausted" == engines.look(probe)
    for connection in taken:
        engines.call(connection.close)


def test_a_server_without_room_for_a_second_pool_is_left_alone(primary: Postgres, context: RecoveryContext) -> None:
    """
    `DisposeEngine` refuses while the server takes no more connections, and the pool is the one it was.
    """
    engine = create_engine(primary.dsn.replace("postgresql", "postgresql+psycopg"))
    with contextlib.ExitStack() as crowd:
        crowd.callback(engine.dispose)
        with engine.connect() as connection:
            room = sum(
                int(connection.execute(text(f"show {name}")).scalar_one()) * sign
                for name, sign in (("max_connections", 1), ("superuser_reserved_connections", -1))
            )
        for _ in range(room - len(primary.backends()) - 1):
            connected = socket.create_connection(("127.0.0.1", primary.port))
            crowd.callback(connected.close)
            connected.sendall(b"\0\0\0\x29\0\3\0\0user\0postgres\0database\0postgres\0\0")
        assert eventually(lambda: len(primary.backends()) == room - 1)
        pool = engine.pool
        with pytest.raises(SelfHealError, match="takes no more connections"):
            DisposeEngine(engine).recover(context)
        assert pool is engine.pool


# -- other sources, other databases ---------------------------------------------


@pytest.mark.parametrize("colour", ["sync", "asyncpg"])
def test_a_rebuildable_engine_is_looked_at_and_rebuilt(
    colour: str, primary: Postgres, context: RecoveryContext
) -> None:
    """
    `RebuildEngine` puts a new engine into service, which the probe then looks at.
    """
    engines = Engines(colour)

    async def amake() -> AsyncEngine:
        return engines.make(primary.port)

    box: Rebuildable[Any] = (
        Rebuildable(amake, close=AsyncEngine.dispose, name="box")
        if engines.is_async
        else Rebuildable(lambda: engines.make(primary.port), close=lambda engine: engine.dispose(), name="box")
    )
    engines.call(box.aensure if engines.is_async else box.ensure)
    probe = EngineHealth(box)
    assert "healthy" == engines.look(probe)
    assert "rebuild_engine" == engine_ladder(box).rungs[-1].name
    engines.call(RebuildEngine(box).recover, context)
    assert (2, "healthy") == (box.generation, engines.look(probe))
    engines.call(box.aclose if engines.is_async else box.close)
    engines.close()


def test_what_cannot_work_is_said_at_once(primary: Postgres) -> None:
    """
    An engine that is not rebuildable, and an async engine in a box that is not, are mistakes with a name.
    """
    engines = Engines("async")
    engine = engines.make(primary.port)
    with pytest.raises(ConfigError, match="needs a Rebuildable"):
        RebuildEngine(engine)
    with pytest.raises(ConfigError, match=r"close=AsyncEngine\.dispose"):
        EngineHealth(Rebuildable(lambda: engine, close=lambda _: None, name="box"))()
    engines.close()


def test_another_database_is_asked_in_its_own_words(tmp_path: Any, context: RecoveryContext) -> None:
    """
    On a database that is not PostgreSQL the probe and the actions work without roles, processes and SQLSTATEs.
    """
    engine = create_engine(f"sqlite:///{tmp_path}/db", pool_size=1, max_overflow=0)
    undo = treat_as_disconnect(engine)
    probe = EngineHealth(engine)
    assert "healthy" == probe().status.value
    for action in (RotateEngine(engine), DisposeEngine(engine), SeverHung(engine)):
        action.recover(context)
        assert "healthy" == probe().status.value
    with engine.connect() as connection:
        assert "degraded" == probe().status.value
        with pytest.raises(exc.OperationalError):
            connection.execute(text("select nothing from nowhere"))
    undo()
    engine.dispose()


_FORKING = """
import os, sys
from sqlalchemy import create_engine, text
from selfheal.integrations.sqlalchemy import EngineHealth
engine = create_engine(sys.argv[1])
probe = EngineHealth(engine, timeout=5)
probe()
used = engine.connect()
child = os.fork()
if child == 0:
    engine.dispose(close=False)
    os._exit(0 if probe().status.value == "healthy" else 1)
assert os.waitpid(child, 0)[1] == 0
assert used.execute(text("select 1")).scalar() == 1
assert probe().status.value == "healthy"
used.close()
engine.dispose()
"""


def test_a_forked_child_starts_anew_and_leaves_its_parent_alone(primary: Postgres) -> None:
    """
    After `dispose(close=False)` a child looks at connections of its own, and its parent's go on working.
    """
    url = primary.dsn.replace("postgresql", "postgresql+psycopg")
    subprocess.run([sys.executable, "-c", _FORKING, url], check=True, timeout=20)


def test_whoever_connects_meanwhile_does_not_notice_that_we_begin_to_listen() -> None:
    """
    A healer that begins to look at an engine fails nobody who is connecting just then.
    """
    engine = create_engine("sqlite://", poolclass=sqlalchemy.QueuePool)
    probes: list[object] = []
    event.listen(engine, "connect", lambda *_: None)
    event.listen(engine, "connect", lambda *_: probes.append(EngineHealth(engine)))
    event.listen(engine, "checkout", lambda *_: probes.append(RotateEngine(engine)))
    event.listen(engine, "checkin", lambda *_: None)
    before = treat_as_disconnect(engine)

    with engine.connect() as connection:
        assert 1 == connection.scalar(text("select 1"))
    before()
    engine.dispose()

    assert 2 == len(probes)


@pytest.mark.parametrize("action", [RotateEngine, DisposeEngine])
def test_what_listens_to_checkins_after_us_meets_a_connection_that_works(
    engines: Engines, primary: Postgres, context: RecoveryContext, action: Any
) -> None:
    """
    A listener of the application that uses each connection as it comes back fails nobody after an action, and the pool
    keeps all its places.
    """
    engine = engines.make(primary.port)
    health, heal = EngineHealth(engine), action(engine)

    @event.listens_for(getattr(engine, "sync_engine", engine), "checkin")
    def tidy(connection: Any, _record: Any) -> None:
        cursor = connection.cursor()
        cursor.execute("reset statement_timeout")
        cursor.close()
        connection.rollback()

    used = engines.take(engine)
    engines.call(heal.recover, context)
    engines.call(used.close)
    taken = [engines.take(engine) for _ in range(2)]
    for connection in taken:
        engines.call(connection.close)
    assert "healthy" == engines.look(health)


def test_rotating_fails_nobody_who_is_just_replacing_a_dead_connection(
    primary: Postgres, context: RecoveryContext
) -> None:
    """
    Whoever has met a dead connection through `pool_pre_ping` gets one that works, though `RotateEngine` acts meanwhile.
    """
    engines = Engines("sync")
    engine = engines.filled(primary.port, pool_pre_ping=True)
    rotations = [RotateEngine(engine)]

    @event.listens_for(engine, "do_connect")
    def connecting(*_: Any) -> None:
        if rotations:
            rotations.pop().recover(context)

    primary.terminate_backends()
    failed = engines.errors(engine, 2)
    engines.close()
    assert ([], []) == (failed, rotations)


def test_a_detached_connection_is_none_of_ours(engines: Engines, primary: Postgres) -> None:
    """
    What an application has detached from the pool is never among the connections that an action may cut.
    """
    engine = engines.make(primary.port)
    leases = EngineLeases.of(engine)
    kept, returned = engines.take(engine), engines.take(engine)

    async def adetach() -> Any:
        raw = await kept.get_raw_connection()
        raw.detach()
        return raw.dbapi_connection.driver_connection

    own = engines.call(adetach) if engines.is_async else kept.detach() or kept
    assert 1 == len(leases.holders())
    engines.call(returned.close)
    assert (1, 1) == (len(leases.sockets()), len(leases.idle()))
    taken = [engines.take(engine) for _ in range(2)]
    assert (2, set()) == (len(leases.sockets()), leases.idle())
    for connection in (own, *taken):
        engines.call(connection.close)


def test_an_engine_with_other_options_that_goes_away_takes_no_knowledge_along(
    engines: Engines, primary: Postgres
) -> None:
    """
    A leak is `exhausted` though the leases were first asked for with a short-lived engine of `execution_options()`.
    """
    engine = engines.make(primary.port)
    EngineLeases.of(engine.execution_options(isolation_level="AUTOCOMMIT").execution_options(logging_token="x"))
    gc.collect()
    probe = EngineHealth(engine, leak_after=0.2)
    leaked = [engines.take(engine) for _ in range(2)]
    time.sleep(0.25)
    assert [False, False] == [lease.replaced for lease in EngineLeases.of(engine).holders()]
    assert "exhausted" == engines.look(probe)
    for connection in leaked:
        engines.call(connection.close)


def test_a_look_takes_no_connection_away_from_users_who_do_not_wait(engines: Engines, primary: Postgres) -> None:
    """
    With `pool_timeout=0` a caller gets a connection while the probe looks through the last one; the limit holds again
    afterwards.
    """
    with FaultProxy(primary.port) as proxy:
        engine = engines.make(proxy.port, pool_size=1, pool_timeout=0)
        probe = EngineHealth(engine, timeout=6)
        assert "healthy" == engines.look(probe)
        proxy.latency = 0.05
        looked = engines.behind(engines.look, probe)
        assert eventually(lambda: len(EngineLeases.of(engine).holders()) == 1)
        assert [] == engines.errors(engine, 1)
        assert looked(6)
        proxy.latency = 0
        taken = engines.take(engine)
        assert ["TimeoutError"] == [type(error).__name__ for error in engines.errors(engine, 1)]
        engines.call(taken.close)
        assert "healthy" == engines.look(probe)


def test_a_pool_whose_users_wait_for_ever_is_healthy(primary: Postgres) -> None:
    """
    `pool_timeout=None` is no fault.
    """
    engines = Engines("sync")
    assert "healthy" == engines.look(EngineHealth(engines.filled(primary.port, pool_timeout=None)))
    engines.close()


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # psycopg says that nobody has closed it: that is what is tested
def test_a_detached_connection_ends_with_its_last_user(primary: Postgres) -> None:
    """
    Nothing of ours keeps a connection open that the application has detached and dropped.
    """
    engines = Engines("sync")
    engine = engines.make(primary.port)
    EngineHealth(engine)
    raw = engine.raw_connection()
    driver = weakref.ref(raw.driver_connection)
    raw.detach()
    del raw
    gc.collect()
    assert driver() is None
    engines.close()


# -- with a healer ---------------------------------------------------------------

POLICY = HealingPolicy(interval=1, fast_interval=0.2, timeout=1, fall=2)

#: Seconds from the fault to the incident.
DETECTED = 2 * 0.2 + 1 + 1


class Application:
    """
    Workers that send one request after the other through one engine of two connections; with or without a healer.
    """

    def __init__(
        self, colour: str, port: int, sql: str = "select 1", *, healed: bool = True, idle: bool = False
    ) -> None:
        self.events: list[Event] = []
        self.requests: list[tuple[float, float, Exception | None]] = []
        self.name = f"{colour}_{healed}"
        self.working, self._stopping = threading.Event(), threading.Event()
        if not idle:
            self.working.set()
        self.engines = Engines(colour)
        self.engine = self.engines.filled(port, name=self.name, pool_pre_ping=not healed)
        self.busy_since = [0.0] * 3
        self._sql = sql
        self._healer: Any = None
        if healed:
            probe = EngineHealth(self.engine, hung_after=0.5, leak_after=1)
            check = HealthCheck(probe, name="db", policy=POLICY, recovery=engine_ladder(self.engine, hung_after=0.5))
            self._healer = Healer([check])
            self._healer.on_event(self.events.append)
            self.engines.call(self._healer.astart if self.engines.is_async else self._healer.start)
        self._workers = [threading.Thread(target=self._work, args=(number,)) for number in range(3)]
        for worker in self._workers:
            worker.start()

    def _work(self, worker: int) -> None:
        self.working.wait()
        while not self._stopping.wait(0.02):
            self.busy_since[worker] = began = time.monotonic()
            error = None
            try:
                self.engines.execute(self.engine, self._sql)
            except Exception as exception:
                error = exception
            self.requests.append((began, time.monotonic(), error))
            self.busy_since[worker] = 0.0

    def close(self) -> None:
        """End it."""
        if self._healer is not None:
            self.engines.call(self._healer.astop if self.engines.is_async else self._healer.stop)
        self._stopping.set()
        self.working.set()
        for worker in self._workers:
            worker.join()
        self.engines.close()

    def sockets(self) -> int:
        """Sockets of pools that are open on our side: the server is told nothing of a connection that was lost."""
        return sum(socket.silent_for() is not None for socket in EngineLeases.of(self.engine).sockets())

    def hanging(self, *, since: float) -> int:
        """Workers that still wait for what they had asked for before."""
        return sum(0 < began <= since for began in self.busy_since)

    def ok_after(self, moment: float, *, within: float) -> float:
        """Seconds from *moment* to the end of the first good request that began after it."""

        def good() -> list[float]:
            return [end - moment for began, end, error in tuple(self.requests) if error is None and began > moment]

        assert eventually(lambda: bool(good()), within), f"{self.name} is not healed: {self.requests[-1]}"
        return min(good())

    def failed(self) -> list[Exception]:
        """What requests have failed with."""
        return [error for _, _, error in tuple(self.requests) if error is not None]

    def told(self, event: str, field: str) -> list[Any]:
        """One field of all events of a name."""
        return [told.fields[field] for told in tuple(self.events) if told.name == event]

    def actions(self) -> list[Any]:
        """What the healer has begun."""
        return self.told(names.ACTION_STARTED, "action")

    def detected_after(self, moment: float) -> float:
        """Seconds from *moment* to the first incident."""
        opened = [told.at - moment for told in tuple(self.events) if told.name == names.INCIDENT_OPENED]
        assert [] != opened, f"{self.name} has seen nothing"
        return opened[0]


@contextlib.contextmanager
def applications(
    port: int, sql: str = "select 1", *, idle: bool = False
) -> Iterator[tuple[list[Application], Application]]:
    """
    Three applications with selfheal, one of each colour, and one without.
    """
    with contextlib.ExitStack() as stack:
        made = []
        for colour, healed in (("sync", True), ("async", True), ("asyncpg", True), ("sync", False)):
            made.append(Application(colour, port, sql, healed=healed, idle=idle))
            stack.callback(made[-1].close)
        yield made[:3], made[3]


@contextlib.contextmanager
def counted(server: Postgres) -> Iterator[dict[str, int]]:
    """
    The most connections that each application has had on a server at once.
    """
    most: dict[str, int] = {}
    stopping = threading.Event()

    def count() -> None:
        import psycopg

        sql = "select application_name, count(*) from pg_stat_activity where backend_type = 'client backend' group by 1"
        while not stopping.is_set():
            with contextlib.suppress(psycopg.Error), psycopg.connect(server.dsn, autocommit=True) as connection:
                while not stopping.wait(0.05):
                    for name, number in connection.execute(sql):
                        most[name] = max(number, most.get(name, 0))
            stopping.wait(0.1)

    thread = threading.Thread(target=count)
    thread.start()
    try:
        yield most
    finally:
        stopping.set()
        thread.join()


@pytest.mark.at_length
def test_idle_applications_never_meet_their_dead_connections(primary: Postgres) -> None:
    """
    The look meets dead connections before anybody else does, SQLAlchemy replaces them, and no action is taken.
    """
    with applications(primary.port, idle=True) as (healed, _):
        time.sleep(0.5)
        primary.terminate_backends()
        time.sleep(1.5)
        for application in healed:
            application.working.set()
        time.sleep(0.3)
        for application in healed:
            assert ([], []) == (application.failed(), application.actions())
            assert [] != application.requests


@pytest.mark.at_length
def test_an_outage_ends_with_the_server_and_nothing_is_done(primary: Postgres) -> None:
    """
    An outage is detected in time; requests succeed as soon as the server is back, and no action was taken, before or
    after.
    """
    with counted(primary) as most, applications(primary.port) as (healed, without):
        time.sleep(0.5)
        stopped = time.monotonic()
        primary.stop("immediate")
        time.sleep(3)
        primary.start()
        back = time.monotonic()
        for application in (*healed, without):
            assert application.ok_after(back, within=3) < 1
        time.sleep(1)
        for application in healed:
            assert [] == application.actions()
            assert application.detected_after(stopped) < DETECTED
            assert ["down"] == application.told(names.INCIDENT_OPENED, "kind")
    assert [True] * 3 == [most[application.name] <= 3 for application in healed]


@pytest.mark.at_length
def test_applications_pinned_to_a_standby_write_again(primary: Postgres, moving: FaultProxy) -> None:
    """
    Once their address leads to a server that writes, writes succeed within 3 s, by rotation alone and with no more
    connections than before; without selfheal never, `pool_pre_ping` or not.
    """
    owner = Engines("sync")
    owner.write(owner.make(primary.port))
    with counted(primary) as most, applications(moving.port, "insert into orders values (1)") as (healed, without):
        time.sleep(1.5)  # they see that it is `down`, and do nothing
        assert [[], [], []] == [application.actions() for application in healed]
        moved = time.monotonic()
        moving.retarget(primary.port)
        for application in healed:
            assert application.ok_after(moved, within=5) < 3
            assert ["rotate_engine"] == application.actions()
        assert [] == [error for began, _, error in tuple(without.requests) if error is None and began > moved]
    owner.close()
    assert [True] * 3 == [most[application.name] <= 3 for application in healed]


@pytest.mark.at_length
def test_hung_queries_are_freed_and_busy_ones_are_left_alone(primary: Postgres) -> None:
    """
    When all queries under way are lost, new ones succeed within 3 s and the lost ones have ended; without selfheal they
    hang. An application beside them that is merely overloaded fails nobody, and nothing is done about it.
    """
    with FaultProxy(primary.port) as proxy, contextlib.ExitStack() as stack:
        healed, without = stack.enter_context(applications(proxy.port, "select pg_sleep(0.05)"))
        beside = Application("sync", primary.port, "select pg_sleep(0.1)")
        stack.callback(beside.close)
        stack.callback(proxy.reset)  # whatever still hangs then ends
        time.sleep(0.7)
        lost = time.monotonic()
        proxy.blackhole()
        time.sleep(0.2)
        proxy.heal()
        healable = time.monotonic()
        for application in healed:
            assert application.ok_after(healable, within=5) < 3
            assert eventually(lambda application=application: application.hanging(since=healable) == 0, 3)
            assert {"dispose_and_sever"} == set(application.actions())
            assert application.detected_after(lost) < DETECTED
            assert eventually(lambda application=application: application.sockets() <= 2, 3)
        assert without.hanging(since=healable) > 0
        assert ([], []) == (beside.failed(), beside.actions())


@pytest.mark.at_length
def test_leaked_connections_are_replaced_and_their_holders_named(primary: Postgres) -> None:
    """
    An application whose connections were never given back serves again within 3 s of their counting as leaked, and the
    record says who holds them; without selfheal it never does.
    """
    with applications(primary.port, idle=True) as (healed, without):
        leaked = [(app, [app.engines.take(app.engine) for _ in range(2)]) for app in (*healed, without)]
        taken = time.monotonic()
        for application in (*healed, without):
            application.working.set()
        for application in healed:
            assert application.ok_after(taken + 1, within=6) < 3
            assert ["dispose_engine"] == application.actions()
            assert application.detected_after(taken + 1) < DETECTED
            (said,) = application.told(names.ACTION_LOGGED, "message")
            assert ("2 connections are in use" in said) == ("Task-" in said or "MainThread" in said)
        assert [] == [error for _, _, error in tuple(without.requests) if error is None]
        for application, connections in leaked:
            for connection in connections:
                application.engines.call(connection.close)
