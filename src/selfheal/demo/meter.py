"""
What an application's users see, from its requests alone: do they fail, do they hang, since when does it work again?

No healer is asked here.
"""

from __future__ import annotations

import bisect
import time

from collections.abc import Callable, Iterable, Sequence
from typing import Final, NamedTuple


#: Seconds after which a call is a disturbance, even if it ends well.
STALL: Final = 1.0
#: Seconds without a disturbance after which an application counts as healed. Longer than a request may wait for a
#: connection, so that no failure can still be on its way.
CALM: Final = 2.5


class Request(NamedTuple):
    """
    One request that has ended.

    Attributes:
        began: Monotonic seconds.
        ended: Monotonic seconds.
        writes: Whether it changed something.
        error: What it failed with, or `None`.
    """

    began: float
    ended: float
    writes: bool
    error: str | None = None

    @property
    def is_disturbed(self) -> bool:
        """
        Whether its user has noticed something.
        """
        return self.error is not None or self.ended - self.began > STALL


class Score(NamedTuple):
    """
    How an application has come through a fault so far.

    Attributes:
        healed: Seconds from the fault to the first good request after which nothing was disturbed any more, or `None`.
        failed: Requests that failed.
        longest_stall: Seconds of the longest call, those included that have not ended yet.
        hanging: Calls that have not ended and take longer than `STALL` already.
        error: What the latest failed request failed with, or `None`.
    """

    healed: float | None
    failed: int
    longest_stall: float
    hanging: int
    error: str | None


def judge(
    requests: Iterable[Request], open_since: Sequence[float], *, since: float, now: float, writes_only: bool = False
) -> Score:
    """
    Judge an application by its own requests.

    Args:
        requests: Those that have ended.
        open_since: When each call that has not ended yet began.
        since: When the fault began.
        now: Until when.
        writes_only: Only requests that write tell whether it is healed; all are counted.
    """
    seen = [request for request in requests if request.ended >= since]
    judged = [request for request in seen if request.writes or not writes_only]
    disturbed = max((request.ended for request in judged if request.is_disturbed), default=since)
    works = min(
        (request.ended for request in judged if request.error is None and request.ended >= disturbed), default=now
    )
    hanging = sum(now - began > STALL for began in open_since)
    errors = [request.error for request in seen if request.error is not None]
    return Score(
        healed=works - since if not hanging and now - works >= CALM else None,
        failed=len(errors),
        longest_stall=max([r.ended - r.began for r in seen] + [now - began for began in open_since], default=0.0),
        hanging=hanging,
        error=errors[-1] if errors else None,
    )


class Meter:
    """
    Notes the requests of one application, from any thread. It keeps all of them: a demonstration has some ten thousand.

    Args:
        workers: How many there are.
        now: The time.
    """

    def __init__(self, workers: int, *, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._requests: list[Request] = []
        self._began: list[float | None] = [None] * workers

    def run(self, worker: int, request: Callable[[], object], *, writes: bool) -> None:
        """
        Carry out one request. What it raises is noted.
        """
        self._began[worker] = began = self._now()
        error = None
        try:
            request()
        except Exception as exc:  # noqa: BLE001 - whatever it is, the user of this request has got it
            error = f"{type(exc).__name__}: {exc}".splitlines()[0]
        self._requests.append(Request(began, self._now(), writes, error))
        self._began[worker] = None

    def since(self, moment: float) -> list[Request]:
        """
        The requests that have ended since *moment*, oldest first.
        """
        return self._requests[bisect.bisect_left(self._requests, moment, key=lambda request: request.ended) :]

    def open_since(self) -> list[float]:
        """
        When each call that has not ended yet began.
        """
        return [began for began in self._began if began is not None]

    def judge(self, *, since: float, writes_only: bool = False) -> Score:
        """
        As the function `judge`, now.
        """
        # The open calls first: one that ends in between is then counted twice, and not never.
        open_since = self.open_since()
        return judge(self.since(since), open_since, since=since, now=self._now(), writes_only=writes_only)
