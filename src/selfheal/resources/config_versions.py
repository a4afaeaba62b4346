"""
Files and their versions: which one is there, keep it, put another in its place, finish what a crash has interrupted.

Several files cannot be replaced in one step. So what is to become of them is written into the store first, after all that
may fail for want of room or permission was done beside them; whoever starts after a crash reads it there and finishes.
"""

from __future__ import annotations

import contextlib
import functools
import os

from collections.abc import Callable, Sequence
from typing import Final

from selfheal.errors import ConfigError, SelfHealError
from selfheal.resources.config_disk import Content, commit, discard, prepare, read, remove, require_replaceable
from selfheal.resources.config_store import ConfigStore, Manifest, Version, patiently, version_id, version_of
from selfheal.resources.steps import Plan, drive


class VersionedFiles:
    """
    The files called *paths*, whose versions are in *store*. A crash before this is mended when it is made.

    Raises:
        ConfigError: If a file is missing and no version of it is kept, is no regular file or too large, or cannot be
            replaced.
        OSError: If one cannot be read; a `TimeoutError` if another has the lock of the store for 5 s.
    """

    def __init__(self, paths: Sequence[str], store: ConfigStore) -> None:
        self.paths: Final = tuple(paths)
        self.store: Final = store
        drive(patiently(self._start))

    def _start(self) -> None:
        with self.store.locked():
            self._recover()
            missing = [path for path, content in zip(self.paths, self._read(), strict=True) if content is None]
            # Once versions are kept, that a file is gone may be what is to be healed.
            if missing and not self.store.load().versions:
                msg = f"{missing[0]} does not exist. Correct the path, or write the file first."
                raise ConfigError(msg)

    def signature(self) -> tuple[object, ...]:
        """
        What tells, without reading them, whether the files are still the same.
        """
        return tuple(map(_signature, self.paths))

    def present(self) -> str:
        """
        The id of what the files are now.
        """
        return version_id(version_of(self._read()))

    def keep_good(self, signature: tuple[object, ...]) -> bool:
        """
        Keep the files as the last known good version; `False`, and nothing done, if they have not that *signature*.

        Raises:
            TimeoutError: If another has the lock of the store right now.
        """
        with self.store.locked():
            contents, manifest = self._read(), self.store.load()
            good = version_id(version_of(contents))
            if signature != self.signature():
                return False
            if good != manifest.good:
                self.store.keep(contents)
                self.store.save(_with(manifest, contents)._replace(good=good))
            return True

    def restoring(self, version: str, instead_of: str | None, check: Callable[[], None]) -> Plan[str]:
        """
        As `ConfigFiles.restoring`.
        """
        return (yield from patiently(functools.partial(self._restore, version, instead_of), check=check))

    def _restore(self, version: str, instead_of: str | None) -> str:
        with self.store.locked():
            self._recover()
            manifest = self.store.load()
            if version not in manifest.versions:
                msg = f"{version!r} is not kept in {self.store.folder}; kept: {', '.join(manifest.versions) or 'none'}."
                raise ConfigError(msg)
            signature, before = self.signature(), self._read()
            source = version_id(version_of(before))
            if instead_of not in (None, source):
                msg = "somebody has changed the files meanwhile; they stay as they are."
                raise SelfHealError(msg)
            if source != version:
                after = self.store.contents(manifest.versions[version])
                self.store.keep(before)
                intent = _with(manifest, before)._replace(unfinished=(source, version))
                self._replace_or_take_back(before, after, functools.partial(self._announce, intent, signature))
            return source

    def _announce(self, intent: Manifest, signature: tuple[object, ...]) -> None:
        if signature != self.signature():
            msg = "somebody is changing the files right now; they stay as they are."
            raise SelfHealError(msg)
        self.store.save(intent)

    def _replace_or_take_back(
        self, before: Sequence[Content | None], after: Sequence[Content | None], announce: Callable[[], None]
    ) -> None:
        try:
            self._replace(before, after, announce)
        except OSError:
            manifest = self.store.load()
            if manifest.unfinished is not None:  # some of them may be replaced: the way back is the way to go
                self.store.save(manifest._replace(unfinished=manifest.unfinished[::-1]))
                self._recover()
            raise
        # If only this cannot be written the files are right, and the next start finds nothing left to finish.
        with contextlib.suppress(OSError):
            self._finished()

    def _replace(
        self,
        before: Sequence[Content | None],
        after: Sequence[Content | None],
        announce: Callable[[], None] = lambda: None,
    ) -> None:
        """Make the files *after*. What may fail is tried before *announce*, and nothing is left of it if it does."""
        changes = [
            (os.path.realpath(path), new)
            for path, old, new in zip(self.paths, before, after, strict=True)
            if old != new
        ]
        for path, _ in changes:
            require_replaceable(path)
        try:
            for path, new in changes:
                if new is not None:
                    prepare(path, new)
            announce()
            for path, new in changes:
                if new is None:
                    remove(path)
                else:
                    commit(path)
        finally:
            for path, _ in changes:
                discard(path)

    def _recover(self) -> None:
        """Clean up after a crash, and finish what it has interrupted."""
        for path in self.paths:
            discard(os.path.realpath(path))
        self.store.clean()
        manifest = self.store.load()
        if manifest.unfinished is None:
            return
        before, after = (self.store.contents(manifest.versions[version]) for version in manifest.unfinished)
        present = self._read()
        # Otherwise somebody has been here since, who knows better.
        if all(found in (old, new) for found, old, new in zip(present, before, after, strict=True)):
            self._replace(present, after)
        self._finished()

    def _finished(self) -> None:
        self.store.save(self.store.load()._replace(unfinished=None))

    def _read(self) -> list[Content | None]:
        return [read(path) for path in self.paths]


def _signature(path: str) -> object:
    try:
        found = os.stat(path)
    except OSError:
        return None
    # The time of the inode's own change cannot be set back by cp -p or rsync, and moves with mode and owner too.
    return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def _with(manifest: Manifest, contents: Sequence[Content | None]) -> Manifest:
    """*manifest* with *contents* as the version that was seen last."""
    seen: Version = version_of(contents)
    name = version_id(seen)
    others = {key: value for key, value in manifest.versions.items() if key != name}
    return manifest._replace(versions={**others, name: seen})
