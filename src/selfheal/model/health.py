"""
What is seen: status, fault, result, assessment. Values only; nothing here decides.
"""

from __future__ import annotations

import enum

from collections.abc import Iterable, Mapping
from typing import Any, Final, Protocol, runtime_checkable

import attrs


class HealthStatus(enum.Enum):
    """
    How a resource is. `UNKNOWN` ranks between `DEGRADED` and `UNHEALTHY` and is never counted as good.
    """

    HEALTHY = "healthy"
    DEGRADED = "degraded"
    UNHEALTHY = "unhealthy"
    UNKNOWN = "unknown"


#: Worst last.
_SEVERITY: Final = {
    HealthStatus.HEALTHY: 0,
    HealthStatus.DEGRADED: 1,
    HealthStatus.UNKNOWN: 2,
    HealthStatus.UNHEALTHY: 3,
}


@attrs.frozen
class Fault:
    """
    Why a result is not healthy.

    Args:
        kind: A short word from a closed list: ladders match it, metrics carry it.
        message: For people; it stays in the process.
        error: The exception behind it, if there was one.
        fatal: The evidence is certain: one such result confirms the fault.
    """

    kind: str
    message: str = attrs.field(default="", kw_only=True)
    error: BaseException | None = attrs.field(default=None, kw_only=True, eq=False, repr=False)
    fatal: bool = attrs.field(default=False, kw_only=True)

    def __str__(self) -> str:
        return f"{self.kind}: {self.message}" if self.message else self.kind


_NO_DATA: Final[Mapping[str, Any]] = {}


@attrs.frozen
class CheckResult:
    """
    What one run of a check has shown.

    Args:
        status: The verdict.
        started_at: Monotonic seconds at which the run began; the runner fills it in.
        duration: Seconds the run took; the runner fills it in.
        fault: What is wrong, for every status but HEALTHY.
        data: Numbers worth keeping, for people.
    """

    status: HealthStatus
    started_at: float | None = attrs.field(default=None, kw_only=True)
    duration: float | None = attrs.field(default=None, kw_only=True)
    fault: Fault | None = attrs.field(default=None, kw_only=True)
    data: Mapping[str, Any] = attrs.field(default=_NO_DATA, kw_only=True, eq=False, repr=False)

    @classmethod
    def healthy(
        cls,
        *,
        started_at: float | None = None,
        duration: float | None = None,
        data: Mapping[str, Any] = _NO_DATA,
    ) -> CheckResult:
        """
        A good result.
        """
        return cls(HealthStatus.HEALTHY, started_at=started_at, duration=duration, data=data)

    @classmethod
    def unhealthy(
        cls,
        kind: str,
        *,
        fatal: bool = False,
        message: str = "",
        error: BaseException | None = None,
        started_at: float | None = None,
        duration: float | None = None,
    ) -> CheckResult:
        """
        A bad result, with its fault.
        """
        fault = Fault(kind, message=message, error=error, fatal=fatal)
        return cls(HealthStatus.UNHEALTHY, fault=fault, started_at=started_at, duration=duration)


@attrs.frozen
class Assessment:
    """
    What a monitor makes of its samples.

    Args:
        status: The verdict.
        value: The number it rests on, in the monitor's own unit.
        reason: One sentence for people.
        kind: The fault kind, should the status be bad.
    """

    status: HealthStatus
    value: float = attrs.field(kw_only=True)
    reason: str = attrs.field(kw_only=True)
    kind: str = attrs.field(default="anomaly", kw_only=True)


@runtime_checkable
class Monitor(Protocol):
    """
    Turns samples into an assessment.
    """

    def assess(self, *, now: float) -> Assessment | None:
        """
        The verdict at *now*, or `None`: not enough samples, so no opinion.
        """
        ...

    def forget(self) -> None:
        """
        Drop the samples: what was measured before a healing is no evidence after it. Learnt baselines stay.
        """
        ...


def combine(result: CheckResult | None, assessments: Iterable[Assessment | None]) -> CheckResult:
    """
    The worst of a probe's result and the monitors' assessments; the first of equals wins.

    A monitor that abstains (`None`) makes nothing unknown and nothing bad.
    Without a probe (*result* is `None`) the monitors alone speak; if all of
    them abstain, the answer is UNKNOWN.
    """
    worst = result
    for assessment in assessments:
        if assessment is None:
            continue
        if worst is None or _SEVERITY[assessment.status] > _SEVERITY[worst.status]:
            fault = None
            if assessment.status is not HealthStatus.HEALTHY:
                fault = Fault(assessment.kind, message=assessment.reason)
            worst = CheckResult(
                assessment.status,
                fault=fault,
                started_at=None if result is None else result.started_at,
                duration=None if result is None else result.duration,
                data=_NO_DATA if result is None else result.data,
            )
    return CheckResult(HealthStatus.UNKNOWN) if worst is None else worst
