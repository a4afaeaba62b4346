"""
The loop of a sync program: one daemon thread that runs asyncio.
"""

from __future__ import annotations

import contextlib
import threading

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from selfheal.errors import NotRunningError
from selfheal.runtime.calls import ANSWER_WITHIN
from selfheal.runtime.hosts import AsyncioHost


if TYPE_CHECKING:
    import asyncio

    from selfheal.clock import Clock


#: Turns of the loop for tasks that were let go at the last moment: their cancellation, their end, and one to spare.
LAST_TURNS: Final = 3


class LoopThread:
    """
    A thread with a loop that outlives every check.

    Args:
        clock: May bring a loop of its own, as virtual clocks do.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, name="selfheal", daemon=True)
        self._loop: asyncio.AbstractEventLoop | None = None

    def start(self) -> None:
        """
        Start it and wait until its loop runs.
        """
        self._thread.start()
        self._ready.wait(ANSWER_WITHIN)

    @property
    def here(self) -> bool:
        """
        Whether the caller is on the thread.
        """
        return threading.current_thread() is self._thread

    def host(self) -> AsyncioHost:
        """
        What the driver runs on.
        """
        if self._loop is None:
            msg = "the healer's thread has not started"
            raise NotRunningError(msg)
        return AsyncioHost(self._loop, self._clock)

    def stop(self, timeout: float) -> bool:
        """
        End the loop; whether the thread has ended within *timeout* seconds.
        """
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # closed already
                self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _run(self) -> None:
        import asyncio

        new_loop: Callable[[], asyncio.AbstractEventLoop] = getattr(
            self._clock, "new_event_loop", asyncio.new_event_loop
        )
        self._loop = loop = new_loop()
        asyncio.set_event_loop(loop)
        loop.call_soon(self._ready.set)
        try:
            loop.run_forever()
            for _ in range(LAST_TURNS):
                loop.call_soon(loop.stop)
                loop.run_forever()
        finally:
            # What is left in it swallows cancellation; closing the loop does not wait for it.
            loop.close()
