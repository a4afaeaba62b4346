"""
Two views of an asyncpg pool, each on its own deadline: over a fresh connection, and through the pool.
"""

from __future__ import annotations

import contextlib

from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeAlias

import attrs

from selfheal.clock import SystemClock
from selfheal.integrations import pooled
from selfheal.integrations.asyncpg import registry
from selfheal.integrations.asyncpg.deadlines import within
from selfheal.integrations.asyncpg.registry import Session
from selfheal.integrations.pooled import Failure, Usage
from selfheal.integrations.postgresql import FREE, READ_ONLY, deeds, judge
from selfheal.integrations.waiting import listens, waits_in_queue


#: Share of a look through the pool in which a connection must be had; without one that is ready, making one needs more.
_BORROW_SHARE: Final = 0.5
_DIAL_SHARE: Final = 0.8

#: Seconds for the farewell of a connection that works.
_FAREWELL: Final = 0.5

#: Where a fresh connection comes from.
Connect: TypeAlias = Callable[[], Awaitable[Any]]

_now = SystemClock.now


@attrs.frozen(kw_only=True)
class View(pooled.View):
    """
    What one way to the server has shown.

    Args:
        working: Connections of the pool whose query it is busy with, however long already.
        elsewhere: Connections of the pool that wait for a server which this way does not lead to.
    """

    working: tuple[Any, ...] = ()
    elsewhere: tuple[Session, ...] = ()

    @property
    def good(self) -> bool:
        """
        Whether there is nothing that a second look could explain.
        """
        return super().good and not self.elsewhere


def _failure(error: Exception) -> Failure:
    asyncpg = registry.driver()
    if isinstance(error, TimeoutError):
        return Failure.SILENT
    if isinstance(error, asyncpg.ReadOnlySQLTransactionError):
        return Failure.READ_ONLY
    if isinstance(error, asyncpg.InvalidAuthorizationSpecificationError):
        return Failure.REFUSED
    if isinstance(error, asyncpg.TooManyConnectionsError):
        return Failure.FULL
    # An InternalClientError is what a connection raises that is lost in the middle of something.
    lost = (OSError, asyncpg.PostgresConnectionError, asyncpg.OperatorInterventionError, asyncpg.InterfaceError)
    return Failure.DEAD if isinstance(error, (*lost, asyncpg.InternalClientError)) else Failure.ERROR


