"""
Who holds an engine's connections, since when, and what their sockets are.
"""

from __future__ import annotations

import asyncio
import sys
import threading
import traceback
import weakref

from typing import TYPE_CHECKING, Any, ClassVar, Final

import attrs

from selfheal.clock import SystemClock
from selfheal.integrations import require
from selfheal.integrations.sqlalchemy.listening import listen
from selfheal.integrations.sqlalchemy.sockets import Socket
from selfheal.integrations.waiting import listens


if TYPE_CHECKING:
    from sqlalchemy import Engine
    from sqlalchemy.ext.asyncio import AsyncEngine


_now = SystemClock.now

#: Leases that are noted at once: an engine without an upper limit must not fill the memory.
LIMIT: Final = 1000

#: Frames of a stack that are kept: the innermost ones.
_FRAMES: Final = 30

_SOCKET: Final = "selfheal.socket"


@attrs.frozen(kw_only=True)
class Lease:
    """
    One connection that is given out, as it is at one moment.

    Args:
        holder: Name of the thread or task that has taken it.
        seconds: For how long it is out.
        silent_for: Seconds since anything was sent or received over it; `None` where the system does not count them.
        busy: A query was sent, and its answer has not been taken in; or it listens for notifications.
        replaced: It belongs to a pool that the engine does not use any more.
        stack: Where it was taken, if stacks are kept.
    """

    holder: str
    seconds: float
    silent_for: float | None
    busy: bool
    replaced: bool
    stack: str | None = None


@attrs.frozen(eq=False)
class _Noted:
    # Weak: a record keeps its whole pool alive, and with it connections that nobody uses.
    record: weakref.ref[Any]
    pool: weakref.ref[Any]
    holder: str
    since: float
    stack: str | None


