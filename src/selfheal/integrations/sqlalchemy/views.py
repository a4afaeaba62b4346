"""
Two views of an engine's database, each on its own deadline: over a fresh connection, and through the pool.
"""

from __future__ import annotations

import contextlib
import math
import weakref

from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final

import attrs

from selfheal.clock import SystemClock
from selfheal.integrations import pooled
from selfheal.integrations.pooled import Failure, Usage
from selfheal.integrations.postgresql import FREE, FULL, READ_ONLY, REFUSED, deeds, judge
from selfheal.integrations.sqlalchemy.disconnects import sqlstate
from selfheal.integrations.sqlalchemy.errands import IO, Errand
from selfheal.integrations.sqlalchemy.leases import EngineLeases
from selfheal.integrations.sqlalchemy.listening import listen
from selfheal.integrations.sqlalchemy.sockets import Socket


if TYPE_CHECKING:
    from sqlalchemy import Engine


#: What MySQL and MariaDB say to somebody they do not let in.
_MYSQL_REFUSED: Final = frozenset({1044, 1045, 1698})

#: How drivers call the time to connect, and in which steps they count it.
_CONNECT_TIMEOUTS: Final[Mapping[str, tuple[str, type]]] = {
    "aiomysql": ("connect_timeout", int),
    "asyncmy": ("connect_timeout", int),
    "asyncpg": ("timeout", float),
    "mysqldb": ("connect_timeout", int),
    "psycopg": ("connect_timeout", int),
    "psycopg2": ("connect_timeout", int),
    "pymysql": ("connect_timeout", int),
}

#: Seconds between two looks at a pool that has nothing to give: we do not join the queue of its users.
_GLANCE: Final = 0.02

#: Seconds for the pool to connect on our behalf: libpq knows no shorter ones than two. Without a bound, a server that
#: accepts and never answers would keep a slot of the pool for ever, for our sake.
_CONNECTING: Final = 2.0

#: Looks through one pool that may be under way at once: one that waits to connect, and one that finds out how it went.
_LOOKS: Final = 2

#: Seconds that a connection made now may take. As a context variable it reaches the listener in threads and greenlets.
_connect_within: Final[ContextVar[float | None]] = ContextVar("_connect_within", default=None)

_now = SystemClock.now


@attrs.frozen(kw_only=True)
class View(pooled.View):
    """
    What one way to the server has shown.

    Args:
        working: Sockets whose query it is busy with, however long already.
    """

    working: tuple[Socket, ...] = ()


