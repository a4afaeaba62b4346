"""
`LoopWatchdog`: notices from a thread of its own that an event loop does not turn, and says what keeps it.
"""

from __future__ import annotations

import os
import threading

from collections.abc import Callable
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Final, NamedTuple, Self

from selfheal.clock import SystemClock
from selfheal.errors import ConfigError, IllegalTransitionError
from selfheal.model.health import CheckResult, Fault, HealthStatus
from selfheal.model.settings import seconds
from selfheal.resources.loops import running
from selfheal.resources.process_stacks import dump_stacks, frames_of_threads


if TYPE_CHECKING:
    import datetime as dt

# asyncio's debug mode calls 0.1 s slow. A second is what a person, or a probe from outside, begins to notice.
_LIMIT: Final = 1.0

#: The loop is asked so often within the limit: a block is noticed after 1.25 times the limit at most.
_LOOKS: Final = 4

_STDLIB: Final = os.path.dirname(os.__file__)
_OURS: Final = os.path.dirname(os.path.dirname(__file__))

#: What calls the code of a turn. Below it the stack belongs to whoever started the loop.
_LOOPS: Final = ("asyncio.events", "asyncio.base_events", "asyncio.runners", "trio._core._run")


class Block(NamedTuple):
    """
    A loop that does not turn, and the line that keeps it.

    Attributes:
        seconds: For how long, so far.
        file: Of the innermost code that is the application's: neither the standard library nor an installed package,
            unless nothing else is there. Empty: the loop's thread could not be looked at.
        line: In the file.
        function: The name of the function.
    """

    seconds: float
    file: str = ""
    line: int = 0
    function: str = ""

    def __str__(self) -> str:
        where = f": {self.file}:{self.line} in {self.function}" if self.file else ""
        return f"the loop has not turned for {self.seconds:.1f} s{where}"


class LoopWatchdog:
    """
    Watches the event loop it is entered on, asyncio's or trio's, and is a probe of it.

    Enter it inside the loop: ``with LoopWatchdog() as watchdog:``. As a probe, of a healer that runs in a thread
    (``with Healer(...)``; one inside the same loop is blocked with it), it tells

    - *unhealthy*, kind ``stuck``, while the loop has not turned for *limit* seconds;
    - *degraded*, kind ``slow``, if that was so since the last look and is over;
    - UNKNOWN while it is not entered, and in a forked child.

    The longest wait of the loop since the last look is in the result's data, as ``lag`` in seconds, in steps of a
    quarter of the limit; and as ``problem`` why a dump or ``on_block`` has failed.

    Time in which this thread did not run either, because the process was stopped or C code held the GIL, counts for
    little: against the latter there is `DeadMan`.

    Args:
        limit: Seconds without a turn that are too many.
        on_block: Called once for each block with the `Block`, on the watchdog's thread.
        dump: A file for the stacks, as of `ThreadDump`, written once for each block.

    Raises:
        ConfigError: If *limit* is not a finite number greater than 0.

    .. versionadded:: 26.1.0
    """

    def __init__(
        self,
        limit: float | dt.timedelta = _LIMIT,
        *,
        on_block: Callable[[Block], object] | None = None,
        dump: str | os.PathLike[str] | None = None,
    ) -> None:
        self.limit: Final = seconds(limit)
        if not 0 < self.limit < float("inf"):
            msg = f"limit={self.limit:g}: must be a finite number of seconds, greater than 0."
            raise ConfigError(msg)
        self._on_block = on_block
        self._dump = None if dump is None else os.fspath(dump)
        self._ended = threading.Event()
        self._turned = threading.Event()
        self._thread: threading.Thread | None = None
        self._loop_thread = 0
        #: The present block, and the worst waits since the last look.
        self._block: Block | None = None
        self._over: Block | None = None
        self._lag = 0.0
        self._problem: str | None = None

    def __enter__(self) -> Self:
        if self._thread is not None:
            msg = "this LoopWatchdog was entered before: make another one for another loop."
            raise IllegalTransitionError(msg)
        self._loop_thread = threading.get_ident()
        post = running().post
        self._thread = threading.Thread(target=self._watch, args=(post,), name="selfheal-loop-watchdog", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._ended.set()
        self._turned.set()

    def __call__(self) -> CheckResult:
        """
        Look. As a probe it takes no time.
        """
        if self._thread is None or not self._thread.is_alive():
            return CheckResult(HealthStatus.UNKNOWN, fault=Fault("probe_error", message="no loop is watched"))
        block, over, lag = self._block, self._over, self._lag
        self._over, self._lag = None, 0.0
        data: dict[str, object] = {"lag": lag}
        if self._problem is not None:
            data["problem"] = self._problem
        if block is not None:
            return CheckResult(HealthStatus.UNHEALTHY, fault=Fault("stuck", message=str(block)), data=data)
        if over is not None:
            return CheckResult(HealthStatus.DEGRADED, fault=Fault("slow", message=f"{over}; it turns again"), data=data)
        return CheckResult.healthy(data=data)

    def _watch(self, post: Callable[[Callable[[], object]], None]) -> None:
        tick = self.limit / _LOOKS
        while not self._ended.is_set():
            self._turned.clear()
            try:
                post(self._turned.set)
            except RuntimeError:  # the loop has ended
                return
            self._await_turn(tick)
            self._ended.wait(tick)

    def _await_turn(self, tick: float) -> None:
        waited = 0.0
        woken = SystemClock.now()
        while not self._turned.wait(tick):
            now = SystemClock.now()
            # When we were late ourselves, nobody ran: that is not the loop's fault.
            waited, woken = waited + min(now - woken, 2 * tick), now
            self._lag = max(self._lag, waited)
            if waited >= self.limit:
                self._blocked(waited)
        self._lag = max(self._lag, waited)
        if self._block is not None:
            self._over, self._block = self._block, None

    def _blocked(self, waited: float) -> None:
        if self._block is not None:  # where it was at first is what to look for
            self._block = self._block._replace(seconds=waited)
            return
        self._block = block = self._blamed(waited)
        try:
            if self._dump is not None:
                dump_stacks(self._dump, heading=str(block))
            if self._on_block is not None:
                self._on_block(block)
        except Exception as exc:  # noqa: BLE001 - whatever it is, the loop has to be watched on
            self._problem = f"{type(exc).__name__} at {block}"

    def _blamed(self, waited: float) -> Block:
        frame: FrameType | None = frames_of_threads().get(self._loop_thread)
        best: tuple[int, FrameType] | None = None
        while frame is not None and frame.f_globals.get("__name__") not in _LOOPS:
            foreign = _foreign(frame.f_code.co_filename)
            if best is None or foreign < best[0]:
                best = foreign, frame
            frame = frame.f_back
        if best is None:
            return Block(waited)
        code = best[1].f_code
        return Block(waited, code.co_filename, best[1].f_lineno, code.co_name)


def _foreign(file: str) -> int:
    """How little the application's author can do about it: their own code 0, a package 1, the standard library 2."""
    if "site-packages" in file or "dist-packages" in file or file.startswith(_OURS):
        return 1
    return 2 if file.startswith((_STDLIB, "<frozen ")) else 0
