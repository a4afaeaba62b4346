"""
`DeletedFiles`: a probe of the room that files take which nobody sees any more.
"""

from __future__ import annotations

import os
import stat

from typing import Final

import attrs

from selfheal.errors import Unhealthy
from selfheal.model.health import CheckResult
from selfheal.model.settings import at_least_one
from selfheal.resources.process_unknown import unknown, unknown_without_files


# Temporary files are deleted while they are open, on purpose; a gigabyte of them is worth a look.
_MAX_BYTES: Final = 2**30

_BLOCK: Final = 512  # of st_blocks, whatever the file system's own are


@attrs.frozen
class DeletedFiles:
    """
    A probe of the files that this process has open though they were deleted: no listing shows them, and the disk gets
    their room back only when they are closed. For log files `LogHandlers` knows more, and `ReopenLog` heals them.

    Files in memory only (``memfd``) are left out. Without ``/proc`` nothing can be said: UNKNOWN. A look costs one
    ``stat`` for each open descriptor.

    Args:
        max_bytes: On the disks, 1 or more. Temporary files count: most of them are deleted as soon as they are open.

    Raises:
        ConfigError: If the number is out of range.

    .. versionadded:: 26.1.0
    """

    max_bytes: int = attrs.field(default=_MAX_BYTES, validator=at_least_one)

    @unknown_without_files
    def __call__(self) -> CheckResult:
        """
        Look. The data has ``files``, how many there are, and their ``bytes``.

        Raises:
            Unhealthy: ``full``.
        """
        folder = "/proc/self/fd"
        try:
            names = os.listdir(folder)
        except FileNotFoundError:
            return unknown(f"this system has no {folder}")
        sizes: dict[tuple[int, int], tuple[int, str]] = {}
        for name in names:
            path = os.path.join(folder, name)
            try:
                status, target = os.stat(path), os.readlink(path)
            except FileNotFoundError:  # closed meanwhile, as the one that lists
                continue
            if stat.S_ISREG(status.st_mode) and not status.st_nlink and not target.startswith("/memfd:"):
                sizes[status.st_dev, status.st_ino] = status.st_blocks * _BLOCK, target.removesuffix(" (deleted)")
        total = sum(size for size, _ in sizes.values())
        if total > self.max_bytes:
            largest = max(sizes.values())
            msg = (
                f"{len(sizes)} deleted files are open and take {total} bytes, {self.max_bytes} are allowed; the largest "
                f"was {largest[1]}, with {largest[0]}"
            )
            raise Unhealthy("full", msg)
        return CheckResult.healthy(data={"files": len(sizes), "bytes": total})
