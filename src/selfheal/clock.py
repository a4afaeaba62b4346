"""
The one door to `time`. Whoever assesses or decides is told the time instead.
"""

from __future__ import annotations

import time

from typing import Protocol


class Clock(Protocol):
    """
    Tells monotonic time for everything that is measured, and wall time for people.
    """

    #: Whether time moves by itself. If not, sync probes and actions run inline: nothing may take real time.
    virtual: bool

    def now(self) -> float:
        """
        Seconds since a fixed origin. Never goes backwards.
        """
        ...

    def wall(self) -> float:
        """
        Seconds since 1970, for people. It may jump.
        """
        ...


class SystemClock:
    """
    The real time.
    """

    virtual = False
    now = staticmethod(time.monotonic)
    wall = staticmethod(time.time)


#: For `LatencyMonitor.timed`: the cheapest precise clock there is; two readings are half the cost of a timed call.
perf_counter = time.perf_counter
