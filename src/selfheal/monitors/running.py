"""
Statistics of a sliding window that are kept up to date instead of being computed anew.

Each takes what came into the window and what fell out of it, and answers with
the statistic of what is in it now. None of them knows what the numbers mean.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque
from math import fsum
from typing import TYPE_CHECKING, Final, Protocol


if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence


class Statistic(Protocol):
    """
    One number about a window.
    """

    def update(self, fresh: Sequence[float], gone: Sequence[float], window: Collection[float]) -> float:
        """
        Follow the window, and say what the number is now.

        Args:
            fresh: What came in since the last call, oldest first, at least one.
            gone: What fell out since then, oldest first; it may hold samples of *fresh*.
            window: What is in it now.
        """
        ...


class Mean:
    """
    The arithmetic mean; its sum is that of `math.fsum` over the window, to the last bit.

    Amortised O(1) for each sample, whatever the window.
    """

    __slots__ = ("_sum",)

    def __init__(self) -> None:
        # The exact sum as floats that do not overlap, the largest first; in practice one or two. A single running
        # float drifts, and compensating what is added and subtracted does not help: the difference itself is rounded.
        self._sum: list[float] = []

    def update(self, fresh: Sequence[float], gone: Sequence[float], window: Collection[float]) -> float:
        """
        See `Statistic.update`.
        """
        terms = self._sum
        terms += fresh
        for sample in gone:
            terms.append(-sample)
        parts: list[float] = []
        while part := fsum(terms):  # each part is the rounded rest of what the parts before it leave out
            parts.append(part)
            terms.append(-part)
        self._sum = parts
        return parts[0] / len(window) if parts else 0.0


class Quantile:
    """
    The nearest-rank quantile: the smallest sample that at least *percent* % of the window do not exceed.

    So it is always a number that was measured. O(log n) comparisons for each sample and one `memmove` of at most
    n pointers (1.4 µs at n = 10,000); a batch of more than n / 16 samples is sorted instead, which is cheaper then.

    Args:
        percent: From 1 to 100.
    """

    __slots__ = ("_ordered", "_percent")

    def __init__(self, percent: int) -> None:
        self._percent = percent
        self._ordered: list[float] = []

    def update(self, fresh: Sequence[float], gone: Sequence[float], window: Collection[float]) -> float:
        """
        See `Statistic.update`.
        """
        ordered = self._ordered
        if 16 * len(fresh) > len(window):
            ordered[:] = sorted(window)
        else:
            for sample in gone:
                del ordered[bisect_left(ordered, sample)]
            for sample in fresh:
                insort(ordered, sample)
        return ordered[-(-self._percent * len(ordered) // 100) - 1]


class Maximum:
    """
    The largest sample.

    Amortised O(1) for each sample, whatever the window.
    """

    __slots__ = ("_peaks",)

    def __init__(self) -> None:
        # Samples that no later one exceeds: the first is the largest, and the next is what remains once it is gone.
        self._peaks: deque[float] = deque()

    def update(self, fresh: Sequence[float], gone: Sequence[float], window: Collection[float]) -> float:
        """
        See `Statistic.update`.
        """
        peaks = self._peaks
        for sample in fresh:
            while peaks and peaks[-1] < sample:
                peaks.pop()
            peaks.append(sample)
        for sample in gone:
            if peaks[0] == sample:
                peaks.popleft()
        return peaks[0]


#: What can be watched, by name.
STATISTICS: Final[dict[str, Callable[[], Statistic]]] = {
    "mean": Mean,
    "p50": lambda: Quantile(50),
    "p95": lambda: Quantile(95),
    "p99": lambda: Quantile(99),
    "max": Maximum,
}
