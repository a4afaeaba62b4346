"""
What the driver needs of an event loop, for asyncio and for trio.

Nothing here is a child that a task group has to wait for: asyncio gets tasks
of our own, trio system tasks.
"""

from __future__ import annotations

import contextvars
import math
import sys

from collections.abc import Awaitable, Callable, Coroutine
from types import CoroutineType
from typing import TYPE_CHECKING, Any, Protocol, cast

from selfheal.errors import NotRunningError
from selfheal.runtime.leash import Tether, leash, park


if TYPE_CHECKING:
    import asyncio

    import trio

    from selfheal.clock import Clock
    from selfheal.runtime.threads import Ended, Handle

Start = Callable[[], Awaitable[object]]
Coro = Coroutine[Any, Any, object]


class Host(Protocol):
    """
    An event loop. Everything but `post` is called on its own thread.
    """

    #: What the loop raises in cancelled code.
    cancelled: tuple[type[BaseException], ...]

    def start(self, fn: Start, ended: Ended) -> Handle:
        """
        Run async user code in a task of its own, on a leash, in an empty context.
        """
        ...

    def alarm(self, when: float, fn: Callable[[], None]) -> None:
        """
        Call *fn* at *when*; replaces the alarm set before.
        """
        ...

    def post(self, fn: Callable[[], object]) -> bool:
        """
        Call *fn* on the loop's thread soon. Safe from any thread; `False`: the loop is closed, and nothing happens.
        """
        ...

    def alive(self) -> bool:
        """
        Whether the loop has not ended. Safe from any thread.
        """
        ...

    def let_go(self) -> None:
        """
        End all that runs here at its next step, whatever it thinks of that.
        """
        ...


class Stopped(BaseException):
    """
    What a run that honoured its cancellation ends with.
    """


async def _drive(fn: Start, tether: Tether) -> tuple[object, BaseException | None]:
    try:
        awaitable = fn()
        coro = cast("Coro", awaitable) if isinstance(awaitable, CoroutineType) else _awaiting(awaitable)
        return await leash(coro, tether), None
    except BaseException as exc:  # noqa: BLE001 - handed over; a loop must never see it
        return None, exc


async def _awaiting(awaitable: Awaitable[object]) -> object:
    return await awaitable


