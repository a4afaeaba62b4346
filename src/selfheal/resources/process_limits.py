"""
Probes of what a process may run out of: memory, open files, threads, and room on its disks. Read from Linux' ``/proc``
and cgroup v2 file systems, without any package.
"""

from __future__ import annotations

import math
import os

from typing import TYPE_CHECKING, Final

import attrs

from selfheal.errors import Unhealthy
from selfheal.model.health import CheckResult
from selfheal.model.settings import at_least_one
from selfheal.resources.process_cgroups import cgroups, lines
from selfheal.resources.process_unknown import NO_MORE_FILES, unknown, unknown_without_files
from selfheal.resources.settings import positive_share, zero_or_more


if TYPE_CHECKING:
    from selfheal.monitors.forecast import ForecastMonitor

# What is left has to do until the healing has helped. The alerts of Prometheus' node mixin: memory 90 %, file
# descriptors 70 % for a warning and 90 % for a page.
_MAX_MEMORY: Final = 0.9
_MAX_FILES: Final = 0.8

# Enough for the last words of everybody who shares the disk. systemd-journald keeps 15 % free, which no test disk
# has.
MIN_FREE_BYTES: Final = 16 * 2**20
MIN_FREE_INODES: Final = 256


@attrs.frozen
class MemoryLimit:
    """
    A probe of the memory of this process' cgroup v2, against the lowest limit of the cgroup and those above it.

    What counts is what Kubernetes calls the working set: everything but the file cache that can be dropped at once.
    All processes of the cgroup count, as they do for the kernel, which kills one of them at the limit.

    Without a limit, a cgroup v2 or Linux nothing can be said: UNKNOWN.

    Args:
        max_share: Of the limit, above 0 and 1 at most.
        forecast: Told the share at each look; it belongs into the check's ``monitors=`` as well.
        root: Where the process' files are; another one for tests.

    Raises:
        ConfigError: If the share is out of range.

    .. versionadded:: 26.1.0
    """

    max_share: float = attrs.field(default=_MAX_MEMORY, kw_only=True, validator=positive_share)
    forecast: ForecastMonitor | None = attrs.field(default=None, kw_only=True)
    root: str = attrs.field(default="/proc/self", kw_only=True, repr=False)

    @unknown_without_files
    def __call__(self) -> CheckResult:
        """
        Look. The data has ``share``, of the limit.

        Raises:
            Unhealthy: ``exhausted``.
        """
        worst: tuple[float, int, int] | None = None
        for cgroup in cgroups(self.root):
            limit = _number(os.path.join(cgroup, "memory.max"))
            used = _number(os.path.join(cgroup, "memory.current"))
            if limit is None or used is None:
                continue
            used -= min(used, _inactive_file(cgroup))
            share = used / limit if limit else math.inf
            if worst is None or share > worst[0]:
                worst = share, used, limit
        if worst is None:
            return unknown("no memory limit of a cgroup v2 was found")
        share, used, limit = worst
        if self.forecast is not None:
            self.forecast.add_sample(share)
        if share > self.max_share:
            msg = f"{used} of {limit} bytes of memory are used, {self.max_share:.0%} are allowed"
            raise Unhealthy("exhausted", msg)
        return CheckResult.healthy(data={"share": share})


@attrs.frozen
class OpenFiles:
    """
    A probe of the open file descriptors of this process, sockets included, against its soft limit (``RLIMIT_NOFILE``).

    Without a limit or ``/proc`` nothing can be said: UNKNOWN. A look costs as much as a listing of all descriptors.

    Args:
        max_share: Of the limit, above 0 and 1 at most.
        forecast: Told the share at each look; it belongs into the check's ``monitors=`` as well.

    Raises:
        ConfigError: If the share is out of range.

    .. versionadded:: 26.1.0
    """

    max_share: float = attrs.field(default=_MAX_FILES, kw_only=True, validator=positive_share)
    forecast: ForecastMonitor | None = attrs.field(default=None, kw_only=True)

    def __call__(self) -> CheckResult:
        """
        Look. The data has ``share``, of the limit.

        Raises:
            Unhealthy: ``exhausted``.
        """
        try:
            import resource
        except ImportError:  # Windows
            return unknown("this system has no RLIMIT_NOFILE")
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        if limit == resource.RLIM_INFINITY:
            return unknown("open files are not limited")
        try:
            used = len(os.listdir("/proc/self/fd")) - 1  # without the one that lists
        except FileNotFoundError:
            return unknown("this system has no /proc/self/fd")
        except OSError as exc:
            if exc.errno not in NO_MORE_FILES:
                raise
            used = limit  # not even one more for the listing
        if self.forecast is not None:
            self.forecast.add_sample(used / limit)
        if used > self.max_share * limit:
            msg = f"{used} of {limit} file descriptors are open, {self.max_share:.0%} are allowed"
            raise Unhealthy("exhausted", msg)
        return CheckResult.healthy(data={"share": used / limit})


