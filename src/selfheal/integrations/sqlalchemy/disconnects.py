"""
Errors of the server after which a connection is worthless, though the driver believes it is good.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Final

from selfheal.integrations import require
from selfheal.integrations.sqlalchemy.listening import listen


if TYPE_CHECKING:
    from sqlalchemy import Engine
    from sqlalchemy.ext.asyncio import AsyncEngine


#: PostgreSQL: the server is read-only; an administrator, a crash or a starting server has ended the session.
DISCONNECTS: Final = ("25006", "57P01", "57P02", "57P03")


def treat_as_disconnect(engine: Engine | AsyncEngine, sqlstates: Iterable[str] = DISCONNECTS) -> Callable[[], None]:
    """
    Let an engine replace all its connections when one of them fails with one of these errors.

    After a failover connections may stay pinned to the server that was demoted:
    it answers, so SQLAlchemy keeps them, and each write fails with 25006 for
    ever, ``pool_pre_ping`` or not. With this, one write fails.

    Leave 25006 out if your application writes in read-only transactions by mistake.

    Args:
        engine: Sync or async.
        sqlstates: Which errors. Drivers without SQLSTATEs are left as they are.

    Returns:
        A function that undoes it.

    Raises:
        MissingExtraError: If SQLAlchemy is not installed (extra ``sqlalchemy``).

    .. versionadded:: 26.1.0
    """
    event = require("sqlalchemy.event", who=__name__, package="sqlalchemy", extra="sqlalchemy")
    states = frozenset(sqlstates)
    target: Any = getattr(engine, "sync_engine", engine)

    def judge(context: Any) -> None:
        if sqlstate(context.original_exception) in states:
            context.is_disconnect = True

    listen(target, "handle_error", judge)
    return lambda: event.remove(target, "handle_error", judge)


def sqlstate(error: BaseException | None) -> str | None:
    """
    The SQLSTATE of a driver's error, as psycopg, asyncpg and psycopg2 have it.
    """
    return getattr(error, "sqlstate", None) or getattr(error, "pgcode", None)