class AsyncioHost:
    """
    The running asyncio loop.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, clock: Clock) -> None:
        import asyncio

        self.cancelled: tuple[type[BaseException], ...] = (asyncio.CancelledError, Stopped)
        self._task = asyncio.Task
        self._loop = loop
        self._clock = clock
        self._timer: asyncio.TimerHandle | None = None
        self._tasks: set[AsyncioHandle] = set()
        self._watchman: asyncio.Task[None] | None = None

    def start(self, fn: Start, ended: Ended) -> Handle:
        """
        As `Host.start`.
        """
        if self._watchman is None or self._watchman.done():
            self._watchman = self._loop.create_task(self._watch(), context=contextvars.Context())
        handle = AsyncioHandle(self._tasks, ended)
        self._tasks.add(handle)  # asyncio itself keeps only weak references
        # Not by create_task: an eager task factory would run the user's code, and report, before we have returned.
        handle.task = self._task(handle.drive(fn), loop=self._loop, context=contextvars.Context())
        return handle

    def alarm(self, when: float, fn: Callable[[], None]) -> None:
        """
        As `Host.alarm`.
        """
        if self._timer is not None:
            self._timer.cancel()
        if self._clock.virtual:  # the loop lives in this clock's time, to the last bit
            self._timer = self._loop.call_at(when, fn)
        else:
            self._timer = self._loop.call_later(max(0.0, when - self._clock.now()), fn)

    def post(self, fn: Callable[[], object]) -> bool:
        """
        As `Host.post`.
        """
        try:
            self._loop.call_soon_threadsafe(fn)
        except RuntimeError:  # the loop is closed: there is nobody left to tell
            park(fn)
            return False
        return True

    def alive(self) -> bool:
        """
        As `Host.alive`.
        """
        return not self._loop.is_closed()

    def let_go(self) -> None:
        """
        As `Host.let_go`.
        """
        if self._timer is not None:
            self._timer.cancel()
        if self._watchman is not None:
            self._watchman.cancel()
        self._drop()

    async def _watch(self) -> None:
        # Nobody but a loop that ends cancels this task; it cancels everything, once, and then waits for all of it.
        try:
            await self._loop.create_future()
        finally:
            self._drop()

    def _drop(self) -> None:
        for handle in tuple(self._tasks):
            handle.drop()


class AsyncioHandle:
    """
    A task and its tether.
    """

    __slots__ = ("_ended", "_tasks", "task", "tether")
    is_task = True

    task: asyncio.Task[None]

    def __init__(self, tasks: set[AsyncioHandle], ended: Ended) -> None:
        self.tether = Tether()
        self._tasks = tasks
        self._ended: Ended | None = ended

    async def drive(self, fn: Start) -> None:
        """
        What the task runs: report at once, for a callback of the task would cost another turn of the loop.
        """
        self._report(*await _drive(fn, self.tether))

    def _report(self, value: object, error: BaseException | None) -> None:
        self._tasks.discard(self)
        ended, self._ended = self._ended, None
        if ended is not None:
            ended(value, error)

    def cancel(self) -> None:
        """
        Pass one cancellation on.
        """
        self.tether.requested = True
        # Cancelled before its first step, it never gets to report.
        self.task.add_done_callback(lambda _: self._report(None, Stopped()))
        self.task.cancel()

    def drop(self) -> None:
        """
        End the task at its next step, whatever the coroutine does.
        """
        if not self.tether.dropped:
            self.tether.dropped = True
            self.cancel()


class TrioHost:
    """
    The running trio loop.
    """

    def __init__(self, clock: Clock) -> None:
        import trio

        self.cancelled: tuple[type[BaseException], ...] = (trio.Cancelled, Stopped)
        self._trio = trio
        self._token = trio.lowlevel.current_trio_token()
        self._clock = clock
        self._scope: trio.CancelScope | None = None
        self._alarm: tuple[float, Callable[[], None]] | None = None
        self._tasks: set[TrioHandle] = set()

    def start(self, fn: Start, ended: Ended) -> Handle:
        """
        As `Host.start`.
        """
        handle = TrioHandle(self._trio)
        self._tasks.add(handle)

        async def scoped() -> object:
            # Inside the leash: a coroutine that is let go keeps its scopes, for leaving them out of order is an error.
            with handle.outer, handle.inner:
                return await fn()
            raise Stopped

        async def frame() -> None:
            # The outermost frame lets nothing out but Cancelled, else the application dies of a TrioInternalError.
            value, error = await _drive(scoped, handle.tether)
            self._tasks.discard(handle)
            ended(value, error)

        self._trio.lowlevel.spawn_system_task(frame, name="selfheal", context=contextvars.Context())
        return handle

    def alarm(self, when: float, fn: Callable[[], None]) -> None:
        """
        As `Host.alarm`.
        """
        self._alarm = (when, fn)
        if self._scope is None:
            self._scope = self._trio.CancelScope()
            self._trio.lowlevel.spawn_system_task(self._ring, name="selfheal-alarm", context=contextvars.Context())
        else:
            self._scope.deadline = self._deadline(when)

    def post(self, fn: Callable[[], object]) -> bool:
        """
        As `Host.post`.
        """
        try:
            self._token.run_sync_soon(fn)
        except self._trio.RunFinishedError:  # there is nobody left to tell
            park(fn)
            return False
        return True

    def alive(self) -> bool:
        """
        As `Host.alive`.
        """
        return self.post(_nothing)

    def let_go(self) -> None:
        """
        As `Host.let_go`. The alarm's task ends as well.
        """
        self._drop()
        self._alarm = None
        if self._scope is not None:
            self._scope.cancel()

    def _deadline(self, when: float) -> float:
        if self._clock.virtual:
            return when
        # The application's clock and trio's have different origins.
        return self._trio.current_time() + max(0.0, when - self._clock.now())

    async def _ring(self) -> None:
        # One task sleeps for all alarms; moving its deadline is cheaper than starting another.
        try:
            while (alarm := self._alarm) is not None:
                with self._trio.CancelScope(deadline=self._deadline(alarm[0])) as self._scope:
                    await self._trio.sleep_forever()
                self._wake()
        finally:  # also when the loop ends: what is shielded after one cancellation does not hear of it
            self._drop()

    def _drop(self) -> None:
        for handle in tuple(self._tasks):
            handle.drop()

    def _wake(self) -> None:
        if self._alarm is not None:
            fn = self._alarm[1]
            self._alarm = (math.inf, fn)
            fn()


def _nothing() -> None:
    """
    Asks whether there is a loop.
    """


class TrioHandle:
    """
    Two scopes: the outer one is cancelled, the inner one then shields, so that a cancellation is passed on once.
    """

    __slots__ = ("_current_task", "inner", "outer", "tether")
    is_task = True

    def __init__(self, trio_module: Any) -> None:
        self.outer: trio.CancelScope = trio_module.CancelScope()
        self.inner: trio.CancelScope = trio_module.CancelScope()
        self.tether = Tether(self._shield, self._ending)
        self._current_task: Callable[[], trio.lowlevel.Task] = trio_module.lowlevel.current_task

    def _shield(self) -> None:
        self.inner.shield = True

    def _ending(self) -> bool:
        nursery = self._current_task().parent_nursery
        return nursery is not None and nursery.cancel_scope.cancel_called

    def cancel(self) -> None:
        """
        Pass one cancellation on.
        """
        self.tether.requested = True
        self.outer.cancel()

    def drop(self) -> None:
        """
        End the task at its next step, whatever the coroutine does.
        """
        self.tether.dropped = True
        self.inner.shield = False
        self.outer.cancel()


def running_host(clock: Clock) -> AsyncioHost | TrioHost:
    """
    The loop that runs the caller.

    Raises:
        NotRunningError: If none does.
    """
    trio_module = sys.modules.get("trio")
    if trio_module is not None:  # first: trio may run as a guest of asyncio
        try:
            trio_module.lowlevel.current_task()
        except RuntimeError:
            pass
        else:
            return TrioHost(clock)
    if "asyncio" in sys.modules:
        import asyncio

        try:
            return AsyncioHost(asyncio.get_running_loop(), clock)
        except RuntimeError:
            pass
    msg = "no event loop of asyncio or trio runs here. In a sync program write `with Healer(...)`."
    raise NotRunningError(msg)
