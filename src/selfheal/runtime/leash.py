"""
The task is ours, the coroutine is theirs: how a coroutine that will not end is let go.

Cancelling is no deadline: code may swallow it, and ``asyncio.run`` and
``trio.run`` wait for every task. So a user's coroutine is driven through a
leash. It passes one cancellation of ours on. Told to let go, it ends *our* task
and leaves the coroutine behind, wherever it waits. Cancellations that are not
ours, such as those of a timeout inside the coroutine, are none of its business.

It cannot help when a child task that the coroutine started swallows
cancellation: that task is not ours.
"""

from __future__ import annotations

import contextlib
import inspect
import queue
import threading
import types

from collections.abc import Awaitable, Callable, Coroutine, Generator
from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    from selfheal.runtime.threads import Ended


class Tether:
    """
    How far the cancellation of one coroutine has come.

    Args:
        on_passed: Called when our cancellation has been passed on.
        ending: Whether the loop itself ends, and will not stop cancelling.
    """

    __slots__ = ("_ending", "_on_passed", "_passed", "_warned", "dropped", "requested")

    def __init__(self, on_passed: Callable[[], None] | None = None, ending: Callable[[], bool] | None = None) -> None:
        #: A cancellation of ours is on its way.
        self.requested = False
        #: Let go at the very next cancellation.
        self.dropped = False
        self._passed = False
        self._warned = False
        self._on_passed = on_passed
        self._ending = ending

    def lets_go(self) -> bool:
        """
        A cancellation has arrived: whether to leave the coroutine behind instead of passing it on.
        """
        if self.dropped:
            return True
        if self._ending is not None and self._ending():
            go, self._warned = self._warned, True
            return go
        if self.requested and not self._passed:
            self._passed = True
            if self._on_passed is not None:
                self._on_passed()
        return False


@types.coroutine
def leash(coro: Coroutine[Any, Any, object], tether: Tether) -> Generator[Any, Any, object]:
    """
    Drive *coro* to its end, or until it is let go.

    Args:
        coro: The user's coroutine.
        tether: Tells and is told about cancellations.

    Returns:
        What *coro* returned.
    """
    value: Any = None
    error: BaseException | None = None
    while True:
        try:
            trap = coro.send(value) if error is None else coro.throw(error)
        except StopIteration as stop:
            return stop.value
        value, error = None, None
        try:
            value = yield trap
        except BaseException as exc:  # asyncio throws a cancellation in ...
            if isinstance(exc, GeneratorExit) or tether.lets_go():
                park(coro)
                raise
            error = exc
        else:  # ... trio sends it in, wrapped into a value
            sent = getattr(value, "error", None)
            if sent is not None and type(sent).__name__ == "Cancelled" and tether.lets_go():
                park(coro)
                value.unwrap()


_parked: queue.SimpleQueue[object] = queue.SimpleQueue()
_keeper: threading.Thread | None = None
_keeper_lock = threading.Lock()


def _keep() -> None:
    # A local list of a daemon thread is the one place that the interpreter never clears at exit.
    kept: list[object] = []
    while True:
        kept.append(_parked.get())


def park(thing: object) -> None:
    """
    Never free *thing*: a coroutine that swallows GeneratorExit too would spin when it is collected.
    """
    global _keeper
    _parked.put(thing)
    with _keeper_lock, contextlib.suppress(RuntimeError):  # no thread to be had: the queue keeps it until there is
        if _keeper is None or not _keeper.is_alive():
            keeper = threading.Thread(target=_keep, name="selfheal-parked", daemon=True)
            keeper.start()
            _keeper = keeper


def let_go_of(awaitable: object) -> None:
    """
    Nobody waits for *awaitable* any more.
    """
    if inspect.iscoroutine(awaitable):
        with contextlib.suppress(Exception):  # cleaning up is theirs: what comes of it concerns nobody any more
            awaitable.close()
    park(awaitable)


def awaiting(awaitable: Awaitable[object], ended: Ended) -> tuple[Callable[[], Awaitable[object]], Ended]:
    """
    What a host starts to wait for *awaitable*, and reports to; cancelled before it has begun to wait, it lets it go.
    """

    def over(value: object, error: BaseException | None) -> None:
        if inspect.iscoroutine(awaitable) and inspect.getcoroutinestate(awaitable) == inspect.CORO_CREATED:
            let_go_of(awaitable)
        ended(value, error)

    return lambda: awaitable, over


def forget_parent() -> None:
    """
    After a fork: the lock may be held by a thread that is not there.
    """
    global _keeper_lock
    _keeper_lock = threading.Lock()
