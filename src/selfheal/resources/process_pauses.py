"""
`GcPauses`: a probe of the time in which the garbage collector has stopped everything else.
"""

from __future__ import annotations

import gc

from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

from selfheal.clock import perf_counter
from selfheal.errors import ConfigError, IllegalTransitionError
from selfheal.model.health import CheckResult, Fault, HealthStatus
from selfheal.model.settings import seconds


if TYPE_CHECKING:
    import datetime as dt

# asyncio's debug mode calls 0.1 s slow. A full collection of some 600,000 dicts takes twice as long.
_MAX_PAUSE: Final = 0.1


class GcPauses:
    """
    Watches the garbage collector while it is entered, and is a probe of how long it stops all threads.

    ``with GcPauses() as pauses:`` and ``HealthCheck(pauses, name="gc")``. It is *degraded*, kind ``slow``, if one
    collection since the last look took longer than *max_pause*, and UNKNOWN while it is not entered. What helps is
    `gc.freeze` once all that stays is loaded, fewer full collections (`gc.set_threshold`), or fewer objects.

    It costs two readings of a clock for each collection, on whichever thread collects, and makes nothing that would
    have to be collected itself. The result's data has the ``longest`` pause since the last look and the sum of them,
    ``paused``, in seconds.

    Args:
        max_pause: Seconds.

    Raises:
        ConfigError: If it is not a finite number greater than 0.

    .. versionadded:: 26.1.0
    """

    def __init__(self, max_pause: float | dt.timedelta = _MAX_PAUSE) -> None:
        self.max_pause: Final = seconds(max_pause)
        if not 0 < self.max_pause < float("inf"):
            msg = f"max_pause={self.max_pause:g}: must be a finite number of seconds, greater than 0."
            raise ConfigError(msg)
        self._hooked = False
        self._began = 0.0
        self._longest = 0.0
        self._paused = 0.0

    def __enter__(self) -> Self:
        if self._hooked:
            msg = "this GcPauses is entered already."
            raise IllegalTransitionError(msg)
        self._began = perf_counter()
        gc.callbacks.append(self._collecting)
        self._hooked = True
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._hooked = False
        gc.callbacks.remove(self._collecting)

    def __call__(self) -> CheckResult:
        """
        Look. As a probe it takes no time.
        """
        if not self._hooked:
            return CheckResult(HealthStatus.UNKNOWN, fault=Fault("probe_error", message="no collection is watched"))
        longest, self._longest = self._longest, 0.0
        paused, self._paused = self._paused, 0.0
        data = {"longest": longest, "paused": paused}
        if longest > self.max_pause:
            msg = f"a garbage collection took {longest:.2g} s, {self.max_pause:g} s are allowed"
            return CheckResult(HealthStatus.DEGRADED, fault=Fault("slow", message=msg), data=data)
        return CheckResult.healthy(data=data)

    # There is one collection at a time, in one thread; nothing it calls may wait.
    def _collecting(self, phase: str, _info: Mapping[str, int]) -> None:
        if phase == "start":
            self._began = perf_counter()
            return
        took = perf_counter() - self._began
        self._paused += took
        if took > self._longest:
            self._longest = took
