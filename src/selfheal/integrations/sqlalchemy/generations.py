"""
Which generation a connection belongs to, so that no old one survives its return to the pool and none is cut while used.
"""

from __future__ import annotations

import threading
import weakref

from typing import TYPE_CHECKING, Any, ClassVar, Final

from selfheal.integrations.sqlalchemy.listening import listen


if TYPE_CHECKING:
    from sqlalchemy import Engine


_BEGUN: Final = "selfheal.begun"
_MADE: Final = "selfheal.generation"
_POOL: Final = "selfheal.pool"


class Generations:
    """
    Stamps an engine's connections, and replaces those of an earlier generation when they are taken or returned.

    A connection is old as well if its pool is not the engine's any more: what
    was out when the engine was disposed would otherwise go back to the old pool,
    and stay open there for as long as any connection of that pool is in use.
    """

    # Keyed by dialect: an engine with other execution options is another engine on the same pool.
    _all: ClassVar[weakref.WeakKeyDictionary[Any, Generations]] = weakref.WeakKeyDictionary()
    _lock: ClassVar[threading.Lock] = threading.Lock()

    def __init__(self, engine: Engine) -> None:
        self.number = 0
        self._engine = weakref.ref(engine)

    @classmethod
    def of(cls, engine: Engine) -> Generations:
        """
        The generations of *engine*. Connections that are there already belong to the first.
        """
        with cls._lock:
            generations = cls._all.get(engine.dialect)
            if generations is None:
                generations = cls._all[engine.dialect] = cls(engine)
                listen(engine, "do_connect", generations._connecting, insert=True)
                listen(engine, "connect", generations._connected)
                listen(engine, "checkout", generations._taken, insert=True)
                listen(engine, "checkin", generations._returned)
        return generations

    def begin(self) -> None:
        """
        Begin a new generation: all connections there are now, and those that are being made, are old.
        """
        with self._lock:
            self.number += 1

    # -- events ---------------------------------------------------------------

    def _connecting(self, _dialect: Any, record: Any, _args: Any, _options: Any) -> None:
        if record is not None:
            # As of its beginning: it may have reached the old server when the new generation begins.
            record.info[_BEGUN] = self.number

    def _connected(self, _connection: Any, record: Any) -> None:
        record.info[_MADE] = record.info.pop(_BEGUN, self.number)

    def _taken(self, _connection: Any, record: Any, proxy: Any) -> None:
        if record.info.get(_MADE, 0) != self.number:
            from sqlalchemy.exc import DisconnectionError

            # Nobody waits for the goodbye of a server that may be dead.
            terminate = getattr(record.driver_connection, "terminate", None)
            if terminate is not None:
                terminate()
            msg = "this connection is from before the latest rotation"
            raise DisconnectionError(msg)
        record.info[_POOL] = weakref.ref(proxy._pool)

    def _returned(self, connection: Any, record: Any) -> None:
        if connection is None:
            return
        engine, pool = self._engine(), record.info.get(_POOL)
        of_old_pool = engine is not None and pool is not None and pool() is not engine.pool
        if of_old_pool or record.info.get(_MADE, 0) != self.number:
            record.invalidate()
