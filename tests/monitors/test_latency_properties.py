"""
`LatencyMonitor` against slow and obvious oracles.
"""

from __future__ import annotations

import math
import random
import statistics

from math import fsum

import pytest

from hypothesis import given
from hypothesis import strategies as st

from selfheal.monitors import LatencyMonitor


def nearest_rank(percent):
    def oracle(window):
        # the smallest sample that at least `percent` % of the window do not exceed
        return next(x for x in sorted(window) if 100 * sum(y <= x for y in window) >= percent * len(window))

    return oracle


ORACLES = {
    "mean": lambda window: fsum(window) / len(window),
    "p50": nearest_rank(50),
    "p95": nearest_rank(95),
    "p99": nearest_rank(99),
    "max": max,
}

usable = st.floats(min_value=0, max_value=1e299) | st.integers(min_value=0, max_value=10**15)
few = st.sampled_from([0.0, 0.1, 0.2, 0.3, 1e9, 5e-324])  # so that equal samples are common
nonsense = st.sampled_from([math.nan, math.inf, -math.inf, -1.0])
batches = st.lists(st.lists(usable | few | nonsense, max_size=30), max_size=20)


@pytest.mark.parametrize("statistic", ORACLES)
@given(window_size=st.integers(1, 40), batches=batches)
def test_the_value_is_that_of_the_window(statistic, window_size, batches):
    """
    However samples are grouped between questions, each value is exactly that of the last window_size usable samples.
    """
    monitor = LatencyMonitor(window_size, 100, statistic=statistic)
    seen = []
    for batch in batches:
        for ms in batch:
            monitor.add_sample(ms)
        seen += [ms for ms in batch if 0 <= ms < math.inf]
        window = seen[-window_size:]

        assert monitor.value == (ORACLES[statistic](window) if window else None)
        assert monitor.samples == len(window)
    assert monitor.accepted == len(seen)
    assert monitor.accepted + monitor.rejected == sum(map(len, batches))


@given(
    statistic=st.sampled_from(sorted(ORACLES)),
    window_size=st.integers(1, 8),
    data=st.data(),
    samples=st.lists(st.integers(0, 120), max_size=60),
)
def test_the_verdict_is_that_of_a_schmitt_trigger(statistic, window_size, data, samples):
    """
    It trips at the threshold once there are enough samples, clears at clear_ms, and says nothing before.
    """
    min_samples = data.draw(st.integers(1, window_size))
    clear_ms = data.draw(st.integers(1, 100))
    monitor = LatencyMonitor(window_size, 100, statistic=statistic, min_samples=min_samples, clear_ms=clear_ms)
    slow = False
    for index, ms in enumerate(samples, start=1):
        monitor.add_sample(ms)
        value = ORACLES[statistic](samples[max(0, index - window_size) : index])
        if index >= min_samples:
            slow = value > clear_ms if slow else value >= 100
        assessment = monitor.assess(now=float(index))

        assert monitor.is_unhealthy() is slow
        assert (assessment is None) is (index < min_samples)
        if assessment is not None:
            assert (assessment.status.value, assessment.value) == ("unhealthy" if slow else "healthy", value)


@pytest.mark.parametrize("window_size", [1, 7, 100])
def test_spikes_leave_no_trace(window_size):
    """
    After many samples with spikes of 10^6 seconds the mean is still that of fsum, to the last bit.
    """
    rng = random.Random(7)
    monitor = LatencyMonitor(window_size, 1e12)
    window = []
    for _ in range(3_000):
        batch = [1e9 * rng.random() if rng.random() < 0.01 else rng.expovariate(1 / 50) for _ in range(20)]
        for ms in batch:
            monitor.add_sample(ms)
        window = (window + batch)[-window_size:]

        assert monitor.value == fsum(window) / len(window)


@given(samples=st.lists(st.floats(0, 1e6), min_size=1, max_size=50))
def test_the_mean_is_the_exact_one(samples):
    """
    It differs from the mean of exact fractions by rounding alone.
    """
    monitor = LatencyMonitor(50, 100)
    for ms in samples:
        monitor.add_sample(ms)

    assert math.isclose(monitor.value, statistics.mean(samples), rel_tol=4e-16, abs_tol=1e-323)
