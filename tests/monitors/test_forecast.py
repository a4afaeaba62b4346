"""
`ForecastMonitor`: against a slow oracle, and as a check uses it.
"""

from __future__ import annotations

import math
import statistics

import pytest

from hypothesis import given
from hypothesis import strategies as st

from selfheal import ConfigError, HealthCheck, HealthStatus, Unhealthy
from selfheal.monitors import ForecastMonitor
from selfheal.recovery import recovery_action
from selfheal.testing import simulate


def told(monitor, numbers, *, every=1.0):
    """What it says after the last of so many numbers."""
    assessment = None
    for index, number in enumerate(numbers):
        monitor.add_sample(number)
        assessment = monitor.assess(now=index * every)
    return assessment


def left(samples, limit):
    """Seconds from the last sample until the limit, by the definition: every slope, and every line."""
    slopes = [
        (b - a) / (then - when) for i, (when, a) in enumerate(samples) for then, b in samples[i + 1 :] if then != when
    ]
    slope = statistics.median(slopes)
    level = statistics.median(value + slope * (samples[-1][0] - when) for when, value in samples)
    return max(0.0, limit - level) / slope if slope > 0 else math.inf


@given(
    numbers=st.lists(st.floats(0, 1) | st.sampled_from([0.0, 0.5, 1.0]), min_size=1, max_size=40),
    window=st.integers(4, 30),
    limit=st.sampled_from([0.5, 1.0, 3.0]),
)
def test_the_forecast_is_that_of_the_line_of_theil_and_sen(numbers, window, limit):
    """
    At each look the seconds left are those of the median of all slopes within the window; before half of it, nothing.
    """
    monitor = ForecastMonitor(100, limit=limit, window=window)
    for now, number in enumerate(numbers):
        monitor.add_sample(number)
        assessment = monitor.assess(now=now)
        samples = [(float(when), numbers[when]) for when in range(max(0, now - window), now + 1)]
        if len(samples) < 5 or 2 * (samples[-1][0] - samples[0][0]) < window:
            assert assessment is None
        else:
            assert left(samples, limit) == pytest.approx(assessment.value, rel=1e-9, abs=1e-9)
            assert assessment.status is (HealthStatus.UNHEALTHY if assessment.value < 100 else HealthStatus.HEALTHY)


@given(
    rate=st.floats(0.001, 0.01),
    wrong=st.sets(st.integers(0, 19), max_size=5),
    outlier=st.floats(-1e6, 1e6),
)
def test_a_quarter_of_outliers_moves_nothing(rate, wrong, outlier):
    """
    Whatever a quarter of the samples says, the forecast is that of the line on which the others are.
    """
    numbers = [outlier if index in wrong else rate * index for index in range(20)]
    assert (1 - 19 * rate) / rate == pytest.approx(told(ForecastMonitor(100, window=19), numbers).value, rel=1e-6)


@given(gaps=st.lists(st.floats(0, 5), max_size=300), window=st.sampled_from([10.0, 100.0]))
def test_it_keeps_few_samples_however_often_it_is_asked(gaps, window):
    """
    However many looks there are within the window, no more than some sixty samples are kept, and the forecast holds.
    """
    monitor, now = ForecastMonitor(40, window=window), 0.0
    for gap in gaps:
        now += gap
        monitor.add_sample(0.001 * now)
        assessment = monitor.assess(now=now)
        assert len(monitor._samples) <= 62
        if assessment is not None:
            assert (1 - 0.001 * now) / 0.001 == pytest.approx(assessment.value, rel=1e-6)


def test_what_does_not_grow_never_ends():
    """
    A number that stays, or falls, has no end, and is healthy.
    """
    for numbers in ([0.9] * 20, [0.9 - 0.01 * index for index in range(20)]):
        assessment = told(ForecastMonitor(100, window=19, name="memory"), numbers)
        assert (HealthStatus.HEALTHY, math.inf) == (assessment.status, assessment.value)
        assert "memory does not grow" == assessment.reason


def test_what_is_over_its_limit_has_no_time_left():
    """
    A number that grows beyond its limit has 0 seconds left.
    """
    assessment = told(ForecastMonitor(100, limit=10, window=19), range(20))
    assert (HealthStatus.UNHEALTHY, 0.0) == (assessment.status, assessment.value)
    assert "the number reaches 10 in 0 s, at 60 a minute" == assessment.reason


@pytest.mark.parametrize("nonsense", [math.nan, math.inf])
def test_what_is_no_number_is_left_out(nonsense):
    """
    A sample that is not finite is as none: the forecast rests on the others.
    """
    monitor = ForecastMonitor(100, window=20)
    told(monitor, [0.01 * index for index in range(20)])
    monitor.add_sample(nonsense)
    assert 81 == pytest.approx(monitor.assess(now=19).value)


def test_without_new_samples_the_old_ones_are_soon_no_opinion():
    """
    A probe that has stopped giving numbers leaves the monitor without a verdict within a window.
    """
    monitor = ForecastMonitor(100, window=20)
    assert told(monitor, [0.01 * index for index in range(21)]) is not None
    assert monitor.assess(now=20.5) is not None
    assert monitor.assess(now=37) is None


def test_a_leak_is_healed_before_the_limit_and_its_past_is_no_evidence_afterwards():
    """
    A check whose number grows is healed while there is time left, and what grew before does not refute the healing.
    """
    leak = ForecastMonitor(exhausted_within=200, window=50, name="memory")
    healed, used = [], [0.0]

    def probe():
        used[0] += 0.001 if not healed else 0.0
        if used[0] >= 1:
            raise Unhealthy("exhausted")
        leak.add_sample(used[0])

    @recovery_action
    def plug(ctx):
        healed.append((ctx.fault.kind, used[0]))

    check = HealthCheck(probe, name="memory", monitors=[leak], recovery=plug, interval=1, timeout=1)
    result = simulate([check], until=2000)
    ((kind, share),) = healed
    assert "exhausted" == kind
    assert 0.7 < share < 0.9
    assert ["healed"] == [incident.result.value for incident in result.incidents]


@pytest.mark.parametrize(
    "make",
    [
        lambda: ForecastMonitor(0),
        lambda: ForecastMonitor(float("inf")),
        lambda: ForecastMonitor(10, window=-1),
        lambda: ForecastMonitor(10, limit=0),
        lambda: ForecastMonitor(10, limit=True),
        lambda: ForecastMonitor(10, name="No Name"),
    ],
)
def test_settings_that_cannot_work_are_refused(make):
    """
    Times and the limit are finite numbers greater than 0, and a name is a metric label.
    """
    with pytest.raises(ConfigError):
        make()


def test_it_shows_its_settings():
    """
    Its repr has what it was made with; the window is a quarter of the time ahead.
    """
    assert "ForecastMonitor(3600, limit=1, window=900, name='memory')" == repr(ForecastMonitor(3600, name="memory"))