@attrs.frozen(kw_only=True)
class LookedAt:
    """
    One pool, as `selfheal.integrations.pooled.Pooled` wants to see it.

    Args:
        pool: The pool.
        connect: Makes a fresh connection; `None`: as the pool makes its own.
        hung_after: A query that has waited for so many seconds is asked about.
        leak_after: A connection that is given out and silent for so many seconds has leaked.
    """

    pool: Any
    connect: Connect | None = None
    hung_after: float = 1.0
    leak_after: float = 10.0

    def reconnecting(self) -> bool:
        """
        As `Pooled.reconnecting`.
        """
        return registry.leased(self.pool) == 0 and not registry.free(self.pool) and bool(self.pool._holders)

    def usage(self) -> Usage:
        """
        As `Pooled.usage`.
        """
        sessions, leased = registry.sessions(self.pool), registry.leased(self.pool)
        return Usage(
            leased=leased,
            leaked=sum(
                not session.busy and session.silent_for >= self.leak_after and not listens(session.connection)
                for session in sessions
            ),
            missing=registry.connecting(self.pool),
            closed=self.pool.is_closing(),
            opens=self.pool.get_init_size(),
        )

    async def pooled(self, timeout: float, *, wait: float | None = None) -> View:
        """
        As `Pooled.pooled`.
        """
        until = _now() + timeout
        if wait is None:
            dials = registry.free(self.pool) and not self.pool.get_idle_size()
            wait = timeout * (_DIAL_SHARE if dials else _BORROW_SHARE)
        acquiring = self.pool._acquire(None)
        try:
            proxy = await within(wait, acquiring, late=_terminate)
        except Exception as exc:  # noqa: BLE001 - whatever the pool raises is what its users get
            return self._none(exc, queued=waits_in_queue(acquiring))
        view = View(failure=Failure.SILENT)
        try:
            view = await self._ask(proxy, until, free="NULL")
        finally:
            if view.failure is not None:
                _terminate(proxy)
        await self._end(self.pool.release(proxy), proxy, until - _now())
        return view

    def _none(self, error: Exception, *, queued: bool) -> View:
        """
        Why the pool gave no connection. One that is exhausted raises the same as one that cannot connect.
        """
        if not self.pool._initialized:
            return View(failure=Failure.ERROR, error=error)
        if self.pool.is_closing() or (isinstance(error, TimeoutError) and queued):
            return View(failure=Failure.NONE, error=error)
        if isinstance(error, TimeoutError):
            error = ConnectionError(f"the pool could not connect: {error}")
        return View(failure=_failure(error), error=error, connecting=True)

    async def direct(self, timeout: float) -> View:
        """
        As `Pooled.direct`.
        """
        until = _now() + timeout
        try:
            connection = await self._connect(until)
        except Exception as exc:  # noqa: BLE001 - whatever a newcomer gets
            failure = _failure(exc)
            return View(failure=failure if failure in {Failure.REFUSED, Failure.FULL} else Failure.DEAD, error=exc)
        view = View(failure=Failure.SILENT)
        try:
            view = await self._ask(connection, until, free=FREE)
        finally:
            if view.failure is not None:
                connection.terminate()
        await self._end(connection.close(), connection, _FAREWELL)
        return await self._look_elsewhere(view, until)

    async def _connect(self, until: float, **where: Any) -> Any:
        async def make() -> Any:
            if self.connect is None or where:
                return await registry.connect(self.pool, **where)
            return await self.connect()

        try:
            return await within(until - _now(), make(), late=_terminate)
        except TimeoutError as exc:
            msg = f"a fresh connection gave {exc}"
            raise ConnectionError(msg) from exc

    async def _look_elsewhere(self, view: View, until: float) -> View:
        """
        Ask the other servers about the connections that lead to them: after a failover new ones lead elsewhere.
        """
        for address in {session.address for session in view.elsewhere}:
            suspects = [session for session in view.elsewhere if session.address == address]
            try:
                hung, working = await self._judge_at(address, suspects, until)
            except OSError:  # it answers nobody
                hung, working = [session.connection for session in suspects], []
            except Exception:  # noqa: BLE001 - it does answer, but not us: nothing is known about them
                hung, working = [], []
            view = attrs.evolve(view, hung=(*view.hung, *hung), working=(*view.working, *working))
        return view

    async def _judge_at(self, address: Any, suspects: list[Session], until: float) -> tuple[list[Any], list[Any]]:
        connection = await self._connect(until, host=address[0], port=address[1])
        try:
            return await self._judge(connection, suspects, until)
        finally:
            connection.terminate()

    async def _ask(self, connection: Any, until: float, *, free: str) -> View:
        try:
            ((read_only, room),) = await _fetch(connection, until, f"SELECT {READ_ONLY}, {free}")
            suspects = [session for session in registry.sessions(self.pool) if self._is_suspect(session)]
            address = registry.address_of(connection)
            here = [session for session in suspects if session.address == address]
            hung, working = await self._judge(connection, here, until)
        except Exception as exc:  # noqa: BLE001 - a view is a value, whatever it shows
            return View(failure=_failure(exc), error=exc)
        elsewhere = tuple(session for session in suspects if session.address != address)
        return View(read_only=read_only, free=room, hung=tuple(hung), working=tuple(working), elsewhere=elsewhere)

    def _is_suspect(self, session: Session) -> bool:
        return session.waiting_for is not None and session.waiting_for >= self.hung_after

    async def _judge(self, connection: Any, suspects: list[Session], until: float) -> tuple[list[Any], list[Any]]:
        """
        Ask the server behind *connection* which queries of the *suspects* it does not work on, and which it does.
        """
        if not suspects:
            return [], []
        pids = {session.connection: session.pid for session in suspects}
        answer = await _fetch(connection, until, deeds(pids.values()))
        dialled = " ".join(map(str, registry.address_of(connection)[:2]))
        return judge(pids, answer, own=connection.get_server_pid(), dialled=dialled)

    async def _end(self, farewell: Any, connection: Any, timeout: float) -> None:
        """
        Give a connection back, or close it; one that does not let us go in time is dropped.
        """
        try:
            await within(timeout, farewell, cut=lambda: _terminate(connection))
        except Exception:  # noqa: BLE001 - it has said what it was asked for
            _terminate(connection)


async def _fetch(connection: Any, until: float, sql: str, *args: Any) -> Any:
    return await within(until - _now(), connection.fetch(sql, *args), cut=lambda: _terminate(connection))


def _terminate(connection: Any) -> None:
    with contextlib.suppress(registry.driver().InterfaceError):  # it has been given back, or closed
        connection.terminate()
