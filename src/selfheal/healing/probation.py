"""
How long health is watched before it is believed, and the way back down for what is held.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from selfheal.model import HealingPolicy, Rung


#: Longest wait between two tries to step down, in seconds. Precedent: the kubelet resets its backoff after 10 min
#: and caps it at 5 min; stepping down is in no hurry.
WAIT_CAP: Final = 3600.0


class Probation:
    """
    One probation, then one held rung after the other, last applied first.

    Args:
        policy: Its ``probation``, ``verify_within`` and ``fast_interval`` are used.
        rungs: The ladder.

    Attributes:
        applied: Held rungs in force, oldest first. At most one entry a rung.
        until: When the present wait is over, if health is proved then (monotonic seconds).
        watched: The rung whose revert is being watched, or `None`.
        passed: Health has survived the probation proper; what is left is the way down.
    """

    __slots__ = ("_entered", "_policy", "_rungs", "_waits", "applied", "passed", "until", "watched")

    def __init__(self, policy: HealingPolicy, rungs: Sequence[Rung]) -> None:
        self._policy = policy
        self._rungs = rungs
        self._waits: dict[int, float] = {}
        self._entered = 0.0
        self.applied: list[int] = []
        self.until = 0.0
        self.watched: int | None = None
        self.passed = False

    def begin(self, now: float) -> None:
        """
        Health has just been proved.
        """
        self._entered = now
        self.passed = False
        self.watched = None
        self.until = self._next()

    def over(self, now: float, *, proved: bool) -> bool:
        """
        Whether the present wait is over: it does not end on a bad result, but once health is *proved* again.
        """
        if not proved:
            return False
        self.passed = self.passed or now >= self._entered + self._policy.probation
        if now < self.until:
            return False
        if self.watched is not None:
            self.watched = None
            self.until = max(self.until, self._next())
        return now >= self.until

    def apply(self, rung: int) -> None:
        """
        *rung* is in force.
        """
        if rung not in self.applied:
            self.applied.append(rung)

    def reverted(self, rung: int, now: float) -> None:
        """
        *rung* was taken back: watch what comes of it.
        """
        taken = self._rungs[rung]
        self.applied.remove(rung)
        self.watched = rung
        within = self._policy.verify_within if taken.verify_within is None else taken.verify_within
        self.until = now + taken.settle + within

    def stuck(self, rung: int, now: float) -> None:
        """
        *rung* could not be taken back: try again after twice the wait.
        """
        self.double(rung)
        self.until = now + self._waits[rung]

    def double(self, rung: int) -> None:
        """
        Let the next revert of *rung* wait twice as long.
        """
        # From `fast_interval` on, or a policy without probation would try again and again without a pause;
        # and never shorter than it was, should the probation be longer than the cap.
        wait = self._waits.get(rung, max(self._policy.probation, self._policy.fast_interval))
        self._waits[rung] = max(wait, min(2 * wait, WAIT_CAP))

    def forget(self) -> None:
        """
        The incident is over: the next one starts with plain waits.
        """
        self._waits.clear()
        self.watched = None
        self.passed = False

    def _next(self) -> float:
        # The wait of the rung to be taken back next, or the probation alone.
        wait = self._waits.get(self.applied[-1], 0.0) if self.applied else 0.0
        return self._entered + max(self._policy.probation, wait)
