"""
`PruneArchives`: delete old files of one pattern in one folder, and nothing else whatever.

The folder is opened once, and everything goes through that descriptor: a
folder or an entry that is swapped for a symlink meanwhile leads nowhere.
"""

from __future__ import annotations

import contextlib
import fnmatch
import os
import re
import stat

from collections.abc import Generator, Iterable
from typing import Any, NamedTuple, TypeAlias

import attrs

from selfheal.clock import SystemClock
from selfheal.errors import ConfigError, Escalate
from selfheal.model.ladder import RecoveryContext
from selfheal.model.settings import at_least_one, not_negative, optional_seconds
from selfheal.recovery import RecoveryAction
from selfheal.resources.log_handles import Identity, identity, live_files
from selfheal.resources.log_sharing import is_written
from selfheal.resources.process_limits import room
from selfheal.resources.settings import zero_or_more


#: Bytes and inodes that are free.
_Room: TypeAlias = tuple[int, int | None]


class _Archive(NamedTuple):
    written: float
    name: str
    size: int
    identity: Identity


def _pattern(_inst: object, _attribute: attrs.Attribute[Any], value: str) -> None:
    separators = {os.sep, os.altsep, "/", "\0"}
    literal = re.sub(r"\[[^]]*\]|[*?]", "", value)
    if any(separator in value for separator in separators if separator) or not literal.strip("."):
        msg = (
            f"pattern={value!r}: must be a pattern of names in the folder, such as 'app.log.*': without a separator, "
            "and with something in it that is no wildcard, so that it cannot match everything."
        )
        raise ConfigError(msg)


def _folder(_inst: object, _attribute: attrs.Attribute[Any], value: str) -> None:
    if os.path.islink(value):
        msg = f"directory={value!r}: is a symlink. Give the folder itself: {os.path.realpath(value)!r}."
        raise ConfigError(msg)
    if os.path.dirname(value) == value:
        msg = f"directory={value!r}: is the root of the file system. Give the folder of the archives."
        raise ConfigError(msg)


def _absolute(value: str | os.PathLike[str]) -> str:
    return os.path.abspath(os.fspath(value))


def _all_absolute(values: Iterable[str | os.PathLike[str]]) -> tuple[str, ...]:
    # One path alone is a mistake easily made, and taken letter by letter it would protect nothing.
    return tuple(map(_absolute, [values] if isinstance(values, str | os.PathLike) else values))