class LookedAt:
    """
    One engine, as `selfheal.integrations.pooled.Pooled` wants to see it.
    """

    def __init__(self, engine: Engine, io: IO, memory: Memory, *, hung_after: float, leak_after: float) -> None:
        self.engine, self.io = engine, io
        self.leases = EngineLeases.of(engine)
        self._memory = memory
        self._dialect: Any = engine.dialect
        self._hung_after, self._leak_after = hung_after, leak_after

    def reconnecting(self) -> bool:
        """
        As `Pooled.reconnecting`: a look of ours still waits to connect.
        """
        return bool(self._memory.under_way(self.engine.pool))

    def usage(self) -> Usage:
        """
        As `Pooled.usage`.
        """
        leased = self.leases.leased()
        leaked = [
            lease
            for lease in leased
            if not lease.busy
            and lease.seconds >= self._leak_after
            and (lease.silent_for is None or lease.silent_for >= self._leak_after)
        ]
        out = getattr(self.engine.pool, "checkedout", lambda: 0)()
        missing = max(0, out - len(leased))
        return Usage(
            leased=max(len(leased), out),
            leaked=len(leaked),
            # A few connect all the time; if it is most of them, they wait for a server that is not there any more.
            missing=missing if 2 * missing >= out else 0,
            opens=1,
        )

    async def pooled(self, timeout: float, *, wait: float | None = None) -> View:
        """
        As `Pooled.pooled`.
        """
        pool: Any = self.engine.pool
        until = _now() + timeout
        patience = _now() + (timeout / 2 if wait is None else wait)
        if len(self._memory.under_way(pool)) >= _LOOKS:
            return View(failure=Failure.NONE, error=TimeoutError("earlier looks wait to connect"))
        while _has_none(pool):
            if _now() >= patience:
                return View(failure=Failure.NONE, error=TimeoutError(f"nothing free: {pool.status()}"))
            await self.io.pause(_GLANCE)
        errand = Errand()
        self._memory.note(pool, errand)
        try:
            # Patient: a pool that takes long to connect is the richer by one connection when it is done.
            view: View = await self.io.run(
                errand, lambda: self._through(pool, errand, timeout), max(0.0, until - _now()), patient=True
            )
        except TimeoutError as exc:
            return View(failure=Failure.SILENT if errand.has_held else Failure.NONE, error=exc)
        except Exception as exc:  # noqa: BLE001 - whatever the pool raises is what its users get
            return View(failure=self._failure(exc), error=exc, connecting=not errand.has_held)
        return view

    async def direct(self, timeout: float) -> View:
        """
        As `Pooled.direct`: over the engine's own way to connect, so that ``do_connect`` listeners are followed.
        """
        errand = Errand()
        try:
            view: View = await self.io.run(errand, lambda: self._afresh(errand, timeout), timeout)
        except TimeoutError:
            return View(failure=Failure.DEAD, error=ConnectionError(f"none within {timeout:.2f} s"))
        except Exception as exc:  # noqa: BLE001 - whatever a newcomer gets
            return View(failure=_refusal(exc), error=exc)
        return view

    # -- what is done with a connection ----------------------------------------

    def _through(self, pool: Any, errand: Errand, timeout: float) -> View:
        with _beside_its_users(pool, timeout):
            return self._borrowed(pool, errand)

    def _borrowed(self, pool: Any, errand: Errand) -> View:
        _connect_within.set(_CONNECTING)
        proxy = _borrow(pool)
        connection = proxy.dbapi_connection
        try:
            errand.hold(connection)
            view = self._ask(connection, free="NULL")
            # Now, while we may be given up: then giving it back asks the server nothing.
            self._dialect.do_rollback(connection)
            errand.release()
        except BaseException as exc:
            if isinstance(exc, self._dialect.loaded_dbapi.Error) and self._dialect.is_disconnect(exc, connection, None):
                pool._invalidate(proxy, exc, _checkin=False)  # as any user's error does: who is next gets a fresh one
            proxy.invalidate(exc)
            raise
        proxy._checkin(transaction_was_reset=True)
        return view

    def _afresh(self, errand: Errand, timeout: float) -> View:
        from sqlalchemy.pool import base

        pool: Any = self.engine.pool
        _connect_within.set(timeout)
        # A record that is in no pool, so that listeners see what they always see.
        connection = pool._invoke_creator(base._ConnectionRecord(pool, connect=False))
        try:
            errand.hold(connection)
            return self._ask(connection, free=FREE)
        finally:
            self._dialect.do_terminate(connection)

    def _ask(self, connection: Any, *, free: str) -> View:
        if self._dialect.name != "postgresql":
            self._dialect.do_ping(connection)
            return View()
        ((read_only, room),) = _fetch(connection, f"SELECT {READ_ONLY}, {free}")
        hung, working = self._judge(connection)
        return View(
            read_only=bool(read_only),
            free=None if room is None else int(room),
            hung=tuple(hung),
            working=tuple(working),
        )

    def _judge(self, connection: Any) -> tuple[list[Socket], list[Socket]]:
        """
        Ask the server behind *connection* which of the queries that have waited long it does not work on, and which it
        does.
        """
        own = Socket.of(connection)
        if own is None or own.pid is None:
            return [], []
        suspects = {
            socket: socket.pid
            for socket in self.leases.sockets()
            if socket.pid is not None
            and socket.address == own.address
            and (socket.waiting_for() or 0) >= self._hung_after
        }
        if not suspects:
            return [], []
        dialled = " ".join(map(str, own.address[:2]))
        return judge(suspects, _fetch(connection, deeds(suspects.values())), own=own.pid, dialled=dialled)

    def _failure(self, error: Exception) -> Failure:
        from sqlalchemy import exc

        if isinstance(error, exc.TimeoutError):
            return Failure.NONE
        if sqlstate(error) == "25006":
            return Failure.READ_ONLY
        dbapi = self._dialect.loaded_dbapi
        dead = (OSError, exc.DBAPIError, dbapi.OperationalError, dbapi.InterfaceError)
        is_dead = isinstance(error, dead) or (
            isinstance(error, dbapi.Error) and self._dialect.is_disconnect(error, None, None)
        )
        return Failure.DEAD if is_dead else Failure.ERROR


