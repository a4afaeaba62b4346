"""
What is written down: entries on their way to the driver, and the incident they belong to.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Final

from selfheal import names
from selfheal.healing.record import Record
from selfheal.model import Entry, Fault, Field, Gate, HealingState, Incident, Outcome, Recover, Revert, Rung


#: Entries that wait for a driver which does not fetch them; the oldest fall off and are counted.
PENDING_LIMIT: Final = 1024


class Chronicle:
    """
    Entries for the driver, and the incident they belong to. Memory: `PENDING_LIMIT` entries beside the incident.

    Args:
        rungs: The ladder.

    Attributes:
        record: The open incident, or `None`.
        last: The incident closed last, or `None`.
        dropped: Entries that fell off because nobody fetched them.
    """

    __slots__ = ("_number", "_pending", "_rungs", "_shown", "dropped", "last", "record")

    def __init__(self, rungs: Sequence[Rung]) -> None:
        self._rungs = rungs
        self._shown: tuple[object, ...] | None = None  # the closed gate that was written down last
        self._pending: deque[Entry] = deque(maxlen=PENDING_LIMIT)
        self._number = 0
        self.record: Record | None = None
        self.last: Incident | None = None
        self.dropped = 0

    def emit(self, now: float, event: str, **fields: Field) -> None:
        """
        Write down what happened.
        """
        self.note(Entry(now, event, fields))

    def note(self, entry: Entry) -> None:
        """
        As `emit`, for an entry that somebody else has made.
        """
        if len(self._pending) == PENDING_LIMIT:
            self.dropped += 1
        self._pending.append(entry)
        if self.record is not None:
            self.record.add(entry)

    def drain(self) -> list[Entry]:
        """
        What was written down since the last call.
        """
        if not self._pending:  # almost always
            return []
        drained = list(self._pending)
        self._pending.clear()
        return drained

    def moved(self, before: HealingState, after: HealingState, reason: str, now: float) -> None:
        """
        The state changed. What was blocked before is news again.
        """
        self._shown = None
        self.emit(now, names.STATE_CHANGED, from_state=before.value, to_state=after.value, reason=reason)

    def blocked(
        self, gate: Gate, until: float | None, now: float, *, rung: int | None, revert: bool, reason: str
    ) -> None:
        """
        A gate is closed: written down when it differs from the one before.
        """
        # When a condition is asked about again is no news: a diversion of some hours would fill the timeline with it.
        shown = (gate, None if gate is Gate.PRECONDITION else until, rung, revert)
        if shown == self._shown:
            return
        self._shown = shown
        action = None if rung is None else self._rungs[rung].name
        self.emit(
            now,
            names.ACTION_BLOCKED,
            action=action,
            rung=rung,
            gate=gate.value,
            until=until,
            reason=reason,
            revert=revert,
        )

    def finished(self, step: Recover | Revert, outcome: Outcome, now: float, *, began: float) -> None:
        """
        An action or a revert has ended, or was given up.
        """
        self._shown = None
        self.emit(
            now,
            names.ACTION_FINISHED,
            action=self._rungs[step.rung].name,
            rung=step.rung,
            attempt=step.attempt if isinstance(step, Recover) else None,
            outcome=outcome.verdict.value,
            reason=outcome.reason,
            duration=now - began,
            revert=isinstance(step, Revert),
        )

    def of_rung(self, now: float, event: str, rung: int, **fields: Field) -> None:
        """
        Something happened to *rung*.
        """
        self.emit(now, event, action=self._rungs[rung].name, rung=rung, **fields)

    def open(self, trigger: Fault, *, began: float, now: float, manual: bool) -> Record:
        """
        Open an incident.
        """
        self._number += 1
        self.record = Record(self._number, trigger, began=began, now=now)
        self.emit(now, names.INCIDENT_OPENED, kind=trigger.kind, time_to_detect=now - began, manual=manual)
        return self.record

    def close(self, now: float) -> None:
        """
        Close the open incident, if there is one.
        """
        record = self.record
        if record is None:
            return
        result = record.outcome()
        closed = record.snapshot(ended=now, result=result)
        self.emit(
            now,
            names.INCIDENT_CLOSED,
            result=result.value,
            actions=closed.actions,
            duration=now - closed.began,
            time_to_recover=closed.time_to_recover,
        )
        self.last = record.snapshot(ended=now, result=result)
        self.record = None
