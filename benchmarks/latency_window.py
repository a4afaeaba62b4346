"""
What a sample and a verdict cost, at small and large windows, beside the article's algorithm in Python and in Rust.
"""

from __future__ import annotations

import pathlib
import random
import shutil
import subprocess
import tempfile
import time

from collections import deque
from collections.abc import Callable
from math import fsum

import attrs

from benchmarks.harness import Case, Figure, Goal, Report, measure, table
from selfheal import LatencyMonitor


WINDOWS = (5, 100, 10_000)

_rng = random.Random(7)
SAMPLES = tuple(_rng.expovariate(1 / 50) for _ in range(4096))


class Article:
    """
    The article's monitor: a window of samples, summed up whenever somebody asks.
    """

    def __init__(self, window_size: int, threshold_ms: float) -> None:
        self.samples: deque[float] = deque()
        self.window_size = window_size
        self.threshold_ms = threshold_ms

    def add_sample(self, ms: float) -> None:
        if len(self.samples) == self.window_size:
            self.samples.popleft()
        self.samples.append(ms)

    def is_unhealthy(self) -> bool:
        if len(self.samples) < self.window_size:
            return False
        return sum(self.samples) / len(self.samples) > self.threshold_ms


def _cost(monitor: Article | LatencyMonitor, calls: int, *, every: int = 1) -> Callable[[], float]:
    for index in range(monitor.window_size):
        monitor.add_sample(SAMPLES[index % len(SAMPLES)])
    monitor.is_unhealthy()
    batches = [SAMPLES[start : start + every] for start in range(0, calls, every)]

    def cost() -> float:
        add, ask = monitor.add_sample, monitor.is_unhealthy
        start = time.thread_time_ns()
        for batch in batches:
            for ms in batch:
                add(ms)
            ask()
        return (time.thread_time_ns() - start) / calls

    return cost


def _rust(program: pathlib.Path, window: int) -> Callable[[], float]:
    calls = max(2_000, 2_000_000 // window)

    def cost() -> float:
        answer = subprocess.run([program, str(window), str(calls)], capture_output=True, check=True, text=True)
        return float(answer.stdout)

    return cost


def exactness(updates: int = 3_000_000, window_size: int = 100) -> tuple[float, float]:
    """
    The largest error of the mean, relative to `math.fsum` of the same window; ours, and that of a running float sum.
    """
    rng = random.Random(1)
    monitor = LatencyMonitor(window_size, 1e12)
    window: deque[float] = deque()
    running = ours = naive = 0.0
    for index in range(updates):
        ms = 1e9 * rng.random() if rng.random() < 1e-4 else rng.expovariate(1 / 50)
        monitor.add_sample(ms)
        window.append(ms)
        running += ms - (window.popleft() if len(window) > window_size else 0.0)
        if index % 997 == 0 or index == updates - 1:
            expected = fsum(window) / len(window)
            value = monitor.value
            assert value is not None
            ours = max(ours, abs(value - expected) / expected)
            naive = max(naive, abs(running / len(window) - expected) / expected)
    return ours, naive


def _cases(window: int, program: pathlib.Path | None) -> list[Case]:
    cases = [
        Case(f"{window} selfheal, mean", _cost(LatencyMonitor(window, 1e9), 2_000), "verdict after each sample"),
        Case(
            f"{window} selfheal, mean, asked now and then",
            _cost(LatencyMonitor(window, 1e9), 4_000, every=100),
            "verdict after each 100 samples: how a check asks",
        ),
        Case(
            f"{window} selfheal, p99",
            _cost(LatencyMonitor(window, 1e9, statistic="p99"), 2_000),
            "exact quantile, verdict after each sample",
        ),
        Case(
            f"{window} selfheal, max",
            _cost(LatencyMonitor(window, 1e9, statistic="max"), 2_000),
            "exact maximum, verdict after each sample",
        ),
        Case(
            f"{window} article in Python",
            _cost(Article(window, 1e9), 500),
            "verdict after each sample; neither exact nor for several threads",
        ),
    ]
    if program is not None:
        cases.append(
            Case(f"{window} article in Rust -O", _rust(program, window), "the same, compiled, in a process of its own")
        )
    return cases


def _of(figures: dict[str, Figure], window: int) -> dict[str, Figure]:
    return {
        name.removeprefix(f"{window} "): attrs.evolve(row, name=name.removeprefix(f"{window} "))
        for name, row in figures.items()
        if name.startswith(f"{window} ")
    }


def run() -> Report:
    with tempfile.TemporaryDirectory() as folder:
        program = pathlib.Path(folder, "window")
        rustc = shutil.which("rustc")
        if rustc is not None:
            source = pathlib.Path(__file__).with_name("rust") / "window.rs"
            subprocess.run([rustc, "-O", "-o", program, source], check=True)
        figures = measure(
            [case for window in WINDOWS for case in _cases(window, program if rustc else None)], rounds=15
        )
    tables = [
        f"Window {window:,}:\n\n" + table(_of(figures, window), unit="ns", base="selfheal, mean", digits=1)
        for window in WINDOWS
    ]
    ours, naive = exactness()
    text = "Nanoseconds of one `add_sample` and one `is_unhealthy`, loop included.\n\n" + "\n\n".join(tables)
    if rustc is None:
        text += "\n\nThere is no rustc on this machine, so the article's Rust program was not measured."
    text += (
        "\n\nAfter 3,000,000 updates with spikes of 10^6 seconds (window 100) the largest relative error of the mean, "
        f"against `math.fsum` of the same window, was {ours:g}; that of a running float sum was {naive:.1e}."
    )
    mine = figures["10000 selfheal, mean"].median
    goals = [
        Goal("a sample and a verdict at window 10,000 beside window 5", mine / figures["5 selfheal, mean"].median, 1.3),
        Goal(
            "times faster than the article's deque and sum in Python, window 10,000",
            figures["10000 article in Python"].median / mine,
            20,
            at_least=True,
        ),
        Goal("error of the mean against `math.fsum` after 3,000,000 updates", ours, 0.0, unit=""),
    ]
    return Report("A sample and a verdict", text, goals)