class Memory:
    """
    What one look leaves to the next: errands that have not ended.
    """

    def __init__(self) -> None:
        self._errands: list[tuple[weakref.ref[Any], Errand]] = []

    def under_way(self, pool: Any) -> list[Errand]:
        """
        Those that are in this pool.
        """
        self._errands = [(ref, errand) for ref, errand in self._errands if ref() is not None and not errand.ended()]
        return [errand for ref, errand in self._errands if ref() is pool]

    def note(self, pool: Any, errand: Errand) -> None:
        """
        Note one that begins.
        """
        self._errands.append((weakref.ref(pool), errand))


def shorten_connects(engine: Engine) -> None:
    """
    Give connections that are made for us a short time to connect, where the driver knows one.
    """
    listen(engine, "do_connect", _shorten)


def _shorten(dialect: Any, _record: Any, _args: Any, options: dict[str, Any]) -> None:
    timeout = _connect_within.get()
    if timeout is not None and dialect.driver in _CONNECT_TIMEOUTS:
        name, kind = _CONNECT_TIMEOUTS[dialect.driver]
        options[name] = math.ceil(timeout) if kind is int else timeout


def _borrow(pool: Any) -> Any:
    """
    Take a connection as its users do, but for ``pool_pre_ping``, which has no bound: we ask ourselves.
    """
    from sqlalchemy.pool import base

    proxy: Any = base._ConnectionRecord.checkout(pool)
    proxy._connection_record.fresh = True
    return base._ConnectionFairy._checkout(pool, fairy=proxy)


@contextlib.contextmanager
def _beside_its_users(pool: Any, timeout: float) -> Iterator[None]:
    """
    Do not count what we hold, for so many seconds at most, against a bounded pool whose users would not wait for us.
    """
    # Who waits for half of that outlasts every look at a server that answers, and costs no connection more.
    patience = getattr(pool, "_timeout", None)  # None: for ever
    if getattr(pool, "_max_overflow", -1) < 0 or patience is None or patience >= timeout / 2:
        yield
        return
    with pool._overflow_lock:
        pool._overflow -= 1
    try:
        yield
    finally:
        with pool._overflow_lock:
            pool._overflow += 1


def _has_none(pool: Any) -> bool:
    """
    Whether a bounded pool has nothing to give, now.
    """
    limit = getattr(pool, "_max_overflow", -1)
    return limit > -1 and pool.checkedin() == 0 and pool.overflow() >= limit


def _fetch(connection: Any, sql: str) -> list[Any]:
    cursor = connection.cursor()
    try:
        cursor.execute(sql)
        return list(cursor.fetchall())
    finally:
        cursor.close()


def _refusal(error: Exception) -> Failure:
    state = sqlstate(error) or ""
    if state == "53300" or FULL.search(str(error).lower()):
        return Failure.FULL
    if state:
        return Failure.REFUSED if state.startswith("28") else Failure.DEAD
    refused = REFUSED.search(str(error)) or _MYSQL_REFUSED.intersection(error.args[:1])
    return Failure.REFUSED if refused else Failure.DEAD
