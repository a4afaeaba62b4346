"""
What can be said about the past: numbers over closed incidents, and the story of one.
"""

from __future__ import annotations

from selfheal.records.statistics import ActionStatistics, IncidentStatistics, statistics
from selfheal.records.telling import tell


__all__ = ["ActionStatistics", "IncidentStatistics", "statistics", "tell"]
