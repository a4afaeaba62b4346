"""
The life of a healer in one process: starting, stopping, forking, and reaching its loop from elsewhere.
"""

from __future__ import annotations

import sys
import threading
import warnings

from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Final, TypeVar

from selfheal.errors import IllegalTransitionError
from selfheal.resources.forks import keep_inherited, reset_in_children
from selfheal.runtime import leash, pauses
from selfheal.runtime.calls import Calls, LoopEndedError
from selfheal.runtime.driver import Driver
from selfheal.runtime.hosts import Host, running_host
from selfheal.runtime.listeners import Dispatcher, Listener
from selfheal.runtime.settings import Settings
from selfheal.runtime.thread_host import LoopThread
from selfheal.runtime.threads import InlineThreads, Threads


if TYPE_CHECKING:
    from selfheal.checks import HealthCheck
    from selfheal.clock import Clock
    from selfheal.model import Journal
    from selfheal.runtime.snapshot import Snapshot

R = TypeVar("R")

#: Seconds that listeners get to hear the last events: within the grace, but never less than the second.
FLUSH_WITHIN: Final = 1.0
FLUSH_AT_LEAST: Final = 0.1

#: Seconds beyond the grace after which a loop that does not listen is left behind.
LEAVE_WITHIN: Final = 0.5


