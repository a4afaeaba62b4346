"""
Connections that belong to threads, and how they are told from elsewhere that they are out of date.

Nobody but its own thread may touch a connection of Django. So a healer only
says that a new epoch has begun; each thread closes what is older when it
begins its next request.
"""

from __future__ import annotations

import collections
import contextlib
import threading

from typing import Any, Final, NamedTuple

from selfheal.clock import SystemClock
from selfheal.integrations import require
from selfheal.integrations.django.wrappers import by_psycopg, forget_inherited, wrapper_of
from selfheal.integrations.pooled import Failure
from selfheal.integrations.psycopg import ConnectionRegistry
from selfheal.resources.forks import reset_in_children


#: Failed queries that are remembered of each database: the newest say enough.
REMEMBERED: Final = 16

_now = SystemClock.now


class Seen(NamedTuple):
    """
    A query of a request that has failed for its connection's sake.

    Attributes:
        epoch: In which the request began.
        at: When it failed, in seconds of the monotonic clock.
        failure: How.
        error: Its text. The driver's own error, with its traceback, would keep the request alive.
    """

    epoch: int
    at: float
    failure: Failure
    error: Exception


class Database:
    """
    One database of the project, in this process: its epoch, and what requests have seen of it.

    Args:
        alias: As in ``DATABASES``.
    """

    def __init__(self, alias: str) -> None:
        self.alias = alias
        self.epoch = 0
        self._begin()
        self._error: type[Exception] = require("django.db", who=__name__, package="django", extra="django").Error
        signals = require("django.db.backends.signals", who=__name__, package="django", extra="django")
        signals.connection_created.connect(self._opened, weak=False)
        reset_in_children(self)

    @classmethod
    def of(cls, alias: str) -> Database:
        """
        The one of this process.
        """
        wrapper_of(alias)  # says what is wrong with the alias
        with _lock:
            if alias not in _databases:
                _databases[alias] = cls(alias)
            return _databases[alias]

    def renew(self) -> None:
        """
        Have every thread close its connection before its next request.
        """
        self.epoch += 1

    def close_if_stale(self) -> None:
        """
        Close this thread's connection if it may be older than the epoch; never in the middle of an atomic block.
        """
        epoch = self.epoch
        if epoch == getattr(self._here, "epoch", 0):
            return
        wrapper = wrapper_of(self.alias)
        if wrapper.in_atomic_block:
            return
        # Not the epoch of its opening but of the request that has opened it: too old rather than too young.
        self._here.epoch = epoch
        with contextlib.suppress(self._error):  # as good as closed: that is why it goes
            wrapper.close()

    def seen(self, within: float) -> tuple[Seen, ...]:
        """
        Failures of the last *within* seconds, on connections of this epoch; the newest last.
        """
        return tuple(seen for seen in tuple(self._seen) if seen.epoch == self.epoch and _now() - seen.at <= within)

    def reset_after_fork(self) -> None:
        """
        Forget the parent's connections. Called by the interpreter.
        """
        self._begin()
        forget_inherited(self.alias)

    def _begin(self) -> None:
        self._here = threading.local()
        self._seen: collections.deque[Seen] = collections.deque(maxlen=REMEMBERED)
        self.registry = ConnectionRegistry()

    def _opened(self, *, connection: Any, **_: object) -> None:
        """
        Watch a connection: called by Django in the thread that has opened it.
        """
        if connection.alias != self.alias or not by_psycopg(connection):
            return
        self.registry.adopt(connection.connection)
        if self._watch not in connection.execute_wrappers:
            connection.execute_wrappers.append(self._watch)

    def _watch(self, execute: Any, sql: Any, params: Any, many: Any, context: Any) -> Any:
        """
        Around each query: Django's ``execute_wrapper``.
        """
        try:
            return execute(sql, params, many, context)
        except self._error as exc:
            failure = _failure(context["connection"].connection, exc.__cause__)
            if failure is not None:
                error = ConnectionError(str(exc))
                self._seen.append(Seen(getattr(self._here, "epoch", 0), _now(), failure, error))
            raise


def close_stale_connections() -> None:
    """
    Close those connections of this thread that a healing has declared out of date.

    `FreshConnectionsMiddleware` calls it for requests. Call it yourself where a
    unit of work begins that is no request: a job of a queue, one round of a
    command that runs for ever.

    .. versionadded:: 26.1.0
    """
    for database in tuple(_databases.values()):
        database.close_if_stale()


def something_is_stale() -> bool:
    """
    Whether any healing has ever declared anything out of date here.
    """
    return any(database.epoch for database in tuple(_databases.values()))


def _failure(raw: Any, error: BaseException | None) -> Failure | None:
    """
    What a failed query says of its connection, or `None`: nothing.
    """
    if raw is None or raw.closed:
        return Failure.DEAD
    if getattr(error, "sqlstate", None) != "25006":
        return None
    # A transaction that the application has made read-only itself says nothing. PostgreSQL reports these since 14.
    told = {raw.info.parameter_status(name) for name in ("in_hot_standby", "default_transaction_read_only")}
    return None if told == {"off"} else Failure.READ_ONLY


_lock: Final = threading.Lock()

#: As many as the project has databases that are watched. Of the process, as Django's own connections are.
_databases: Final[dict[str, Database]] = {}
