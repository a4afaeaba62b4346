"""
Which connections a pool has given out, how long they have been silent, and how to cut one without touching another.

A pool does not know what it has given out, and a thread that waits for a dead
peer can be freed by one thing only: shutting its socket down from elsewhere.
"""

from __future__ import annotations

import gc
import os
import socket
import threading
import weakref

from collections.abc import Callable
from typing import Any, Final

import attrs

from selfheal.clock import SystemClock
from selfheal.integrations.tcp import tcp_ages


@attrs.frozen
class Session:
    """
    One open connection of a pool, as seen from outside at one moment.

    Args:
        pid: Of the server process that serves it.
        address: The server's address and port.
        leased: It is out of the pool, in somebody's hands.
        busy: A query was sent, and its answer has not been taken in completely.
        silent_for: Seconds since anything was sent or received, if it is leased; not more than since it was first
            seen so. Where the system does not count them: since it was first found not busy.
        waiting_for: Seconds since its query was sent, if it is busy and nothing at all has been received since, as far
            as can be told. `None` as well where the system does not count them.
        surely: Whether that can be told.
    """

    pid: int
    address: tuple[bytes, bytes]
    leased: bool
    busy: bool
    silent_for: float | None
    waiting_for: float | None
    surely: bool


@attrs.define(eq=False)
class _Registered:
    # A file descriptor's number is reused at once after a close; device and inode tell whose it is now.
    fd: int
    identity: tuple[int, int]
    quiet_since: float | None = None
    leased_since: float | None = None


#: While it changes hands, a connection belongs to nobody for a moment: so often, and so far apart, a new registry looks
#: at those that seem to be somebody else's. Some milliseconds, once in a pool's life.
_GLANCES: Final = 5
_GLANCE_SECONDS: Final = 0.001


class ConnectionRegistry:
    """
    Knows the connections of one pool.

    `PoolHealth` and the actions install one by themselves. Give one yourself to
    have it from the very first connection on::

        ConnectionPool(DSN, configure=ConnectionRegistry())

    Args:
        then: Your own ``configure`` function, called after the connection was noted; a coroutine function for an
            async pool.

    References to connections are weak: the registry holds as many entries as there are live connections.

    .. versionadded:: 26.1.0
    """

    def __init__(self, then: Callable[[Any], Any] | None = None) -> None:
        self._then = then
        self._lock = threading.Lock()
        self._registered: weakref.WeakKeyDictionary[Any, _Registered] = weakref.WeakKeyDictionary()

    def __call__(self, connection: Any) -> Any:
        """
        Note a new connection: the pool's ``configure`` callback.
        """
        self.adopt(connection)
        return _DONE if self._then is None else self._then(connection)

    @classmethod
    def of(cls, pool: Any) -> ConnectionRegistry:
        """
        The registry of *pool*, installed as its ``configure`` callback if it has none yet.
        """
        registry = pool._configure
        if not isinstance(registry, cls):
            pool._configure = registry = cls(then=registry)
            # Once in a pool's life: those that it has given out already are known to nobody but the interpreter.
            import psycopg

            strangers = [thing for thing in gc.get_objects() if issubclass(type(thing), psycopg.BaseConnection)]
            for _ in range(_GLANCES):
                for connection in (known := [thing for thing in strangers if _belongs(thing, pool)]):
                    registry.adopt(connection)
                strangers = [thing for thing in strangers if thing not in known and not thing.closed]
                if not strangers:
                    break
                threading.Event().wait(_GLANCE_SECONDS)
        for connection in pool._pool.copy():
            registry.adopt(connection)
        return registry

    def adopt(self, connection: Any) -> None:
        """
        Note a connection, if it is open and not known yet.
        """
        with self._lock:
            if connection not in self._registered and (registered := _register(connection)) is not None:
                self._registered[connection] = registered

    def sessions(self, pool: Any) -> dict[Any, Session]:
        """
        The open connections, each as it is now.
        """
        with self._lock:
            known = list(self._registered.items())
        seen = ((connection, _look(connection, registered, pool)) for connection, registered in known)
        return {connection: session for connection, session in seen if session is not None}

    def sever(self, connection: Any) -> bool:
        """
        Shut a connection's socket down in both directions; whoever waits on it gets an error at once.

        Returns:
            Whether it was. `False` if the connection is closed or unknown: its descriptor may be somebody else's now.
        """
        with self._lock:
            registered = self._registered.get(connection)
        duplicate = None if registered is None else _duplicate(connection, registered)
        if duplicate is None:
            return False
        with duplicate:
            try:
                duplicate.shutdown(socket.SHUT_RDWR)
            except OSError:  # it has been cut before
                return False
        return True


class _Done:
    """
    Nothing to wait for: an async pool awaits what ``configure`` returns, a sync one ignores it.
    """

    def __await__(self) -> Any:
        return iter(())


_DONE: Final = _Done()


def _belongs(connection: Any, pool: Any) -> bool:
    # Asked both ways in one moment: given out, or at home.
    return getattr(connection, "_pool", None) is pool or connection in pool._pool.copy()


def _register(connection: Any) -> _Registered | None:
    import psycopg

    try:
        fd = connection.pgconn.socket
        return _Registered(fd, _identity(fd))
    except (psycopg.Error, OSError):  # closed meanwhile
        return None


def _identity(fd: int) -> tuple[int, int]:
    status = os.fstat(fd)
    return status.st_dev, status.st_ino


def _duplicate(connection: Any, registered: _Registered) -> socket.socket | None:
    """
    A second descriptor of the connection's socket, or `None` if it is not surely that one any more.
    """
    import psycopg

    try:
        fd = os.dup(registered.fd)
    except OSError:
        return None
    try:
        # Asked of the duplicate, which nobody can close under us, and only then of the connection.
        if _identity(fd) == registered.identity and connection.pgconn.socket == registered.fd:
            return socket.socket(fileno=fd)
    except (psycopg.Error, OSError):
        pass
    os.close(fd)
    return None


def _look(connection: Any, registered: _Registered, pool: Any) -> Session | None:
    import psycopg

    try:
        pgconn = connection.pgconn
        if pgconn.status != psycopg.pq.ConnStatus.OK:  # broken, and kept alive by an error's traceback perhaps
            return None
        busy = pgconn.transaction_status == psycopg.pq.TransactionStatus.ACTIVE
        pid, address = pgconn.backend_pid, (pgconn.hostaddr, pgconn.port)
    except psycopg.Error:  # closed meanwhile
        return None
    leased = getattr(connection, "_pool", None) is pool
    now = SystemClock.now()
    if busy or not leased:
        registered.quiet_since = None
    elif registered.quiet_since is None:
        registered.quiet_since = now
    if not leased:
        registered.leased_since = None
    elif registered.leased_since is None:
        registered.leased_since = now
    silent_for = None if registered.quiet_since is None else now - registered.quiet_since
    waiting_for, surely = None, False
    duplicate = _duplicate(connection, registered) if busy or leased else None
    if duplicate is not None:
        with duplicate:
            ages = tcp_ages(duplicate)
        if ages is not None:
            # Whoever took it a moment ago is not to blame for the hours in which nobody had use for it.
            silent_for = min(ages.sent, ages.received, now - (registered.leased_since or now)) if leased else None
            # An answer that lies unread in our own buffers (a slow reader of a stream) came after the query was sent.
            waiting_for = ages.sent if busy and ages.unanswered is not False else None
            surely = ages.unanswered is True
    return Session(pid, address, leased, busy, silent_for, waiting_for, surely)
