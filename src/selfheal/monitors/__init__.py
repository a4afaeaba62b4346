"""
Samples in, assessments out. Pure: whoever assesses is told the time.
"""

from __future__ import annotations

from selfheal.monitors.latency import LatencyMonitor


__all__ = ["LatencyMonitor"]
