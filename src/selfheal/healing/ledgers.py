"""
What has been spent: actions against a budget, runs against a cooldown, flaps against patience. Told the time.

A gate only reads them. The driver writes when an action starts, when it has
ended and when a healing has survived its probation, so asking costs nothing.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final

from selfheal import names
from selfheal.healing.states import RELAPSE
from selfheal.model import Budget, Entry, HealingState


#: Longest cooldown that doubling leads to, in seconds. A rung that asks for more gets what it asks for.
COOLDOWN_CAP: Final = 3600.0

#: Flaps within `FLAP_WINDOW` seconds that close the gate, and the number at which it opens again.
#: systemd: 5 starts per 10 s; Nagios leaves flapping at half of what enters it. The kubelet forgets after 10 min.
FLAP_LIMIT: Final = 5
FLAP_CALM: Final = 2
FLAP_WINDOW: Final = 600.0


class BudgetLedger:
    """
    A sliding log of the actions that were started.

    An action counts for *per* seconds from its start, the end excluded.
    Memory: the newest ``budget.limit`` starts; older ones could not change an answer.

    Args:
        budget: How many, and within which time.
    """

    __slots__ = ("_next", "_starts", "budget")

    def __init__(self, budget: Budget) -> None:
        self.budget = budget
        self._starts: deque[tuple[float, int]] = deque(maxlen=budget.limit)
        self._next = 0

    def charge(self, *, now: float) -> int:
        """
        An action starts.

        Returns:
            A token to give it back with.
        """
        self._next += 1
        self._starts.append((now, self._next))
        return self._next

    def refund(self, tokens: set[int]) -> None:
        """
        Give actions back: their healing has survived its probation. Unknown tokens are ignored.
        """
        kept = (start for start in self._starts if start[1] not in tokens)
        self._starts = deque(kept, maxlen=self.budget.limit)  # a new one: other threads read it

    def used(self, *, now: float) -> int:
        """
        Actions that count at *now*.
        """
        return sum(now < at + self.budget.per for at, _ in tuple(self._starts))

    def opens_at(self, *, now: float) -> float | None:
        """
        When the next action may start, or `None`: it may start now.
        """
        if self.used(now=now) < self.budget.limit:
            return None
        return self._starts[0][0] + self.budget.per


class CooldownLedger:
    """
    When each rung may run again. Memory: two numbers a rung name; a ladder has a fixed set of them.
    """

    __slots__ = ("_open_at", "_runs")

    def __init__(self) -> None:
        self._runs: dict[str, int] = {}
        self._open_at: dict[str, float] = {}

    def ended(self, rung: str, cooldown: float, *, now: float, uniform: Callable[[], float]) -> None:
        """
        A run of *rung* has ended.

        After its k-th run it rests for something in [d/2, d] seconds, d = min(3600, cooldown x 2^(k-1)): drawn here,
        once, so that the gate gives the same answer however often it is asked.

        Args:
            rung: Its name.
            cooldown: Its cooldown in seconds.
            now: When the run ended.
            uniform: Gives a number in [0, 1).
        """
        if cooldown <= 0:
            return
        runs = self._runs[rung] = self._runs.get(rung, 0) + 1
        # 64 doublings lead from a nanosecond to beyond the cap, and no power of two overflows.
        longest = max(cooldown, min(COOLDOWN_CAP, cooldown * 2.0 ** min(runs - 1, 64)))
        self._open_at[rung] = now + longest / 2 * (1.0 + uniform())

    def opens_at(self, rung: str, *, now: float) -> float | None:
        """
        When *rung* may run again, or `None`: it may run now.
        """
        at = self._open_at.get(rung)
        return at if at is not None and now < at else None

    def reset(self) -> None:
        """
        Forget all runs: a healing has survived its probation.
        """
        self._runs.clear()
        self._open_at.clear()


class FlapLedger:
    """
    Whether a check changes its mind too often.

    A flap is a suspicion that came to nothing, or a relapse. An incident that
    was healed and stayed healed is none, however many there are.
    Memory: the newest `FLAP_LIMIT` flaps.
    """

    __slots__ = ("_flapping", "_flaps")

    def __init__(self) -> None:
        self._flaps: deque[float] = deque(maxlen=FLAP_LIMIT)
        self._flapping = False

    def watch(self, entry: Entry) -> None:
        """
        Take in what the machine has written down, and count the flaps in it.
        """
        relapse = (
            entry.event == names.STATE_CHANGED
            and entry.fields.get("from_state") == HealingState.RESTORED.value
            and entry.fields.get("reason") == RELAPSE
        )
        if relapse or entry.event == names.SUSPICION_CLEARED:
            self.flap(now=entry.at)

    def flap(self, *, now: float) -> None:
        """
        Count a flap.
        """
        self._calm_down(now)
        self._flaps.append(now)
        if self._within(now) >= FLAP_LIMIT:
            self._flapping = True

    def opens_at(self, *, now: float) -> float | None:
        """
        When it will have been calm for long enough, or `None`: it does not flap.
        """
        self._calm_down(now)
        return self._flaps[-1 - FLAP_CALM] + FLAP_WINDOW if self._flapping else None

    def _within(self, now: float) -> int:
        return sum(now < at + FLAP_WINDOW for at in self._flaps)

    def _calm_down(self, now: float) -> None:
        # Hysteresis: with one limit for both ways, the gate itself would flap.
        if self._within(now) <= FLAP_CALM:
            self._flapping = False
