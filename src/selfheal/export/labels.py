"""
The words that stand in labels: those that a check brings, and what its runs come to.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from selfheal.monitors.latency import LatencyMonitor


if TYPE_CHECKING:
    from selfheal.checks import HealthCheck
    from selfheal.model import Field


def open_labels(check: HealthCheck) -> dict[tuple[str, ...], list[tuple[str, ...]]]:
    """
    For each choice of labels, as `MetricName.open` has them, the values that *check* brings.
    """
    name, resource = check.name, check.resource
    rungs = [(rung.name, str(index)) for index, rung in enumerate(check.recovery.rungs)]
    return {
        (): [()],
        ("check",): [(name,)],
        ("check", "resource"): [(name, resource)],
        ("check", "monitor"): [(name, monitor) for _, monitor in latency_monitors(check)],
        ("check", "resource", "shared"): [(name, resource, str(check.shared).lower())],
        ("resource",): [(resource,)],
        ("resource", "action"): [(resource, action) for action, _ in rungs],
        ("resource", "action", "rung"): [(resource, action, rung) for action, rung in rungs],
    }


def latency_monitors(check: HealthCheck) -> list[tuple[LatencyMonitor, str]]:
    """
    The monitors of *check* that have metrics, each with its label.
    """
    found = [monitor for monitor in check.monitors if isinstance(monitor, LatencyMonitor)]
    unnamed = [monitor for monitor in found if monitor.name is None]
    return [
        (monitor, monitor.name or ("latency" if len(unnamed) == 1 else f"latency_{unnamed.index(monitor) + 1}"))
        for monitor in found
    ]


def outcome_of(word: str, fields: Mapping[str, Field]) -> str:
    """
    What a run came to, by its status and the *fields* of its event: one of `names.RUN_OUTCOMES`.
    """
    kind = fields.get("kind")
    if kind == "stuck" and not fields.get("duration"):
        return "skipped"  # the last run still runs, so none was started
    if kind == "timeout" and word == "fail":
        return "timeout"
    return "error" if kind == "probe_error" else word
