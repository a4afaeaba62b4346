"""
What every action on a pooled client has in common: none does anything while the server itself does not answer.
"""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any, ClassVar, Final

from selfheal.errors import ConfigError, Escalate, SelfHealError
from selfheal.integrations.colours import run
from selfheal.integrations.pooled import Pooled, PooledHealth, View
from selfheal.model import RecoveryContext
from selfheal.recovery import RecoveryAction


#: Seconds for a fresh connection, or for one look through a new pool, in an action: nobody is kept waiting by it.
PATIENCE: Final = 2.0


class PooledAction(RecoveryAction):
    """
    One thing to do to a pooled client, sync or async: in this thread, or on the loop that awaits the answer.
    """

    # All of them use the client only as its other users do, so one that hangs is in nobody's way.
    safe_after_abandon: ClassVar[bool] = True

    def _health(self) -> PooledHealth[Any]:
        """
        How the client is looked at.
        """
        raise NotImplementedError

    async def _act(self, pool: Any, direct: Any, ctx: RecoveryContext) -> None:
        """
        Do it: the server answers, as *direct* has shown.
        """
        raise NotImplementedError

    def _refusal(self, direct: View) -> Exception:
        """
        Why nothing is done: the server does not answer.
        """
        return Escalate(f"a fresh connection fails as well, so nothing of ours is broken: {direct.error}")

    def recover(self, ctx: RecoveryContext) -> Awaitable[None] | None:
        """
        Do it, unless a fresh connection fails as well.
        """
        health = self._health()
        healing = self._heal(health, ctx)
        return healing if health.is_async else run(healing)

    async def _heal(self, health: PooledHealth[Any], ctx: RecoveryContext) -> None:
        async with health.looking() as pool:
            direct = await pool.direct(PATIENCE)
            if direct.failure is not None:
                raise self._refusal(direct) from direct.error
            await self._act(pool, direct, ctx)


class RebuildPooled(PooledAction):
    """
    Put a new client into service in place of the old one, and see that it answers.

    Raises:
        ConfigError: If what is looked at is not a `Rebuildable`.
    """

    kinds: ClassVar = frozenset({"stale", "backoff", "read_only", "stuck", "exhausted"})

    def __attrs_post_init__(self) -> None:
        if not hasattr(self._health().source, "rebuild"):
            msg = (
                f"{type(self).__name__} needs a Rebuildable: what is used directly cannot be replaced under its users."
            )
            raise ConfigError(msg)

    def _refusal(self, direct: View) -> Exception:
        # The last resort: it is not used up by a server that has gone away again, but tried anew.
        return SelfHealError(f"it was not rebuilt, because a fresh connection fails as well: {direct.error}")

    async def _act(self, pool: Pooled, direct: View, ctx: RecoveryContext) -> None:
        opens = pool.usage().opens
        if direct.free is not None and direct.free < opens:
            msg = (
                f"it was not rebuilt: a new pool opens {opens} connections before the old one closes its own, and the "
                f"server takes only {direct.free} more. Let it open fewer at first, or raise the server's limit."
            )
            raise SelfHealError(msg)
        ctx.check()
        health = self._health()
        if health.is_async:
            await health.source.arebuild()
        else:
            health.source.rebuild()
        async with health.looking() as new:
            view = await new.pooled(PATIENCE)
        if view.failure is not None:
            msg = f"the new pool does not answer: {view.error}"
            raise SelfHealError(msg) from view.error
