"""
What an application's users have seen, judged from their requests alone.
"""

from __future__ import annotations

import pytest

from hypothesis import given
from hypothesis import strategies as st

from selfheal.demo.meter import CALM, STALL, Meter, Request, judge


def good(began: float, took: float = 0.01, *, writes: bool = True) -> Request:
    """A request that got what it wanted."""
    return Request(began, began + took, writes)


def bad(began: float, took: float = 0.01, *, writes: bool = True) -> Request:
    """A request that failed."""
    return Request(began, began + took, writes, "OSError: gone")


def test_healed_is_the_first_success_after_the_last_failure() -> None:
    """
    The time of healing is the end of the first good request after which none failed.
    """
    requests = [good(10.0), bad(11.0), good(12.0), bad(13.0), good(14.0), good(15.0)]
    score = judge(requests, [], since=10.5, now=20.0)
    assert (3.51, 2, "OSError: gone") == (pytest.approx(score.healed), score.failed, score.error)


def test_who_was_never_disturbed_is_healed_with_the_first_request() -> None:
    """
    Without a failure the first good request after the fault counts.
    """
    assert pytest.approx(0.51) == judge([good(9.0), good(11.0)], [], since=10.5, now=20.0).healed


def test_a_short_calm_is_no_healing() -> None:
    """
    Healed is only who has worked for a while.
    """
    requests = [bad(10.0), good(11.0)]
    assert judge(requests, [], since=9.0, now=11.01 + CALM - 0.01).healed is None
    assert judge(requests, [], since=9.0, now=11.01 + CALM + 0.01).healed is not None


def test_silence_is_no_healing() -> None:
    """
    After a failure nothing but a success heals, however long nothing fails.
    """
    assert judge([good(9.0), bad(10.0)], [], since=8.0, now=1000.0).healed is None


def test_a_call_that_hangs_is_no_healing_and_counts_as_a_stall() -> None:
    """
    As long as one call does not return, the application is not healed, and that call is the longest stall.
    """
    score = judge([good(11.0)], [10.0], since=10.0, now=30.0)
    assert (None, 20.0, 1) == (score.healed, score.longest_stall, score.hanging)


def test_a_slow_success_is_a_disturbance_and_its_end() -> None:
    """
    A call that took too long counts from its end on, though it succeeded.
    """
    score = judge([good(10.0), good(10.0, STALL + 4), good(16.0)], [], since=10.0, now=30.0)
    assert (5.0, 0, 5.0) == (score.healed, score.failed, score.longest_stall)


def test_where_only_writing_counts_reading_heals_nobody() -> None:
    """
    A fault that only writing meets is judged by requests that write; failures of all are counted.
    """
    requests = [good(10.0, writes=False), bad(11.0), good(12.0, writes=False), bad(13.0, writes=False)]
    score = judge(requests, [], since=9.0, now=30.0, writes_only=True)
    assert (None, 2) == (score.healed, score.failed)
    assert judge([*requests, good(14.0)], [], since=9.0, now=30.0, writes_only=True).healed is not None


@given(st.lists(st.tuples(st.floats(0, 50), st.floats(0, 3), st.booleans()), max_size=30), st.floats(0, 60))
def test_nothing_is_disturbed_after_the_healing(calls: list[tuple[float, float, bool]], since: float) -> None:
    """
    Whatever the requests, none that ended later than the healing failed or took too long.
    """
    requests = [good(began, took) if ok else bad(began, took) for began, took, ok in calls]
    healed = judge(requests, [], since=since, now=100.0).healed
    if healed is not None:
        assert [] == [r for r in requests if r.is_disturbed and r.ended > since + healed + 1e-9]


def test_a_meter_notes_what_was_raised_and_what_still_runs() -> None:
    """
    Each request is noted with its times and its error, and those under way with the time they began.
    """
    times = iter([1.0, 2.0, 3.0, 4.0])
    meter = Meter(2, now=lambda: next(times))
    seen: list[float] = []

    def fail() -> None:
        seen.extend(meter.open_since())
        raise OSError("gone\nfor good")

    meter.run(0, fail, writes=True)
    meter.run(1, lambda: None, writes=False)
    assert [1.0] == seen
    assert [] == meter.open_since()
    assert [Request(1.0, 2.0, True, "OSError: gone"), Request(3.0, 4.0, False)] == meter.since(0.0)
    assert [Request(3.0, 4.0, False)] == meter.since(2.5)
