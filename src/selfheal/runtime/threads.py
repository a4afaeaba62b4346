"""
Daemon threads for sync probes and actions.

Never the loop's default executor, which is joined at exit, and never anyio's
limiter of 40, which the application uses.
"""

from __future__ import annotations

import contextvars
import queue
import threading

from collections import deque
from collections.abc import Callable
from typing import Final, Protocol


#: Reports how a call ended: its value, or its error.
Ended = Callable[[object, BaseException | None], None]
Post = Callable[[Callable[[], None]], object]
#: Tells, on the loop's thread, that a call has got its thread: deadlines begin here.
Launched = Callable[[], None]

#: Seconds an idle thread is kept: longer than most intervals, so that a steady check reuses its thread.
IDLE_SECONDS: Final = 30.0


class Handle(Protocol):
    """
    A hold on running user code.
    """

    @property
    def is_task(self) -> bool:
        """
        Whether it runs in a task of the loop.
        """
        ...

    def cancel(self) -> None:
        """
        Ask it to stop. It may not listen.
        """
        ...


class Caller(Protocol):
    """
    Runs sync user code.
    """

    def call(self, fn: Callable[[], object], ended: Ended, launched: Launched) -> Handle:
        """
        Run *fn* once a thread is free; report to *launched* and *ended* on the loop's thread.
        """
        ...


class NotStarted(Exception):  # noqa: N818 - the program's trouble, not the code's that was to be called
    """
    What a call ends with that never got a thread.
    """


class Job:
    """
    One call in a thread. It cannot be cancelled, only abandoned.
    """

    __slots__ = ("_pool", "abandoned", "ended", "fn", "launched")
    is_task = False

    def __init__(self, pool: Threads, fn: Callable[[], object], ended: Ended, launched: Launched) -> None:
        self._pool = pool
        self.fn = fn
        self.ended = ended
        self.launched = launched
        self.abandoned = False

    def cancel(self) -> None:
        """
        Give its place in the pool back; the thread runs on.
        """
        self._pool.abandon(self)


class Threads:
    """
    At most *limit* threads that run user code, not counting abandoned ones.

    `call` and `Job.cancel` belong to the loop's thread; results are handed to
    it through *post*.

    Args:
        limit: 1 or more. What finds no free thread waits in line.
        post: Runs a function on the loop's thread soon.
    """

    def __init__(self, limit: int, post: Post) -> None:
        self._limit = limit
        self._post = post
        self._busy = 0
        self._idle: list[_Worker] = []
        self._lock = threading.Lock()  # guards _idle only; never held around user code
        self._waiting: deque[Job] = deque()

    @property
    def waiting(self) -> int:
        """
        Calls in line for a free thread; bounded by one a check.
        """
        return len(self._waiting)

    def call(self, fn: Callable[[], object], ended: Ended, launched: Launched) -> Job:
        """
        Run *fn* in a daemon thread, in an empty context.
        """
        job = Job(self, fn, ended, launched)
        if self._busy >= self._limit:
            self._waiting.append(job)
        else:
            self._launch(job)
        return job

    def abandon(self, job: Job) -> None:
        """
        Count *job* no longer. One that still waits in line has ended herewith.
        """
        if job in self._waiting:
            self._waiting.remove(job)
            job.abandoned = True
            self._post(lambda: job.ended(None, NotStarted("no thread was free in time")))
        elif not job.abandoned:
            job.abandoned = True
            self._release()

    def _launch(self, job: Job) -> None:
        self._busy += 1
        with self._lock:
            worker = self._idle.pop() if self._idle else None
        job.launched()
        if worker is None:
            try:
                worker = _Worker(self)
            except RuntimeError as exc:  # the machine, or a dying interpreter, has no thread left to give
                error = NotStarted(str(exc))
                self._post(lambda: self._ended(job, None, error))
                return
        worker.jobs.put(job)

    def _release(self) -> None:
        self._busy -= 1
        if self._waiting and self._busy < self._limit:
            self._launch(self._waiting.popleft())

    def finished(self, worker: _Worker, job: Job, value: object, error: BaseException | None) -> None:
        """
        Called in the worker's thread when its job has ended.
        """
        with self._lock:
            self._idle.append(worker)
        self._post(lambda: self._ended(job, value, error))

    def _ended(self, job: Job, value: object, error: BaseException | None) -> None:
        if not job.abandoned:
            job.abandoned = True  # its place can be given back only once
            self._release()
        job.ended(value, error)

    def retire(self, worker: _Worker) -> bool:
        """
        Whether an idle worker may end: not if it was just given a job.
        """
        with self._lock:
            if worker in self._idle:
                self._idle.remove(worker)
                return True
            return False


class _Worker:
    """
    One daemon thread and the queue it is fed from.
    """

    def __init__(self, pool: Threads) -> None:
        self.jobs: queue.SimpleQueue[Job] = queue.SimpleQueue()
        self._pool = pool
        threading.Thread(target=self._run, name="selfheal-worker", daemon=True).start()

    def _run(self) -> None:
        while True:
            try:
                job = self.jobs.get(timeout=IDLE_SECONDS)
            except queue.Empty:
                if self._pool.retire(self):
                    return
                continue
            value: object = None
            error: BaseException | None = None
            try:
                value = contextvars.Context().run(job.fn)
            except BaseException as exc:  # noqa: BLE001 - handed over, nothing is lost
                error = exc
            self._pool.finished(self, job, value, error)
            del job, value, error  # an idle thread keeps nothing alive


class InlineThreads:
    """
    Sync code under a virtual clock: called on the loop's own thread, in a turn of its own.
    """

    def __init__(self, post: Post) -> None:
        self._post = post

    def call(self, fn: Callable[[], object], ended: Ended, launched: Launched) -> Handle:
        """
        Run *fn* on the next turn, where it may call the healer that waits for it.
        """

        def run() -> None:
            launched()
            value: object = None
            error: BaseException | None = None
            try:
                value = contextvars.Context().run(fn)
            except BaseException as exc:  # noqa: BLE001 - handed over, nothing is lost
                error = exc
            ended(value, error)

        self._post(run)
        return _NOTHING


class _Nothing:
    """
    The handle of what cannot be interrupted.
    """

    is_task = False

    def cancel(self) -> None:
        """
        Nothing to cancel.
        """


_NOTHING: Final = _Nothing()
