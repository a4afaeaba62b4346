"""
`RotateLog`: move a log file out of the way while it is written, losing nothing, and compress it afterwards.

Under the handler's lock there is one rename and one open, both without a byte
to write, so that it works on a full disk too. Everything slow comes after.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import errno
import logging
import os
import re
import stat

from collections.abc import Callable
from typing import Final, Literal, cast

import attrs

from selfheal.clock import SystemClock
from selfheal.errors import Escalate
from selfheal.model.ladder import RecoveryContext
from selfheal.recovery import RecoveryAction
from selfheal.resources.log_compression import Format, as_format, compress, is_packed
from selfheal.resources.log_handles import (
    Identity,
    TooLong,
    identity,
    live_files,
    meant_path,
    named_file,
    open_file,
    replace_stream,
    require_file_handler,
)
from selfheal.resources.log_sharing import rotating


#: Matches, behind the name of the log file, what `RotateLog` calls an archive that is plain.
ARCHIVE: Final = r"\.[0-9]{8}T[0-9]{6}Z-[0-9]+"

# Names that are tried within one second before it is taken for a bug.
_TRIES: Final = 10_000

_NO_ROOM: Final = frozenset({errno.ENOSPC, errno.EDQUOT})

# What no second attempt will change.
_HOPELESS: Final = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})


@attrs.frozen(repr=False)
class RotateLog(RecoveryAction):
    """
    Rename the log file to ``<file>.<UTC time>-<number>`` under the handler's lock and go on in a new one.

    No record is lost, torn or written twice by threads that log meanwhile. The
    new file has the permissions of the old one. If the handler writes to a
    file that was deleted or renamed behind its back, it is only reopened. An
    empty file is left alone, and so is one beside which a full disk has no room
    for another. If the name is a symlink, the file it leads to is rotated in its own folder; a symlink that has come
    since the action was made, or leads elsewhere since then, is refused.

    It works for every stdlib `FileHandler`. The numbering or dating of
    `RotatingFileHandler` and `TimedRotatingFileHandler` is not used: a manual
    ``doRollover`` of theirs deletes an archive, or does nothing. A subclass with a ``doRollover`` of its own
    is asked for that, because only it knows how it writes; one that opens its file in its own way opens the new one.

    Several processes may write the file, each with a handler of its own and this action: one rotates, under a lock on
    the file, and the others only reopen. What they write until then is in the archive, which is
    compressed by the last that leaves it. Off Linux nobody can tell who that is: pass ``compress=False`` there.

    Args:
        handler: A `logging.FileHandler`.
        compress: What to make of each archive afterwards, outside the lock, if nobody writes to it any more and the disk
            has room for it. ``"gzip"``, or `True`: a ``.gz``, by the package isal where it is installed, which takes a
            tenth of the time, else at level 6. ``"zstd"``: a ``.zst``, which takes as little and is smaller than both;
            it needs Python 3.14 or the package backports.zstd. `False`: it stays plain.
        name: Of the action: a metric label.

    Raises:
        ConfigError: If *handler* writes no file, or *compress* cannot be done.

    .. versionadded:: 26.1.0
    """

    handler: logging.FileHandler = attrs.field(converter=require_file_handler)
    compress: Format | Literal[False] = attrs.field(default="gzip", converter=as_format, kw_only=True)
    name: str = attrs.field(default="rotate_log", kw_only=True)

    def recover(self, ctx: RecoveryContext) -> None:
        """
        Rotate, then compress.

        Raises:
            Escalate: If the file cannot be renamed, now or later: permissions, no regular file, or a new symlink.
            OSError: If it failed for a reason that may pass. The handler writes where it wrote before.
        """
        path = meant_path(self.handler)
        too_long = ctx.fault.error.file if isinstance(ctx.fault.error, TooLong) else None
        try:
            with rotating(path, check=ctx.check) as locked:
                self.handler.acquire()
                try:
                    ctx.check()
                    message = self._rotate(path, {None, locked, too_long})
                finally:
                    self.handler.release()
        except OSError as exc:
            if exc.errno in _NO_ROOM:
                # Not an inode is left for a new file. What makes room comes after this, and must not be kept from it.
                ctx.log("there is no room for a new file; the old one is written on", error_type=type(exc).__name__)
                return
            if exc.errno in _HOPELESS:
                msg = (
                    f"{self.handler.baseFilename} cannot be rotated: {exc.strerror}. "
                    "This process must be allowed to write to its folder."
                )
                raise Escalate(msg) from exc
            raise
        # Only now: whoever listens may log, with this very handler.
        ctx.log(message)
        if self.compress is not False:
            for archive in _plain_archives(path):
                self._compress(archive, self.compress, ctx)

    def plan(self) -> str:
        """
        What it would do.
        """
        return f"rename {self.handler.baseFilename} and go on in a new file"

    def _rotate(self, path: str, meant: set[Identity | None]) -> str:
        """Return what was done. Rotated is only the file that is *meant*, if any is."""
        handler = self.handler
        if (roll_over := _own_roll_over(handler)) is not None:
            roll_over()
            return f"{handler.baseFilename} was rolled over by its handler"
        opened, named = open_file(handler), named_file(path)
        if opened is not None and (named is None or identity(named) != identity(opened)):
            replace_stream(handler, opened)
            return f"{path} had been deleted or renamed; reopened"
        if named is None or not named.st_size:
            return f"{path} is empty; nothing to rotate"
        if not stat.S_ISREG(named.st_mode):
            msg = f"{path} is not a regular file and cannot be rotated"
            raise Escalate(msg)
        archive = _move_away(path) if meant <= {None, identity(named)} else None
        try:
            if opened is not None:
                replace_stream(handler, opened)
        except BaseException:
            # The stream, which is still the old one, goes on under its old name; else in the archive, if another process
            # has that name already: to replace its file would lose what it writes.
            if archive is not None:
                _put_back(archive, path)
            raise
        if archive is None:
            return f"{path} was rotated by another process"
        return f"{path} was rotated ({named.st_size} bytes)"

    def _compress(self, archive: str, form: Format, ctx: RecoveryContext) -> None:
        try:
            if identity(os.stat(archive)) in live_files():
                ctx.log("another handler still writes to the archive; it stays as it is")
            else:
                ctx.log(compress(archive, form, check=ctx.check))
        except OSError as exc:
            # The log is rotated, which is what heals. A plain archive is as good as a compressed one.
            ctx.log("the archive could not be compressed", error_type=type(exc).__name__)


def _own_roll_over(handler: logging.FileHandler) -> Callable[[], object] | None:
    roll_over = getattr(handler, "doRollover", None)
    if roll_over is None or roll_over.__module__ == "logging.handlers":
        return None
    return cast("Callable[[], object]", roll_over)


def _plain_archives(path: str) -> list[str]:
    """The archives of *path* that hold something and are not compressed, the oldest first."""
    folder, name = os.path.split(path)
    ours = re.compile(re.escape(name) + ARCHIVE)
    found: list[tuple[int, str]] = []
    for archive in os.listdir(folder):
        if ours.fullmatch(archive):
            with contextlib.suppress(FileNotFoundError):  # another process was here first
                status = os.stat(os.path.join(folder, archive), follow_symlinks=False)
                if status.st_size:
                    found.append((status.st_mtime_ns, os.path.join(folder, archive)))
    return [archive for _, archive in sorted(found)]


def _move_away(path: str) -> str | None:
    """Rename *path* atomically to a name that was never used; return that, or `None` if *path* has just gone."""
    now = dt.datetime.fromtimestamp(SystemClock.wall(), dt.UTC)
    for number in range(_TRIES):
        archive = f"{path}.{now:%Y%m%dT%H%M%SZ}-{number}"
        if is_packed(archive) or not _reserve(archive):
            continue
        try:
            os.replace(path, archive)
        except OSError as exc:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(archive)
            if isinstance(exc, FileNotFoundError):
                return None
            raise
        return archive
    msg = f"{path}: {_TRIES} archives of this second exist already"
    raise Escalate(msg)


def _put_back(archive: str, path: str) -> None:
    """Give *archive* its name back, if nobody has taken it."""
    try:
        os.link(archive, path)
    except FileExistsError:
        return  # the next rotation, or ReopenLog, goes there too
    except OSError:
        # Without room for a link nobody else can make a file of that name either, so it does not come in between.
        if named_file(path) is None:
            os.replace(archive, path)
        return
    os.unlink(archive)


def _reserve(archive: str) -> bool:
    # Two processes never agree on one name. A full disk has no inode to reserve with, but has room for a rename.
    try:
        os.close(os.open(archive, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    except FileExistsError:
        return False
    except OSError as exc:
        if exc.errno not in _NO_ROOM:
            raise
        return not os.path.lexists(archive)
    return True
