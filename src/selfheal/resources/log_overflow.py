"""
`LogOverflow`: the probe that tells whether a log file is about to take more than it may have. It never writes.
"""

from __future__ import annotations

import logging
import os

import attrs

from selfheal.errors import Unhealthy
from selfheal.model.settings import at_least_one
from selfheal.resources.log_handles import TooLong, identity, named_file, strayed
from selfheal.resources.process_limits import MIN_FREE_BYTES, MIN_FREE_INODES, DiskSpace
from selfheal.resources.settings import zero_or_more


def _handler_or_path(value: logging.FileHandler | str | os.PathLike[str]) -> logging.FileHandler | str:
    return value if isinstance(value, logging.FileHandler) else os.path.abspath(os.fspath(value))


@attrs.frozen
class LogOverflow:
    """
    A probe of a log file: its size, the free space and free inodes of its disk, and whether the name is still its own.

    Args:
        source: The handler that writes the file, or its path. With a path alone nobody can tell whether the file
            that is written is still the one of that name.
        max_bytes: The size that the file may have.
        min_free_bytes: Bytes that must be free for this user on the disk; 0 to not look.
        min_free_inodes: Files that it must be possible to create there; 0 to not look. Not looked at where the file
            system does not count them.

    Raises:
        ConfigError: If a number is out of range.

    .. versionadded:: 26.1.0
    """

    source: logging.FileHandler | str = attrs.field(converter=_handler_or_path)
    max_bytes: int = attrs.field(kw_only=True, validator=at_least_one)
    min_free_bytes: int = attrs.field(default=MIN_FREE_BYTES, kw_only=True, validator=zero_or_more)
    min_free_inodes: int = attrs.field(default=MIN_FREE_INODES, kw_only=True, validator=zero_or_more)

    def __call__(self) -> None:
        """
        Look.

        Raises:
            Unhealthy: ``stale`` if the open file was deleted or renamed, ``full`` if a limit is exceeded.
        """
        path = self.source if isinstance(self.source, str) else self.source.baseFilename
        fault = strayed(self.source) if isinstance(self.source, logging.FileHandler) else None
        if fault is not None:
            raise Unhealthy("stale", fault)
        named = named_file(path)
        directory = os.path.dirname(os.path.realpath(path))
        if not os.path.isdir(directory):
            raise Unhealthy("stale", f"{path}: its directory does not exist")
        DiskSpace(directory, min_free_bytes=self.min_free_bytes, min_free_inodes=self.min_free_inodes)()
        if named is not None and named.st_size > self.max_bytes:
            raise TooLong(f"{path} has {named.st_size} bytes, {self.max_bytes} are allowed", identity(named))
