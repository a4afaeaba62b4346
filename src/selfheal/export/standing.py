"""
What the metrics say of a healer as a whole: pauses, budgets, health, lost events. They change without an event, too.
"""

from __future__ import annotations

import math

from typing import TYPE_CHECKING, Final

from selfheal import names
from selfheal.export.http import groups
from selfheal.runtime.snapshot import PROCESS


if TYPE_CHECKING:
    from selfheal.export.registration import Metrics
    from selfheal.healer import Healer
    from selfheal.runtime.snapshot import Snapshot


#: Seconds between two looks; with more than a thousand checks, a second for each thousand. Measured: 8 µs a check.
LOOK_EVERY: Final = 1.0
_LOOK_LATER: Final = 0.001


class Standing:
    """
    Looks at a healer while checks are run: once a second, or with more than a thousand checks less often.

    Args:
        metrics: Where to.
        dropped: Events that slow listeners have missed so far: not ours to count.
    """

    def __init__(self, metrics: Metrics, dropped: int) -> None:
        self._metrics = metrics
        #: Names of the budgets that are shown.
        self.budgets: frozenset[str] = frozenset()
        self._next = -math.inf
        self._dropped = dropped

    def is_due(self, now: float, checks: int) -> bool:
        """
        Whether it is time to look again, at so many *checks*; if so, the next time is a second later or more.
        """
        if now < self._next:
            return False
        self._next = now + max(LOOK_EVERY, checks * _LOOK_LATER)
        return True

    def look(self, healer: Healer) -> None:
        """
        Look at everything.
        """
        dropped = healer.events_dropped
        if dropped > self._dropped:
            self._metrics.child("selfheal_events_dropped_total", "listener", "overflow").inc(dropped - self._dropped)
        self._dropped = dropped  # smaller than before in a healer that has begun anew
        seen = healer.snapshot()  # a fresh one: a removal and the end of a pause change nothing that an older one knows
        self._metrics.child("selfheal_paused").set(seen.paused is not None or bool(seen.pauses))
        self._show_budgets(seen)
        self._show_health(healer, seen)

    def charged(self, healer: Healer) -> None:
        """
        An action was started.
        """
        self._show_budgets(healer.snapshot())

    def denied(self, healer: Healer, resource: str) -> None:
        """
        An action on *resource* was not started, for a budget around it is used up.
        """
        seen = healer.snapshot()
        self._show_budgets(seen)
        for name, allowance in seen.budgets.items():
            if allowance.left <= 0 and name in {resource, PROCESS}:
                self._metrics.child("selfheal_budget_denials_total", name).inc()

    def _show_budgets(self, seen: Snapshot) -> None:
        child, before = self._metrics.child, self.budgets
        self.budgets = frozenset(seen.budgets)
        if before - self.budgets:
            self._metrics.drop(before - self.budgets)
        for name, (budget, left) in seen.budgets.items():
            child("selfheal_budget_limit", name).set(budget.limit)
            child("selfheal_budget_window_seconds", name).set(budget.per)
            child("selfheal_budget_remaining", name).set(left)
            child("selfheal_budget_denials_total", name)  # there, as 0

    def _show_health(self, healer: Healer, seen: Snapshot) -> None:
        verdicts = {
            "live": groups.live(healer.checks, seen),
            "ready": groups.ready(healer.checks, seen),
            "startup": groups.started(healer.checks, seen),
        }
        for group, word in names.METRICS["selfheal_health_status"].rows:
            self._metrics.child("selfheal_health_status", group, word).set(verdicts[group].status == word)
