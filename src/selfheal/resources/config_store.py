"""
The folder that keeps versions of configuration files: a manifest, and the contents by their SHA-256.

It knows nothing of health: which version is good is told to it. Its manifest is replaced in one step, after the contents
that it names are on the disk, so at every moment there is one that is whole.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import stat

from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any, Final, NamedTuple, TypeAlias, TypeVar

from selfheal.errors import ConfigError
from selfheal.resources.config_disk import Content, File, commit, discard, prepare, read, temporary_of
from selfheal.resources.loops import Signal
from selfheal.resources.steps import Plan, Wait


T = TypeVar("T")

#: One entry for each path; `None`: there was no such file.
Version: TypeAlias = tuple[File | None, ...]

_MANIFEST: Final = "versions.json"
_LOCK: Final = "lock"
# To replace files takes milliseconds. Whoever holds the lock for longer is stopped, and may stay so.
_TRIES: Final = 500
_PAUSE: Final = 0.01

_DIGEST: Final = re.compile(r"[0-9a-f]{64}")


class Manifest(NamedTuple):
    """
    What the folder holds.
    """

    #: By their ids, the one that was seen last at the end.
    versions: Mapping[str, Version] = {}
    #: The id of the last known good one.
    good: str | None = None
    #: What was being replaced, and by what, if nobody has said that it was finished.
    unfinished: tuple[str, str] | None = None


class ConfigStore:
    """
    Versions of the files called *paths*, *keep* at most, in *folder*.

    Raises:
        ConfigError: If *folder* is not of its own, is open to others, or holds versions of other files.
    """

    def __init__(self, folder: str, paths: Sequence[str], keep: int) -> None:
        self.folder: Final = folder
        self._paths: Final = list(paths)
        self._keep: Final = keep
        self._manifest: Final = os.path.join(folder, _MANIFEST)
        self._make_folder()

    @contextlib.contextmanager
    def locked(self) -> Generator[None]:
        """
        Keep other threads and processes out. The lock goes with the process: a crash leaves none behind.

        Raises:
            TimeoutError: If another has it. Nobody waits here, for this may be an event loop: see `patiently`.
        """
        import fcntl

        # Opened anew each time, because a lock belongs to what was opened and would let in a thread that shares it.
        descriptor = os.open(os.path.join(self.folder, _LOCK), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as exc:
                msg = f"another thread or process has the lock of {self.folder}: if it stays so, one is stopped"
                raise TimeoutError(errno.ETIMEDOUT, msg) from exc
            try:
                yield
            finally:
                # A child that was forked meanwhile has the descriptor too: to close it here would not free the lock.
                fcntl.flock(descriptor, fcntl.LOCK_UN)
        finally:
            os.close(descriptor)

    def load(self) -> Manifest:
        """
        What the folder holds now.

        Raises:
            ConfigError: If its manifest is damaged, or is of other files.
        """
        found = read(self._manifest)
        if found is None:
            return Manifest()
        try:
            paths, manifest = _parsed(json.loads(found.data))
        except (ValueError, TypeError, KeyError, AttributeError) as exc:
            msg = f"{self._manifest} is damaged. Move {self.folder} away: versions are then kept anew."
            raise ConfigError(msg) from exc
        if paths != self._paths:
            msg = f"{self.folder} holds versions of {', '.join(paths)}. Give another store=, or move that one away."
            raise ConfigError(msg)
        return manifest

    def save(self, manifest: Manifest) -> Manifest:
        """
        Hold *manifest* from now on, but for its oldest versions beyond the bound. The good one is never dropped.
        """
        versions = dict(manifest.versions)
        spared = {manifest.good, *(manifest.unfinished or ()), *list(versions)[-1:]}
        for version in list(versions):
            if len(versions) > self._keep and version not in spared:
                del versions[version]
        manifest = manifest._replace(versions=versions)
        self._write(self._manifest, json.dumps({"paths": self._paths, **manifest._asdict()}, indent=1).encode())
        self._sweep({file.digest for version in versions.values() for file in version if file is not None})
        return manifest

    def keep(self, contents: Sequence[Content | None]) -> str:
        """
        Put *contents* on the disk, and return the id of the version that they are. The manifest does not name it yet.
        """
        for content in contents:
            if content is not None and self._digest(path := self.path_of(content.file)) != content.file.digest:
                self._write(path, content.data)
        return version_id(version_of(contents))

    def contents(self, version: Version) -> list[Content | None]:
        """
        What was kept of *version*.

        Raises:
            ConfigError: If a part of it is damaged or missing.
        """
        return [None if file is None else Content(file, self._read(file)) for file in version]

    def path_of(self, file: File) -> str:
        """
        Where the content of *file* is.
        """
        return os.path.join(self.folder, file.digest)

    def clean(self) -> None:
        """
        Remove what a crash has left half-written.
        """
        for name in (*self._kept_names(), _MANIFEST):
            discard(os.path.join(self.folder, name))

    def _make_folder(self) -> None:
        with contextlib.suppress(FileExistsError):
            os.mkdir(self.folder, 0o700)
        found = os.lstat(self.folder)
        problem = None
        if not stat.S_ISDIR(found.st_mode):
            problem = "is no folder"
        elif found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) & 0o007:
            # Whoever can write there says what is restored; whoever can read there reads every secret there ever was.
            # It is made without a group: if it has one, somebody gave it, as Kubernetes does with the fsGroup of a pod.
            problem = "is not this user's alone (mode 0700), or that of a group as well (0770)"
        elif strangers := set(os.listdir(self.folder)) - {_MANIFEST, _LOCK, *self._own_names()}:
            problem = f"is in use for something else: {min(strangers)} is there"
        if problem is not None:
            msg = f"store={self.folder!r} {problem}. Give a folder of its own, or one that does not exist yet."
            raise ConfigError(msg)

    def _own_names(self) -> set[str]:
        names = {*self._kept_names(), _MANIFEST}
        return names | {os.path.basename(temporary_of(name)) for name in names}

    def _kept_names(self) -> set[str]:
        """The contents that are there, also those of which there is but a half-written successor."""
        return {digest.group() for name in os.listdir(self.folder) if (digest := _DIGEST.search(name))}

    def _read(self, file: File) -> bytes:
        found = read(path := self.path_of(file))
        if found is None or found.file.digest != file.digest:
            msg = f"{path} is {'missing' if found is None else 'damaged'}: that version cannot be restored."
            raise ConfigError(msg)
        return found.data

    def _digest(self, path: str) -> str | None:
        found = read(path)
        return None if found is None else found.file.digest

    def _write(self, path: str, data: bytes) -> None:
        digest = hashlib.sha256(data).hexdigest()
        prepare(path, Content(File(digest, 0o600, os.geteuid(), os.getegid()), data))
        commit(path)

    def _sweep(self, digests: set[str]) -> None:
        for name in self._kept_names() - digests:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(os.path.join(self.folder, name))


def patiently(call: Callable[[], T], *, check: Callable[[], None] = lambda: None) -> Plan[T]:
    """
    The steps of *call*, which is tried for 5 s if another has the lock. *check* may end that by an error.

    Raises:
        TimeoutError: If another has it all the time.
    """
    for _ in range(_TRIES):
        with contextlib.suppress(TimeoutError):
            return call()
        check()
        yield Wait(Signal(), _PAUSE)
    return call()


def version_of(contents: Sequence[Content | None]) -> Version:
    """
    The version that *contents* are.
    """
    return tuple(None if content is None else content.file for content in contents)


def version_id(version: Version) -> str:
    """
    A name for *version* that no other one has: equal versions have equal names.
    """
    return hashlib.sha256(json.dumps(version).encode()).hexdigest()


def _parsed(document: Mapping[str, Any]) -> tuple[list[str], Manifest]:
    versions = {
        str(key): tuple(None if file is None else File(*file) for file in version)
        for key, version in document["versions"].items()
    }
    good, unfinished = document["good"], document["unfinished"]
    for named in (good, *(unfinished or ())):
        if named is not None:
            versions[named]  # which a whole manifest has
    return list(document["paths"]), Manifest(versions, good, unfinished and (unfinished[0], unfinished[1]))
