"""
Two views of a pooled database, each on its own deadline: over a fresh connection, and through the pool.
"""

from __future__ import annotations

import math

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

import attrs

from selfheal.clock import SystemClock
from selfheal.integrations.psycopg.io import IO, give_back
from selfheal.integrations.psycopg.registry import ConnectionRegistry, Session


#: Also true where an operator, or a full disk, has made a primary read-only.
_READ_ONLY: Final = "pg_is_in_recovery() OR current_setting('transaction_read_only')::bool, pg_backend_pid()"
_FREE: Final = """
    current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int
    - (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend')
"""
_now = SystemClock.now


@attrs.frozen(kw_only=True)
class View:
    """
    What one way to the server has shown.

    Args:
        error: Why it did not answer, or `None`. `TimeoutError`: the query was sent, and no answer came in time.
        read_only: Nothing can be written over it.
        free: Connections that the server could still take; a fresh connection asks for it.
        hung: Connections of the pool whose query this server does not work on.
        working: Connections of the pool whose query it is busy with, however long already.
        took: Seconds it took.
    """

    error: Exception | None = None
    read_only: bool = False
    free: int = 0
    hung: tuple[Any, ...] = ()
    working: tuple[Any, ...] = ()
    took: float = 0.0


@attrs.frozen(kw_only=True)
class Viewer:
    """
    Looks at one pool.

    Args:
        pool: The pool.
        io: How to do so.
        registry: The pool's connections.
        conninfo: Where a fresh connection goes to; `None`: where the pool's go to.
        hung_after: A query that has waited for so many seconds is asked about.
    """

    pool: Any
    io: IO
    registry: ConnectionRegistry
    conninfo: str | Callable[[], Any] | None = None
    hung_after: float = 1.0

    async def pooled(self, timeout: float, *, wait: float = math.inf) -> View:
        """
        What the pool's users see.

        Args:
            timeout: Seconds for all of it.
            wait: Seconds among them to wait for a connection.
        """
        started = _now()
        try:
            connection = await self.io.borrow(self.pool, min(timeout, wait))
        except Exception as exc:  # noqa: BLE001 - whatever the pool raises is what its users get
            return View(error=exc, took=_now() - started)
        view = View(error=TimeoutError())
        try:
            view = await self._ask(connection, started, timeout, free="0")
        finally:
            await give_back(self.io, self.pool, connection, broken=view.error is not None)
        return view

    async def direct(self, timeout: float) -> View:
        """
        What a newcomer sees: a connection of its own, opened and closed.
        """
        started = _now()
        try:
            connection = await self._connect(timeout)
        except TimeoutError:
            return View(error=ConnectionError(f"no connection within {timeout:.2f} s"), took=timeout)
        except Exception as exc:  # noqa: BLE001 - whatever a newcomer gets
            return View(error=exc, took=_now() - started)
        try:
            return await self._ask(connection, started, timeout, free=_FREE)
        finally:
            await self.io.call(connection.close)

    async def _connect(self, timeout: float) -> Any:
        conninfo = self.pool.conninfo if self.conninfo is None else self.conninfo
        kwargs = self.pool.kwargs or {}
        if callable(conninfo):
            conninfo = await self.io.call(conninfo)
        if callable(kwargs):
            kwargs = await self.io.call(kwargs)
        settings = {**kwargs, "autocommit": True, "connect_timeout": math.ceil(timeout)}
        return await self.io.connect(lambda: self.pool.connection_class.connect(conninfo, **settings), timeout)

    async def _ask(self, connection: Any, started: float, timeout: float, *, free: str) -> View:
        def left() -> float:
            return max(0.0, started + timeout - _now())

        try:
            sql = f"SELECT {_READ_ONLY}, {free}"
            ((read_only, pid, room),) = await self.io.query(connection, sql, left())
            hung: list[Any] = []
            working: list[Any] = []
            # Behind a pooler the numbers are not those of server processes: then nothing can be said about them.
            if int(pid or 0) == connection.pgconn.backend_pid:
                suspects = self._suspects(connection)
                states = await self._states(connection, suspects.values(), left())
                for suspect, session in suspects.items():
                    (working if states.get(session.pid) else hung).append(suspect)
        except Exception as exc:  # noqa: BLE001 - a view is a value, whatever it shows
            return View(error=exc, took=_now() - started)
        return View(
            read_only=read_only == "t",
            free=int(room or 0),
            hung=tuple(hung),
            working=tuple(working),
            took=_now() - started,
        )

    def _suspects(self, connection: Any) -> dict[Any, Session]:
        """
        Connections that have waited long for an answer of the very server that *connection* leads to.
        """
        address = (connection.pgconn.hostaddr, connection.pgconn.port)
        return {
            other: session
            for other, session in self.registry.sessions(self.pool).items()
            if session.waiting_for is not None and session.waiting_for >= self.hung_after and session.address == address
        }

    async def _states(self, connection: Any, sessions: Iterable[Session], timeout: float) -> Mapping[int, bool]:
        """
        Whether the server works on their queries, by process id; those that it does not know at all are left out.
        """
        pids = ",".join(str(session.pid) for session in sessions)
        if not pids:
            return {}
        sql = f"SELECT pid, state = 'active' FROM pg_stat_activity WHERE pid IN ({pids})"  # noqa: S608 - numbers of our own
        return {int(pid or 0): active == "t" for pid, active in await self.io.query(connection, sql, timeout)}
