"""
The files that the logging handlers of the process write.
"""

from __future__ import annotations

import logging
import os

from typing import NamedTuple

from selfheal.resources.log_handles import identity, keeps_its_file, live_handlers, named_file, open_file


class LogFile(NamedTuple):
    """
    One of them.

    Attributes:
        path: Its name.
        handlers: Which write it, without those that see to their file themselves.
    """

    path: str
    handlers: tuple[logging.FileHandler, ...]


def log_files() -> tuple[LogFile, ...]:
    """
    Every file that a live handler has open or would open, once. Nothing is opened, and no lock is taken.
    """
    files: dict[object, list[logging.FileHandler]] = {}
    for handler in live_handlers():
        if not keeps_its_file(handler):
            file = open_file(handler) or named_file(handler.baseFilename)
            which = os.path.realpath(handler.baseFilename) if file is None else identity(file)
            files.setdefault(which, []).append(handler)
    return tuple(LogFile(handlers[0].baseFilename, tuple(handlers)) for handlers in files.values())
