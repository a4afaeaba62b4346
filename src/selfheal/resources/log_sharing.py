"""
Several processes on one log file: one of them rotates, and nothing is compressed or deleted that one still writes.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import stat
import sys
import threading

from collections.abc import Callable, Generator
from typing import Final

from selfheal.resources.log_handles import Identity, identity


# At once: whoever is out of descriptors cannot import.
if sys.platform != "win32":
    import fcntl

# A rotation takes microseconds. Whoever holds the lock for longer is stopped, and may stay so.
_PATIENCE: Final = 5.0
_PAUSE: Final = 0.005

_BUSY: Final = frozenset({errno.EAGAIN, errno.EACCES})


@contextlib.contextmanager
def rotating(path: str, *, check: Callable[[], None]) -> Generator[Identity | None]:
    """
    Keep other processes from rotating *path*, by a lock on the file itself, which needs no room on a full disk.

    Args:
        path: The file, not a symlink to it.
        check: Called while it waits; what it raises ends that.

    Yields:
        Which file is locked; `None` if none can be: there is none, or the platform has no such locks. A rename is
        atomic all the same, so no line is lost then, but two processes may rotate one after the other.

    Raises:
        TimeoutError: If another process has held the lock for 5 s. Nothing has changed then.
    """
    if sys.platform == "win32":  # it cannot rename an open file either
        yield None
        return
    file = _opened(path)
    if file is None:
        yield None
        return
    try:
        yield identity(os.fstat(file)) if _locked(file, path, check) else None
    finally:
        unlock(file)
        os.close(file)


def lock(file: int) -> bool | None:
    """
    Lock the file that *file* has open, without waiting. It ends with `unlock` or the process.

    Returns:
        False if somebody else has locked it; `None` if there are no such locks, as on some network file systems.
    """
    if sys.platform == "win32":
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as exc:
        return False if exc.errno in _BUSY else None
    return True


def unlock(file: int) -> None:
    """
    Free it, if it is locked. To close it is not enough: a child that was forked meanwhile has the descriptor too.
    """
    if sys.platform != "win32":
        with contextlib.suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_UN)


def is_written(file: int) -> bool | None:
    """
    Whether any process has the file open to write. The kernel tells, by whether it grants a lease.

    Args:
        file: A descriptor, open to read only.

    Returns:
        `None` if Linux does not tell, as for a file of somebody else. Always false on other systems: there, say by
        ``compress=False`` that several processes write.
    """
    if sys.platform != "linux":
        return False
    try:
        # Who opens it to write in this very moment has a signal sent to us. SIGIO would end the process.
        fcntl.fcntl(file, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except OSError as exc:
        return True if exc.errno == errno.EAGAIN else None
    return False


def _opened(path: str) -> int | None:
    # If it has gone or may not be read, there is nothing to lock, and the rename will say what is wrong.
    with contextlib.suppress(OSError):
        if stat.S_ISREG(os.stat(path).st_mode):
            return os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    return None


def _locked(file: int, path: str, check: Callable[[], None]) -> bool:
    pause = threading.Event()
    for _ in range(int(_PATIENCE / _PAUSE)):
        if (locked := lock(file)) is not False:
            return locked is True
        check()
        pause.wait(_PAUSE)
    msg = f"another process has held the lock on {path} for {_PATIENCE:g} s"
    raise TimeoutError(errno.ETIMEDOUT, msg)
