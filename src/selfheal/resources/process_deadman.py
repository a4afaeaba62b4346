"""
`DeadMan`: ends a process whose healer does not turn any more, even while C code holds the interpreter's lock.
"""

from __future__ import annotations

import faulthandler
import os
import threading

from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

from selfheal.checks import HealthCheck
from selfheal.clock import SystemClock
from selfheal.errors import ConfigError, IllegalTransitionError, NotRunningError, Unhealthy
from selfheal.model.policy import HealingPolicy
from selfheal.model.settings import seconds
from selfheal.resources.process_stacks import open_dump


if TYPE_CHECKING:
    import datetime as dt

#: Signs of life within the timeout: one may be lost, or come late.
_SIGNS: Final = 4

#: The longest that faulthandler can wait, by far: a year.
_MAX_TIMEOUT: Final = 365 * 86400.0

#: Seconds; faulthandler refuses 0.
_AT_ONCE: Final = 0.001

#: How often a thread for the timer is asked for, a millisecond apart: where a process has as many threads as it may, the
#: one that has just ended has to make room first.
_TRIES: Final = 20

#: faulthandler has one timer for the process, and whoever sets it again takes it from the one before.
_lock = threading.Lock()
_armed: list[DeadMan] = []  # one at most
_hooked: list[bool] = []


class DeadMan:
    """
    Without a sign of life from the healer for *timeout* seconds: write all threads' stacks and end the process.

    ``check()`` is what gives the signs, from the loop of the healer itself, so it stands for the engine: a thread for
    a sync healer, your own loop for an async one. The timer is faulthandler's, a thread in C that does not need the
    interpreter's lock. Whatever supervises the process starts it again.

    It is armed from the moment it is entered until it is left, so it has to be outside of the healer::

        with DeadMan(30) as dead_man, Healer([dead_man.check(), ...]):
            serve()

    There is one in a process at most, and `faulthandler.dump_traceback_later` is not available to others meanwhile.
    A forked child is not armed until a healer of its own runs the check, or it enters one of its own.

    Args:
        timeout: Seconds without a sign of life. More than the healer takes to start, which is a second or two on a busy
            machine, and than its ``grace``, in which it stops without any sign. A process that is stopped for longer
            (SIGSTOP, a debugger) is ended when it goes on.
        exit: End the process, with code 1 and without any cleaning up. If not, only the stacks are written.
        file: Where the stacks go, as of `ThreadDump`. Default: the standard error.

    Raises:
        ConfigError: If *timeout* is out of range.

    .. versionadded:: 26.1.0
    """

    def __init__(
        self,
        timeout: float | dt.timedelta,
        *,
        exit: bool = True,  # noqa: A002 - as faulthandler calls it
        file: str | os.PathLike[str] | None = None,
    ) -> None:
        self.timeout: Final = seconds(timeout)
        if not 0 < self.timeout <= _MAX_TIMEOUT:
            msg = f"timeout={self.timeout:g}: must be greater than 0 seconds, and a year at most."
            raise ConfigError(msg)
        self._exit = exit
        self._file = None if file is None else os.fspath(file)
        self._fd = 2
        self._entered = False
        self._deadline = 0.0

    def check(self) -> HealthCheck:
        """
        Its signs of life, four within the timeout, as a check for the healer.

        It is healthy, while it runs; ``exhausted`` if no thread is left for the timer. The next sign tries again.
        """
        interval = self.timeout / _SIGNS
        # Nothing heals it, but every policy has to leave room for a proof.
        policy = HealingPolicy(interval=interval, timeout=interval, jitter=0, rise=1, verify_within=self.timeout)
        return HealthCheck(self._sign, name="dead_man", policy=policy)

    def __enter__(self) -> Self:
        with _lock:
            if _armed or self._entered:
                msg = "there is a DeadMan in this process already: one timer is all there is. Share the one."
                raise IllegalTransitionError(msg)
            if self._file is not None:
                self._fd = open_dump(self._file)
            if not _hooked and hasattr(os, "register_at_fork"):
                # A child that inherits the timer, but not its thread, would wait for that thread when it ends: for ever.
                os.register_at_fork(before=_before_fork, after_in_parent=self._after_fork, after_in_child=_in_child)
                _hooked.append(True)
            try:
                self._wind_up()
            except RuntimeError:
                self._close()
                raise
            self._entered = True
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with _lock:
            self._entered = False
            if self in _armed:
                _armed.clear()
                faulthandler.cancel_dump_traceback_later()
            self._close()

    # On the loop, not in a thread: a busy thread pool does not mean that the engine hangs.
    async def _sign(self) -> None:
        with _lock:
            if not self._entered or _armed not in ([], [self]):
                msg = "this DeadMan is not armed: enter it, outside of the healer."
                raise NotRunningError(msg)
            try:
                self._wind_up()
            except RuntimeError as exc:
                # faulthandler has ended its old thread by now. The process is well, so it does not end for that.
                msg = f"{exc}: until a sign of life gets a thread for the timer, a hang does not end this process"
                raise Unhealthy("exhausted", msg) from exc

    def _wind_up(self) -> None:
        self._deadline = SystemClock.now() + self.timeout
        self._arm(self.timeout)
        _armed[:] = [self]

    def _arm(self, left: float) -> None:
        for attempt in range(1, _TRIES + 1):
            try:
                faulthandler.dump_traceback_later(left, exit=self._exit, file=self._fd)
            except RuntimeError:
                if attempt == _TRIES:
                    raise
                threading.Event().wait(0.001)
            else:
                return

    def _close(self) -> None:
        if self._file is not None:
            os.close(self._fd)

    # A fork is no sign of life, so the time goes on. Only one that writes may be over already: it has written then.
    def _go_on(self) -> None:
        left = self._deadline - SystemClock.now()
        if left > 0 or self._exit:
            self._arm(max(left, _AT_ONCE))

    @staticmethod
    def _after_fork() -> None:
        try:
            for dead_man in _armed:
                dead_man._go_on()
        finally:
            _lock.release()


def _before_fork() -> None:
    _lock.acquire()
    if _armed:
        faulthandler.cancel_dump_traceback_later()


def _in_child() -> None:
    # The child is not watched until it gives a sign of its own: neither it nor what it forks has anybody to give them.
    _armed.clear()
    _lock.release()
