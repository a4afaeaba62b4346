"""
How an engine's connections are replaced, all of them, so that none is cut while it is used.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final


if TYPE_CHECKING:
    from selfheal.integrations.sqlalchemy.views import LookedAt


#: Seconds for the idle connections of an old pool to be closed in the background; then their sockets are shut down.
_CLOSING: Final = 2.0


def rotate(pool: Any) -> None:
    """
    Begin a new generation: the pool closes each connection begun before now when it comes back, and replaces those
    that it has when they are taken next, before the application's listeners and ``pool_pre_ping`` see them.
    """
    # SQLAlchemy's own stamp: the time at which a connection was begun, beside that of the latest invalidation.
    pool._invalidate(None, _checkin=False)
    _close_what_returns(pool, lambda record: bool(record.starttime < pool._invalidate_time))


def renew(looked: LookedAt) -> None:
    """
    Give an engine a new, empty pool at once, and close the old one in the background. What is out is closed when it
    comes back: the old pool would keep it open for as long as any connection of that pool is in use.
    """
    old, idle = looked.engine.pool, looked.leases.idle()
    rotate(old)
    _close_what_returns(old, lambda _: True)  # also what somebody makes who still waits in its queue
    looked.engine.dispose(close=False)

    def cut() -> None:
        # What still is in nobody's hands waits to say goodbye, to a server that does not answer.
        for socket in idle & looked.leases.idle():
            socket.sever()

    looked.io.behind(old.dispose, _CLOSING, cut)


def _close_what_returns(pool: Any, is_old: Callable[[Any], bool]) -> None:
    keep = type(pool)._do_return_conn

    def give_back(record: Any) -> None:
        # No listener to ``checkin`` does this: those of the application that come after it still use the connection.
        try:
            if record.dbapi_connection is not None and is_old(record):
                # Nobody waits for the goodbye of a server that may be dead.
                terminate = getattr(record.driver_connection, "terminate", None)
                if terminate is not None:
                    terminate()
                record.invalidate()
        finally:
            keep(pool, record)

    pool._do_return_conn = give_back
