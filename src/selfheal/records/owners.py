"""
Who is alive. Each process locks one byte of a file beside the journal; when it dies, however it dies, the kernel
lets go of it. Process numbers would not do: they are used again, and mean nothing in another container.
"""

from __future__ import annotations

import os
import sys

from typing import Final


#: By process and file: the open file and the number of the byte. Closing it would let go of the lock, so a process
#: that has ever written a journal keeps one file open for it.
_entered: Final[dict[tuple[int, str], tuple[int, int]]] = {}


def enter(path: str) -> int:
    """
    The number of this process in the journal at *path*; from now on it counts as alive there.

    Raises:
        OSError: If the file cannot be written.
    """
    path = os.path.realpath(path)
    known = _entered.get((os.getpid(), path))
    name = f"{path}-owners"
    if known is not None and _is_there(known[0], name):
        return known[1]
    # Random numbers, so that a journal which was begun anew gives none twice.
    number = int.from_bytes(os.urandom(7)) if known is None else known[1]
    file = os.open(name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600) if sys.platform != "win32" else -1
    if sys.platform != "win32":
        import fcntl

        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, number)
    _entered[os.getpid(), path] = (file, number)
    return number


def is_alive(path: str, number: int) -> bool:
    """
    Whether the process of this number lives. Call it after `enter`. On Windows nobody but we ourselves does.
    """
    file, own = _entered[os.getpid(), os.path.realpath(path)]
    if number == own:
        return True
    if sys.platform == "win32":
        return False
    import fcntl

    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, number)
    except OSError:
        return True
    fcntl.lockf(file, fcntl.LOCK_UN, 1, number)
    return False


def _is_there(file: int, name: str) -> bool:
    if sys.platform == "win32":
        return True
    try:
        return os.path.samestat(os.fstat(file), os.stat(name))
    except OSError:
        return False
