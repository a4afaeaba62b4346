"""
What is done with one connection on a deadline, once for threads and once for an event loop.

SQLAlchemy's own text is the same for both colours: on a loop it runs in a greenlet. So an errand is a plain function.
"""

from __future__ import annotations

import asyncio
import threading

from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Final, Protocol

from selfheal.integrations.sqlalchemy.sockets import Socket


#: Errands that may hang at once: each holds a thread, for as long as name resolution and the kernel like.
ATTEMPTS: Final = 8

#: Tasks that were given up, until they end: a loop keeps only weak references.
_given_up: Final[set[asyncio.Future[Any]]] = set()


class Errand:
    """
    A function that is given up at a deadline, whatever it waits for: the connection it holds is cut then.
    """

    def __init__(self) -> None:
        self.ended: Callable[[], bool] = lambda: False
        self.given_up = False
        self.has_held = False
        self._lock = threading.Lock()
        self._socket: Socket | None = None

    def hold(self, adapter: Any) -> None:
        """
        From now on *adapter* may be cut.

        Raises:
            TimeoutError: If this was given up before.
        """
        socket = Socket.of(adapter)
        with self._lock:
            self._check()
            self._socket = socket
            self.has_held = True

    def release(self) -> None:
        """
        From now on the connection is somebody else's, or nobody's.

        Raises:
            TimeoutError: If this was given up before, and the connection cut.
        """
        with self._lock:
            self._socket = None
            self._check()

    def give_up(self) -> bool:
        """
        Cut the connection that is held.

        Returns:
            Whether there was one.
        """
        with self._lock:
            self.given_up = True
            return self._socket is not None and self._socket.sever()

    def _check(self) -> None:
        if self.given_up:
            msg = "given up meanwhile"
            raise TimeoutError(msg)


class IO(Protocol):
    """
    The ways to run what may wait.
    """

    async def run(self, errand: Errand, work: Callable[[], Any], timeout: float, *, patient: bool = False) -> Any:
        """
        The result of *work*, which tells *errand* what it holds.

        Args:
            errand: Given up at the deadline.
            work: A plain function; for an async engine it runs in a greenlet.
            timeout: Seconds.
            patient: What comes too late still has a use, so a *work* that holds nothing yet is left to itself.

        Raises:
            TimeoutError: It has not ended in time.
        """
        ...

    async def pause(self, seconds: float) -> None:
        """
        Wait a little.
        """
        ...

    def behind(self, work: Callable[[], Any], timeout: float, give_up: Callable[[], Any]) -> None:
        """
        Run *work* in the background, and call *give_up* if it has not ended in time.
        """
        ...


class _InThread:
    """
    In daemon threads: nobody has to wait for them, not even the end of the process.
    """

    def __init__(self) -> None:
        self._attempts = threading.BoundedSemaphore(ATTEMPTS)

    async def run(self, errand: Errand, work: Callable[[], Any], timeout: float, *, patient: bool = False) -> Any:
        if not self._attempts.acquire(blocking=False):
            msg = f"{ATTEMPTS} earlier attempts have not ended"
            raise TimeoutError(msg)
        made = self._start(work, self._attempts.release)
        errand.ended = made.done
        try:
            return made.result(timeout)
        except TimeoutError:
            if made.done():
                return made.result()
            errand.give_up()
            raise

    async def pause(self, seconds: float) -> None:
        threading.Event().wait(seconds)

    def behind(self, work: Callable[[], Any], timeout: float, give_up: Callable[[], Any]) -> None:
        def watched() -> None:
            made = self._start(work, lambda: None)
            try:
                made.exception(timeout)
            except TimeoutError:
                give_up()

        threading.Thread(target=watched, name="selfheal-closing", daemon=True).start()

    @staticmethod
    def _start(work: Callable[[], Any], then: Callable[[], None]) -> Future[Any]:
        made: Future[Any] = Future()

        def run() -> None:
            try:
                result = work()
            except Exception as exc:  # noqa: BLE001 - handed over to the thread that waits
                then()
                made.set_exception(exc)
            else:
                then()
                made.set_result(result)

        threading.Thread(target=run, name="selfheal-errand", daemon=True).start()
        return made


class _OnLoop:
    """
    On the running asyncio loop, in greenlets as SQLAlchemy wants them.
    """

    async def run(self, errand: Errand, work: Callable[[], Any], timeout: float, *, patient: bool = False) -> Any:
        task = self._start(work)
        errand.ended = task.done
        try:
            await asyncio.wait({task}, timeout=timeout)
        finally:
            # Cut first: drivers take their time to honour a cancellation, for they ask the server to cancel as well.
            if not task.done() and not errand.give_up() and not patient:
                task.cancel()
        if not task.done():
            msg = f"no answer within {timeout:.2f} s"
            raise TimeoutError(msg)
        return task.result()

    async def pause(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    def behind(self, work: Callable[[], Any], timeout: float, give_up: Callable[[], Any]) -> None:
        timer = asyncio.get_running_loop().call_later(timeout, give_up)
        self._start(work).add_done_callback(lambda _: timer.cancel())

    @staticmethod
    def _start(work: Callable[[], Any]) -> asyncio.Future[Any]:
        from sqlalchemy.util import greenlet_spawn

        task = asyncio.ensure_future(greenlet_spawn(work))
        _given_up.add(task)
        task.add_done_callback(_forget)
        return task


def io_for(*, is_async: bool) -> IO:
    """
    What fits the colour of an engine.
    """
    return _OnLoop() if is_async else _InThread()


def _forget(task: asyncio.Future[Any]) -> None:
    _given_up.discard(task)
    if not task.cancelled():
        task.exception()  # looked at, so that the loop does not report it
