"""
Django's connections, with and without its own pool: broken on a real PostgreSQL, healed where they belong.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
import time
import types

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any
from urllib.parse import quote
from wsgiref.util import setup_testing_defaults

import pytest

from selfheal import Healer, HealingPolicy, HealthCheck
from selfheal.errors import ConfigError, RebuildError, Unhealthy
from selfheal.integrations.django import (
    DatabaseHealth,
    DjangoPool,
    FreshConnectionsMiddleware,
    RenewConnections,
    SeverHung,
    close_stale_connections,
    database_ladder,
)
from selfheal.integrations.django.epochs import Database
from selfheal.integrations.psycopg import DrainPool
from selfheal.model import RecoveryContext
from selfheal.testing import FaultProxy
from selfheal.testing.servers import Postgres


django = pytest.importorskip("django")

WRITE = "CREATE TEMP TABLE IF NOT EXISTS anything ()"
POLICY = HealingPolicy(interval=0.5, fast_interval=0.2, timeout=1, fall=2, rise=1, verify_within=5, probation=0.5)


def answer(request: Any) -> Any:
    """
    The view: runs the statements of the query string and says what became of each.
    """
    from django.db import Error, connections
    from django.http import JsonResponse

    connection = connections[request.GET.get("alias", "default")]
    outcomes: list[Any] = []
    for sql in request.GET.getlist("sql"):
        try:
            with connection.cursor() as cursor:
                cursor.execute(sql)
                outcomes.append(cursor.fetchone()[0] if cursor.description else "ok")
        except Error as exc:
            outcomes.append(type(exc).__name__)
    return JsonResponse(outcomes, safe=False)


@pytest.fixture(scope="module")
def _project(_servers: tuple[Postgres, Postgres]) -> Iterator[FaultProxy]:
    """
    A project whose databases lie behind an address that can move. Django's settings are the process's, for good.
    """
    from django.conf import settings
    from django.urls import path

    urls: Any = types.ModuleType("urls")
    urls.urlpatterns = [path("", answer)]
    with FaultProxy(_servers[0].port) as proxy:
        database = {
            "ENGINE": "django.db.backends.postgresql",
            "NAME": "postgres",
            "USER": "postgres",
            "HOST": "127.0.0.1",
            "PORT": proxy.port,
        }
        pool = {"min_size": 2, "max_size": 2, "timeout": 3}
        settings.configure(
            DATABASES={
                "default": {**database, "CONN_MAX_AGE": None},
                "pooled": {**database, "OPTIONS": {"pool": pool}},
                "other": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"},
            },
            ALLOWED_HOSTS=["*"],
            MIDDLEWARE=["selfheal.integrations.django.FreshConnectionsMiddleware"],
            ROOT_URLCONF=urls,
            LOGGING_CONFIG=None,
        )
        django.setup()
        yield proxy


@pytest.fixture
def proxy(_project: FaultProxy, primary: Postgres) -> Iterator[FaultProxy]:
    """The address of the databases; it leads to the primary."""
    from django.db import connections

    _project.retarget(primary.port)
    Database.of("default").renew()  # what an earlier test has seen does not count
    yield _project
    _project.heal()
    connections.close_all()
    connections["pooled"].close_pool()


class Worker:
    """
    One thread of a server, with the connections that are its own.
    """

    def __init__(self) -> None:
        from django.core.handlers.wsgi import WSGIHandler

        self._application = WSGIHandler()
        self._thread = ThreadPoolExecutor(1)

    def begin(self, *statements: str, alias: str = "default") -> Future[Any]:
        """Send a request that runs *statements*."""
        query = "&".join((f"alias={alias}", *(f"sql={quote(sql)}" for sql in statements)))
        return self._thread.submit(self._serve, query)

    def asks(self, *statements: str, alias: str = "default") -> Any:
        """What became of each of *statements*, run in one request."""
        return self.begin(*statements, alias=alias).result(10)

    def does(self, fn: Callable[[], Any]) -> Any:
        """What *fn* gives in this thread, outside of any request."""
        return self._thread.submit(fn).result(10)

    def _serve(self, query: str) -> Any:
        environ: dict[str, Any] = {"QUERY_STRING": query}
        setup_testing_defaults(environ)
        response = self._application(environ, lambda *_: None)
        try:
            return json.loads(b"".join(response))
        finally:
            response.close()  # the end of the request, for Django

    def close(self) -> None:
        """End the thread and its connections."""
        from django.db import connections

        self.does(connections.close_all)
        self._thread.shutdown()


@pytest.fixture
def workers(proxy: FaultProxy) -> Iterator[list[Worker]]:
    """Three threads that serve requests."""
    workers = [Worker() for _ in range(3)]
    yield workers
    for worker in workers:
        worker.close()


def verdict(probe: DatabaseHealth) -> str:
    """
    The probe's result in one word.
    """
    try:
        return str(probe().status.value)
    except Unhealthy as exc:
        return f"{exc.kind}!" if exc.fatal else exc.kind


def throw_out(server: Postgres) -> None:
    """
    End all server processes, and see that their clients could have noticed.
    """
    gone = set(server.terminate_backends())
    give_up = time.monotonic() + 5
    while gone & set(server.backends()) and time.monotonic() < give_up:
        time.sleep(0.01)
    time.sleep(0.05)  # for the proxy to hand on the end


def pin(proxy: FaultProxy, standby: Postgres, primary: Postgres, workers: list[Worker], alias: str = "default") -> None:
    """
    Have the workers' connections lead to the standby, as after a failover that they have not noticed.
    """
    proxy.retarget(standby.port)
    assert [[1]] * len(workers) == [worker.asks("SELECT 1", alias=alias) for worker in workers]
    proxy.retarget(primary.port)


def test_a_dead_connection_fails_every_query_until_its_request_ends(workers: list[Worker], primary: Postgres) -> None:
    """
    What Django does by itself: a request whose connection has died cannot recover, the next one of its thread can.
    """
    worker = workers[0]
    assert [1] == worker.asks("SELECT 1")
    throw_out(primary)
    assert ["OperationalError", "OperationalError"] == worker.asks("SELECT 1", "SELECT 1")
    assert [1] == worker.asks("SELECT 1")


def test_dead_connections_of_other_threads_are_closed_before_they_fail(
    workers: list[Worker], primary: Postgres, context: RecoveryContext
) -> None:
    """
    One request that fails is enough: it makes the database `stale`, and renewed, no other thread loses a request.
    """
    health = DatabaseHealth()
    assert [[1]] * 3 == [worker.asks("SELECT 1") for worker in workers]
    assert "healthy" == verdict(health)
    throw_out(primary)
    assert ["OperationalError"] == workers[0].asks("SELECT 1")
    assert "stale" == verdict(health)
    RenewConnections().recover(context)
    assert "healthy" == verdict(health)
    assert [[1]] * 3 == [worker.asks("SELECT 1") for worker in workers]


def test_only_the_owning_thread_can_leave_a_read_only_server(
    workers: list[Worker], proxy: FaultProxy, primary: Postgres, standby: Postgres, context: RecoveryContext
) -> None:
    """
    Connections that lead to a standby fail each write for good, whatever another thread closes; renewed, each thread
    closes its own when its next request begins.
    """
    from django.db import connections

    health = DatabaseHealth()
    pin(proxy, standby, primary, workers)
    assert "healthy" == verdict(health)
    for _ in range(2):
        assert ["InternalError", 1] == workers[0].asks(WRITE, "SELECT 1")
        connections.close_all()
    assert "read_only!" == verdict(health)
    RenewConnections().recover(context)
    assert [["ok"]] * 3 == [worker.asks(WRITE) for worker in workers]
    assert "healthy" == verdict(health)


def test_a_healer_heals_the_connections_of_all_threads(
    workers: list[Worker], proxy: FaultProxy, primary: Postgres, standby: Postgres
) -> None:
    """
    With the ladder in a healer, a single failed write frees every thread from the standby.
    """
    check = HealthCheck(DatabaseHealth(), name="orders_db", policy=POLICY, recovery=database_ladder())
    with Healer([check]) as healer:
        healer.wait_healthy("orders_db", timeout=10)
        pin(proxy, standby, primary, workers)
        assert ["InternalError"] == workers[0].asks(WRITE)
        give_up = time.monotonic() + 10
        while not healer.incidents() and time.monotonic() < give_up:
            time.sleep(0.05)
        assert [["ok"]] * 3 == [worker.asks(WRITE) for worker in workers]
        (incident,) = healer.incidents()
    assert ("read_only", "healed") == (incident.trigger.kind, incident.result and incident.result.value)


def test_a_query_that_hangs_is_cut(workers: list[Worker], primary: Postgres, context: RecoveryContext) -> None:
    """
    A thread that waits for a frozen server process gets an error, and its next request an answer.
    """
    health = DatabaseHealth(hung_after=0.5)
    (pid,) = workers[0].asks("SELECT pg_backend_pid()")
    workers[1].asks("SELECT 1")
    primary.freeze_backends([pid])
    hung = workers[0].begin("SELECT 1")
    time.sleep(0.8)
    assert "stuck" == verdict(health)
    SeverHung(older_than=0.5).recover(context)
    assert ["OperationalError"] == hung.result(2)
    assert [[1], [1]] == [worker.asks("SELECT 1") for worker in workers[:2]]


def test_a_server_that_is_down_is_told_from_connections_that_are_dead(workers: list[Worker], proxy: FaultProxy) -> None:
    """
    While no fresh connection can be had the fault is `down`, with traffic and without, and in time.
    """
    health = DatabaseHealth(timeout=0.5)
    proxy.refuse()
    assert "down" == verdict(health)
    assert ["OperationalError"] == workers[0].asks("SELECT 1")
    assert "down" == verdict(health)
    proxy.heal()
    proxy.blackhole()
    started = time.monotonic()
    assert "down" == verdict(health)
    assert time.monotonic() - started < 1


def test_what_is_no_fault_of_a_connection_is_not_held_against_it(workers: list[Worker]) -> None:
    """
    Neither a mistake in a statement nor a query that was cancelled, nor a transaction the application has made
    read-only, says anything about the database.
    """
    health = DatabaseHealth()
    cancelled = "SET statement_timeout = 20; SELECT pg_sleep(1)"
    read_only = f"BEGIN READ ONLY; {WRITE}; ROLLBACK"
    assert ["ProgrammingError"] == workers[0].asks("SELEC 1")
    assert ["OperationalError"] == workers[0].asks(cancelled)
    assert ["InternalError"] == workers[0].asks(read_only)
    assert "healthy" == verdict(health)


def test_no_connection_is_closed_within_an_atomic_block(workers: list[Worker], context: RecoveryContext) -> None:
    """
    A transaction goes on over the connection it has begun with; afterwards that is closed.
    """
    from django.db import connection, transaction

    def work() -> bool:
        with transaction.atomic():
            before = connection.cursor().execute("SELECT pg_backend_pid()").fetchone()
            RenewConnections().recover(context)
            close_stale_connections()
            same = before == connection.cursor().execute("SELECT pg_backend_pid()").fetchone()
        close_stale_connections()
        return same and connection.connection is None

    assert workers[0].does(work)


def test_async_requests_close_connections_where_their_queries_run(proxy: FaultProxy, context: RecoveryContext) -> None:
    """
    Under an async server the connection of the thread that runs the queries is closed, in that thread.
    """
    from asgiref.sync import iscoroutinefunction, sync_to_async
    from django.db import connection, connections

    def pid() -> tuple[int, int]:
        return connection.cursor().execute("SELECT pg_backend_pid()").fetchone()[0], threading.get_ident()

    async def view(_: Any) -> tuple[int, int]:
        return await sync_to_async(pid)()

    async def main() -> None:
        middleware = FreshConnectionsMiddleware(view)
        assert iscoroutinefunction(middleware)
        first = await middleware(None)
        assert first == await middleware(None)
        RenewConnections().recover(context)
        renewed, thread = await middleware(None)
        assert (True, first[1]) == (renewed != first[0], thread)
        await sync_to_async(connections.close_all)()

    asyncio.run(main())


def test_djangos_own_pool_is_drained(
    workers: list[Worker], proxy: FaultProxy, primary: Postgres, standby: Postgres, context: RecoveryContext
) -> None:
    """
    A pool whose connections lead to a standby is `read_only`, and writes again once it was drained.
    """
    health = DatabaseHealth("pooled")
    proxy.retarget(standby.port)
    assert [1] == workers[0].asks("SELECT 1", alias="pooled")
    DjangoPool("pooled").current.wait(5)
    proxy.retarget(primary.port)
    assert ["InternalError"] == workers[0].asks(WRITE, alias="pooled")
    assert "read_only!" == verdict(health)
    DrainPool(DjangoPool("pooled")).recover(context)  # type: ignore[arg-type]
    assert [["ok"]] * 3 == [worker.asks(WRITE, alias="pooled") for worker in workers]
    assert "healthy" == verdict(health)


def test_djangos_own_pool_is_rebuilt_under_its_users(workers: list[Worker], proxy: FaultProxy) -> None:
    """
    A rebuild fails neither the request that holds a connection nor the one that waits for it; one that cannot connect
    leaves the old pool in service.
    """
    pool = DjangoPool("pooled")
    old = pool.current
    old.wait(5)
    slow = [worker.begin("SELECT 1 FROM pg_sleep(0.5)", alias="pooled") for worker in workers]  # of two connections
    time.sleep(0.2)
    new = pool.rebuild()
    assert (True, True) == (new is pool.current, new is not old)
    assert [[1]] * 3 == [request.result(5) for request in slow]
    assert [1] == workers[0].asks("SELECT 1", alias="pooled")
    give_up = time.monotonic() + 5
    while not old.closed and time.monotonic() < give_up:
        time.sleep(0.02)
    assert old.closed
    proxy.refuse()
    with pytest.raises(RebuildError, match="still in service"):
        pool.rebuild()
    assert new is pool.current


def test_a_forked_worker_leaves_the_connections_of_its_parent_alone(primary: Postgres) -> None:
    """
    A child gets a pool and connections of its own, and its parent's go on.
    """
    program = f"""
