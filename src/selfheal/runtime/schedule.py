"""
One heap of times: due checks and deadlines alike.
"""

from __future__ import annotations

import heapq

from typing import Final, TypeVar


#: Below this size a heap is not worth compacting.
_SMALL: Final = 64


class Timed:
    """
    Something that wants attention at one time.
    """

    __slots__ = ("slack", "ticket")

    def __init__(self) -> None:
        self.ticket = 0
        self.slack = 0.0


T = TypeVar("T", bound=Timed)


class Schedule:
    """
    Each thing stands in it at most once: a new time replaces the old one.

    `put` and `pop` are O(log n). Replaced entries stay until they are the
    majority, so memory is bounded by two entries a thing.
    """

    __slots__ = ("_heap", "_live", "_ticket")

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Timed]] = []
        self._live = 0
        self._ticket = 0

    def __len__(self) -> int:
        return self._live

    def put(self, thing: Timed, when: float, slack: float = 0.0) -> None:
        """
        Wake *thing* at *when*, or up to *slack* seconds later if that saves a wake-up.
        """
        if thing.ticket == 0:
            self._live += 1
        self._ticket = ticket = self._ticket + 1
        thing.ticket = ticket
        thing.slack = slack
        heap = self._heap
        heapq.heappush(heap, (when + slack, ticket, thing))
        if len(heap) > _SMALL and len(heap) > 2 * self._live:
            self._heap = [entry for entry in heap if entry[2].ticket == entry[1]]
            heapq.heapify(self._heap)

    def remove(self, thing: Timed) -> None:
        """
        *thing* wants nothing any more.
        """
        if thing.ticket:
            thing.ticket = 0
            self._live -= 1

    def next(self) -> float | None:
        """
        When to wake up at the latest, or `None`.
        """
        heap = self._heap
        while heap and heap[0][2].ticket != heap[0][1]:
            heapq.heappop(heap)
        return heap[0][0] if heap else None

    def pop(self, now: float) -> Timed | None:
        """
        One thing whose time has come, or `None`. What is due within its slack comes along.
        """
        if self.next() is None:
            return None
        latest, _, thing = self._heap[0]
        if latest - thing.slack > now:
            return None
        heapq.heappop(self._heap)
        thing.ticket = 0
        self._live -= 1
        return thing
