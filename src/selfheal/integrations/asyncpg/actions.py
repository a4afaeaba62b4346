"""
What heals an *asyncpg* pool, cheapest first. None of it does anything while the server itself does not answer.
"""

from __future__ import annotations

import math

from typing import Any, ClassVar, Literal

import attrs

from selfheal.errors import ConfigError, Escalate
from selfheal.integrations.asyncpg import registry
from selfheal.integrations.asyncpg.probe import PoolHealth
from selfheal.integrations.asyncpg.views import Connect, LookedAt, View
from selfheal.integrations.pooled_actions import PooledAction, RebuildPooled
from selfheal.model import Ladder, RecoveryContext
from selfheal.recovery import rung


@attrs.frozen(repr=False)
class PoolAction(PooledAction):
    """
    The common part: a pool, given directly or inside a `Rebuildable`.

    Args:
        pool: The pool, or the `Rebuildable` that makes it.
        connect: Makes a fresh connection; `None`: as the pool makes its own.
    """

    pool: Any
    connect: Connect | None = attrs.field(default=None, kw_only=True, repr=False)

    def __attrs_post_init__(self) -> None:
        self._health()  # says what is missing

    def _health(self) -> PoolHealth:
        return PoolHealth(self.pool, connect=self.connect)


@attrs.frozen(repr=False)
class ExpireConnections(PoolAction):
    """
    Replace every connection: idle ones at once, those given out when they come back.

    Against ``read_only``, ``stale``, and what is ``stuck`` while idle. Beside
    ``pool.expire_connections()`` it drops the idle ones: asyncpg would say
    farewell to each of them when it is wanted next, and wait for the answer.

    Raises:
        Escalate: If a fresh connection fails too.

    .. versionadded:: 26.1.0
    """

    kinds: ClassVar = frozenset({"read_only", "stale", "stuck"})

    async def _act(self, pool: LookedAt, direct: View, ctx: RecoveryContext) -> None:
        await registry.expire(pool.pool)


@attrs.frozen(repr=False)
class TerminateHung(PoolAction):
    """
    Terminate the connections of queries that wait for an answer which cannot come; their callers get an error at once.

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

    def _health(self) -> PoolHealth:
        return PoolHealth(self.pool, connect=self.connect, hung_after=self.older_than)

    async def _act(self, pool: LookedAt, direct: View, ctx: RecoveryContext) -> None:
        suspects = (*direct.hung, *direct.working) if direct.hung else ()
        for connection in suspects:
            connection.terminate()
        ctx.log(f"terminated {len(suspects)} connections", terminated=len(suspects))


@attrs.frozen(repr=False, init=False)
class Retarget(PoolAction):
    """
    Lead a pool to another server, in place: what connects from now on goes there, and all connections are replaced.

    Nothing is changed unless that server answers, and can be written to.
    asyncpg forgets what the pool was made with, so give *all* connection
    arguments again. It is no held action: what leads back is another `Retarget`.
    A `Rebuildable` that builds anew builds what its own factory says.

    Args:
        pool: The pool, or the `Rebuildable` that makes it.
        role: ``"primary"``: the new server must be writable. ``"any"``: reading is enough.
        connect_args: As for ``asyncpg.connect``: ``dsn=``, ``host=``, ``user=``, ...

    Raises:
        Escalate: If the new server does not answer, or cannot be written to.
        ConfigError: If *role* is neither, or there are no arguments.

    .. versionadded:: 26.1.0
    """

    kinds: ClassVar = frozenset({"down", "read_only"})

    role: Literal["primary", "any"] = attrs.field(default="primary", kw_only=True)
    # They hold a password perhaps.
    connect_args: dict[str, Any] = attrs.field(factory=dict, kw_only=True, repr=False, hash=False)

    def __init__(self, pool: Any, *, role: Literal["primary", "any"] = "primary", **connect_args: Any) -> None:
        if not connect_args:
            msg = "Retarget(...): say where to, as for asyncpg.connect: dsn=, or host= and all that belongs to it."
            raise ConfigError(msg)
        self.__attrs_init__(pool, role=role, connect_args=connect_args)

    def _health(self) -> PoolHealth:
        # Who waits at the old server is not asked about: that one may not answer, and there is no time to lose.
        return PoolHealth(self.pool, role=self.role, connect=self._connect, hung_after=math.inf)

    async def _connect(self) -> Any:
        return await registry.driver().connect(**self.connect_args)

    async def _act(self, pool: LookedAt, direct: View, ctx: RecoveryContext) -> None:
        if self.role == "primary" and direct.read_only:
            msg = "the pool stays where it is, because the other server is read-only"
            raise Escalate(msg)
        ctx.check()
        pool.pool.set_connect_args(**self.connect_args)
        await registry.expire(pool.pool)


@attrs.frozen(repr=False)
class RebuildPool(RebuildPooled, PoolAction):
    """
    Put a new pool into service in place of the old one, and see that it answers.

    Against everything that is broken on our side: it alone gives back what was
    leaked, and frees a pool whose holders all wait to connect. The new pool is
    looked at after it was put into service; give the `Rebuildable` a ``verify``
    of its own to keep the old one if the new one does not work. Let ``close`` be
    ``asyncpg.Pool.terminate``: it is called when nobody uses the old pool any
    more, or the grace is over, and ``Pool.close`` waits for the leaked for ever.

    Args:
        pool: A `Rebuildable`.

    Raises:
        ConfigError: If *pool* is not a `Rebuildable`.
        SelfHealError: If no fresh connection can be had, the server has too few free connections for a second pool,
            or the new pool does not answer. But for the last, nothing has changed then.
        RebuildError: If no new pool could be built.

    .. versionadded:: 26.1.0
    """


def pool_ladder(pool: Any, *, connect: Connect | None = None) -> Ladder:
    """
    The ladder for the faults that `PoolHealth` tells apart, ready to use.

    ============= ======================================================================
    kind          rungs, the cheapest first
    ============= ======================================================================
    ``stale``     `ExpireConnections`, `RebuildPool`; asyncpg mostly has healed it before
    ``backoff``   `RebuildPool`
    ``stuck``     `TerminateHung` and `ExpireConnections`, the latter again, `RebuildPool`
    ``read_only`` `ExpireConnections`, `RebuildPool`
    ``exhausted`` `RebuildPool`
    the rest      none: nothing of ours is broken
    ============= ======================================================================

    The rebuild is left out if *pool* is not a `Rebuildable`. No rung does
    anything while a fresh connection fails. After an outage no rung is needed:
    the next request connects anew, and so does the next look.

    How fast it heals is for the check's policy to say. With ``interval=1,
    fast_interval=0.2, timeout=1, fall=2`` callers that wait for frozen server
    processes are free within 3 s or so: at most 1 s to the first look, 1 s for
    their queries to count as hung, two looks of at most 0.8 s each, and the cut.
    Only ``read_only`` is *fatal*, that is confirmed by a single look.

    Args:
        pool: A pool, or the `Rebuildable` that makes it.
        connect: As for `PoolHealth`.

    .. versionadded:: 26.1.0
    """
    expire = ExpireConnections(pool, connect=connect)
    ladder = (TerminateHung(pool, connect=connect) + expire).named("terminate_hung") >> rung(
        expire, attempts=2, cooldown=1.0
    )
    if hasattr(pool, "rebuild"):
        ladder = ladder >> rung(RebuildPool(pool, connect=connect), attempts=3, cooldown=1.0)
    return ladder