class Engine:
    """
    A driver, the loop it runs on, and the thread of that loop in a sync program.

    Args:
        settings: For the driver.
        clock: The time.
        on_start: Called before each start.
        journal: Outlives the process.
    """

    def __init__(
        self, settings: Settings, clock: Clock, *, on_start: Callable[[], None], journal: Journal | None = None
    ) -> None:
        self.settings = settings
        self.clock = clock
        self._journal = journal
        self._on_start = on_start
        self._listeners: dict[object, tuple[Listener, Collection[str] | None]] = {}
        self._removes: dict[object, Callable[[], None]] = {}
        self._calls = Calls()
        self._lock = threading.RLock()  # held while no loop runs, which else puts things in order
        self._leaving = threading.RLock()  # one stops, whoever else wants to waits; a signal handler may come between
        self.checks: dict[str, HealthCheck] = {}
        self._reset()

    def _reset(self) -> None:
        before: Driver | None = getattr(self, "driver", None)
        self.dispatcher = Dispatcher(inline=self.clock.virtual)
        for key, (listener, events) in self._listeners.items():
            self._removes[key] = self.dispatcher.add(listener, events)
        if self._journal is not None:
            self.dispatcher.add(self._journal.write)
        self.driver = Driver(self.settings, self.clock, self.dispatcher, self._journal)
        for check in self.checks.values():
            self.driver.add(check)
        if before is not None:
            pauses.carry_over(before, self.driver)
        self._thread: LoopThread | None = None
        self._host: Host | None = None
        self._ident: int | None = None
        self._spent = False
        #: The last snapshot, and the driver and its changes that it has seen.
        self.seen: tuple[tuple[Driver, int], Snapshot] | None = None
        #: When the loop was asked whether it turns, and has not answered yet.
        self._asked: float | None = None
        self.running = False

    def start(self) -> None:
        """
        Start in a background thread. An async program awaits `astart`.

        Raises:
            IllegalTransitionError: If it runs already.
        """
        with self._lock:
            self._prepare()
            self._thread = thread = LoopThread(self.clock)
            try:
                thread.start()
                self._begin(thread.host())
            except BaseException:
                self._thread = None
                thread.stop(LEAVE_WITHIN)
                raise

    async def astart(self) -> None:
        """
        Start inside the running loop of asyncio or trio.

        Raises:
            IllegalTransitionError: If it runs already.
            NotRunningError: If no loop runs here.
        """
        self.begin_on(running_host(self.clock))

    def begin_on(self, host: Host) -> None:
        """
        Start on *host*.

        Raises:
            IllegalTransitionError: If it runs already.
        """
        with self._lock:
            self._prepare()
            self._begin(host)

    def _prepare(self) -> None:
        if self.running and self._host is not None and not self._host.alive():
            self._bury()
        if self.running:
            msg = "this healer runs already. Make one for each process, and enter it once at a time."
            raise IllegalTransitionError(msg)
        if self._spent:  # a second life begins with clean machines
            self._reset()

    def _begin(self, host: Host) -> None:
        reset_in_children(self)
        if self._journal is not None:
            self._journal.start(self.clock, self.driver.reporter.announce)
        self._on_start()
        self._host = host
        threads = InlineThreads(host.post) if self.clock.virtual else Threads(self.settings.max_threads, host.post)
        self.running = self._spent = True

        def begin() -> None:
            self._ident = threading.get_ident()
            self.dispatcher.post = host.post
            self.driver.start(host, threads)

        try:
            if self._thread is None:
                begin()
            else:
                self._calls.ask(host, begin)
        except BaseException:
            self.running = False
            raise

    def _bury(self) -> None:
        """
        The loop has ended without having been told: so has the healer.
        """
        self.running = False
        self.driver.open = False
        for watch in tuple(self.driver.watches.values()):
            watch.end_hopes(well=False)
        self._fall_silent(_nothing)

    def stop(self, *, revert: bool = False) -> None:
        """
        Stop a healer that was started by `start`, within ``grace`` seconds.

        Running actions get the grace, then are given up and named in the event
        ``selfheal.healer.stopped``. Held changes stay as they are.

        Args:
            revert: Step held changes down first, as far as the grace goes.

        Raises:
            IllegalTransitionError: If it runs inside your own loop: await `astop` there. Or on its own thread.
        """
        if self._thread is not None and self._thread.here:
            msg = "stop would block the event loop it waits for: call it from another thread."
            raise IllegalTransitionError(msg)
        with self._leaving:
            if self.running:
                self._stop(revert=revert)

    def _stop(self, *, revert: bool) -> None:
        thread, host, driver = self._thread, self._host, self.driver
        if thread is None or host is None:
            msg = "this healer runs inside your event loop: leave its `async with`, or await healer.astop()."
            raise IllegalTransitionError(msg)
        until = self.clock.now() + self.settings.grace
        closed, delivered = threading.Event(), threading.Event()
        try:
            host.post(lambda: driver.close(revert=revert, on_closed=closed.set))
            if self.wait(closed, self.settings.grace + LEAVE_WITHIN):
                self._fall_silent(delivered.set)
                delivered.wait(self._flush_within(until))
        finally:  # also if it is cut short, by a second Ctrl-C or by a probe that blocks the loop
            host.post(driver.finish)
            self._fall_silent(_nothing)
            ended = thread.stop(LEAVE_WITHIN)
            self.running = False
            self._thread = None
            self._calls.let_go()
        if not ended:
            warnings.warn("the healer's thread has not ended: something blocks its loop", RuntimeWarning, stacklevel=4)
        self._raise_failure()

    async def astop(self, *, revert: bool = False) -> None:
        """
        Stop a healer that was started by `astart`, within ``grace`` seconds. As `stop`.

        Raises:
            IllegalTransitionError: If it runs in a thread of its own: call `stop`.
        """
        if not self.running:
            return
        host, driver = self._host, self.driver
        if self._thread is not None or host is None:
            msg = "this healer runs in a thread of its own: leave its `with`, or call healer.stop()."
            raise IllegalTransitionError(msg)
        if not host.alive():
            self._bury()
            return
        import anyio

        until = self.clock.now() + self.settings.grace
        closed, flushed = anyio.Event(), anyio.Event()
        try:
            with anyio.CancelScope(shield=True):  # bounded by the grace
                driver.close(revert=revert, on_closed=closed.set)
                await closed.wait()
                self._fall_silent(lambda: host.post(flushed.set))
                with anyio.move_on_after(self._flush_within(until)):
                    await flushed.wait()
        finally:  # also if it is cut short: asyncio's own cancellation goes through every shield
            driver.finish()
            self._fall_silent(_nothing)
            self.running = False
        self._raise_failure()

    def _fall_silent(self, done: Callable[[], object]) -> None:
        """
        Deliver the last events, then have the journal write what it has; call *done*.
        """
        journal = self._journal
        self.dispatcher.close(done if journal is None else lambda: journal.close(done))

    def _flush_within(self, until: float) -> float:
        return min(FLUSH_WITHIN, max(FLUSH_AT_LEAST, until - self.clock.now()))

    def _raise_failure(self) -> None:
        failure, self.driver.failure = self.driver.failure, None
        if failure is not None and sys.exception() is None:  # whatever leaves the block already goes first
            raise failure

    def reset_after_fork(self) -> None:
        """
        Begin anew in a child process. Called by the interpreter.
        """
        was_running = self.running and not self.clock.virtual  # a simulation ends without being left
        keep_inherited((self.driver, self.dispatcher, self._thread, self._host, self._calls))
        leash.forget_parent()
        self._lock, self._leaving, self._calls = threading.RLock(), threading.RLock(), Calls()
        self._reset()
        if was_running and self.settings.after_fork == "start":
            self.start()
        elif was_running:
            message = (
                "this process was forked from one with a running Healer and has none of its own. Start one here, "
                "or pass Healer(after_fork='start')."
            )
            warnings.warn(message, RuntimeWarning, stacklevel=2)

    @property
    def alive(self) -> bool:
        """
        Whether it runs, and its loop has not ended.
        """
        return self.running and self.driver.open and self._host is not None and self._host.alive()

    def ping(self, now: float) -> float:
        """
        Seconds for which the loop has owed an answer; if it owes none, it is asked for the next. Never waits.
        """
        host, asked = self._host, self._asked
        if not self.running or host is None or self.here:
            return 0.0
        if asked is not None:
            return now - asked
        self._asked = now
        host.post(self._answer)
        return 0.0

    def _answer(self) -> None:
        asked, self._asked = self._asked, None
        if asked is not None:
            self.driver.reporter.late(self.clock.now() - asked)

    @property
    def here(self) -> bool:
        """
        Whether the caller is on the loop's thread.
        """
        if not self.running or self._ident != threading.get_ident():
            return False
        return self._host is not None and self._host.alive()  # a thread may outlive its loop

    def on_loop(self, fn: Callable[[], R]) -> R:
        """
        The result of *fn*, run on the loop's thread; or here, while there is none.

        Raises:
            NotRunningError: If the loop does not answer.
        """
        while True:
            if self.here:
                return fn()
            host = self._host
            if self.running and host is not None:
                try:
                    return self._calls.ask(host, fn)
                except LoopEndedError:
                    if host is self._host:
                        self._bury()
            with self._lock:
                if not self.running:
                    return fn()

    def _post(self, fn: Callable[[], None]) -> None:
        if self.here:
            fn()
        elif self._host is not None:
            self._host.post(fn)

    def wait(self, event: threading.Event, timeout: float | None) -> bool:
        """
        Block until *event* is set or *timeout* seconds of the healer's clock have passed; whether it is set.
        """
        wait: Callable[[threading.Event, float | None], bool] | None = getattr(self.clock, "wait", None)
        return event.wait(timeout) if wait is None else wait(event, timeout)


def _nothing() -> None:
    """
    Nobody waits for the last event.
    """
