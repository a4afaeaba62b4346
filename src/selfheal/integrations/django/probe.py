"""
`DatabaseHealth`: what is wrong with a database of the project, whether Django pools its connections or not.
"""

from __future__ import annotations

import contextlib
import types

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any, Final, Literal

import attrs

from selfheal.errors import ConfigError
from selfheal.integrations import pooled
from selfheal.integrations.django.epochs import Database
from selfheal.integrations.django.pool import DjangoPool
from selfheal.integrations.django.wrappers import by_psycopg, is_pooled, wrapper_of
from selfheal.integrations.pooled import Pooled, PooledHealth, Usage
from selfheal.integrations.psycopg import PoolHealth
from selfheal.integrations.psycopg.io import io_for
from selfheal.integrations.psycopg.views import Viewer
from selfheal.model import CheckResult
from selfheal.model.settings import seconds


if TYPE_CHECKING:
    import datetime as dt


#: Seconds for which a failed query counts: long enough for a fault to be confirmed, gone soon where Django has helped
#: itself (a connection that has failed is closed when its request ends).
_RECENT: Final = 10.0


class DatabaseHealth(PooledHealth[CheckResult]):
    """
    A probe of a database of the project: see `PooledHealth` for what it tells apart.

    Without a pool, each thread has a connection that nobody else may touch. Then
    it looks over a connection of its own, every time, and at what requests have
    seen since: a query that failed because its connection was dead (``stale``)
    or leads to a read-only server (``read_only``), or that waits for an answer
    which the server does not work on (``stuck``).

    With Django's own pool (``OPTIONS={"pool": …}``) it is `PoolHealth`.

    Args:
        alias: As in ``DATABASES``: a PostgreSQL reached by psycopg 3.
        role: ``"primary"``: connections must be able to write. ``"any"``: reading is enough.
        timeout: Seconds for one run, all of it; keep it below the check's timeout.
        hung_after: A query that the server does not work on hangs after so many seconds.

    Raises:
        MissingExtraError: If Django or psycopg is not installed.
        ConfigError: If there is no such database, or it is another kind.

    .. versionadded:: 26.1.0
    """

    def __init__(
        self,
        alias: str = "default",
        *,
        role: Literal["primary", "any"] = "primary",
        timeout: float | dt.timedelta = 0.8,
        hung_after: float | dt.timedelta = 1.0,
    ) -> None:
        super().__init__(alias, role=role, timeout=timeout)
        if not by_psycopg(wrapper_of(alias)):
            msg = (
                f"{alias!r} is not a PostgreSQL reached by psycopg 3, which alone is known here: write a probe for it."
            )
            raise ConfigError(msg)
        self._alias = alias
        self._hung_after = seconds(hung_after)
        self._pool: Any = None
        if is_pooled(alias):
            self._pool = PoolHealth(DjangoPool(alias), role=role, timeout=timeout, hung_after=hung_after)  # type: ignore[call-overload]
        else:
            self._database = Database.of(alias)
            self._io = io_for(types.SimpleNamespace(getconn=None))

    @contextlib.asynccontextmanager
    async def looking(self) -> AsyncIterator[Pooled]:
        """
        As `PooledHealth.looking`.
        """
        if self._pool is not None:
            async with self._pool.looking() as pool:
                yield pool
            return
        wrapper = wrapper_of(self._alias)
        # What a pool would know of its connections, for want of one.
        target = types.SimpleNamespace(
            conninfo="", kwargs=wrapper.get_connection_params(), connection_class=wrapper.Database.Connection
        )
        registry = self._database.registry
        yield LookedAt(self._database, Viewer(pool=target, io=self._io, registry=registry, hung_after=self._hung_after))


@attrs.frozen(kw_only=True)
class _Requests(pooled.View):
    """
    What requests have seen; that they saw nothing bad says nothing, for perhaps there were none.
    """

    @property
    def good(self) -> bool:
        return False


class LookedAt:
    """
    The connections of all threads, as `selfheal.integrations.pooled.Pooled` wants to see them.
    """

    def __init__(self, database: Database, viewer: Viewer) -> None:
        self.registry = viewer.registry
        self.direct = viewer.direct
        self._database = database

    def reconnecting(self) -> bool:
        """
        As `Pooled.reconnecting`: a thread without a connection makes one.
        """
        return False

    async def pooled(self, timeout: float, *, wait: float | None = None) -> pooled.View:
        """
        As `Pooled.pooled`, without waiting for anything.
        """
        seen = self._database.seen(_RECENT)
        return _Requests(failure=seen[-1].failure, error=seen[-1].error) if seen else _Requests()

    def usage(self) -> Usage:
        """
        As `Pooled.usage`: there is nothing to run out of.
        """
        return Usage()
