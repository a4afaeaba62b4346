"""
Which rung is next: attempts left and tries made. It knows neither time nor states.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from selfheal.model import Fault, Rung


class Cursor:
    """
    Where an incident stands on its ladder.

    Args:
        rungs: The ladder, lowest first.
        allow_destructive: Whether destructive rungs may be picked.
    """

    __slots__ = ("_allow_destructive", "_left", "_rungs", "_tries")

    def __init__(self, rungs: Sequence[Rung], *, allow_destructive: bool) -> None:
        self._rungs = rungs
        self._allow_destructive = allow_destructive
        self._left: list[int] = []
        self._tries: list[int] = []
        self.renew()

    @property
    def left(self) -> tuple[int, ...]:
        """
        Attempts left, rung by rung.
        """
        return tuple(self._left)

    def renew(self) -> None:
        """
        All attempts anew.
        """
        self._left = [rung.attempts for rung in self._rungs]
        self._tries = [0] * len(self._rungs)

    def renew_harmless(self) -> bool:
        """
        One attempt for each rung that is neither destructive nor held; whether there is such a rung.

        Tries go on counting: it is the same incident.
        """
        left = [0 if rung.destructive or rung.held else 1 for rung in self._rungs]
        if any(left):
            self._left = left
        return any(left)

    def pick(self, fault: Fault, held: Collection[int]) -> int | None:
        """
        The lowest usable rung that applies to *fault*, or `None`.
        """
        for index, rung in enumerate(self._rungs):
            if self._usable(index, held) and rung.applies(fault):
                return index
        return None

    def any_left(self, held: Collection[int]) -> bool:
        """
        Whether any rung could still be picked, were the fault one that it applies to.
        """
        return any(self._usable(index, held) for index in range(len(self._rungs)))

    def refuse(self, below: int | None) -> list[int]:
        """
        Use up the destructive rungs that are not allowed and lie under *below* (`None`: all), and return them.
        """
        refused = [
            index
            for index, rung in enumerate(self._rungs[:below])
            if rung.destructive and not self._allow_destructive and self._left[index]
        ]
        for index in refused:
            self._left[index] = 0
        return refused

    def attempt(self, rung: int) -> int:
        """
        The number of the next try of *rung*: 1 for the first in this incident.
        """
        return self._tries[rung] + 1

    def tried(self, rung: int, *, charged: bool) -> None:
        """
        Count a try, and charge it unless it was owed.
        """
        self._tries[rung] += 1
        if charged:
            self._left[rung] = max(0, self._left[rung] - 1)

    def use_up(self, rung: int) -> None:
        """
        Leave no attempt to *rung*.
        """
        self._left[rung] = 0

    def grant(self, rung: int) -> None:
        """
        One more attempt for *rung*.
        """
        self._left[rung] += 1

    def _usable(self, index: int, held: Collection[int]) -> bool:
        rung = self._rungs[index]
        return self._left[index] > 0 and index not in held and (self._allow_destructive or not rung.destructive)