class EngineLeases:
    """
    Knows what an engine has given out. Get it by `of`; there is one for each engine.

    `EngineHealth` and the actions install it by themselves. What was given out
    before is unknown to it, so build one of them, or call `of`, beside the engine.

    At most 1000 leases are noted at once; those above are counted in `dropped`.
    Taking a connection costs about a microsecond more, with stacks some ten.

    Attributes:
        stacks: Whether stacks are kept from now on.
        dropped: Leases that were not noted because there were too many.

    .. versionadded:: 26.1.0
    """

    # Keyed by dialect: an engine with other execution options is another engine on the same pool.
    _all: ClassVar[weakref.WeakKeyDictionary[Any, EngineLeases]] = weakref.WeakKeyDictionary()
    _lock: ClassVar[threading.Lock] = threading.Lock()

    def __init__(self, engine: Engine, *, stacks: bool = False) -> None:
        self.stacks = stacks
        self.dropped = 0
        self._engine = weakref.ref(_own(engine))
        self._is_async = engine.dialect.is_async
        # Plain dicts, each touched by single atomic steps: a garbage collection may return a connection at any moment,
        # also in the middle of ours, and would wait for our own lock for ever.
        self._noted: dict[int, _Noted] = {}
        self._sockets: dict[int, weakref.ref[Socket]] = {}

    @classmethod
    def of(cls, engine: Engine | AsyncEngine, *, stacks: bool | None = None) -> EngineLeases:
        """
        The leases of *engine*, noted from the first call on.

        Args:
            engine: Sync or async.
            stacks: Whether to keep where each connection was taken; `None`: as it is.

        Raises:
            MissingExtraError: If SQLAlchemy is not installed (extra ``sqlalchemy``).
        """
        sync: Any = getattr(engine, "sync_engine", engine)
        with cls._lock:
            leases = cls._all.get(sync.dialect)
            if leases is None:
                leases = cls._all[sync.dialect] = cls(sync)
                listen(sync, "connect", leases._connected)
                listen(sync, "checkout", leases._taken)
                listen(sync, "checkin", leases._returned)
                listen(sync, "detach", leases._detached)
        if stacks is not None:
            leases.stacks = stacks
        return leases

    def holders(self) -> tuple[Lease, ...]:
        """
        What is given out now, the longest held first.
        """
        return tuple(sorted((lease for lease, _ in self._look()), key=lambda lease: -lease.seconds))

    def leased(self) -> list[Lease]:
        """
        What the pool in service has given out.
        """
        return [lease for lease, _ in self._look() if not lease.replaced]

    def sockets(self) -> list[Socket]:
        """
        The sockets of all connections that are still referred to, given out or not; but for those that were detached.
        """
        found = [reference() for reference in list(self._sockets.values())]
        return [socket for socket in found if socket is not None]

    def idle(self) -> set[Socket]:
        """
        The sockets of connections that nobody holds, as far as that is known for certain.
        """
        if self.dropped:
            return set()
        return set(self.sockets()) - {socket for _, socket in self._look() if socket is not None}

    def _look(self) -> list[tuple[Lease, Socket | None]]:
        engine, now = self._engine(), _now()
        seen: list[tuple[Lease, Socket | None]] = []
        for key, noted in list(self._noted.items()):
            record = noted.record()
            if record is None:  # its pool has gone, and it with it
                self._noted.pop(key, None)
                continue
            socket: Socket | None = record.info.get(_SOCKET)
            lease = Lease(
                holder=noted.holder,
                seconds=now - noted.since,
                silent_for=None if socket is None else socket.silent_for(),
                busy=socket is not None and bool(socket.busy or socket.waiting_for() or listens(socket.driver)),
                replaced=engine is None or noted.pool() is not engine.pool,
                stack=noted.stack,
            )
            seen.append((lease, socket))
        return seen

    # -- events ---------------------------------------------------------------

    def _connected(self, connection: Any, record: Any) -> None:
        socket = Socket.of(connection)
        record.info[_SOCKET] = socket
        if socket is not None:
            key, sockets = id(socket), self._sockets
            sockets[key] = weakref.ref(socket, lambda _: sockets.pop(key, None))

    def _taken(self, connection: Any, record: Any, proxy: Any) -> None:
        if _SOCKET not in record.info:  # it was made before we were there
            self._connected(connection, record)
        if len(self._noted) >= LIMIT:
            self.dropped += 1
            return
        stack = _stack(is_async=self._is_async) if self.stacks else None
        holder = _holder(is_async=self._is_async)
        self._noted[id(record)] = _Noted(weakref.ref(record), weakref.ref(proxy._pool), holder, _now(), stack)

    def _returned(self, _connection: Any, record: Any) -> None:
        self._noted.pop(id(record), None)

    def _detached(self, connection: Any, record: Any) -> None:
        # It is the application's own now: nothing of ours counts it, asks about it or cuts it.
        for key, reference in list(self._sockets.items()):
            socket = reference()
            if socket is not None and socket.adapter is connection:
                self._sockets.pop(key, None)
        if getattr(record.info.get(_SOCKET), "adapter", None) is connection:
            del record.info[_SOCKET]  # it would keep the connection open for as long as the record has no other
        if not record.in_use:  # somebody else may have it already
            self._noted.pop(id(record), None)


def _own(engine: Any) -> Any:
    # One with other execution options may go away at any moment; the one that it stands for lives as long as the pool.
    while hasattr(engine, "_proxied"):
        engine = engine._proxied
    return engine


def _holder(*, is_async: bool) -> str:
    task = asyncio.current_task() if is_async else None
    if task is None:
        return threading.current_thread().name
    return f"{task.get_name()} ({getattr(task.get_coro(), '__qualname__', '?')})"


def _stack(*, is_async: bool) -> str:
    frame: Any = sys._getframe(2)
    if is_async:
        greenlet = require("greenlet", who=__name__, package="greenlet", extra="sqlalchemy")
        # The application's frames are those of the greenlet that waits for this one.
        parent = greenlet.getcurrent().parent
        frame = frame if parent is None or parent.gr_frame is None else parent.gr_frame
    return "".join(traceback.format_list(traceback.extract_stack(frame)[-_FRAMES:]))
