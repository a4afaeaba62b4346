"""
Events on their way out: in order, from one thread, bounded, and harmless.
"""

from __future__ import annotations

import contextlib
import queue
import threading

from collections.abc import Callable, Collection
from typing import Final

from selfheal import names
from selfheal.model import Event


Listener = Callable[[Event], object]

#: Events that wait for slow listeners. What comes on top is dropped and counted.
LIMIT: Final = 4096


class _Last:
    """
    What ends the thread.
    """

    def __init__(self, delivered: Callable[[], object]) -> None:
        self.delivered = delivered


class Dispatcher:
    """
    Hands events to listeners on a daemon thread of its own, so that no listener can hold up the healing.

    Args:
        inline: Virtual time has no other threads: call the listeners on the loop, in a turn of their own, or at once
            while no loop runs.
    """

    def __init__(self, *, inline: bool = False) -> None:
        self._inline = inline
        # On the loop an interrupt is the application's; in a thread of ours nobody else would ever see it.
        self._caught: type[BaseException] = Exception if inline else BaseException
        #: Runs a function on the loop's thread soon, once there is a loop.
        self.post: Callable[[Callable[[], object]], object] | None = None
        self._listeners: tuple[tuple[Listener, frozenset[str] | None], ...] = ()
        self._wanted: frozenset[str] | None = frozenset()
        self._queue: queue.SimpleQueue[Event | _Last] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()
        self.dropped = 0
        self.failed = 0

    def add(self, listener: Listener, events: Collection[str] | None = None) -> Callable[[], None]:
        """
        Call *listener* with every event of these names, or with all.

        Returns:
            A function that takes it off again.
        """
        item = (listener, None if events is None else frozenset(events))
        with self._lock:
            self._set((*self._listeners, item))

        def remove() -> None:
            with self._lock:
                self._set(tuple(other for other in self._listeners if other is not item))

        return remove

    def _set(self, listeners: tuple[tuple[Listener, frozenset[str] | None], ...]) -> None:
        wanted: frozenset[str] | None = frozenset()
        for _, events in listeners:
            wanted = None if wanted is None or events is None else wanted | events
        self._listeners, self._wanted = listeners, wanted

    def wants(self, name: str) -> bool:
        """
        Whether anybody listens to events of this name: the rest need not be built.
        """
        return self._wanted is None or name in self._wanted

    def put(self, event: Event) -> None:
        """
        Send *event* on its way. Never waits.
        """
        if not self.wants(event.name):
            return
        if self._inline and self.post is None:
            self._deliver(event)
        elif self._inline and self.post is not None:
            self.post(lambda: self._deliver(event))
        elif self._queue.qsize() >= LIMIT:
            self.dropped += 1
        else:
            self._queue.put(event)
            self._ensure_thread()

    def close(self, delivered: Callable[[], object]) -> None:
        """
        Deliver what was sent so far, call *delivered*, and end the thread. Later events start another.
        """
        with self._lock:
            thread, self._thread = self._thread, None
        if thread is not None:
            self._queue.put(_Last(delivered))
        # Under a virtual clock after what was posted to the loop, and on its thread, unless it has ended.
        elif not (self._inline and self.post is not None and self.post(delivered)):
            delivered()

    def _ensure_thread(self) -> None:
        if self._thread is None:
            with self._lock:
                if self._thread is None:
                    thread = threading.Thread(target=self._run, name="selfheal-events", daemon=True)
                    with contextlib.suppress(RuntimeError):  # no thread to be had: the next event asks again
                        thread.start()
                        self._thread = thread

    def _run(self) -> None:
        while True:
            item = self._queue.get()
            if isinstance(item, _Last):
                item.delivered()
                return
            self._deliver(item)

    def _deliver(self, event: Event) -> None:
        for listener, events in self._listeners:
            if events is not None and event.name not in events:
                continue
            try:
                listener(event)
            except self._caught as exc:  # user code: isolated and counted
                self.failed += 1
                self._report(listener, event, exc)

    def _report(self, culprit: Listener, event: Event, error: BaseException) -> None:
        fields = {
            "listener": getattr(culprit, "__qualname__", type(culprit).__name__),
            "error_type": type(error).__name__,
        }
        report = Event(name=names.LISTENER_FAILED, at=event.at, fields=fields, error=error)
        for listener, events in self._listeners:
            if listener is culprit or (events is not None and report.name not in events):
                continue
            try:
                listener(report)
            except self._caught:  # it is told about its own failures elsewhere; here it only counts
                self.failed += 1
