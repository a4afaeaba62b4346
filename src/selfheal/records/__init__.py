"""
What can be said about the past: a journal that outlives the process, numbers over incidents, and the story of one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from selfheal.lazy import lazily
from selfheal.records.statistics import ActionStatistics, IncidentStatistics, statistics
from selfheal.records.telling import tell


if TYPE_CHECKING:
    from selfheal.records.journal import SqliteJournal
    from selfheal.records.reading import JournaledResult, JournalReader


__all__ = [
    "ActionStatistics",
    "IncidentStatistics",
    "JournalReader",
    "JournaledResult",
    "SqliteJournal",
    "statistics",
    "tell",
]

# sqlite3 is for those who keep a journal.
__getattr__ = lazily(
    __name__,
    {
        "selfheal.records.journal": ("SqliteJournal",),
        "selfheal.records.reading": ("JournalReader", "JournaledResult"),
    },
)
