"""
Who waits for what, as the coroutines themselves show it.
"""

from __future__ import annotations

import asyncio

from collections.abc import Awaitable
from typing import Any

from selfheal.integrations.waiting import waits_in_queue


async def _deeper(awaitable: Awaitable[Any]) -> None:
    await awaitable


def test_who_waits_for_a_queue_is_told_from_who_waits_for_anything_else() -> None:
    """
    A coroutine waits in a queue as long as nothing comes, however deep inside; one that waits for an event never does.
    """

    async def test() -> list[bool]:
        queue: asyncio.LifoQueue[int] = asyncio.LifoQueue()
        event = asyncio.Event()
        queueing, other = _deeper(_deeper(queue.get())), _deeper(_deeper(event.wait()))
        tasks = [asyncio.ensure_future(each) for each in (queueing, other)]
        await asyncio.sleep(0)
        seen = [waits_in_queue(queueing), waits_in_queue(other)]
        queue.put_nowait(1)
        event.set()
        await asyncio.gather(*tasks)
        return [*seen, waits_in_queue(queueing)]

    assert [True, False, False] == asyncio.run(test())
