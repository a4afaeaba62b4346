"""
The life of a healer in one process: starting, stopping, forking, and reaching its loop from elsewhere.
"""

from __future__ import annotations

import functools
import threading
import warnings

from collections.abc import Callable, Collection, Iterable
from typing import TYPE_CHECKING, Final, TypeVar

from selfheal import names
from selfheal.errors import ConfigError, IllegalTransitionError, NotRunningError
from selfheal.healing.feasibility import require_closable
from selfheal.resources.forks import keep_inherited, reset_in_children
from selfheal.runtime import gating, pauses, roster
from selfheal.runtime.driver import Driver
from selfheal.runtime.hosts import Host, TrioHost, running_host
from selfheal.runtime.listeners import Dispatcher, Listener
from selfheal.runtime.settings import DEFAULT_BUDGET, Settings
from selfheal.runtime.thread_host import ANSWER_WITHIN, LoopThread
from selfheal.runtime.threads import InlineThreads, Threads
from selfheal.runtime.watch import Pause


if TYPE_CHECKING:
    from selfheal.checks import HealthCheck
    from selfheal.clock import Clock

R = TypeVar("R")

#: Seconds that listeners get to hear the last events.
FLUSH_WITHIN: Final = 1.0


class Engine:
    """
    A driver, the loop it runs on, and the thread of that loop in a sync program.

    Args:
        settings: For the driver.
        clock: The time.
        on_start: Called before each start.
    """

    def __init__(self, settings: Settings, clock: Clock, *, on_start: Callable[[], None]) -> None:
        self.settings = settings
        self.clock = clock
        self._on_start = on_start
        self._listeners: dict[object, tuple[Listener, Collection[str] | None]] = {}
        self._removes: dict[object, Callable[[], None]] = {}
        self.checks: dict[str, HealthCheck] = {}
        self._reset()

    def _reset(self) -> None:
        self.dispatcher = Dispatcher(inline=self.clock.virtual)
        for key, (listener, events) in self._listeners.items():
            self._removes[key] = self.dispatcher.add(listener, events)
        self.driver = Driver(self.settings, self.clock, self.dispatcher)
        for check in self.checks.values():
            self.driver.add(check)
        self._thread: LoopThread | None = None
        self._host: Host | None = None
        self._ident: int | None = None
        self.running = False

    def start(self) -> None:
        """
        Start in a background thread. An async program awaits `astart`.

        Raises:
            IllegalTransitionError: If it runs already.
        """
        self._prepare()
        self._thread = LoopThread(self.clock)
        self._thread.start()
        self.begin_on(self._thread.host())

    async def astart(self) -> None:
        """
        Start inside the running loop of asyncio or trio.

        Raises:
            IllegalTransitionError: If it runs already.
            NotRunningError: If no loop runs here.
        """
        self._prepare()
        self.begin_on(running_host(self.clock))

    def _prepare(self) -> None:
        if self.running:
            msg = "this healer runs already. Make one for each process, and enter it once at a time."
            raise IllegalTransitionError(msg)
        if self.driver.closing is not None:  # a second life begins with clean machines
            self._reset()

    def begin_on(self, host: Host) -> None:
        """
        Start on *host*.

        Raises:
            IllegalTransitionError: If it runs already.
        """
        if self._thread is None:
            self._prepare()
        reset_in_children(self)
        self._on_start()
        self._host = host
        threads = InlineThreads(host.post) if self.clock.virtual else Threads(self.settings.max_threads, host.post)
        self.running = True

        def begin() -> None:
            self._ident = threading.get_ident()
            self.driver.start(host, threads)

        if self._thread is None:
            begin()
        else:
            self.on_loop(begin)

    def stop(self, *, revert: bool = False) -> None:
        """
        Stop a healer that was started by `start`, within ``grace`` seconds.

        Running actions get the grace, then are given up and named in the event
        ``selfheal.healer.stopped``. Held changes stay as they are.

        Args:
            revert: Step held changes down first, as far as the grace goes.

        Raises:
            IllegalTransitionError: If it runs inside your own loop: await `astop` there.
        """
        if not self.running:
            return
        thread = self._thread
        if thread is None:
            msg = "this healer runs inside your event loop: leave its `async with`, or await healer.astop()."
            raise IllegalTransitionError(msg)
        closed = threading.Event()
        self.on_loop(lambda: self.driver.close(revert=revert, on_closed=closed.set))
        self.wait(closed, self.settings.grace + ANSWER_WITHIN)
        self.running = False
        delivered = threading.Event()
        self.dispatcher.close(delivered.set)
        delivered.wait(FLUSH_WITHIN)
        if not thread.stop(1.0):
            warnings.warn("the healer's thread has not ended: something blocks its loop", RuntimeWarning, stacklevel=2)
        self._thread = None
        self._raise_failure()

    async def astop(self, *, revert: bool = False) -> None:
        """
        Stop a healer that was started by `astart`, within ``grace`` seconds. As `stop`.
        """
        if not self.running:
            return
        import anyio

        closed = anyio.Event()
        with anyio.CancelScope(shield=True):  # bounded by the grace
            self.driver.close(revert=revert, on_closed=closed.set)
            await closed.wait()
            flushed = anyio.Event()
            self.dispatcher.close(lambda: self.driver.host.post(flushed.set))
            with anyio.move_on_after(FLUSH_WITHIN):
                await flushed.wait()
        self.running = False
        if isinstance(self._host, TrioHost):
            self._host.silence()
        self._raise_failure()

    def _raise_failure(self) -> None:
        failure, self.driver.failure = self.driver.failure, None
        if failure is not None:
            raise failure

    def reset_after_fork(self) -> None:
        """
        Begin anew in a child process. Called by the interpreter.
        """
        was_running = self.running and not self.clock.virtual  # a simulation ends without being left
        keep_inherited((self.driver, self.dispatcher, self._thread, self._host))
        self._reset()
        if was_running and self.settings.after_fork == "start":
            self.start()
        elif was_running:
            message = (
                "this process was forked from one with a running Healer and has none of its own. Start one here, "
                "or pass Healer(after_fork='start')."
            )
            warnings.warn(message, RuntimeWarning, stacklevel=2)

    # --- what the front door passes on ------------------------------------------

    def admit(self, checks: Iterable[HealthCheck]) -> None:
        """
        Watch more checks: all of them, or none.

        Raises:
            ConfigError: If one of them, or all together, cannot work. Nothing has changed then.
        """
        new = list(checks)
        together = roster.distinct((*self.checks.values(), *new))
        roster.require_acyclic(together)
        # The default is a net below all checks that there may ever be; few or slow ones need not be able to reach it.
        if self.settings.budget != DEFAULT_BUDGET:
            spenders = [(check.policy, check.recovery) for check in together.values()]
            require_closable(self.settings.budget, spenders, what="the process, through all its checks")
        for check in new:
            self.on_loop(functools.partial(self.driver.add, check))
        self.checks = together

    def dismiss(self, name: str) -> None:
        """
        Watch a check no longer.

        Raises:
            ConfigError: If another check depends on it.
        """
        roster.require_removable(self.checks, name)
        self.on_loop(lambda: self.driver.remove(name))
        self.checks = {other: check for other, check in self.checks.items() if other != name}

    def explain(self, name: str) -> gating.Explanation:
        """
        Why a check is, or is not, being healed.
        """
        return gating.explain(self.driver, self.driver.watches[name], self.clock.now())

    @property
    def paused(self) -> bool:
        """
        Whether all actions are paused.
        """
        return pauses.pause_of(self.driver, None, self.clock.now()) is not None

    def pause(self, reason: str, resource: str | None, ttl: float | None) -> None:
        """
        Start no action on one resource, or on any.
        """
        until = None if ttl is None else self.clock.now() + ttl
        self.on_loop(lambda: pauses.pause(self.driver, resource, Pause(reason, until)))

    def resume(self, reason: str, resource: str | None) -> None:
        """
        End a pause.
        """
        self.on_loop(lambda: pauses.resume(self.driver, resource, reason))

    def listen(self, listener: Listener, events: Collection[str] | None) -> Callable[[], None]:
        """
        Add a listener that also hears the next life; returns what takes it off again.

        Raises:
            ConfigError: If a name is unknown.
        """
        unknown = sorted(set(events or ()) - set(names.EVENTS))
        if unknown:
            msg = f"no such events: {', '.join(unknown)}. selfheal.names.EVENTS has them all."
            raise ConfigError(msg)
        key = object()
        self._listeners[key] = (listener, events)
        self._removes[key] = self.dispatcher.add(listener, events)

        def remove() -> None:
            if self._listeners.pop(key, None) is not None:
                self._removes.pop(key)()

        return remove

    @property
    def here(self) -> bool:
        """
        Whether the caller is on the loop's thread.
        """
        return self._ident == threading.get_ident()

    def on_loop(self, fn: Callable[[], R]) -> R:
        """
        The result of *fn*, run on the loop's thread.
        """
        if not self.running or self._host is None or self._ident == threading.get_ident():
            return fn()
        answered = threading.Event()
        box: list[R] = []
        errors: list[BaseException] = []

        def run() -> None:
            try:
                box.append(fn())
            except BaseException as exc:  # noqa: BLE001 - raised again where it was asked for
                errors.append(exc)
            finally:
                answered.set()

        self._host.post(run)
        if not answered.wait(ANSWER_WITHIN):
            msg = f"the healer's event loop has not answered for {ANSWER_WITHIN:g} s: something blocks it"
            raise NotRunningError(msg)
        if errors:
            raise errors[0]
        return box[0]

    def wait(self, event: threading.Event, timeout: float | None) -> bool:
        """
        Block until *event* is set or *timeout* seconds of the healer's clock have passed; whether it is set.
        """
        wait: Callable[[threading.Event, float | None], bool] | None = getattr(self.clock, "wait", None)
        return event.wait(timeout) if wait is None else wait(event, timeout)
