"""
How everything here is measured: thread-CPU time, all alternatives interleaved, medians and ratios.

On a shared machine one function under two names differs by up to 2 % by this
clock, and by a factor of three by a wall clock. So only ratios of medians of
one interleaved run are compared, and never a figure with one of another day.
"""

from __future__ import annotations

import gc
import random
import statistics
import time

from collections.abc import Callable, Sequence
from itertools import repeat

import attrs


#: Fewer rounds than this make no median.
LEAST_ROUNDS = 7


@attrs.frozen
class Case:
    """
    One alternative.

    Args:
        name: For the table.
        cost: Does the work and returns what one piece of it cost, in the table's unit.
        duty: What it does that the others do not, or leaves out.
    """

    name: str
    cost: Callable[[], float]
    duty: str = ""


@attrs.frozen
class Figure:
    """
    What was measured of one case.
    """

    name: str
    duty: str
    low: float
    median: float
    high: float


@attrs.frozen
class Goal:
    """
    One promise, and what came out.
    """

    words: str
    measured: float
    limit: float
    unit: str = "x"
    at_least: bool = False

    @property
    def met(self) -> bool:
        return self.measured >= self.limit if self.at_least else self.measured <= self.limit

    def __str__(self) -> str:
        relation = ">=" if self.at_least else "<="
        verdict = "met" if self.met else "**not met**"
        limit, measured = f"{self.limit:g} {self.unit}".strip(), f"{self.measured:.3g} {self.unit}".strip()
        return f"| {self.words} | {relation} {limit} | {measured} | {verdict} |"


@attrs.frozen
class Report:
    """
    What one module has to say.
    """

    title: str
    text: str
    goals: Sequence[Goal]


def nanoseconds(call: Callable[[], object], calls: int) -> Callable[[], float]:
    """
    The thread-CPU nanoseconds of one call, loop included.
    """

    def cost() -> float:
        start = time.thread_time_ns()
        for _ in repeat(None, calls):
            call()
        return (time.thread_time_ns() - start) / calls

    return cost


def measure(cases: Sequence[Case], *, rounds: int = 21, seed: int | None = None) -> dict[str, Figure]:
    """
    Visit all cases in a fresh random order each round; one round before the first is thrown away.
    """
    if rounds < LEAST_ROUNDS:
        msg = f"rounds={rounds}: take {LEAST_ROUNDS} or more, a median of fewer says nothing."
        raise ValueError(msg)
    rng = random.Random(seed)
    costs: dict[str, list[float]] = {case.name: [] for case in cases}
    for number in range(rounds + 1):
        for case in rng.sample(cases, len(cases)):
            gc.collect()
            gc.disable()
            try:
                cost = case.cost()
            finally:
                gc.enable()
            if number:
                costs[case.name].append(cost)
    return {case.name: figure(case.name, costs[case.name], case.duty) for case in cases}


def figure(name: str, values: Sequence[float], duty: str = "") -> Figure:
    """
    Median and quartiles.
    """
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return Figure(name, duty, low, median, high)


def table(figures: dict[str, Figure], *, unit: str, base: str, digits: int = 0) -> str:
    """
    A Markdown table; beside each median stands its ratio to that of *base*.
    """
    duties = any(row.duty for row in figures.values())
    lines = [
        f"| alternative | median {unit} (quartiles) | x {base} |" + (" difference in duty |" if duties else ""),
        "|---|---:|---:|" + ("---|" if duties else ""),
    ]
    for row in figures.values():
        ratio = row.median / figures[base].median if figures[base].median else float("nan")
        numbers = f"{row.median:,.{digits}f} ({row.low:,.{digits}f} to {row.high:,.{digits}f})"
        lines.append(f"| {row.name} | {numbers} | {ratio:.3g} |" + (f" {row.duty} |" if duties else ""))
    return "\n".join(lines)
