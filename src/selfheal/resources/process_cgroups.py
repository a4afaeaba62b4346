"""
Where the kernel keeps the books of this process' cgroup, v2.
"""

from __future__ import annotations

import os

from typing import Final


_CGROUP2: Final = "cgroup2"


def cgroups(root: str) -> list[str]:
    """
    The folders of this process' cgroup and of those above it, the lowest first; none without a cgroup v2.

    Args:
        root: Where the process' files are: ``/proc/self``.
    """
    own = next((line[3:] for line in lines(os.path.join(root, "cgroup")) if line.startswith("0::")), None)
    mount = next(filter(None, map(_mounted, lines(os.path.join(root, "mountinfo")))), None)
    if own is None or mount is None:
        return []
    top, point = mount
    # A container may see a part of the tree only: its mount's root is what the names begin with.
    inside = os.path.relpath(own, top) if own == top or own.startswith(top.rstrip("/") + "/") else "."
    folder = os.path.normpath(os.path.join(point, inside))
    folders = [folder]
    while folder != point and folder.startswith(point):
        folder = os.path.dirname(folder)
        folders.append(folder)
    return folders


def lines(path: str) -> list[str]:
    """
    What a file says; nothing if it is not there or not for us.
    """
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            return file.read().splitlines()
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return []


def _mounted(line: str) -> tuple[str, str] | None:
    # proc_pid_mountinfo(5): id, parent, device, root, mount point, ..., "-", type, ...
    before, _, after = line.partition(" - ")
    fields = before.split(" ")
    if after.split(" ")[0] != _CGROUP2 or len(fields) < 5:
        return None
    return fields[3], fields[4]
