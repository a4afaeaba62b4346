"""
`Retirement`: how an object that was replaced goes: wait for its leases, close it, and give the close up in time.

It knows nothing of what is in service.
"""

from __future__ import annotations

import contextvars
import functools
import threading

from collections.abc import Callable
from typing import Generic, TypeVar

from selfheal.resources.loops import Loop, Signal
from selfheal.resources.steps import acall, call


T = TypeVar("T")


class Generation(Generic[T]):
    """
    One object, its number, the `use` blocks that are open on it, and the loop it is bound to, if it is async.
    """

    __slots__ = ("drained", "gone", "leases", "loop", "number", "value")

    def __init__(self, value: T, number: int, loop: Loop | None) -> None:
        self.value = value
        self.number = number
        self.loop = loop
        self.leases: list[None] = []
        self.drained: threading.Event | None = None  # there once it is being retired
        self.gone = Signal()

    def give_back(self) -> None:
        """
        One lease is over.
        """
        self.leases.pop()
        drained = self.drained
        if drained is not None and not self.leases:
            drained.set()


class Retirement(Generic[T]):
    """
    The objects of one `Rebuildable` that are on their way out, and what became of the earlier ones.

    Two daemon threads see each one out: one waits, and one closes (or posts the close to the loop of an async object).

    Args:
        close: Closes an object.
        name: For error texts and thread names.
        grace: Seconds to wait for leases.
        close_deadline: Seconds to wait for the close.
    """

    def __init__(self, close: Callable[[T], object], *, name: str, grace: float, close_deadline: float) -> None:
        self._close = close
        self._name = name
        self._grace = grace
        self._close_deadline = close_deadline
        self.under_way: tuple[Generation[T], ...] = ()
        self.retired = 0
        self.close_errors = 0
        self.given_up = 0
        self.hanging = 0
        self.last_error: BaseException | None = None
        self._lock = threading.Lock()

    @property
    def patience(self) -> float:
        """
        Seconds within which every retirement ends.
        """
        return self._grace + self._close_deadline

    def enlist(self, old: Generation[T]) -> None:
        """
        Put *old* on the books. Quick and harmless under a lock; `begin` is the next call.
        """
        with self._lock:
            self.under_way = (*self.under_way, old)

    def begin(self, old: Generation[T]) -> None:
        """
        See it out in the background.
        """
        old.drained = threading.Event()
        try:
            self._start(self._see_out, old)
        except RuntimeError as exc:  # no thread to be had: this one is lost, the one in service is not
            self._ended(old, exc, is_given_up=True)

    def forget(self) -> tuple[Generation[T], ...]:
        """
        Drop what belongs to a parent process, and return it.
        """
        self._lock = threading.Lock()  # a thread that does not exist here may hold the old one
        inherited, self.under_way, self.hanging = self.under_way, (), 0
        return inherited

    def _see_out(self, old: Generation[T]) -> None:
        # `copy` takes the list's own lock, which orders it against `append` in `Lease` without the GIL too.
        if old.leases.copy() and old.drained is not None:
            old.drained.wait(self._grace)
        cancel: Callable[[], None] | None = None
        try:
            if old.loop is None:
                self._start(self._close_here, old)
            else:
                cancel = old.loop.spawn(functools.partial(self._close_on_loop, old))
        except RuntimeError as exc:  # no thread to be had, or the loop has ended
            self._ended(old, exc, is_given_up=True)
            return
        if old.gone.wait(self._close_deadline):
            return
        error = TimeoutError(f"{self._name}: closing generation {old.number} took over {self._close_deadline:g} s")
        if self._ended(old, error, is_given_up=True, is_hanging=True) and cancel is not None:
            cancel()

    def _start(self, target: Callable[[Generation[T]], None], old: Generation[T]) -> None:
        name = f"selfheal-retire-{self._name}-{old.number}"
        # An empty context: what the request that asked for a rebuild had set is none of the old object's business.
        threading.Thread(target=contextvars.Context().run, args=(target, old), name=name, daemon=True).start()

    def _close_here(self, old: Generation[T]) -> None:
        try:
            call(functools.partial(self._close, old.value))
        except BaseException as exc:
            self._ended(old, exc)
            if not isinstance(exc, Exception):
                raise
        else:
            self._ended(old, None)

    async def _close_on_loop(self, old: Generation[T]) -> None:
        try:
            await acall(functools.partial(self._close, old.value))
        except BaseException as exc:
            self._ended(old, exc)
            if not isinstance(exc, Exception):
                raise
        else:
            self._ended(old, None)

    def _ended(
        self, old: Generation[T], error: BaseException | None, *, is_given_up: bool = False, is_hanging: bool = False
    ) -> bool:
        """Take *old* off the books, once; return whether this call did."""
        with self._lock:
            if old not in self.under_way:
                if not is_given_up:  # it was given up, and has ended after all
                    self.hanging -= 1
                return False
            self.under_way = tuple(other for other in self.under_way if other is not old)
            self.given_up += is_given_up
            self.hanging += is_hanging
            self.retired += not is_given_up
            if error is not None:
                self.close_errors += not is_given_up
                self.last_error = error
        old.gone.set()
        return True