@attrs.frozen
class ThreadCount:
    """
    A probe of the threads of this process, those of C libraries included.

    Args:
        limit: How many it may have, 1 or more. No number is right for all: take what your pools add up to, and half
            as much again.

    Raises:
        ConfigError: If the limit is out of range.

    .. versionadded:: 26.1.0
    """

    limit: int = attrs.field(validator=at_least_one)

    @unknown_without_files
    def __call__(self) -> CheckResult:
        """
        Look. The data has ``threads``.

        Raises:
            Unhealthy: ``exhausted``.
        """
        try:
            count = len(os.listdir("/proc/self/task"))
        except FileNotFoundError:  # not Linux: Python's own are better than none
            import threading

            count = threading.active_count()
        if count > self.limit:
            msg = f"there are {count} threads, {self.limit} are allowed"
            raise Unhealthy("exhausted", msg)
        return CheckResult.healthy(data={"threads": count})


@attrs.frozen
class DiskSpace:
    """
    A probe of the disk that a path is on: bytes and inodes that are free for this user. For log files: `LogOverflow`.

    Args:
        path: A file or folder that is there.
        min_free_bytes: Bytes that must be free; 0 to not look.
        min_free_inodes: Files that it must be possible to create; 0 to not look. Not looked at where the file system
            does not count them, or on Windows.

    Raises:
        ConfigError: If a number is out of range.

    .. versionadded:: 26.1.0
    """

    path: str = attrs.field(converter=os.fspath)
    min_free_bytes: int = attrs.field(default=MIN_FREE_BYTES, kw_only=True, validator=zero_or_more)
    min_free_inodes: int = attrs.field(default=MIN_FREE_INODES, kw_only=True, validator=zero_or_more)

    def __call__(self) -> CheckResult:
        """
        Look. The data has ``free``, in bytes.

        Raises:
            Unhealthy: ``full``, or ``down`` if the path is not there.
        """
        try:
            free, inodes = room(self.path)
        except FileNotFoundError:
            raise Unhealthy("down", f"{self.path} is not there") from None
        if free < self.min_free_bytes:
            msg = f"the disk of {self.path} has {free} bytes free, {self.min_free_bytes} are wanted"
            raise Unhealthy("full", msg)
        if inodes is not None and inodes < self.min_free_inodes:
            msg = f"the disk of {self.path} has {inodes} inodes free, {self.min_free_inodes} are wanted"
            raise Unhealthy("full", msg)
        return CheckResult.healthy(data={"free": free})


def room(path: str | int) -> tuple[int, int | None]:
    """
    Bytes and inodes that are free for this user on the disk of *path*, which may be a descriptor.

    Returns:
        `None` for inodes where none are counted.
    """
    if not hasattr(os, "statvfs"):  # Windows
        import shutil

        return shutil.disk_usage(path).free, None
    disk = os.statvfs(path)
    # Not f_bfree and f_ffree: what is reserved for root is of no use to others. btrfs and others count no inodes.
    return disk.f_bavail * disk.f_frsize, disk.f_favail if disk.f_files else None


def _inactive_file(cgroup: str) -> int:
    for line in lines(os.path.join(cgroup, "memory.stat")):
        key, _, value = line.partition(" ")
        if key == "inactive_file":
            return int(value)
    return 0


def _number(path: str) -> int | None:
    """What a file of one number says; `None` if it is not there, or says "max"."""
    text = "".join(lines(path))
    return int(text) if text.isdecimal() else None
