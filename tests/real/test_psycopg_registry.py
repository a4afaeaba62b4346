"""
What the registry sees of connections in the middle of their work, on a real PostgreSQL.
"""

from __future__ import annotations

import contextlib
import threading
import time

from collections.abc import Iterator
from typing import Any

import pytest

from selfheal.integrations.psycopg import ConnectionRegistry
from selfheal.testing.servers import Postgres


psycopg = pytest.importorskip("psycopg")
psycopg_pool = pytest.importorskip("psycopg_pool")

SIZE = 8


@contextlib.contextmanager
def busy_pool(dsn: str) -> Iterator[Any]:
    """A pool that nobody has looked at yet, and more threads than connections that use it."""
    stopping = threading.Event()

    def work(pool: Any) -> None:
        while not stopping.wait(0.002):
            with contextlib.suppress(psycopg.Error), pool.connection() as connection:
                connection.execute("select 1")

    with psycopg_pool.ConnectionPool(dsn, min_size=SIZE, max_size=SIZE, timeout=1.0, open=True) as pool:
        pool.wait()
        workers = [threading.Thread(target=work, args=(pool,)) for _ in range(SIZE + 2)]
        for worker in workers:
            worker.start()
        try:
            yield pool
        finally:
            stopping.set()
            for worker in workers:
                worker.join()


def test_a_registry_that_comes_late_knows_connections_that_change_hands(primary: Postgres) -> None:
    """
    A pool in use is known completely from the first look on.
    """
    for _ in range(5):
        with busy_pool(primary.dsn) as pool:
            assert SIZE == len(ConnectionRegistry.of(pool).sessions(pool))


def test_each_query_in_flight_waits_however_soon_it_followed_the_last_answer(primary: Postgres) -> None:
    """
    All connections that hang are seen to wait, though the kernel counts so coarsely that the answer before came "at once".
    """
    with busy_pool(primary.dsn) as pool:
        registry = ConnectionRegistry.of(pool)
        primary.freeze_backends()
        time.sleep(0.5)
        sessions = registry.sessions(pool).values()
        primary.thaw_backends()
        assert [True] * SIZE == [session.waiting_for is not None for session in sessions]


def test_a_slow_reader_does_not_wait(primary: Postgres) -> None:
    """
    A stream whose answer came at once and is read slowly is busy, and does not surely wait for the server.
    """
    with psycopg_pool.ConnectionPool(primary.dsn, min_size=1, max_size=1, open=True) as pool:
        registry = ConnectionRegistry.of(pool)
        for _ in range(20):
            with pool.connection() as connection:
                rows = connection.cursor().stream("select generate_series(1, 20)")
                next(rows)
                time.sleep(0.05)
                ((busy, surely),) = [(s.busy, s.surely) for s in registry.sessions(pool).values()]
                rows.close()
            assert (True, False) == (busy, surely)
