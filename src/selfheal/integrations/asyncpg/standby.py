"""
Let *asyncpg*'s pools follow a `selfheal.resources.Router` of connect arguments::

    router = Router({"a": {"dsn": DSN_A}, "b": {"dsn": DSN_B}}, primary="a", role=role)
    pool = await asyncpg.create_pool(**router.target)
    recovery = switch_ladder(router, after=follow(pool, router)) >> pool_ladder(pool)
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any

from selfheal.integrations import require
from selfheal.integrations.asyncpg.registry import expire
from selfheal.integrations.colours import in_use
from selfheal.integrations.standby import PATIENCE, POSTGRES_ROLE, postgres_role


if TYPE_CHECKING:
    from selfheal.resources import Router


async def role(connect_args: Mapping[str, Any]) -> tuple[str, int | None]:
    """
    The role of a PostgreSQL server, asked over a connection of its own: the ``role=`` of a router.

    Args:
        connect_args: All that ``asyncpg.connect`` has to know, of that one server.

    Returns:
        ``"primary"`` or ``"standby"``, and the timeline of a primary.

    Raises:
        MissingExtraError: If asyncpg is not installed (extra ``asyncpg``).
        Exception: If it does not answer, within some seconds.

    .. versionadded:: 26.1.0
    """
    asyncpg = require("asyncpg", who=__name__, package="asyncpg", extra="asyncpg")
    connection = await asyncpg.connect(**{**connect_args, "timeout": PATIENCE, "command_timeout": PATIENCE})
    try:
        return postgres_role(*await connection.fetchrow(POSTGRES_ROLE))
    finally:
        await connection.close(timeout=PATIENCE)


def follow(pool: Any, router: Router[Mapping[str, Any]]) -> Callable[[], Awaitable[None]]:
    """
    The ``after=`` of a switch: new connections lead to where *router* points to, and those there are get replaced.

    Idle ones at once, others when they come back. asyncpg forgets what the pool
    was made with, so a target has *all* connect arguments.

    Args:
        pool: The pool, or the `Rebuildable` that makes it; let that build with ``**router.target``.
        router: Of connect arguments.

    .. versionadded:: 26.1.0
    """

    async def retarget() -> None:
        async with in_use(pool) as used:
            used.set_connect_args(**router.target)
            await expire(used)

    return retarget
