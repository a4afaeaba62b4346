"""
`Rebuild`: the action that replaces a `Rebuildable`'s object by a new one.
"""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any

import attrs

from selfheal.model.ladder import RecoveryContext
from selfheal.recovery import RecoveryAction
from selfheal.resources.rebuildable import Rebuildable


@attrs.frozen(repr=False)
class Rebuild(RecoveryAction):
    """
    Build a new object, verify it, and put it into service in place of the old one.

    If that fails, so does the action, and the old object stays in service.

    Args:
        rebuildable: What to rebuild, sync or async.
        name: Of the action: a metric label.

    .. versionadded:: 26.1.0
    """

    rebuildable: Rebuildable[Any]
    name: str = attrs.field(default="rebuild", kw_only=True)

    def recover(self, ctx: RecoveryContext) -> Awaitable[None] | None:
        """
        Rebuild it: in this thread, or, if it is an async object, on the loop that awaits the answer.

        Raises:
            RebuildError: If the new object could not be built or verified.
        """
        if self.rebuildable.is_async:
            return self._arecover(ctx)
        self.rebuildable.rebuild()
        self._report(ctx)
        return None

    def plan(self) -> str:
        """
        What it would do.
        """
        return f"replace generation {self.rebuildable.generation} of {self.rebuildable.name} by a new object"

    async def _arecover(self, ctx: RecoveryContext) -> None:
        await self.rebuildable.arebuild()
        self._report(ctx)

    def _report(self, ctx: RecoveryContext) -> None:
        statistics = self.rebuildable.statistics()
        ctx.log(
            f"generation {statistics.generation} of {self.rebuildable.name} is in service",
            generation=statistics.generation,
            close_errors=statistics.close_errors,
            given_up=statistics.given_up,
        )
