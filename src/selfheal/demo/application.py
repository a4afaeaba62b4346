"""
An ordinary application: a few workers, a connection pool, a log file. With selfheal, or, line by line the same, without.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import threading

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Self

from psycopg_pool import ConnectionPool

from selfheal import Healer, HealingPolicy, HealthCheck, Rebuildable
from selfheal.demo.meter import Meter
from selfheal.export.http import listen
from selfheal.integrations.psycopg import PoolHealth, pool_ladder
from selfheal.model import Event, HealingState, Incident
from selfheal.resources.log_files import LogOverflow, log_ladder


#: What the two are called.
WITH: Final = "with selfheal"
WITHOUT: Final = "without"

WORKERS: Final = 3
#: Seconds between two requests of a worker.
PAUSE: Final = 0.02
#: Connections; fewer than workers, as in most applications, so that the queue in front of the pool is used as well.
POOL_SIZE: Final = 2
#: Seconds that a request waits for a connection. The pool's default of 30 would hide failures behind stalls.
PATIENCE: Final = 2.0
#: Bytes that the folder of the log may take.
LOG_BUDGET: Final = 8 * 2**20

# The one thing that differs from the defaults beyond the intervals: a short probation, because somebody is watching.
POLICY: Final = HealingPolicy(interval=1, fast_interval=0.2, timeout=1, fall=2, rise=2, verify_within=5, probation=3)

TABLE: Final = "CREATE TABLE orders (id bigserial PRIMARY KEY, at timestamptz DEFAULT now(), item text)"
_WRITE: Final = "INSERT INTO orders (item) VALUES ('a pound of apples')"
_READ: Final = "SELECT max(id) FROM orders"


class BudgetedHandler(logging.FileHandler):
    """
    Writes a log file whose folder has a disk budget: once that is used up, each write fails as on a full disk.
    """

    @property
    def used(self) -> int:
        """
        Bytes in the folder.
        """
        size = 0
        with os.scandir(os.path.dirname(self.baseFilename)) as entries:
            for entry in entries:
                with contextlib.suppress(FileNotFoundError):  # compressed and deleted while we looked
                    size += entry.stat().st_size
        return size

    def emit(self, record: logging.LogRecord) -> None:
        """
        Write *record*.

        Raises:
            OSError: If the budget is used up.
        """
        if self.used >= LOG_BUDGET:
            raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))
        super().emit(record)

    def clear(self) -> None:
        """
        Empty the folder, as a person would who was called at night.
        """
        self.acquire()
        try:
            self.close()
            for path in Path(self.baseFilename).parent.iterdir():
                path.unlink(missing_ok=True)
        finally:
            self.release()


class Application:
    """
    Sends requests from the moment it is entered until it is left.

    Args:
        name: For people.
        address: Tells where the database is, whenever a connection is made.
        folder: For its log. It must exist.
        listener: If given, selfheal heals the application, and tells this about it.
        port: If given as well, its metrics and its page are to be had there, from this machine.
    """

    def __init__(
        self,
        name: str,
        address: Callable[[], str],
        folder: Path,
        *,
        listener: Callable[[Event], object] | None = None,
        port: int | None = None,
    ) -> None:
        self.name = name
        self.meter = Meter(WORKERS)
        self._handler = BudgetedHandler(folder / "app.log", encoding="utf-8", delay=True)
        self._log = logging.getLogger(f"orders {name}")
        self._log.setLevel(logging.INFO)
        self._log.propagate = False
        self._log.addHandler(self._handler)

        def connect() -> ConnectionPool[Any]:
            settings = {"connect_timeout": 2}
            return ConnectionPool(
                address, kwargs=settings, min_size=POOL_SIZE, max_size=POOL_SIZE, timeout=PATIENCE, open=True
            )

        def close(pool: ConnectionPool[Any]) -> None:
            pool.close(timeout=1)

        self._pool = Rebuildable(connect, close=close, name="orders_db", grace=2, close_deadline=2)
        self._healer = None if listener is None else self._make_healer(listener, metrics=port is not None)
        self._http = None if self._healer is None or port is None else listen(self._healer, port=port)
        self._stopping = threading.Event()
        self._workers = [threading.Thread(target=self._work, args=(number,), daemon=True) for number in range(WORKERS)]

    def _make_healer(self, listener: Callable[[Event], object], *, metrics: bool) -> Healer:
        # This is all there is to selfheal in this application.
        database = HealthCheck(
            PoolHealth(self._pool), name="orders_db", policy=POLICY, recovery=pool_ladder(self._pool)
        )
        overflow = LogOverflow(self._handler, max_bytes=LOG_BUDGET // 2)
        ladder = log_ladder(self._handler, max_total_bytes=LOG_BUDGET // 4, cooldown=1)
        app_log = HealthCheck(overflow, name="app_log", policy=POLICY, recovery=ladder)
        healer = Healer([database, app_log], registry=metrics or None)
        healer.on_event(listener)
        return healer

    def __enter__(self) -> Self:
        if self._http is not None:
            self._http.start()  # first: its port may be taken
        self._pool.ensure().wait(timeout=10)
        if self._healer is not None:
            self._healer.start()
        for worker in self._workers:
            worker.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._stopping.set()
        if self._http is not None:
            self._http.stop()
        if self._healer is not None:
            self._healer.stop()
        self._pool.close()
        for worker in self._workers:
            worker.join(1.0)
        self._log.removeHandler(self._handler)
        self._handler.close()

    def _work(self, number: int) -> None:
        writes = False
        while not self._stopping.wait(PAUSE):
            writes = not writes
            self.meter.run(number, self._write if writes else self._read, writes=writes)

    def _write(self) -> None:
        with self._pool.use() as pool, pool.connection() as connection:
            connection.execute(_WRITE)
        self._log.info("order taken")

    def _read(self) -> None:
        with self._pool.use() as pool, pool.connection() as connection:
            connection.execute(_READ).fetchone()
        self._log.info("orders listed")

    @property
    def log_used(self) -> int:
        """
        Bytes that its log takes, archives included.
        """
        return self._handler.used

    def flood_log(self) -> None:
        """
        Write tracebacks into the log, as a retry loop gone wild does, until no more is taken.
        """
        line = "retrying at once\n" + '  File "orders.py", line 42, in fetch\n    raise Unavailable(orders)\n' * 100
        with contextlib.suppress(OSError):
            while True:
                self._log.error(line)

    def renew(self) -> None:
        """
        What a person would do: a fresh pool, an empty log.
        """
        self._handler.clear()
        self._pool.rebuild().wait(timeout=10)

    # -- what its healer says; nothing, if it has none --------------------------

    def states(self) -> dict[str, HealingState]:
        """
        Where the healing of each check stands.
        """
        if self._healer is None:
            return {}
        return {name: status.state for name, status in self._healer.status().items()}

    def incidents(self) -> tuple[Incident, ...]:
        """
        The incidents that are over.
        """
        return () if self._healer is None else self._healer.incidents()
