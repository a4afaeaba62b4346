"""
What is kept in memory, in rings with a written bound. What falls off is counted.

Each ring has one writer, the driver of its check; any thread may read.
"""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Iterator
from typing import Final, NamedTuple

from selfheal.model.health import HealthStatus
from selfheal.model.records import Incident


#: Closed incidents kept by a healer.
INCIDENTS_KEPT: Final = 256

#: Results kept of each check: 50 minutes at the default interval of 10 s.
RESULTS_KEPT: Final = 300

_STATUSES: Final = tuple(HealthStatus)
_CODES: Final = {status: code for code, status in enumerate(_STATUSES)}


class IncidentRing:
    """
    The last closed incidents, oldest first.

    Args:
        size: Incidents kept, 1 or more.
    """

    __slots__ = ("_incidents", "dropped")

    def __init__(self, size: int = INCIDENTS_KEPT) -> None:
        self._incidents: deque[Incident] = deque(maxlen=size)
        #: Incidents that have fallen off.
        self.dropped = 0

    def append(self, incident: Incident) -> None:
        """
        Keep *incident*; the oldest one makes room.
        """
        if len(self._incidents) == self._incidents.maxlen:
            self.dropped += 1
        self._incidents.append(incident)

    def __len__(self) -> int:
        return len(self._incidents)

    def __iter__(self) -> Iterator[Incident]:
        # Copied in one C call, so that an incident that closes meanwhile cannot break the reader's loop.
        return iter(tuple(self._incidents))


class PastResult(NamedTuple):
    """
    One remembered result: when the run began, its status, and the seconds it took (`None`: not known).
    """

    at: float
    status: HealthStatus
    duration: float | None


class ResultRing:
    """
    The last results of one check: 13 bytes each, O(1) to append.

    Results themselves are not kept: their exceptions would hold on to frames
    and everything in them.

    Args:
        size: Results kept, 1 or more.
    """

    __slots__ = ("_codes", "_durations", "_size", "_times", "total")

    def __init__(self, size: int = RESULTS_KEPT) -> None:
        self._size = size
        self._times = array("d")
        self._durations = array("f")
        self._codes = bytearray()
        #: Results ever appended.
        self.total = 0

    def append(self, at: float, status: HealthStatus, duration: float | None) -> None:
        """
        Keep one result; the oldest one makes room.

        Args:
            at: Monotonic seconds at which the run began.
            status: What it has shown.
            duration: Seconds it took, or `None`. Kept with seven digits.
        """
        taken = float("nan") if duration is None else duration
        # One slot more than is shown: the one being overwritten is never among those that a reader copies.
        slot = self.total % (self._size + 1)
        if slot == len(self._codes):
            self._times.append(at)
            self._durations.append(taken)
            self._codes.append(_CODES[status])
        else:
            self._times[slot] = at
            self._durations[slot] = taken
            self._codes[slot] = _CODES[status]
        self.total += 1

    @property
    def dropped(self) -> int:
        """
        Results that have fallen off.
        """
        return max(0, self.total - self._size)

    def __len__(self) -> int:
        return min(self.total, self._size)

    def __iter__(self) -> Iterator[PastResult]:
        return iter(self.last(self._size))

    def last(self, count: int) -> tuple[PastResult, ...]:
        """
        The last *count* results, or as many as there are, oldest first.
        """
        while True:
            total = self.total
            times, durations, codes = self._times[:], self._durations[:], self._codes[:]
            if total == self.total:  # nothing was appended in between, so the three belong together
                break
        first = total - max(0, min(count, total, self._size))
        slots = (index % (self._size + 1) for index in range(first, total))
        return tuple(
            PastResult(
                times[slot], _STATUSES[codes[slot]], None if durations[slot] != durations[slot] else durations[slot]
            )
            for slot in slots
        )

    def success_ratio(self, count: int = RESULTS_KEPT) -> float | None:
        """
        Share of HEALTHY and DEGRADED among the known ones of the last *count* results; `None` if none is known.
        """
        known = [result.status for result in self.last(count) if result.status is not HealthStatus.UNKNOWN]
        if not known:
            return None
        return sum(status is not HealthStatus.UNHEALTHY for status in known) / len(known)
