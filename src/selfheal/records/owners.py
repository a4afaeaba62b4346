"""
Who is alive. Each life of a journal locks one byte of a file beside it; when its process dies, however it dies, the
kernel lets go of it. Process numbers would not do: they are used again, and mean nothing in another container.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import struct
import sys
import threading
import time

from collections.abc import Generator
from typing import Final


#: The byte of whoever opens the journal or moves it aside. The others are random, and never this one in practice.
_DOOR: Final = 0

#: Seconds to wait for it, and between two tries: opening takes some milliseconds.
_DOOR_WITHIN: Final = 0.8
_DOOR_AGAIN: Final = 0.01


class Presence:
    """
    This process in one journal: an open file, and the bytes of it that are locked.

    Args:
        name: Of the file.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._file = -1
        self._numbers: set[int] = set()
        self._door = threading.Lock()

    @contextlib.contextmanager
    def alone(self) -> Generator[None, None, None]:
        """
        Wait until nobody else, in this process or another, opens the journal or moves it aside.

        Raises:
            OSError: If the file cannot be written, or somebody stands still in the door.
        """
        if not self._door.acquire(timeout=_DOOR_WITHIN):
            raise BlockingIOError(errno.EAGAIN, "another thread opens the journal and does not end", self._name)
        try:
            self._open()
            self._await_door()
            try:
                yield
            finally:
                _unlock(self._file, _DOOR)
        finally:
            self._door.release()

    def _await_door(self) -> None:
        until = time.monotonic() + _DOOR_WITHIN
        while True:
            try:
                return _lock(self._file, _DOOR)
            except (BlockingIOError, PermissionError):  # as the system calls a lock of somebody else
                if time.monotonic() > until:
                    raise
            threading.Event().wait(_DOOR_AGAIN)

    def enter(self, number: int = 0) -> int:
        """
        The number of a life that begins; or *number*, which goes on.

        Raises:
            OSError: If the file cannot be written.
        """
        self._open()
        # Random numbers, so that a journal which was begun anew gives none twice.
        number = number or int.from_bytes(os.urandom(7))
        if number not in self._numbers:
            _lock(self._file, number)
            self._numbers.add(number)
        return number

    def leave(self, number: int) -> None:
        """
        This life has ended: whatever it has left is for others.
        """
        if number in self._numbers:
            self._numbers.remove(number)
            _unlock(self._file, number)

    def is_alive(self, number: int) -> bool:
        """
        Whether the life of this number goes on, here or elsewhere. On Windows nobody knows of those elsewhere.
        """
        return number in self._numbers or (number > 0 and _is_locked(self._file, number))

    def close(self) -> None:
        """
        Let go of the file; in a forked child, of what the parent has locked through it.
        """
        if self._file >= 0:
            file, self._file = self._file, -1
            os.close(file)

    def _open(self) -> None:
        """
        Closing the file would let go of the locks, so it stays open, unless it is not the one of that name any more.
        """
        if sys.platform == "win32" or self._is_there():
            return
        self.close()
        self._file = os.open(self._name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        for number in tuple(self._numbers):  # one may leave meanwhile
            _lock(self._file, number)

    def _is_there(self) -> bool:
        try:
            return self._file >= 0 and os.path.samestat(os.fstat(self._file), os.stat(self._name))
        except OSError:
            return False


#: By process and file.
_present: Final[dict[tuple[int, str], Presence]] = {}


def presence(path: str) -> Presence:
    """
    This process in the journal at *path*.
    """
    _look_at_forks()
    return _present.setdefault((os.getpid(), path), Presence(f"{path}-owners"))


@functools.cache
def _look_at_forks() -> None:
    if hasattr(os, "register_at_fork"):  # not on Windows
        os.register_at_fork(after_in_child=_forget_parent)


def _forget_parent() -> None:
    # A lock of an open file lives as long as any process has it open: the parent must not seem to outlive itself.
    for key in tuple(_present):
        if key[0] != os.getpid() and (inherited := _present.pop(key, None)) is not None:
            inherited.close()


if sys.platform == "win32":

    def _lock(file: int, number: int) -> None: ...

    def _unlock(file: int, number: int) -> None: ...

    def _is_locked(file: int, number: int) -> bool:
        return False

else:

    def _lock(file: int, number: int) -> None:
        import fcntl

        if hasattr(fcntl, "F_OFD_SETLK"):
            _ask(file, fcntl.F_OFD_SETLK, fcntl.F_WRLCK, number)
        else:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, number)

    def _unlock(file: int, number: int) -> None:
        import fcntl

        if hasattr(fcntl, "F_OFD_SETLK"):
            _ask(file, fcntl.F_OFD_SETLK, fcntl.F_UNLCK, number)
        else:
            fcntl.lockf(file, fcntl.LOCK_UN, 1, number)

    def _is_locked(file: int, number: int) -> bool:
        import fcntl

        if hasattr(fcntl, "F_OFD_GETLK"):
            return _ask(file, fcntl.F_OFD_GETLK, fcntl.F_WRLCK, number) != fcntl.F_UNLCK
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, number)
        except OSError:
            return True
        fcntl.lockf(file, fcntl.LOCK_UN, 1, number)
        return False

    def _ask(file: int, command: int, kind: int, number: int) -> int:
        """
        Lock, unlock or look at one byte by way of the open file: such a lock is not lost when the process, as in a
        backup, opens and closes the same file elsewhere. What POSIX calls a record lock would be.
        """
        import fcntl

        asked = struct.pack(_FLOCK, kind, os.SEEK_SET, number, 1, 0)
        answered: int = struct.unpack(_FLOCK, fcntl.fcntl(file, command, asked))[0]
        return answered

    #: Linux's struct flock, with 64-bit offsets: type, whence, start, length, process.
    _FLOCK: Final = "hhqqi0q"
