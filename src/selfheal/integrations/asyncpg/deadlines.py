"""
A deadline that holds, whatever an awaited thing makes of its cancellation.
"""

from __future__ import annotations

import asyncio

from collections.abc import Callable, Coroutine
from typing import Any, Final, TypeVar


T = TypeVar("T")

#: What was let go of and has not ended. The loop itself keeps only weak references to tasks.
_LET_GO: Final[set[asyncio.Task[Any]]] = set()


async def within(
    timeout: float,
    coroutine: Coroutine[Any, Any, T],
    *,
    cut: Callable[[], object] | None = None,
    late: Callable[[T], object] | None = None,
) -> T:
    """
    The result of *coroutine*, which runs in a task of its own. Nobody waits for that to end.

    Args:
        timeout: Seconds.
        coroutine: What is waited for.
        cut: Called when the time is up, or the wait is cancelled, instead of cancelling the task: asyncpg answers the
            cancellation of a query by asking the server to cancel it, and waits for that.
        late: Given a result that comes after all.

    Raises:
        TimeoutError: When the time is up.
    """
    task = asyncio.ensure_future(coroutine)
    try:
        await asyncio.wait({task}, timeout=max(0.0, timeout))
    finally:
        if not task.done():
            _let_go(task, late)
            (cut or task.cancel)()
    if not task.done():
        msg = f"no answer within {timeout:.2f} s"
        raise TimeoutError(msg)
    return task.result()


def _let_go(task: asyncio.Task[Any], late: Callable[[Any], object] | None) -> None:
    def ended(task: asyncio.Task[Any]) -> None:
        _LET_GO.discard(task)
        # Asked for its exception, so that nobody says that it was never retrieved.
        if not task.cancelled() and task.exception() is None and late is not None:
            late(task.result())

    _LET_GO.add(task)
    task.add_done_callback(ended)
