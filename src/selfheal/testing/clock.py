"""
Virtual time: three minutes of healing in milliseconds, on any driver.

`VirtualClock` moves only when nothing else can happen. Give it to
`selfheal.Healer`, run your test under `VirtualClock.run`, and ``await
clock.sleep(60)`` returns at once, a minute later.
"""

from __future__ import annotations

import contextlib
import math
import random
import selectors
import threading
import types

from collections.abc import Awaitable, Callable, Generator
from typing import TYPE_CHECKING, Any, Literal, TypeVar


if TYPE_CHECKING:
    import asyncio

    import trio

R = TypeVar("R")

#: Wall time at virtual second 0: 2026-01-01T00:00:00Z.
EPOCH = 1_767_225_600.0

#: Real seconds after which virtual time that should have come is called a hang.
HANG_AFTER = 10.0


class Even(random.Random):
    """
    Random numbers that never spread anything: always 0.5.
    """

    def random(self) -> float:
        """
        One half.
        """
        return 0.5


class VirtualClock:
    """
    A clock for tests. Time stands still while anything runs, and jumps to the next thing scheduled when nothing does.

    Sync probes and actions run inline under it; `time.sleep` in them would be
    real. Let them call `pass_time` instead.

    Args:
        start: Its first reading, in seconds.

    Examples:
        >>> clock = VirtualClock()
        >>> async def main():
        ...     await clock.sleep(3600)
        ...     return clock.now()
        >>> clock.run(main)
        3600.0
    """

    virtual = True

    def __init__(self, start: float = 0.0) -> None:
        self._time = start
        self._horizon = start
        self._awaited: threading.Event | None = None
        self._idle = threading.Condition()
        self._at_horizon = False
        self.wake: Callable[[], object] | None = None
        self._kernel = False

    def now(self) -> float:
        """
        Virtual seconds.
        """
        return self._time

    def wall(self) -> float:
        """
        Virtual seconds since 1970: the clock begins on 1 January 2026.
        """
        return EPOCH + self._time

    async def sleep(self, seconds: float) -> None:
        """
        Let virtual time pass in async code: under asyncio, trio and `simulate`.
        """
        if self._kernel:
            await _until(self._time + seconds)
            return
        import anyio

        await anyio.sleep(seconds)

    def pass_time(self, seconds: float) -> None:
        """
        Let virtual time pass inside sync code that a driver runs inline: nothing else happens meanwhile.
        """
        self._time += seconds

    def move_to(self, when: float) -> None:
        """
        Jump to *when*; never back.
        """
        self._time = max(self._time, when)

    @contextlib.contextmanager
    def simulated(self) -> Generator[None, None, None]:
        """
        While it is entered, `sleep` waits in a simulation instead of an event loop.
        """
        self._kernel = True
        try:
            yield
        finally:
            self._kernel = False

    # --- on a loop of one's own --------------------------------------------------

    def run(
        self,
        fn: Callable[..., Awaitable[R]],
        *args: object,
        backend: Literal["asyncio", "trio"] = "asyncio",
    ) -> R:
        """
        Run an async function to its end in virtual time.

        Args:
            fn: The function.
            args: Its arguments.
            backend: The event loop.

        Raises:
            RuntimeError: If it waits for something that can never come.
        """
        if backend == "trio":
            return _trio_run(self, fn, *args)
        import asyncio

        self._horizon = math.inf
        with asyncio.Runner(loop_factory=self.new_event_loop) as runner:
            return runner.run(_as_coroutine(fn, *args))

    def new_event_loop(self) -> asyncio.AbstractEventLoop:
        """
        An asyncio loop that lives in this clock's time.
        """
        return _asyncio_loop(self)

    # --- beside a healer's own thread ----------------------------------------------

    def advance(self, seconds: float) -> None:
        """
        Let *seconds* pass for a healer that runs in a background thread (``with Healer(..., clock=clock)``).

        Returns when everything due by then has been done.

        Raises:
            TimeoutError: If the thread does not get there within 10 real seconds.
        """
        self.wait(threading.Event(), seconds)

    def wait(self, event: threading.Event, timeout: float | None) -> bool:
        """
        Block the calling thread until *event* is set or *timeout* virtual seconds have passed.

        Raises:
            TimeoutError: If neither happens within 10 real seconds.
        """
        with self._idle:
            if event.is_set():
                return True
            self._awaited = event
            self._horizon = math.inf if timeout is None else self._time + timeout
            self._at_horizon = False
            if self.wake is not None:
                self.wake()
            if not self._idle.wait_for(lambda: self._at_horizon or event.is_set(), HANG_AFTER):
                msg = f"virtual time stands still at {self._time:g}: something blocks the healer's thread"
                raise TimeoutError(msg)
            self._awaited = None
        return event.is_set()

    def step(self, timeout: float | None) -> bool:
        """
        Nothing can run: move on to the next timer, *timeout* seconds away; whether time has moved.
        """
        with self._idle:
            if self._awaited is not None and self._awaited.is_set():
                self._horizon = self._time
            target = math.inf if timeout is None else self._time + timeout
            if target <= self._horizon and target < math.inf:
                self._time = target
                return True
            if self._horizon == math.inf:
                if self._awaited is None:
                    raise RuntimeError(_would_hang(self))
            else:
                self._time = max(self._time, self._horizon)
            self._at_horizon = True
            self._idle.notify_all()
            return False


def _would_hang(clock: VirtualClock) -> str:
    return f"would wait for ever at {clock.now():g}: nothing is scheduled"


async def _as_coroutine(fn: Callable[..., Awaitable[R]], *args: object) -> R:
    return await fn(*args)


@types.coroutine
def _until(when: float) -> Generator[float, None, None]:
    yield when


def _asyncio_loop(clock: VirtualClock) -> asyncio.AbstractEventLoop:
    import asyncio

    class Selector(selectors.DefaultSelector):
        """
        Waits for what is ready; when nothing is, moves the clock instead of waiting.
        """

        def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
            ready = super().select(0)
            if ready or (timeout is not None and timeout <= 0):
                return ready
            return [] if clock.step(timeout) else super().select(None)

    class Loop(asyncio.SelectorEventLoop):
        """
        An asyncio loop in virtual time.
        """

        def time(self) -> float:
            return clock.now()

    loop = Loop(Selector())
    clock.wake = lambda: loop.call_soon_threadsafe(lambda: None)
    return loop


def _trio_run(clock: VirtualClock, fn: Callable[..., Awaitable[R]], *args: object) -> R:
    import trio

    virtual = _trio_clock(clock)

    async def main() -> R:
        with virtual.scope:
            return await fn(*args)
        raise RuntimeError(_would_hang(clock))

    return trio.run(main, clock=virtual, instruments=[virtual])


def _trio_clock(clock: VirtualClock) -> Any:
    import trio

    class TrioClock(trio.abc.Clock, trio.abc.Instrument):
        """
        A trio clock in virtual time: asked how long to sleep, it jumps there instead.
        """

        def __init__(self) -> None:
            self.scope = trio.CancelScope()
            self._polled = False

        def start_clock(self) -> None:
            """
            Nothing to start.
            """

        def current_time(self) -> float:
            return clock.now()

        def before_task_step(self, task: trio.lowlevel.Task) -> None:
            self._polled = False

        def deadline_to_sleep_time(self, deadline: float) -> float:
            if not self._polled:  # what is ready already comes first
                self._polled = True
            elif deadline < math.inf:
                clock.move_to(deadline)
            elif not self.scope.cancel_called:
                self.scope.cancel()
            else:
                raise RuntimeError(_would_hang(clock))
            return 0.0

    return TrioClock()
