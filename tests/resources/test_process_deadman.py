"""
DeadMan across forks. What it tells faulthandler is written down instead of done, so that no time has to pass.
"""

from __future__ import annotations

import asyncio
import faulthandler
import os
import warnings

from collections.abc import Callable

import pytest

from selfheal import Unhealthy
from selfheal.clock import SystemClock
from selfheal.resources import DeadMan


pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


class Timer:
    """Stands for faulthandler's: for how many seconds it was wound up each time, and whether it runs."""

    def __init__(self) -> None:
        self.wound: list[float] = []
        self.runs = False
        self.failures = 0  # of the next ones

    def start(self, timeout: float, **_options: object) -> None:
        self.runs = False  # faulthandler's old thread ends before it starts the new one
        if self.failures:
            self.failures -= 1
            msg = "unable to start watchdog thread"
            raise RuntimeError(msg)
        self.wound.append(timeout)
        self.runs = True

    def cancel(self) -> None:
        self.runs = False


@pytest.fixture
def timer(monkeypatch) -> Timer:
    timer = Timer()
    monkeypatch.setattr(faulthandler, "dump_traceback_later", timer.start)
    monkeypatch.setattr(faulthandler, "cancel_dump_traceback_later", timer.cancel)
    return timer


def forked(does: Callable[[], object] = lambda: None) -> bool:
    """Whether a forked child finds true what it *does*."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of other threads, which the child does not need
        child = os.fork()
    if not child:
        code = 2
        try:
            code = 0 if does() else 1
        finally:
            os._exit(code)
    return 0 == os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.fixture
def now(monkeypatch) -> list[float]:
    """What the time is, in its only item."""
    now = [1000.0]
    monkeypatch.setattr(SystemClock, "now", staticmethod(lambda: now[0]))
    return now


def test_a_thread_that_ends_makes_room_for_the_next_one(timer):
    """
    A process that has as many threads as it may is armed as soon as the old timer's thread is gone, signs and forks alike.
    """
    with DeadMan(60) as dead_man:
        timer.failures = 5
        asyncio.run(dead_man.check().probe())
        assert timer.runs
        timer.failures = 5
        forked()
        assert timer.runs


def test_a_sign_of_life_that_gets_no_thread_says_so_and_the_next_one_arms_again(timer):
    """
    When no thread is left, the check tells that nothing ends the process, and it is armed as soon as there is one.
    """
    with DeadMan(60) as dead_man:
        timer.failures = 1000
        with pytest.raises(Unhealthy, match="exhausted: unable to start watchdog thread: until a sign of life"):
            asyncio.run(dead_man.check().probe())
        timer.failures = 0
        asyncio.run(dead_man.check().probe())
        assert timer.runs


def test_one_that_cannot_be_armed_is_not_entered(timer, tmp_path):
    """
    Without a thread for the timer entering fails, leaves no file open, and may be tried again.
    """
    timer.failures = 1000
    dead_man, opened = DeadMan(60, file=tmp_path / "stacks.txt"), os.dup(2)
    os.close(opened)
    with pytest.raises(RuntimeError, match="watchdog thread"):
        dead_man.__enter__()
    again = os.dup(2)
    os.close(again)
    assert opened == again
    timer.failures = 0
    with dead_man:
        assert timer.runs


@pytest.mark.parametrize("ends", [True, False])
def test_a_fork_is_no_sign_of_life(timer, now, ends):
    """
    After a fork, what is left of the time goes on; only a sign gives the whole of it.
    """
    with DeadMan(60, exit=ends) as dead_man:
        for passes in (10, 20.5):
            now[0] += passes
            forked()
            assert timer.runs
        assert [60, 50, 29.5] == timer.wound
        asyncio.run(dead_man.check().probe())
        now[0] += 59
        forked()
        assert timer.runs
        assert [60, 1] == timer.wound[3:]


def test_time_that_is_over_during_a_fork_ends_the_process_at_once(timer, now):
    """
    When nothing is left of the time after a fork, it is wound up for a moment, not anew and not at all.
    """
    with DeadMan(60):
        now[0] += 61
        forked()
        assert timer.runs
        assert 0 < timer.wound[-1] <= 0.1


def test_stacks_that_were_written_are_not_written_at_each_fork(timer, now):
    """
    One that does not end the process has done its work when the time is over, until the next sign of life.
    """
    with DeadMan(60, exit=False) as dead_man:
        now[0] += 61
        forked()
        assert [60] == timer.wound
        asyncio.run(dead_man.check().probe())
        assert timer.runs


def test_a_forked_child_is_not_armed_by_forks_of_its_own(timer):
    """
    Nobody in the child gives signs of life, so the timer is not wound up there, whatever the child forks.
    """

    def child() -> bool:
        timer.wound.clear()
        forked()
        return not timer.runs and not timer.wound

    with DeadMan(60):
        assert timer.runs
        assert forked(child)
        assert timer.runs


def test_a_forked_child_is_armed_by_a_sign_of_its_own(timer):
    """
    A healer that runs the check in the child makes it the child's own, also across the child's forks.
    """
    with DeadMan(60) as dead_man:

        def child() -> bool:
            asyncio.run(dead_man.check().probe())
            first = timer.runs
            forked()
            return first and timer.runs

        assert forked(child)


def test_a_forked_child_may_have_one_of_its_own(timer):
    """
    The one that was inherited does not keep the child from entering its own, and leaving it touches nothing.
    """
    with DeadMan(60) as inherited:

        def child() -> bool:
            with DeadMan(30):
                inherited.__exit__(None, None, None)
                return timer.runs and [60, 30] == timer.wound

        assert forked(child)
