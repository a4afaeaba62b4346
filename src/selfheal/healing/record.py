"""
An incident while it is open: how old it is, what was done, and how it ends.
"""

from __future__ import annotations

from typing import Final

from selfheal.model import TIMELINE_LIMIT, Entry, Fault, Gate, Incident, IncidentResult


#: Closed when health came back and nothing was done: somebody or something kept us from healing.
_SUPPRESSING: Final = frozenset({Gate.PAUSED, Gate.SHADOW, Gate.SELF_DOUBT, Gate.DEPENDENCY, Gate.STORM})


class Record:
    """
    An incident while it is open. Memory: `TIMELINE_LIMIT` entries.

    Attributes:
        recovered: When health was last proved, or `None`.
        actions: Actions started.
        charged: Actions that count against ``max_actions``.
        verified: The last verified action has not relapsed.
        exhausted: The ladder was used up, and no action has been verified since.
        aborted: The process, or its healer, stops.
        gate: The gate that was closed when health came back.
    """

    __slots__ = (
        "_began", "_dropped", "_number", "_opened", "_shut_for", "_shut_since", "_since", "_timeline", "_trigger",
        "aborted", "actions", "charged", "exhausted", "gate", "recovered", "verified",
    )  # fmt: skip

    def __init__(self, number: int, trigger: Fault, *, began: float, now: float) -> None:
        self._number = number
        self._trigger = trigger
        self._began = began
        self._opened = now
        self._timeline: list[Entry] = []
        self._dropped = 0
        self.recovered: float | None = None
        self.actions = 0
        self.verified = False
        self.exhausted = False
        self.aborted = False
        self.gate: Gate | None = None
        self.restart(now)

    def restart(self, now: float) -> None:
        """
        Count actions and age from nothing.
        """
        self.charged = 0
        self._since = now
        self._shut_for = 0.0
        self._shut_since: float | None = None

    def shut(self, now: float) -> None:
        """
        A gate is closed: the incident does not age.
        """
        if self._shut_since is None:
            self._shut_since = now

    def reopen(self, now: float) -> None:
        """
        No gate is closed any more.
        """
        if self._shut_since is not None:
            self._shut_for += now - self._shut_since
            self._shut_since = None

    def age(self, now: float) -> float:
        """
        Seconds since it was opened or restarted, those with a closed gate left out.
        """
        end = now if self._shut_since is None else self._shut_since
        return end - self._since - self._shut_for

    def add(self, entry: Entry) -> None:
        """
        Write *entry* into the timeline.
        """
        if len(self._timeline) < TIMELINE_LIMIT:
            self._timeline.append(entry)
        else:
            self._dropped += 1

    def outcome(self) -> IncidentResult:
        """
        How it ends if it closes now.
        """
        if self.aborted:
            return IncidentResult.ABORTED
        if self.exhausted:
            return IncidentResult.EXHAUSTED
        if self.verified:
            return IncidentResult.HEALED
        if self.actions == 0 and self.gate in _SUPPRESSING:
            return IncidentResult.SUPPRESSED
        return IncidentResult.SELF_RESOLVED

    def snapshot(self, *, ended: float | None = None, result: IncidentResult | None = None) -> Incident:
        """
        The incident as a value.
        """
        return Incident(
            number=self._number,
            trigger=self._trigger,
            began=self._began,
            opened=self._opened,
            recovered=self.recovered,
            ended=ended,
            result=result,
            actions=self.actions,
            timeline=tuple(self._timeline),
            dropped=self._dropped,
        )
