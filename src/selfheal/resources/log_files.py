"""
Log files: what is wrong with them, and what heals it.
"""

from __future__ import annotations

import datetime as dt
import glob
import logging
import os
import re

from typing import Final, Literal

import attrs

from selfheal.model.ladder import Ladder
from selfheal.recovery import rung
from selfheal.resources.log_archives import PruneArchives
from selfheal.resources.log_compression import FORMATS
from selfheal.resources.log_handles import require_file_handler
from selfheal.resources.log_overflow import LogOverflow
from selfheal.resources.log_rotation import ARCHIVE, RotateLog


__all__ = ["LogOverflow", "PruneArchives", "RotateLog", "log_ladder"]

_SUFFIXES: Final = "|".join(re.escape(suffix) for suffix, _, _ in FORMATS.values())


@attrs.frozen(repr=False)
class _PruneRotated(PruneArchives):
    """Of one log, what `RotateLog` has made of it: no pattern of the shell ends with so many digits and no more."""

    log: str = attrs.field(kw_only=True)

    def _matches(self, name: str) -> bool:
        return re.fullmatch(f"{re.escape(self.log)}{ARCHIVE}(({_SUFFIXES})(\\.tmp)?)?", name) is not None


def log_ladder(
    handler: logging.FileHandler,
    *,
    max_age: float | dt.timedelta | None = None,
    max_total_bytes: int | None = None,
    min_free_bytes: int | None = None,
    min_free_inodes: int | None = None,
    keep: int = 1,
    compress: Literal["gzip", "zstd"] | bool = "gzip",
    attempts: int = 3,
    cooldown: float | dt.timedelta = 60.0,
) -> Ladder:
    """
    The ladder of one log file: rotate it, compress the archive, prune older archives of the same file.

    Pruned is only what `RotateLog` has made, in the folder of the file, and only if a limit is given.

    Args:
        handler: The handler that writes the file.
        max_age: As for `PruneArchives`; seconds.
        max_total_bytes: As for `PruneArchives`.
        min_free_bytes: As for `PruneArchives`.
        min_free_inodes: As for `PruneArchives`.
        keep: As for `PruneArchives`.
        compress: As for `RotateLog`.
        attempts: Tries in one incident: a file may overflow again before probation is over.
        cooldown: Seconds between two tries, doubling.

    Raises:
        ConfigError: If an argument cannot work.

    Examples:
        >>> handler = logging.FileHandler("app.log", delay=True)
        >>> log_ladder(handler, max_total_bytes=10**9)
        rotate_log + prune_archives

    .. versionadded:: 26.1.0
    """
    rotate = RotateLog(handler, compress=compress)
    if all(limit is None for limit in (max_age, max_total_bytes, min_free_bytes, min_free_inodes)):
        return rung(rotate, attempts=attempts, cooldown=cooldown)
    directory, name = os.path.split(os.path.realpath(require_file_handler(handler).baseFilename))
    prune = _PruneRotated(
        directory,
        glob.escape(name) + ".*Z-*",
        log=name,
        max_age=max_age,
        max_total_bytes=max_total_bytes,
        min_free_bytes=min_free_bytes,
        min_free_inodes=min_free_inodes,
        keep=keep,
    )
    return rung(rotate + prune, attempts=attempts, cooldown=cooldown)
