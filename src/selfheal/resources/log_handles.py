"""
What can be known about the file behind a logging handler, without writing to it, and how it gets another one.
"""

from __future__ import annotations

import contextlib
import io
import logging
import logging.handlers
import os
import stat

from collections.abc import Callable, Iterator
from typing import TypeAlias, cast

from selfheal.errors import ConfigError, Escalate, Unhealthy


#: Device and inode: what a file is, whatever it is called.
Identity: TypeAlias = tuple[int, int]


class TooLong(Unhealthy):
    """
    ``full``, and which file it was: the name may mean another one by the time that somebody does something about it.

    Args:
        message: As for `Unhealthy`.
        file: The file that was looked at.
    """

    def __init__(self, message: str, file: Identity) -> None:
        super().__init__("full", message)
        self.file = file


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
    _remembered(handler)
    return handler


def meant_path(handler: logging.FileHandler) -> str:
    """
    The file that the name of *handler* has meant since it was first seen: a symlink of then is resolved.

    Whoever may write to the folder of a log can put a symlink in its place. Followed, it would have any file renamed, or
    written, with the rights of this process.

    Raises:
        Escalate: If the name leads elsewhere now.
    """
    meant, real = _remembered(handler), os.path.realpath(handler.baseFilename)
    if real != meant:
        msg = (
            f"{handler.baseFilename} is a symlink to elsewhere since the log was opened ({real!r} instead of {meant!r}): "
            "it is neither rotated nor reopened. If the link is yours, make a new handler."
        )
        raise Escalate(msg)
    return meant


def _remembered(handler: logging.FileHandler) -> str:
    meant: dict[str, str] = vars(handler).setdefault("_selfheal_meant", {})
    return meant.setdefault(handler.baseFilename, os.path.realpath(handler.baseFilename))


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

    Raises:
        OSError: If it cannot be looked at: permissions, a symlink to itself, a file server that has gone.
    """
    try:
        return os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None


def reopens_by_itself(handler: logging.FileHandler) -> bool:
    """
    Whether it follows its name when the file behind it is replaced.
    """
    return isinstance(handler, logging.handlers.WatchedFileHandler) or keeps_its_file(handler)


def keeps_its_file(handler: logging.FileHandler) -> bool:
    """
    Whether it brings its own way to write and to roll over, as concurrent-log-handler does: its file is its business.
    """
    own = (getattr(type(handler), method, logging.FileHandler.emit) for method in ("emit", "doRollover"))
    return all(method.__module__ not in ("logging", "logging.handlers") for method in own)


def strayed(handler: logging.FileHandler) -> str | None:
    """
    What is wrong with the name of the file that *handler* has open; `None` if nothing is. Its lock is taken only then.

    Raises:
        OSError: As for `named_file`.
    """
    if _strayed(handler) is None:
        return None
    # It may be in the middle of a rotation. Whoever has the lock sees it as it is.
    handler.acquire()
    try:
        return _strayed(handler)
    finally:
        handler.release()


def _strayed(handler: logging.FileHandler) -> str | None:
    if reopens_by_itself(handler):
        return None
    opened, named = open_file(handler), named_file(handler.baseFilename)
    if opened is None:
        return None
    if named is None:
        return f"{handler.baseFilename} was deleted or renamed, and is still written ({opened.st_size} bytes)"
    if identity(named) != identity(opened):
        return f"{handler.baseFilename} is another file now than the one that is written"
    return None


def replace_stream(handler: logging.FileHandler, like: os.stat_result | None) -> None:
    """
    Go on in the file that has the handler's name now, or, if it cannot be opened, where it wrote before.

    Call it with the handler's lock. From now on the handler appends: mode "w" would empty what others have written. A
    handler that opens its file in a way of its own, compressed or encrypted, is asked for that.

    Args:
        handler: Of the file.
        like: Whose permissions the file gets, if it has to be made.

    Raises:
        Escalate: If the name is a symlink to elsewhere now. Nothing has changed then.
        OSError: If it cannot be opened. Nothing has changed then.
    """
    # The file itself: a symlink whose target was moved away leads nowhere, and is not to be replaced.
    path = meant_path(handler)

    def opener(path: str, flags: int) -> int:
        # A log that only its owner could read must not become public, not for a moment. Whoever has made the file
        # already has decided that.
        flags |= getattr(os, "O_NOFOLLOW", 0)
        if like is not None:
            with contextlib.suppress(FileExistsError):
                file = os.open(path, flags | os.O_EXCL, stat.S_IMODE(like.st_mode))
                with contextlib.suppress(OSError, AttributeError):
                    os.fchmod(file, stat.S_IMODE(like.st_mode))  # whatever the umask
                return file
        return os.open(path, flags, 0o666)

    new = _opened(handler, path, opener)
    handler.mode = "a"
    old, handler.stream = handler.stream, new
    # What is left in its buffer could not be written before either, which the handler has reported then.
    with contextlib.suppress(OSError):
        if old is not None:
            old.close()


def _opened(handler: logging.FileHandler, path: str, opener: Callable[[str, int], int]) -> io.TextIOWrapper:
    own = getattr(handler, "_open", None)
    if own is None or getattr(own, "__module__", None) == "logging":
        return open(path, "a", encoding=handler.encoding, errors=handler.errors, opener=opener)
    os.close(opener(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT))  # it finds the file made, as private as it was
    mode, handler.mode = handler.mode, "a"
    try:
        return cast("io.TextIOWrapper", own())
    finally:
        handler.mode = mode


def live_files() -> frozenset[Identity]:
    """
    The files that any handler of this process writes to, open or named.
    """
    files: set[Identity] = set()
    for handler in _handlers():
        if isinstance(handler, logging.FileHandler):
            for status in (open_file(handler), _seen(handler.baseFilename)):
                if status is not None:
                    files.add(identity(status))
    return frozenset(files)


def live_handlers() -> tuple[logging.FileHandler, ...]:
    """
    All handlers that a record may still reach and that write a regular file, each once.
    """
    attached = {id(handler) for handler in _attached()}
    found: dict[int, logging.FileHandler] = {}
    for handler in _handlers():
        if isinstance(handler, logging.FileHandler) and (handler.stream is not None or id(handler) in attached):
            _remembered(handler)
            file = open_file(handler) or _seen(handler.baseFilename)
            if file is None or stat.S_ISREG(file.st_mode):
                found[id(handler)] = handler
    return tuple(found.values())


def _seen(path: str) -> os.stat_result | None:
    # One name that cannot be looked at must not keep anybody from the other handlers. LogHandlers tells of it.
    try:
        return named_file(path)
    except OSError:
        return None


def _handlers() -> Iterator[logging.Handler]:
    # The list of all handlers is not documented, so the loggers are asked as well; it alone knows those that a
    # QueueListener feeds.
    references: list[Callable[[], logging.Handler | None]] = list(getattr(logging, "_handlerList", ()))
    for reference in references:
        handler = reference()
        if handler is not None:
            yield handler
    yield from _attached()


def _attached() -> Iterator[logging.Handler]:
    for logger in [logging.getLogger(), *list(logging.getLogger().manager.loggerDict.values())]:
        if isinstance(logger, logging.Logger):
            yield from list(logger.handlers)
