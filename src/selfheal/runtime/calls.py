"""
Calls from other threads that wait for the loop's answer.
"""

from __future__ import annotations

import threading

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

from selfheal.errors import NotRunningError


if TYPE_CHECKING:
    from selfheal.runtime.hosts import Host

R = TypeVar("R")

#: Seconds to wait for the loop to answer: what it is asked takes no time, so this is never reached in health.
ANSWER_WITHIN: Final = 10.0


class LoopEndedError(Exception):
    """
    The loop has ended without an answer.
    """


class Calls:
    """
    Those under way, so that none waits for a loop that has ended.
    """

    def __init__(self) -> None:
        self._waiting: set[_Call[Any]] = set()

    def ask(self, host: Host, fn: Callable[[], R]) -> R:
        """
        The result of *fn*, run on the thread of *host*; a `LoopEndedError` if that has ended, without *fn* being run.

        Raises:
            NotRunningError: If the loop does not answer. *fn* will not be run.
        """
        call = _Call(fn)
        self._waiting.add(call)
        try:
            if not host.post(call.run):
                raise LoopEndedError
            if not call.answered.wait(ANSWER_WITHIN):
                msg = f"the healer's event loop has not answered for {ANSWER_WITHIN:g} s: something blocks it"
                raise NotRunningError(msg)
        finally:
            call.wanted = False
            self._waiting.discard(call)
        return call.result()

    def let_go(self) -> None:
        """
        The loop has ended: nobody waits for it any more.
        """
        for call in tuple(self._waiting):
            call.errors.append(LoopEndedError())
            call.answered.set()


class _Call(Generic[R]):
    def __init__(self, fn: Callable[[], R]) -> None:
        self._fn = fn
        self._results: list[R] = []
        self.errors: list[BaseException] = []
        self.answered = threading.Event()
        self.wanted = True

    def run(self) -> None:
        if not self.wanted:
            return
        try:
            self._results.append(self._fn())
        except BaseException as exc:  # noqa: BLE001 - raised again where it was asked for
            self.errors.append(exc)
        finally:
            self.answered.set()

    def result(self) -> R:
        if self._results:
            return self._results[0]
        raise self.errors[0]
