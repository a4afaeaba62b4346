"""
Faults on demand: a callable that misbehaves.
"""

from __future__ import annotations

import contextlib
import math
import threading
import time

from collections import deque
from collections.abc import Callable, Generator, Iterable
from typing import Generic, TypeVar, cast, overload

import anyio

from selfheal.resources.loops import Signal


T = TypeVar("T")


class Flaky(Generic[T]):
    """
    A callable that fails, hangs or is slow when it is told to, for probes and actions.

    Call it, or ``await`` what `acall` gives; both do the same. What it is told
    holds until the next word; a script is followed first, one entry a call.

    Args:
        result: What a good call gives.
        script: For the first calls: `None` for a good one, an exception to raise, or seconds to take (`math.inf`: hang).
        sleep: Spends the seconds of a slow call; ``VirtualClock.pass_time`` under virtual time.

    Attributes:
        calls: Calls so far.
        hanging: Calls that hang now.

    Examples:
        >>> probe = Flaky(script=[None, OSError("gone")])
        >>> probe()
        >>> probe()
        Traceback (most recent call last):
        OSError: gone
        >>> probe.fail(ValueError("for good"))
        >>> probe()
        Traceback (most recent call last):
        ValueError: for good
        >>> probe.heal()
        >>> probe(), probe.calls
        (None, 4)

    .. versionadded:: 26.1.0
    """

    @overload
    def __init__(
        self: Flaky[None],
        result: None = ...,
        *,
        script: Iterable[Exception | float | None] = ...,
        sleep: Callable[[float], object] | None = ...,
    ) -> None: ...
    @overload
    def __init__(
        self,
        result: T,
        *,
        script: Iterable[Exception | float | None] = ...,
        sleep: Callable[[float], object] | None = ...,
    ) -> None: ...
    def __init__(
        self,
        result: T | None = None,
        *,
        script: Iterable[Exception | float | None] = (),
        sleep: Callable[[float], object] | None = None,
    ) -> None:
        self.calls = 0
        self.hanging = 0
        self._result = cast("T", result)
        self._script = deque(script)
        self._mood: Exception | float | None = None
        self._sleep = sleep
        self._released = Signal()
        self._lock = threading.Lock()

    def fail(self, error: Exception | None = None) -> None:
        """
        Raise *error* from now on. Default: a `ConnectionError`.
        """
        self._mood = ConnectionError("told to fail") if error is None else error

    def hang(self) -> None:
        """
        Do not return from now on; an async call can be cancelled.
        """
        self._mood = math.inf

    def slow(self, seconds: float) -> None:
        """
        Take so many seconds from now on.
        """
        self._mood = seconds

    def heal(self) -> None:
        """
        Work from now on, and let go of the calls that hang: they give the result. What is left of the script is dropped.
        """
        with self._lock:
            self._mood = None
            self._script.clear()
            released, self._released = self._released, Signal()
        released.set()

    def __call__(self) -> T:
        """
        One call.
        """
        step, released = self._next()
        if step == math.inf:
            with self._hangs():
                released.wait(None)
        elif step is not None:
            # Looked up late, so that a test which forbids real sleep catches it.
            (self._sleep or time.sleep)(step)
        return self._result

    async def acall(self) -> T:
        """
        One call, on asyncio or trio.
        """
        step, released = self._next()
        if step == math.inf:
            with self._hangs():
                await released.await_(None)
        elif step is not None:
            await anyio.sleep(step)
        return self._result

    def _next(self) -> tuple[float | None, Signal]:
        with self._lock:
            self.calls += 1
            step = self._script.popleft() if self._script else self._mood
            if isinstance(step, Exception):
                raise step
            return step, self._released

    @contextlib.contextmanager
    def _hangs(self) -> Generator[None, None, None]:
        with self._lock:
            self.hanging += 1
        try:
            yield
        finally:
            with self._lock:
                self.hanging -= 1
