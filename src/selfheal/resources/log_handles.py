"""
What can be known about the file behind a logging handler, without writing to it.
"""

from __future__ import annotations

import logging
import logging.handlers
import os

from collections.abc import Callable, Iterator
from typing import TypeAlias

from selfheal.errors import ConfigError


#: Device and inode: what a file is, whatever it is called.
Identity: TypeAlias = tuple[int, int]


def identity(status: os.stat_result) -> Identity:
    """
    What the file is, whatever it is called.
    """
    return status.st_dev, status.st_ino


def require_file_handler(handler: object) -> logging.FileHandler:
    """
    *handler*, if it writes a file.

    Raises:
        ConfigError: If it does not.
    """
    if not isinstance(handler, logging.FileHandler):
        msg = (
            f"{handler!r} is not a logging.FileHandler. Give the handler that writes the file "
            "(behind a QueueHandler: the one its QueueListener feeds)."
        )
        raise ConfigError(msg)
    return handler


def open_file(handler: logging.FileHandler) -> os.stat_result | None:
    """
    The file that *handler* has open, or `None` if it has none at the moment.
    """
    stream = handler.stream  # read once: a rotation may replace it at any moment
    try:
        return None if stream is None else os.fstat(stream.fileno())
    except (OSError, ValueError):  # closed while we looked
        return None


def named_file(path: str) -> os.stat_result | None:
    """
    The file that is called *path* now, or `None` if none is.
    """
    try:
        return os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None


def reopens_by_itself(handler: logging.FileHandler) -> bool:
    """
    Whether it follows its name when the file behind it is replaced.
    """
    return isinstance(handler, logging.handlers.WatchedFileHandler)


def live_files() -> frozenset[Identity]:
    """
    The files that any handler of this process writes to, open or named.
    """
    files: set[Identity] = set()
    for handler in _handlers():
        if isinstance(handler, logging.FileHandler):
            for status in (open_file(handler), named_file(handler.baseFilename)):
                if status is not None:
                    files.add(identity(status))
    return frozenset(files)


def _handlers() -> Iterator[logging.Handler]:
    # The list of all handlers is not documented, so the loggers are asked as well; it alone knows those that a
    # QueueListener feeds.
    references: list[Callable[[], logging.Handler | None]] = list(getattr(logging, "_handlerList", ()))
    for reference in references:
        handler = reference()
        if handler is not None:
            yield handler
    loggers = [logging.getLogger(), *list(logging.getLogger().manager.loggerDict.values())]
    for logger in loggers:
        if isinstance(logger, logging.Logger):
            yield from list(logger.handlers)