@attrs.frozen(repr=False)
class PruneArchives(RecoveryAction):
    """
    Delete old archives, oldest first, until every limit that is given holds.

    Touched are regular files directly in *directory* whose names match
    *pattern*; never a file that a logging handler of this process has open or
    names, or that (on Linux) any process has open to write, never one of
    *active*, never anything through a symlink. The folder and pattern are the
    permission, so this does not count as destructive.

    Args:
        directory: The folder. Its last part must not be a symlink.
        pattern: Of names, as in the shell and case-sensitive: ``*``, ``?``, ``[abc]``. At least one character must be
            no wildcard; a separator is not allowed.
        max_age: Seconds since the last change after which an archive goes.
        max_total_bytes: What all archives together may take.
        min_free_bytes: What must be free on the disk. A file that somebody has open frees nothing.
        min_free_inodes: Files that it must be possible to make there; not looked at where the file system does not count
            them.
        keep: The newest so many are never deleted.
        max_deletes: Deletions in one run.
        active: Paths that are never deleted.
        name: Of the action: a metric label.

    Raises:
        ConfigError: If an argument cannot work, or no limit is given.

    .. versionadded:: 26.1.0
    """

    directory: str = attrs.field(converter=_absolute, validator=_folder)
    pattern: str = attrs.field(validator=_pattern)
    max_age: float | None = attrs.field(default=None, converter=optional_seconds, validator=not_negative, kw_only=True)
    max_total_bytes: int | None = attrs.field(default=None, validator=zero_or_more, kw_only=True)
    min_free_bytes: int | None = attrs.field(default=None, validator=zero_or_more, kw_only=True)
    min_free_inodes: int | None = attrs.field(default=None, validator=zero_or_more, kw_only=True)
    keep: int = attrs.field(default=1, validator=zero_or_more, kw_only=True)
    max_deletes: int = attrs.field(default=100, validator=at_least_one, kw_only=True)
    active: tuple[str, ...] = attrs.field(default=(), converter=_all_absolute, kw_only=True)
    name: str = attrs.field(default="prune_archives", kw_only=True)

    def __attrs_post_init__(self) -> None:
        limits = (self.max_age, self.max_total_bytes, self.min_free_bytes, self.min_free_inodes)
        if all(limit is None for limit in limits):
            msg = (
                "no limit is given: pass max_age=, max_total_bytes=, min_free_bytes= or min_free_inodes=, "
                "or nothing is ever pruned."
            )
            raise ConfigError(msg)

    def recover(self, ctx: RecoveryContext) -> None:
        """
        Prune.

        Raises:
            Escalate: If the folder cannot be worked on, or a limit is exceeded and nothing is left that may go.
        """
        deleted = freed = 0
        with self._opened() as folder:
            archives = self._archives(folder)
            total = _total(archives)
            for archive in self._expendable(archives):
                if deleted == self.max_deletes or not self._must_go(archive, total, room(folder)):
                    break
                ctx.check()
                if _delete(archive, folder):
                    deleted += 1
                    freed += archive.size
                    total -= archive.size
            else:
                # Others work here too: what has gone by itself meanwhile counts no more, what is new not yet.
                left = set(archives) & set(self._archives(folder))
                self._insist(_total(left), room(folder), deleted)
        ctx.log(f"{deleted} of {len(archives)} archives were deleted", deleted=deleted, bytes=freed)

    def plan(self) -> str:
        """
        What it would delete now.
        """
        with self._opened() as folder:
            archives, (free, inodes) = self._archives(folder), room(folder)
        total = _total(archives)
        going: list[_Archive] = []
        for archive in self._expendable(archives)[: self.max_deletes]:
            if not self._must_go(archive, total, (free, inodes)):
                break
            going.append(archive)
            total, free = total - archive.size, free + archive.size
            inodes = None if inodes is None else inodes + 1
        size = sum(archive.size for archive in going)
        where = os.path.join(self.directory, self.pattern)
        return f"delete {len(going)} of the {len(archives)} archives {where!r} ({size} bytes)"

    @contextlib.contextmanager
    def _opened(self) -> Generator[int]:
        if os.unlink not in os.supports_dir_fd or os.scandir not in os.supports_fd:
            msg = "this platform cannot delete within an open folder, without which nothing is safe from symlinks"
            raise Escalate(msg)
        try:
            folder = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except OSError as exc:
            msg = f"{self.directory} cannot be opened as a folder that is no symlink: {exc.strerror}"
            raise Escalate(msg) from exc
        try:
            yield folder
        finally:
            os.close(folder)

    def _archives(self, folder: int) -> list[_Archive]:
        """All archives, oldest first."""
        spared = set(live_files())
        for path in self.active:
            with contextlib.suppress(FileNotFoundError):
                spared.add(identity(os.stat(path)))
        archives: list[_Archive] = []
        with os.scandir(folder) as entries:
            for entry in entries:
                if self._matches(entry.name):
                    with contextlib.suppress(FileNotFoundError):  # it has gone by itself
                        found = os.stat(entry.name, dir_fd=folder, follow_symlinks=False)
                        if stat.S_ISREG(found.st_mode) and identity(found) not in spared:
                            archives.append(_Archive(found.st_mtime, entry.name, found.st_size, identity(found)))
        return sorted(archives)

    def _matches(self, name: str) -> bool:
        return fnmatch.fnmatchcase(name, self.pattern)

    def _expendable(self, archives: list[_Archive]) -> list[_Archive]:
        return archives[: max(0, len(archives) - self.keep)]

    def _must_go(self, archive: _Archive, total: int, left: _Room) -> bool:
        is_old = self.max_age is not None and SystemClock.wall() - archive.written > self.max_age
        return is_old or self._exceeded(total, left) is not None

    def _exceeded(self, total: int, left: _Room) -> str | None:
        free, inodes = left
        if self.max_total_bytes is not None and total > self.max_total_bytes:
            return f"the archives take {total} bytes, {self.max_total_bytes} are allowed"
        if self.min_free_bytes is not None and free < self.min_free_bytes:
            return f"{free} bytes are free, {self.min_free_bytes} are wanted"
        if self.min_free_inodes is not None and inodes is not None and inodes < self.min_free_inodes:
            return f"{inodes} inodes are free, {self.min_free_inodes} are wanted"
        return None

    def _insist(self, total: int, left: _Room, deleted: int) -> None:
        exceeded = self._exceeded(total, left)
        if exceeded is not None:
            msg = f"{self.directory}: {exceeded}, and after {deleted} deletions nothing is left that may be deleted"
            raise Escalate(msg)


def _total(archives: Iterable[_Archive]) -> int:
    return sum(archive.size for archive in archives)


def _delete(archive: _Archive, folder: int) -> bool:
    """Delete it, if the name still means the file that was looked at."""
    try:
        found = os.stat(archive.name, dir_fd=folder, follow_symlinks=False)
        if identity(found) != archive.identity or not stat.S_ISREG(found.st_mode):
            return False
        if _is_written(archive.name, folder):
            return False  # by another process, whose lines would be lost; nor would it free anything
        os.unlink(archive.name, dir_fd=folder)
    except (FileNotFoundError, PermissionError):
        return False  # it has gone by itself, or must stay; the limits are looked at all the same
    return True


def _is_written(name: str, folder: int) -> bool:
    try:
        file = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder)
    except PermissionError:
        return False  # it cannot be told, and to delete it is allowed
    try:
        return is_written(file) is True
    finally:
        os.close(file)
