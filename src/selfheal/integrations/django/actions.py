"""
What heals a database of the project, cheapest first.
"""

from __future__ import annotations

from typing import Any, ClassVar

import attrs

from selfheal.errors import ConfigError
from selfheal.integrations.django.epochs import Database
from selfheal.integrations.django.pool import DjangoPool
from selfheal.integrations.django.probe import DatabaseHealth, LookedAt
from selfheal.integrations.django.wrappers import is_pooled
from selfheal.integrations.pooled_actions import PooledAction
from selfheal.integrations.psycopg import pool_ladder
from selfheal.integrations.psycopg.views import View
from selfheal.model import Ladder, RecoveryContext
from selfheal.recovery import RecoveryAction, rung


@attrs.frozen(repr=False)
class RenewConnections(RecoveryAction):
    """
    Have every thread begin its next request with a new connection.

    Against ``stale`` and ``read_only``, on a database of any kind that Django
    does not pool. It touches no connection itself: `FreshConnectionsMiddleware`
    closes the old one of each thread in that thread, at the next request.

    Args:
        alias: As in ``DATABASES``.

    Raises:
        ConfigError: If there is no such database, or Django pools its connections: then use `DjangoPool`.

    .. versionadded:: 26.1.0
    """

    kinds: ClassVar = frozenset({"stale", "read_only", "stuck"})
    safe_after_abandon: ClassVar[bool] = True

    alias: str = "default"

    def __attrs_post_init__(self) -> None:
        if is_pooled(self.alias):
            msg = f"{self.alias!r} has a pool: use DrainPool(DjangoPool({self.alias!r})), or database_ladder."
            raise ConfigError(msg)
        Database.of(self.alias)

    def recover(self, ctx: RecoveryContext) -> None:
        """
        Begin a new epoch.
        """
        database = Database.of(self.alias)
        database.renew()
        ctx.log(f"connections of {self.alias} are renewed, epoch {database.epoch}", epoch=database.epoch)


@attrs.frozen(repr=False)
class SeverHung(PooledAction):
    """
    Shut down the sockets of queries that wait for an answer which cannot come; their requests get an error at once.

    Against ``stuck``, where Django does not pool; what is cut, and what not, is
    said at `selfheal.integrations.psycopg.SeverHung`, which is for pools.

    Args:
        alias: As in ``DATABASES``.
        older_than: Seconds.

    Raises:
        Escalate: If a fresh connection fails too: then nobody can say what hangs.

    .. versionadded:: 26.1.0
    """

    kinds: ClassVar = frozenset({"stuck"})

    alias: str = "default"
    older_than: float = attrs.field(default=1.0, kw_only=True)

    def __attrs_post_init__(self) -> None:
        self._health()  # says what is missing

    def _health(self) -> DatabaseHealth:
        return DatabaseHealth(self.alias, hung_after=self.older_than)

    async def _act(self, pool: LookedAt, direct: View, ctx: RecoveryContext) -> None:
        suspects = (*direct.hung, *direct.working) if direct.hung else ()
        severed = sum(pool.registry.sever(connection) for connection in suspects)
        ctx.log(f"severed {severed} connections", severed=severed)


def database_ladder(alias: str = "default") -> Ladder:
    """
    The ladder for the faults that `DatabaseHealth` tells apart, ready to use.

    With Django's own pool it is `pool_ladder`; without, it is

    ============= ==========================================================
    kind          rungs, the cheapest first
    ============= ==========================================================
    ``stale``     `RenewConnections`
    ``read_only`` `RenewConnections`
    ``stuck``     `SeverHung` and `RenewConnections`
    the rest      none: nothing of ours is broken
    ============= ==========================================================

    Args:
        alias: As in ``DATABASES``.

    Raises:
        ConfigError: If there is no such database.

    .. versionadded:: 26.1.0
    """
    if is_pooled(alias):
        pool: Any = DjangoPool(alias)
        return pool_ladder(pool)
    renew = RenewConnections(alias)
    return rung((SeverHung(alias) + renew).named("sever_hung"), attempts=2) >> rung(renew, attempts=3, cooldown=1.0)
