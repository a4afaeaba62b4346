"""
What heals a client of Redis or Valkey, cheapest first. None of it does anything while the server itself does not answer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import attrs

from selfheal.integrations.pooled import View
from selfheal.integrations.pooled_actions import PooledAction, RebuildPooled
from selfheal.integrations.redis.connections import sever
from selfheal.integrations.redis.probe import RedisHealth
from selfheal.integrations.redis.views import Viewer
from selfheal.model import Ladder, RecoveryContext
from selfheal.recovery import rung


if TYPE_CHECKING:
    from redis import Redis
    from redis.asyncio import Redis as AsyncRedis

    from selfheal.resources.rebuildable import Rebuildable

    Source = Redis | AsyncRedis | Rebuildable[Redis] | Rebuildable[AsyncRedis]


@attrs.frozen(repr=False)
class ClientAction(PooledAction):
    """
    The common part: a client, sync or async, given directly or inside a `Rebuildable`.

    Args:
        client: The client, or the `Rebuildable` that makes it.
        name: Of the action: a metric label.
    """

    client: Source

    def __attrs_post_init__(self) -> None:
        self._health()  # says what is missing

    def _health(self) -> RedisHealth[Any]:
        return RedisHealth(self.client, expect_role=None)


@attrs.frozen(repr=False)
class SoftDrain(ClientAction):
    """
    Close the idle connections now, and those in use when they come back; no call is cut.

    Against ``read_only``, ``stale`` and ``stuck``. Calls that are under way end
    where they have begun. A client that cannot mark the connections in use only
    loses its idle ones: what comes back later is seen by the next look, and
    drained then. A sync subscriber connects anew at its next look for messages,
    and may miss one; an async one stays where it is.

    Raises:
        Escalate: If a fresh connection fails too.

    .. versionadded:: 26.1.0
    """

    kinds: ClassVar = frozenset({"read_only", "stale", "stuck"})

    async def _act(self, looked: Viewer, direct: View, ctx: RecoveryContext) -> None:
        # Made for notices of a cluster under maintenance, and exactly what is needed here.
        mark = getattr(looked.pool, "update_active_connections_for_reconnect", None)
        if mark is not None:
            await looked.io.call(mark)
        await looked.io.call(looked.pool.disconnect, inuse_connections=False)


@attrs.frozen(repr=False)
class SeverHung(ClientAction):
    """
    Shut down the sockets on which calls wait for an answer that does not come.

    Against ``stuck``. redis-py then sends such a call again over a new
    connection, if its client retries; else the caller gets an error. Who
    listens to a channel is left alone.

    Args:
        older_than: Seconds; more than any blocking command of this client waits.

    Raises:
        Escalate: If a fresh connection fails too.

    .. versionadded:: 26.1.0
    """

    kinds: ClassVar = frozenset({"stuck"})

    older_than: float = attrs.field(kw_only=True)

    def _health(self) -> RedisHealth[Any]:
        return RedisHealth(self.client, expect_role=None, hung_after=self.older_than)

    async def _act(self, looked: Viewer, direct: View, ctx: RecoveryContext) -> None:
        severed = sum(sever(connection, older_than=self.older_than) for connection in looked.hung())
        ctx.log(f"severed {severed} connections", severed=severed)


@attrs.frozen(repr=False)
class RebuildClient(RebuildPooled, ClientAction):
    """
    Put a new client into service in place of the old one, and see that it answers.

    Against everything that is broken on our side.

    Args:
        client: A `Rebuildable`. Its *close* must close the pool, too: ``Redis.close`` does so for a client that has
            made its pool itself.

    Raises:
        ConfigError: If *client* is not a `Rebuildable`.
        SelfHealError: If no fresh connection can be had, or the new client does not answer. But for the latter,
            nothing has changed then.
        RebuildError: If no new client could be built.

    .. versionadded:: 26.1.0
    """


def redis_ladder(client: Source, *, hung_after: float | None = None) -> Ladder:
    """
    The ladder for the faults that `RedisHealth` tells apart, ready to use.

    ============= ==========================================================
    kind          rungs, the cheapest first
    ============= ==========================================================
    ``stuck``     `SeverHung` and `SoftDrain`, `SoftDrain`, `RebuildClient`
    ``read_only`` `SoftDrain`, `RebuildClient`
    ``stale``     `SoftDrain`, `RebuildClient`
    ``exhausted`` `RebuildClient`
    the rest      none: nothing of ours is broken
    ============= ==========================================================

    Nothing is severed unless *hung_after* is given, and the rebuild is left out
    if *client* is not a `Rebuildable`. No rung does anything while a fresh
    connection fails, and none empties or configures the server. Only
    ``read_only`` is *fatal*, that is confirmed by a single look.

    Args:
        client: A client, sync or async, or the `Rebuildable` that makes it.
        hung_after: As for `RedisHealth`, and the same.

    .. versionadded:: 26.1.0
    """
    ladder = rung(SoftDrain(client).within(5.0), attempts=2, cooldown=1.0)
    if hung_after is not None:
        ladder = (SeverHung(client, older_than=hung_after) + SoftDrain(client)).named("sever_hung") >> ladder
    if hasattr(client, "rebuild"):
        ladder = ladder >> rung(RebuildClient(client), attempts=3, cooldown=1.0)
    return ladder
