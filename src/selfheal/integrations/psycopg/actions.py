"""
What heals a *psycopg_pool* pool, cheapest first. None of it does anything while the server itself does not answer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

import attrs

from selfheal.integrations.pooled_actions import PooledAction, RebuildPooled
from selfheal.integrations.psycopg.probe import LookedAt, PoolHealth
from selfheal.integrations.psycopg.views import View
from selfheal.model import Ladder, RecoveryContext
from selfheal.recovery import rung


if TYPE_CHECKING:
    from psycopg_pool import AsyncConnectionPool, ConnectionPool

    from selfheal.resources.rebuildable import Rebuildable

    AnyPool = ConnectionPool[Any] | AsyncConnectionPool[Any]
    Source = AnyPool | Rebuildable[ConnectionPool[Any]] | Rebuildable[AsyncConnectionPool[Any]]


@attrs.frozen(repr=False)
class PoolAction(PooledAction):
    """
    The common part: a pool, sync or async, given directly or inside a `Rebuildable`.

    Args:
        pool: The pool, or the `Rebuildable` that makes it.
        name: Of the action: a metric label.
        conninfo: Where a fresh connection goes to, or a function that tells; ``None``: where the pool's go to.
    """

    pool: Source
    conninfo: str | Callable[[], Any] | None = attrs.field(default=None, kw_only=True, repr=False)

    def __attrs_post_init__(self) -> None:
        self._health()  # says what is missing

    def _health(self) -> PoolHealth[Any]:
        return PoolHealth(self.pool, conninfo=self.conninfo)


@attrs.frozen(repr=False)
class CheckPool(PoolAction):
    """
    Let the pool try each of its idle connections and replace the dead ones (``pool.check()``).

    Against ``stale``. It has no bound of its own, for a connection that hangs
    keeps it: give it one with ``.within(5)``.

    .. versionadded:: 26.1.0
    """

    kinds: ClassVar = frozenset({"stale"})

    async def _act(self, pool: LookedAt, direct: View, ctx: RecoveryContext) -> None:
        await pool.viewer.io.call(pool.viewer.pool.check)


@attrs.frozen(repr=False)
class KickPool(PoolAction):
    """
    Make a pool that waits to reconnect try now, by making it one larger for a moment.

    Against ``backoff``. psycopg_pool doubles its pauses without a bound, so that
    it can stay dead for as long again as its server was. Use it once in an
    incident: what it adds stays until ``max_idle`` is over.

    Raises:
        Escalate: If a fresh connection fails too: trying again would help nobody.

    .. versionadded:: 26.1.0
    """

    kinds: ClassVar = frozenset({"backoff"})

    async def _act(self, pool: LookedAt, direct: View, ctx: RecoveryContext) -> None:
        io, kicked = pool.viewer.io, pool.viewer.pool
        smallest, largest = kicked.min_size, kicked.max_size
        await io.call(kicked.resize, smallest + 1, largest + 1)
        await io.call(kicked.resize, smallest, largest)


@attrs.frozen(repr=False)
class DrainPool(PoolAction):
    """
    Replace every connection: idle ones at once, those given out when they come back (``pool.drain()``).

    Against ``read_only``, and against ``stale`` and ``stuck`` where cheaper actions have not helped.

    Raises:
        Escalate: If a fresh connection fails too.

    .. versionadded:: 26.1.0
    """

    kinds: ClassVar = frozenset({"read_only", "stale", "stuck"})

    async def _act(self, pool: LookedAt, direct: View, ctx: RecoveryContext) -> None:
        await pool.viewer.io.call(pool.viewer.pool.drain)


@attrs.frozen(repr=False)
class SeverHung(PoolAction):
    """
    Shut down the sockets of queries that wait for an answer which cannot come; their callers get an error at once.

    Against ``stuck``. A query is cut if it has waited for *older_than* seconds,
    nothing was received since it was sent, and the server does not work on it.
    If there is such a query, those that the server claims to work on for as
    long are cut as well: whatever froze the one may have frozen the other in
    the middle. If there is none, nothing is cut.

    Args:
        older_than: Seconds.

    Raises:
        Escalate: If a fresh connection fails too: then nobody can say what hangs.

    .. versionadded:: 26.1.0
    """

    kinds: ClassVar = frozenset({"stuck"})

    older_than: float = attrs.field(default=1.0, kw_only=True)

    def _health(self) -> PoolHealth[Any]:
        return PoolHealth(self.pool, conninfo=self.conninfo, hung_after=self.older_than)

    async def _act(self, pool: LookedAt, direct: View, ctx: RecoveryContext) -> None:
        suspects = (*direct.hung, *direct.working) if direct.hung else ()
        severed = sum(pool.viewer.registry.sever(connection) for connection in suspects)
        ctx.log(f"severed {severed} connections", severed=severed)


@attrs.frozen(repr=False)
class RebuildPool(RebuildPooled, PoolAction):
    """
    Put a new pool into service in place of the old one, and see that it answers.

    Against everything that is broken on our side. The new pool is looked at
    after it was put into service; give the `Rebuildable` a ``verify`` of its own
    to keep the old one if the new one does not work.

    Args:
        pool: A `Rebuildable`.

    Raises:
        ConfigError: If *pool* is not a `Rebuildable`.
        SelfHealError: If no fresh connection can be had, the server has too few free connections for a second pool,
            or the new pool does not answer. But for the last, nothing has changed then.
        RebuildError: If no new pool could be built.

    .. versionadded:: 26.1.0
    """


def pool_ladder(pool: Source, *, conninfo: str | Callable[[], Any] | None = None) -> Ladder:
    """
    The ladder for the faults that `PoolHealth` tells apart, ready to use.

    ============= ==========================================================
    kind          rungs, the cheapest first
    ============= ==========================================================
    ``stale``     `CheckPool`, `DrainPool`, `RebuildPool`
    ``backoff``   `KickPool`, `RebuildPool`
    ``stuck``     `SeverHung` and `DrainPool`, `DrainPool`, `RebuildPool`
    ``read_only`` `DrainPool`, `RebuildPool`
    ``exhausted`` `RebuildPool`
    the rest      none: nothing of ours is broken
    ============= ==========================================================

    The rebuild is left out if *pool* is not a `Rebuildable`. No rung does
    anything while a fresh connection fails.

    How fast it heals is for the check's policy to say. With ``interval=1,
    fast_interval=0.2, timeout=1, fall=2`` callers that wait for frozen server
    processes are free within 3 s or so: at most 1 s to the first look, 1 s for
    their queries to count as hung, two looks of at most 0.8 s each, and the cut.
    Only ``read_only`` is *fatal*, that is confirmed by a single look.

    Args:
        pool: A pool, sync or async, or the `Rebuildable` that makes it.
        conninfo: As for `PoolHealth`.

    .. versionadded:: 26.1.0
    """
    ladder = (
        CheckPool(pool, conninfo=conninfo).within(5.0)
        >> KickPool(pool, conninfo=conninfo)
        >> (SeverHung(pool, conninfo=conninfo) + DrainPool(pool, conninfo=conninfo)).named("sever_hung")
        >> rung(DrainPool(pool, conninfo=conninfo), attempts=2, cooldown=1.0)
    )
    if hasattr(pool, "rebuild"):
        ladder = ladder >> rung(RebuildPool(pool, conninfo=conninfo), attempts=3, cooldown=1.0)
    return ladder
