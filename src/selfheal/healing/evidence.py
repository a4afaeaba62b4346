"""
Which results count, and what they confirm or prove. It knows no states.
"""

from __future__ import annotations

import math

from collections import deque

from selfheal.model import Fault, HealingPolicy


class Evidence:
    """
    The last known results that count. Memory: ``fall_window`` booleans.

    Args:
        policy: Its ``fall``, ``fall_window``, ``fall_for`` and ``rise`` are used.

    Attributes:
        floor: Results that started before this time (monotonic seconds) do not count.
        fault: The latest fault counted. It outlives `empty`: a ladder is matched against it.
        good: Good results in a row.
        bad: Bad results in a row.
        known: Results counted since it was emptied.
        since: When the first of the bad results in the count came in.
        began: When the run that found it had started.
    """

    __slots__ = ("_fall", "_fall_for", "_recent", "_rise", "bad", "began", "fault", "floor", "good", "known", "since")

    def __init__(self, policy: HealingPolicy) -> None:
        self._fall = policy.fall
        self._fall_for = policy.fall_for
        self._rise = policy.rise
        self._recent: deque[bool] = deque(maxlen=policy.fall_window)
        self.floor = -math.inf
        self.fault: Fault | None = None
        self.good = self.bad = self.known = 0
        self.since = self.began = 0.0

    @property
    def recent(self) -> tuple[bool, ...]:
        """
        The results in the count, oldest first: `True` is bad.
        """
        return tuple(self._recent)

    @property
    def suspect(self) -> bool:
        """
        Whether a bad result is in the count.
        """
        return True in self._recent

    @property
    def proved(self) -> bool:
        """
        Whether the last ``rise`` results are good.
        """
        return self.good >= self._rise

    @property
    def refuted(self) -> bool:
        """
        Whether the last ``fall`` results are bad, or the last bad one was fatal.
        """
        return self.bad >= self._fall or (self.fault is not None and self.fault.fatal)

    def empty(self) -> None:
        """
        Count from nothing.
        """
        self._recent.clear()
        self.good = self.bad = self.known = 0

    def void(self, now: float) -> None:
        """
        Count from nothing, and never what started before *now*.
        """
        self.floor = max(self.floor, now)
        self.empty()

    def add_good(self) -> None:
        """
        Count a good result.
        """
        self._recent.append(False)
        self.good += 1
        self.bad = 0
        self.known += 1

    def add_bad(self, fault: Fault, *, started: float, now: float) -> None:
        """
        Count a bad result.
        """
        if not self.suspect:
            self.since, self.began = now, started
        self._recent.append(True)
        self.good = 0
        self.bad += 1
        self.known += 1
        self.fault = fault

    def confirms(self, *, now: float) -> bool:
        """
        Whether the bad result just counted confirms a fault.

        Only a bad result does: a fault is confirmed by evidence, never by the mere passing of ``fall_for``.
        """
        if self.fault is not None and self.fault.fatal:
            return True
        return self._recent.count(True) >= self._fall and now - self.since >= self._fall_for
