"""
The event loop that runs here, asyncio's or trio's, as other threads may use it.

It knows how to post a call, start a task and wake a waiter. It knows nothing
about what they are for.
"""

from __future__ import annotations

import contextlib
import contextvars
import functools
import sys
import threading

from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, Protocol


if TYPE_CHECKING:
    import asyncio

    import trio


Job = Callable[[], Coroutine[Any, Any, None]]

#: asyncio keeps only weak references to tasks.
_TASKS: set[asyncio.Task[None]] = set()


class Loop(Protocol):
    """
    A running event loop. Every method may be called from any thread.
    """

    def post(self, call: Callable[[], object]) -> None:
        """
        Call it soon, on the loop.

        Raises:
            RuntimeError: If the loop has ended.
        """
        ...

    def spawn(self, job: Job) -> Callable[[], None]:
        """
        Run *job*, which lets nothing out but its cancellation, as a task in an empty context; return how to cancel it.

        Raises:
            RuntimeError: If the loop has ended.
        """
        ...


class _AsyncioLoop:
    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop

    def post(self, call: Callable[[], object]) -> None:
        self._loop.call_soon_threadsafe(call)

    def spawn(self, job: Job) -> Callable[[], None]:
        started: list[asyncio.Task[None]] = []

        def begin() -> None:
            task = self._loop.create_task(job(), context=contextvars.Context())
            _TASKS.add(task)
            task.add_done_callback(_TASKS.discard)
            started.append(task)

        def cancel() -> None:
            for task in started:
                task.cancel()

        self.post(begin)
        return functools.partial(self.post, cancel)


class _TrioLoop:
    def __init__(self, token: trio.lowlevel.TrioToken) -> None:
        self._token = token

    def post(self, call: Callable[[], object]) -> None:
        self._token.run_sync_soon(call)

    def spawn(self, job: Job) -> Callable[[], None]:
        import trio

        scope = trio.CancelScope()

        async def run() -> None:
            with scope:
                await job()

        self.post(lambda: trio.lowlevel.spawn_system_task(run, context=contextvars.Context()))
        return functools.partial(self.post, scope.cancel)


def running() -> Loop:
    """
    The loop that runs in this thread.

    Raises:
        RuntimeError: If none does.
    """
    if "trio" in sys.modules:
        import trio

        if trio.lowlevel.in_trio_run():
            return _TrioLoop(trio.lowlevel.current_trio_token())
    import asyncio

    return _AsyncioLoop(asyncio.get_running_loop())


class Signal:
    """
    Set once, from anywhere; waited for by threads and by tasks of any loop.
    """

    __slots__ = ("_event", "_lock", "_wakers")

    def __init__(self) -> None:
        self._event = threading.Event()
        self._lock = threading.Lock()
        self._wakers: list[Callable[[], None]] = []

    def set(self) -> None:
        """
        Wake all who wait, now and later.
        """
        with self._lock:
            self._event.set()
            wakers, self._wakers = self._wakers, []
        for wake in wakers:
            # Whoever waited on a loop that has ended waits no more.
            with contextlib.suppress(RuntimeError):
                wake()

    def wait(self, timeout: float | None) -> bool:
        """
        Block this thread until it is set, for *timeout* seconds at most; return whether it is.
        """
        return self._event.wait(timeout)

    async def await_(self, timeout: float | None) -> bool:
        """
        Wait on the running loop until it is set, for *timeout* seconds at most; return whether it is.
        """
        import anyio

        arrived = anyio.Event()
        wake = functools.partial(running().post, arrived.set)
        with self._lock:
            if self._event.is_set():
                return True
            self._wakers.append(wake)
        try:
            with anyio.move_on_after(timeout):
                await arrived.wait()
        finally:
            with self._lock:
                if wake in self._wakers:
                    self._wakers.remove(wake)
        return self._event.is_set()
