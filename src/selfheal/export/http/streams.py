"""
The stream of changes, piece by piece, for whoever waits for it: a thread, or a task of a loop.

The first piece is empty: whoever gets it is among the clients, until the generator is closed. Without any, there are
too many.
"""

from __future__ import annotations

import contextlib
import queue
import threading

from collections.abc import AsyncGenerator, Generator
from typing import Final

from selfheal.export.http import events
from selfheal.resources.loops import running


#: Nobody sets it: to wait for it is to pause.
_NEVER: Final = threading.Event()


def in_thread(changes: events.Changes) -> Generator[bytes]:
    """
    What has changed as soon as something has, or a sign of life.
    """
    woken: queue.SimpleQueue[bool] = queue.SimpleQueue()
    client = changes.join(lambda: woken.put(True))
    if client is None:
        return
    try:
        yield b""
        yield events.OPENING
        while True:
            with contextlib.suppress(queue.Empty):
                woken.get(timeout=events.HEARTBEAT)
            yield client.take() or events.BEAT
            _NEVER.wait(events.PAUSE)
    finally:
        client.leave()


async def on_loop(changes: events.Changes) -> AsyncGenerator[bytes]:
    """
    The same, for asyncio and trio. Close it where it is used: what a loop collects is closed too late.
    """
    import anyio

    loop, changed = running(), anyio.Event()

    def wake() -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended, and the client with it
            loop.post(lambda: changed.set())

    client = changes.join(wake)
    if client is None:
        return
    try:
        yield b""
        yield events.OPENING
        while True:
            with anyio.move_on_after(events.HEARTBEAT):
                await changed.wait()
            changed = anyio.Event()
            yield client.take() or events.BEAT
            await anyio.sleep(events.PAUSE)
    finally:
        client.leave()
