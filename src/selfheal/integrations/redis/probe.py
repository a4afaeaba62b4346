"""
What is wrong with a client of Redis or Valkey, told apart by two views of it.
"""

from __future__ import annotations

import contextlib

from collections.abc import AsyncIterator, Awaitable
from typing import TYPE_CHECKING, Any, TypeVar, overload

from selfheal.errors import ConfigError
from selfheal.integrations import require
from selfheal.integrations.colours import in_use
from selfheal.integrations.pooled import PooledHealth, Usage, View
from selfheal.integrations.redis.io import io_for, is_async
from selfheal.integrations.redis.views import Role, Viewer, WrongRoleError, is_full
from selfheal.model import CheckResult, Fault
from selfheal.model.settings import seconds


if TYPE_CHECKING:
    import datetime as dt

    from redis import Redis
    from redis.asyncio import Redis as AsyncRedis

    from selfheal.resources.rebuildable import Rebuildable


R = TypeVar("R")


class RedisHealth(PooledHealth[R]):
    """
    A probe of a *redis-py* client, of Redis or Valkey, that says what is wrong: see `PooledHealth`.

    It asks over an idle connection of the client's pool, else over one of its own that
    tries once, never with the client's own retries, which take up to a minute.
    Dead connections are no fault where redis-py replaces them by itself, as all do but an async client without
    retries (``Redis(...)`` has ten, ``Redis.from_url(...)`` none). Beside the kinds of `PooledHealth`, of which ``backoff`` cannot come up, it knows

    ========= ==============================================================================
    kind      what is seen
    ========= ==============================================================================
    ``full``  the server refuses writes: no memory, or no room to save. Not for us to heal
    ``stale`` also: the pool's connection leads to a master, a fresh one to the replica expected
    ========= ==============================================================================

    What helps: `SoftDrain` against ``read_only``, ``stuck`` and ``stale``,
    `SeverHung` against ``stuck``, `RebuildClient` against ``exhausted``; all of
    them in `redis_ladder`.

    To see whether a master can write it sets nothing at the start of the key
    ``selfheal:probe``, which changes nothing. A user with an access list needs
    ``+setrange ~selfheal:probe`` for that, or ``+role`` for a replica; without it
    only that the server answers is seen.

    With an async client (or a `Rebuildable` of one) it returns an awaitable, to be
    awaited on the client's loop. It ends by itself within *timeout*, but for name
    resolution in a thread. Who has leaked or hangs is recognised on Linux, over TCP.

    Args:
        client: A client, or a `Rebuildable` that makes them.
        expect_role: ``"master"``: it must be able to write. ``"replica"``: it must be none. `None`: any answer will do.
        timeout: Seconds for one run, all of it; keep it below the check's timeout.
        hung_after: Seconds after which a call hangs. They must be more than any blocking command (``BLPOP``,
            ``XREAD BLOCK``) of this client waits, for the two look alike. `None`: calls that hang are not looked for.
        leak_after: A connection that is given out and silent for so many seconds has leaked, unless it listens to
            a channel.

    Raises:
        MissingExtraError: If redis-py is not installed (extra ``redis``).
        ConfigError: If an argument cannot work.

    .. versionadded:: 26.1.0
    """

    @overload
    def __init__(
        self: RedisHealth[CheckResult],
        client: Redis | Rebuildable[Redis],
        *,
        expect_role: Role = ...,
        timeout: float | dt.timedelta = ...,
        hung_after: float | dt.timedelta | None = ...,
        leak_after: float | dt.timedelta = ...,
    ) -> None: ...
    @overload
    def __init__(
        self: RedisHealth[Awaitable[CheckResult]],
        client: AsyncRedis | Rebuildable[AsyncRedis],
        *,
        expect_role: Role = ...,
        timeout: float | dt.timedelta = ...,
        hung_after: float | dt.timedelta | None = ...,
        leak_after: float | dt.timedelta = ...,
    ) -> None: ...
    def __init__(
        self,
        client: Any,
        *,
        expect_role: Role = "master",
        timeout: float | dt.timedelta = 0.8,
        hung_after: float | dt.timedelta | None = None,
        leak_after: float | dt.timedelta = 10.0,
    ) -> None:
        if expect_role not in {"master", "replica", None}:
            msg = f"expect_role={expect_role!r}: must be 'master', 'replica' or None."
            raise ConfigError(msg)
        super().__init__(client, role="primary" if expect_role == "master" else "any", timeout=timeout)
        require("redis", who=__name__, package="redis", extra="redis")
        self.is_async = is_async(client)
        self._io = io_for(client)
        self._expect_role = expect_role
        self._hung_after = None if hung_after is None else seconds(hung_after)
        self._leak_after = seconds(leak_after)

    @contextlib.asynccontextmanager
    async def looking(self) -> AsyncIterator[Viewer]:
        """
        As `PooledHealth.looking`.
        """
        async with in_use(self.source) as client:
            yield Viewer(
                pool=client.connection_pool,
                io=self._io,
                expect_role=self._expect_role,
                hung_after=self._hung_after,
                leak_after=self._leak_after,
            )

    def _fault(self, pooled: View | None, direct: View, usage: Usage) -> Fault | None:
        if is_full(direct.error):
            return Fault("full", message=f"the server refuses writes: {direct.error}", error=direct.error)
        if direct.failure is None and pooled is not None and isinstance(pooled.error, WrongRoleError):
            return Fault("stale", message=f"{pooled.error}; a fresh connection leads to one", error=pooled.error)
        return super()._fault(pooled, direct, usage)
