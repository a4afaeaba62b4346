"""
What heals an engine, cheapest first. None of it does anything while the server itself does not answer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Final

import attrs

from selfheal.errors import SelfHealError
from selfheal.integrations.pooled_actions import PooledAction, RebuildPooled
from selfheal.integrations.sqlalchemy.leases import Lease
from selfheal.integrations.sqlalchemy.probe import EngineHealth
from selfheal.integrations.sqlalchemy.retiring import renew, rotate
from selfheal.integrations.sqlalchemy.views import LookedAt, View
from selfheal.model import Ladder, RecoveryContext
from selfheal.recovery import rung


if TYPE_CHECKING:
    from sqlalchemy import Engine
    from sqlalchemy.ext.asyncio import AsyncEngine

    from selfheal.resources.rebuildable import Rebuildable

    Source = Engine | AsyncEngine | Rebuildable[Engine] | Rebuildable[AsyncEngine]


#: Holders that a record names: the longest ones.
_NAMED: Final = 10


@attrs.frozen(repr=False)
class EngineAction(PooledAction):
    """
    The common part: an engine, sync or async, given directly or inside a `Rebuildable`.

    Args:
        engine: The engine, or the `Rebuildable` that makes it.
        name: Of the action: a metric label.
    """

    engine: Source

    def __attrs_post_init__(self) -> None:
        self._health()  # says what is missing

    def _health(self) -> EngineHealth[Any]:
        return EngineHealth(self.engine)


@attrs.frozen(repr=False)
class RotateEngine(EngineAction):
    """
    Replace every connection when it is taken or comes back; none is cut while it is used.

    Against ``read_only``: after a failover, or when a router points elsewhere.
    The limits of the pool hold all the time, and it costs nobody an error.

    Raises:
        Escalate: If a fresh connection fails too.

    .. versionadded:: 26.1.0
    """

    kinds: ClassVar = frozenset({"read_only"})

    async def _act(self, looked: LookedAt, direct: View, ctx: RecoveryContext) -> None:
        rotate(looked.engine.pool)


@attrs.frozen(repr=False)
class DisposeEngine(EngineAction):
    """
    Give the engine a new, empty pool at once (``dispose(close=False)``), and close the old one in the background.

    Against ``stuck``, ``exhausted`` and ``backoff``, and where a cheaper action has not
    helped. Connections that are in use stay in use, and are closed when they
    come back, so for some time there may be twice as many. Who waits in the
    queue of the old pool goes on waiting there, for ``pool_timeout`` at most.

    Its record names who holds the old connections, and for how long.

    Raises:
        Escalate: If a fresh connection fails too.
        SelfHealError: If the server takes no more connections. Nothing has changed then.

    .. versionadded:: 26.1.0
    """

    kinds: ClassVar = frozenset({"stale", "backoff", "read_only", "stuck", "exhausted"})

    async def _act(self, looked: LookedAt, direct: View, ctx: RecoveryContext) -> None:
        if direct.free is not None and direct.free < 1:
            msg = "it was not disposed: the server takes no more connections, and those in use stay open."
            raise SelfHealError(msg)
        holders = looked.leases.holders()
        ctx.log(f"{len(holders)} connections are in use{_named(holders)}", leased=len(holders))
        renew(looked)


@attrs.frozen(repr=False)
class SeverHung(EngineAction):
    """
    Shut down the sockets of queries that wait for an answer which cannot come; their callers get an error at once.

    Against ``stuck``, on PostgreSQL with psycopg or asyncpg. A query is cut if it
    has waited for *older_than* seconds, nothing was received since it was sent,
    and the server does not work on it. If there is such a query, those that the
    server claims to work on for as long are cut as well: whatever froze the one
    may have frozen the other in the middle. If there is none, nothing is cut.

    Args:
        older_than: Seconds.

    Raises:
        Escalate: If a fresh connection fails too: then nobody can say what hangs.

    .. versionadded:: 26.1.0
    """

    kinds: ClassVar = frozenset({"stuck"})

    older_than: float = attrs.field(default=1.0, kw_only=True)

    def _health(self) -> EngineHealth[Any]:
        return EngineHealth(self.engine, hung_after=self.older_than)

    async def _act(self, looked: LookedAt, direct: View, ctx: RecoveryContext) -> None:
        suspects = (*direct.hung, *direct.working) if direct.hung else ()
        severed = sum(socket.sever() for socket in suspects)
        ctx.log(f"severed {severed} connections", severed=severed)


@attrs.frozen(repr=False)
class RebuildEngine(RebuildPooled, EngineAction):
    """
    Put a new engine into service in place of the old one, and see that it answers.

    Only if the engine is in a `Rebuildable`: sessions and their makers keep the
    engine they were given, so mostly `DisposeEngine` is what is wanted.

    Raises:
        ConfigError: If *engine* is not a `Rebuildable`.
        SelfHealError: If no fresh connection can be had, the server takes no more connections, or the new engine does
            not answer. But for the last, nothing has changed then.
        RebuildError: If no new engine could be built.

    .. versionadded:: 26.1.0
    """


def engine_ladder(engine: Source, *, hung_after: float = 1.0) -> Ladder:
    """
    The ladder for the faults that `EngineHealth` tells apart, ready to use.

    ============= ==========================================================
    kind          rungs, the cheapest first
    ============= ==========================================================
    ``stale``     `DisposeEngine`, `RebuildEngine`
    ``backoff``   `DisposeEngine`, `RebuildEngine`
    ``read_only`` `RotateEngine`, `DisposeEngine`, `RebuildEngine`
    ``stuck``     `DisposeEngine` and `SeverHung`, twice, `RebuildEngine`
    ``exhausted`` `DisposeEngine`, which names the holders, `RebuildEngine`
    the rest      none: nothing of ours is broken
    ============= ==========================================================

    The rebuild is left out if *engine* is not a `Rebuildable`. No rung does
    anything while a fresh connection fails. After an outage nothing is done
    either: SQLAlchemy connects anew at the next request, and the look that meets
    a dead connection lets it replace all of them.

    Only ``read_only`` is *fatal*, that is confirmed by a single look; how fast
    the others are healed is for the check's policy to say.

    Args:
        engine: An engine, sync or async, or the `Rebuildable` that makes it.
        hung_after: Seconds, as for `EngineHealth`: what that sees, this severs.

    .. versionadded:: 26.1.0
    """
    freed = (DisposeEngine(engine) + SeverHung(engine, older_than=hung_after)).named("dispose_and_sever")
    ladder = (
        RotateEngine(engine)
        >> rung(freed, attempts=2, cooldown=1.0)
        >> rung(
            DisposeEngine(engine).when(kinds={"stale", "backoff", "read_only", "exhausted"}), attempts=2, cooldown=1.0
        )
    )
    if hasattr(engine, "rebuild"):
        ladder = ladder >> rung(RebuildEngine(engine), attempts=3, cooldown=1.0)
    return ladder


def _named(holders: tuple[Lease, ...]) -> str:
    named = ", ".join(f"{lease.holder} for {lease.seconds:.0f} s" for lease in holders[:_NAMED])
    return f": {named}{', …' if len(holders) > _NAMED else ''}" if named else ""
