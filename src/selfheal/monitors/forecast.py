"""
Tells from the way a number has grown when it will reach its limit.
"""

from __future__ import annotations

import math

from collections import deque
from itertools import combinations
from typing import TYPE_CHECKING, Final

from selfheal.errors import ConfigError
from selfheal.model.settings import Named, positive, require, require_name, seconds


if TYPE_CHECKING:
    import datetime as dt

    from collections.abc import Iterable

    from selfheal.model.health import Assessment


# Prometheus' node mixin looks 24 hours ahead from what the last 6 have shown.
_AHEAD: Final = 4

#: Samples that are kept, about: they have 1800 slopes between them, which take half a millisecond.
_KEPT: Final = 60

#: Below this there is no verdict: of five samples one may be an outlier.
_FEWEST: Final = 5


class ForecastMonitor:
    """
    Unhealthy when a growing number will reach its limit soon, if it goes on as it did of late: a leak, before it hurts.

    What `predict_linear` is to Prometheus. The line is that of Theil and Sen instead of least squares: its slope is the
    median of the slopes between any two samples, so a peak or a drop in less than a quarter of the window moves
    nothing.

    Give it to a probe that feeds it and to its check, which asks it; or call `add_sample` in a probe of your own::

        leak = ForecastMonitor(exhausted_within=3600)
        HealthCheck(MemoryLimit(forecast=leak), name="memory", monitors=[leak])

    It says nothing before the samples cover half of the window, and after a healing begins anew. The check's interval
    has to be a tenth of the window, or less. Memory is O(1): some 60 samples, whatever the window. An answer takes half
    a millisecond.

    Args:
        exhausted_within: Seconds. Unhealthy if the limit is nearer than that.
        limit: What must not be reached, greater than 0. The probes give shares, so it is 1 for them.
        window: Seconds that count, back from now. Default: a quarter of *exhausted_within*. It should be longer than
            what goes up and down by itself, as memory between two full garbage collections.
        name: For reasons and records; a metric label.

    Raises:
        ConfigError: If an argument cannot work.

    Examples:
        >>> leak = ForecastMonitor(exhausted_within=600, window=100, name="memory")
        >>> for now in range(0, 100, 10):
        ...     leak.add_sample(0.5 + 0.001 * now)
        ...     assessment = leak.assess(now=now)
        >>> assessment.status.value, round(assessment.value)
        ('unhealthy', 410)

    References:
        P. K. Sen, Estimates of the regression coefficient based on Kendall's tau, Journal of the American Statistical
        Association 63 (1968); H. Theil (1950).

    .. versionadded:: 26.1.0
    """

    __slots__ = ("__weakref__", "_latest", "_samples", "exhausted_within", "limit", "name", "window")

    def __init__(
        self,
        exhausted_within: float | dt.timedelta,
        *,
        limit: float = 1.0,
        window: float | dt.timedelta | None = None,
        name: str | None = None,
    ) -> None:
        self.exhausted_within: Final = seconds(exhausted_within)
        self.window: Final = self.exhausted_within / _AHEAD if window is None else seconds(window)
        self.limit: Final = limit
        self.name: Final = None if name is None else require_name(name)
        require(self, _positive_number, "exhausted_within", "window", "limit")
        self._latest: float | None = None
        self._samples: deque[tuple[float, float]] = deque()

    def __repr__(self) -> str:
        name = "" if self.name is None else f", name={self.name!r}"
        return f"ForecastMonitor({self.exhausted_within:g}, limit={self.limit:g}, window={self.window:g}{name})"

    def add_sample(self, value: float) -> None:
        """
        The number, as it is now. Of several between two questions the last counts; what is not finite does not.
        """
        self._latest = value

    def forget(self) -> None:
        """
        Start anew: what has grown before a healing is no evidence after it.
        """
        self._latest = None
        self._samples.clear()

    def assess(self, *, now: float) -> Assessment | None:
        """
        The verdict for a check, with the seconds that are left, infinite if it does not grow; `None`: too few samples.
        """
        self._take_in(now)
        samples = self._samples
        if len(samples) < _FEWEST or 2 * (samples[-1][0] - samples[0][0]) < self.window:
            return None
        from selfheal.model.health import Assessment, HealthStatus

        slope = _median((later - value) / (then - when) for (when, value), (then, later) in combinations(samples, 2))
        level = _median(value + slope * (now - when) for when, value in samples)
        what = self.name or "the number"
        left = max(0.0, self.limit - level) / slope if slope > 0 else math.inf
        if left == math.inf:
            return Assessment(HealthStatus.HEALTHY, value=left, reason=f"{what} does not grow", kind="exhausted")
        reason = f"{what} reaches {self.limit:g} in {left:.0f} s, at {60 * slope:.3g} a minute"
        status = HealthStatus.UNHEALTHY if left < self.exhausted_within else HealthStatus.HEALTHY
        return Assessment(status, value=left, reason=reason, kind="exhausted")

    def _take_in(self, now: float) -> None:
        value, self._latest = self._latest, None
        samples = self._samples
        while samples and samples[0][0] < now - self.window:
            samples.popleft()
        if value is None or not math.isfinite(value):
            return
        # The newest always counts; those before it keep their distance, so that there are not too many.
        if len(samples) > 1 and samples[-1][0] - samples[-2][0] < self.window / _KEPT:
            samples.pop()
        if not samples or samples[-1][0] < now:
            samples.append((now, value))


def _median(numbers: Iterable[float]) -> float:
    # That of `statistics` costs every program the import of `decimal` and `random`.
    ordered = sorted(numbers)
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2


def _positive_number(inst: object, attribute: Named, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        msg = f"{attribute.name}={value!r}: must be a number greater than 0."
        raise ConfigError(msg)
    positive(inst, attribute, value)
