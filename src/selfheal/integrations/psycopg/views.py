"""
Two views of a pooled database, each on its own deadline: over a fresh connection, and through the pool.
"""

from __future__ import annotations

import math

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import attrs

from selfheal.clock import SystemClock
from selfheal.integrations import pooled
from selfheal.integrations.pooled import Failure
from selfheal.integrations.postgresql import FREE, FULL, READ_ONLY, REFUSED, deeds, judge
from selfheal.integrations.psycopg.io import IO, beside_its_users, give_back
from selfheal.integrations.psycopg.registry import ConnectionRegistry, Session
from selfheal.integrations.waiting import waits_in_psycopg


_now = SystemClock.now

#: Address and port of a server, as libpq has them.
Address: TypeAlias = tuple[bytes, bytes]


@attrs.frozen(kw_only=True)
class View(pooled.View):
    """
    What one way to the server has shown.

    Args:
        working: Connections of the pool whose query it is busy with, however long already.
        elsewhere: Connections of the pool that wait for a server which this way does not lead to.
    """

    working: tuple[Any, ...] = ()
    elsewhere: int = 0

    @classmethod
    def failed(cls, error: Exception, *, connecting: bool = False) -> View:
        """
        The view that ended with *error*.

        Args:
            error: What was raised. `TimeoutError`: the query was sent, and no answer came in time.
            connecting: It was raised before there was a connection.
        """
        return cls(error=error, failure=_refusal(error) if connecting else _failure(error))

    @property
    def good(self) -> bool:
        """
        Whether there is nothing that a second look could explain.
        """
        return super().good and not self.elsewhere


def _refusal(error: Exception) -> Failure:
    if FULL.search(str(error)):
        return Failure.FULL
    return Failure.REFUSED if REFUSED.search(str(error)) else Failure.DEAD


def _failure(error: Exception) -> Failure:
    import psycopg
    import psycopg_pool

    if isinstance(error, (psycopg_pool.PoolTimeout, psycopg_pool.PoolClosed, psycopg_pool.TooManyRequests)):
        return Failure.NONE
    if isinstance(error, TimeoutError):
        return Failure.SILENT
    if getattr(error, "sqlstate", None) == "25006":
        return Failure.READ_ONLY
    return Failure.DEAD if isinstance(error, psycopg.OperationalError) else Failure.ERROR


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

    async def pooled(self, timeout: float, *, wait: float | None = None) -> View:
        """
        What the pool's users see.

        Args:
            timeout: Seconds for all of it.
            wait: Seconds among them to wait for a connection. Default: half of them.
        """
        started = _now()
        with beside_its_users(self.pool):
            try:
                connection = await self.io.borrow(self.pool, timeout / 2 if wait is None else wait)
            except Exception as exc:  # noqa: BLE001 - whatever the pool raises is what its users get
                return View.failed(exc)
            view = View.failed(TimeoutError())
            try:
                view = await self._ask(connection, started, timeout, free="NULL")
            finally:
                await give_back(self.io, self.pool, connection, broken=view.failure is not None)
            return view

    async def direct(self, timeout: float) -> View:
        """
        What a newcomer sees: a connection of its own, opened and closed.
        """
        started = _now()
        try:
            connection = await self._connect(timeout)
        except Exception as exc:  # noqa: BLE001 - whatever a newcomer gets
            error = ConnectionError(f"none within {timeout:.2f} s") if isinstance(exc, TimeoutError) else exc
            return View.failed(error, connecting=True)
        try:
            view = await self._ask(connection, started, timeout, free=FREE)
            address = _address(connection)
        finally:
            await self.io.call(connection.close)
        return await self._look_elsewhere(view, address, started + timeout) if view.elsewhere else view

    async def _look_elsewhere(self, view: View, address: Address, until: float) -> View:
        """
        Ask the other servers about the connections that lead to them: after a failover new ones lead elsewhere.
        """
        suspects = self._suspects()
        for other in {session.address for session in suspects.values()} - {address}:
            there = {key: session for key, session in suspects.items() if session.address == other}
            try:
                connection = await self._connect(max(0.0, until - _now()), address=other)
                try:
                    hung, working = await self._judge(connection, there, max(0.0, until - _now()))
                finally:
                    await self.io.call(connection.close)
            except Exception:  # noqa: BLE001 - it answers nobody
                hung, working = list(there), []
            view = attrs.evolve(view, hung=(*view.hung, *hung), working=(*view.working, *working))
        return view

    async def _connect(self, timeout: float, *, address: Address | None = None) -> Any:
        conninfo = self.pool.conninfo if self.conninfo is None else self.conninfo
        kwargs = self.pool.kwargs or {}
        if callable(conninfo):
            conninfo = await self.io.call(conninfo)
        if callable(kwargs):
            kwargs = await self.io.call(kwargs)
        settings = {**kwargs, "autocommit": True, "connect_timeout": math.ceil(timeout)}
        if address is not None:
            hostaddr, port = (part.decode() for part in address)
            settings |= {"host": hostaddr, "hostaddr": hostaddr, "port": port, "target_session_attrs": "any"}
        return await self.io.connect(lambda: self.pool.connection_class.connect(conninfo, **settings), timeout)

    async def _ask(self, connection: Any, started: float, timeout: float, *, free: str) -> View:
        def left() -> float:
            return max(0.0, started + timeout - _now())

        try:
            sql = f"SELECT {READ_ONLY}, {free}"
            ((read_only, room),) = await self.io.query(connection, sql, left())
            suspects = self._suspects()
            here = {key: session for key, session in suspects.items() if session.address == _address(connection)}
            hung, working = await self._judge(connection, here, left())
        except Exception as exc:  # noqa: BLE001 - a view is a value, whatever it shows
            return View.failed(exc)
        return View(
            read_only=read_only == "t",
            free=None if room is None else int(room),
            hung=tuple(hung),
            working=tuple(working),
            elsewhere=len(suspects) - len(here),
        )

    def _suspects(self) -> dict[Any, Session]:
        """
        Connections that have waited long for an answer.
        """
        return {
            connection: session
            for connection, session in self.registry.sessions(self.pool).items()
            if session.waiting_for is not None
            and session.waiting_for >= self.hung_after
            and (session.surely or waits_in_psycopg(connection))
        }

    async def _judge(
        self, connection: Any, suspects: Mapping[Any, Session], timeout: float
    ) -> tuple[list[Any], list[Any]]:
        """
        Ask the server behind *connection* which queries of the *suspects* it does not work on, and which it does.
        """
        if not suspects:
            return [], []
        pids = {suspect: session.pid for suspect, session in suspects.items()}
        answer = await self.io.query(connection, deeds(pids.values()), timeout)
        dialled = " ".join(part.decode() for part in _address(connection))
        return judge(pids, answer, own=connection.pgconn.backend_pid, dialled=dialled)


def _address(connection: Any) -> Address:
    return connection.pgconn.hostaddr, connection.pgconn.port
