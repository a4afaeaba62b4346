"""
What can be said about the past: numbers over closed incidents.
"""

from __future__ import annotations

from selfheal.records.statistics import ActionStatistics, IncidentStatistics, statistics


__all__ = ["ActionStatistics", "IncidentStatistics", "statistics"]
