"""
Samples in, assessments out. Pure: whoever assesses is told the time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from selfheal.lazy import lazily
from selfheal.monitors.latency import LatencyMonitor


if TYPE_CHECKING:
    from selfheal.monitors.forecast import ForecastMonitor


__all__ = ["ForecastMonitor", "LatencyMonitor"]

__getattr__ = lazily(__name__, {"selfheal.monitors.forecast": ("ForecastMonitor",)})