import os
import django
from django.conf import settings
database = dict(ENGINE="django.db.backends.postgresql", NAME="postgres", USER="postgres", HOST="127.0.0.1",
                PORT={primary.port})
settings.configure(DATABASES=dict(default={{**database, "CONN_MAX_AGE": None}},
                                  pooled={{**database, "OPTIONS": dict(pool=dict(min_size=1, timeout=3))}}))
django.setup()
from django.db import connections
from selfheal.integrations.django import DatabaseHealth
probes = [DatabaseHealth(alias) for alias in connections]
def pids():
    found = set()
    for connection in connections.all():
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_backend_pid()")
            found.add(cursor.fetchone()[0])
    for probe in probes:
        probe()
    connections["pooled"].close()
    return found
before = pids()
child = os.fork()
if not child:
    os._exit(0 if len(pids() - before) == 2 else 3)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
assert pids() == before
connections.close_all()
connections["pooled"].close_pool()
"""
    done = subprocess.run(
        [sys.executable, "-Wignore:This process:DeprecationWarning", "-c", program],
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert (0, "") == (done.returncode, done.stderr)


@pytest.mark.parametrize(
    ("build", "match"),
    [
        (lambda: DatabaseHealth("nowhere"), "not among DATABASES: default, other, pooled"),
        (lambda: DatabaseHealth("other"), "not a PostgreSQL reached by psycopg 3"),
        (lambda: DjangoPool("default"), "has no pool"),
        (lambda: RenewConnections("pooled"), "has a pool: use DrainPool"),
    ],
)
def test_what_cannot_work_is_said_when_it_is_built(proxy: FaultProxy, build: Callable[[], Any], match: str) -> None:
    """
    A wrong alias, an unknown kind of database, or the wrong action for it is a `ConfigError`.
    """
    with pytest.raises(ConfigError, match=match):
        build()
