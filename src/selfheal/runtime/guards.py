"""
What an application passes in and what must not raise: monitors and predicates. If they do, it is told, and counts as
no opinion.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import attrs

from selfheal.model import Assessment, HealthStatus, Ladder


if TYPE_CHECKING:
    from selfheal.checks import HealthCheck
    from selfheal.model import Fault, Monitor, Rung
    from selfheal.runtime.driver import Driver
    from selfheal.runtime.watch import Watch


def assess(driver: Driver, watch: Watch, monitor: Monitor, now: float) -> Assessment | None:
    """
    What *monitor* says; UNKNOWN, as for a mistake in a probe, if it cannot.
    """
    try:
        assessment = cast("object", monitor.assess(now=now))
        if assessment is None or isinstance(assessment, Assessment):
            return assessment
        msg = f"assess() gave {type(assessment).__name__}, and may give an Assessment or None"
        raise TypeError(msg)
    except Exception as exc:  # noqa: BLE001 - user code
        driver.reporter.failed(watch, "assess", exc)
        reason = f"{type(monitor).__name__} could not assess: {type(exc).__name__}"
        return Assessment(HealthStatus.UNKNOWN, value=0.0, reason=reason, kind="probe_error")


def forget(driver: Driver, watch: Watch) -> None:
    """
    Samples taken before now are no evidence.
    """
    for monitor in watch.check.monitors:
        try:
            monitor.forget()
        except Exception as exc:  # noqa: BLE001 - user code
            driver.reporter.failed(watch, "forget", exc)


def ladder_of(driver: Driver, check: HealthCheck) -> Ladder:
    """
    The check's ladder for its machine, which expects predicates not to raise: a rung that cannot say does not apply.
    """

    def guarded(rung: Rung) -> Rung:
        def applies(fault: Fault) -> bool:
            try:
                return bool(rung.applies(fault))
            except Exception as exc:  # noqa: BLE001 - user code
                driver.reporter.failed(driver.watches.get(check.name), "applies", exc)
                return False

        return attrs.evolve(rung, applies=applies)

    return Ladder(tuple(guarded(rung) for rung in check.recovery.rungs))
