"""
`ConfigFiles`: configuration that can be put back to what was in force when all was well.

It learns what was well from the probe of a check, and decides nothing: whether to go back is for `RollbackConfig`.
"""

from __future__ import annotations

import functools
import inspect
import math
import os

from collections.abc import Awaitable, Callable, Iterable
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias, cast

from selfheal.answers import interpret
from selfheal.clock import SystemClock
from selfheal.errors import ConfigError
from selfheal.model.health import HealthStatus
from selfheal.model.kinds import FAULT_KINDS
from selfheal.model.settings import require_name, seconds
from selfheal.resources.config_disk import require_replaceable
from selfheal.resources.config_store import ConfigStore
from selfheal.resources.config_versions import VersionedFiles
from selfheal.resources.steps import Plan, drive, is_async


if TYPE_CHECKING:
    import datetime as dt

    from selfheal.clock import Clock


Path: TypeAlias = str | os.PathLike[str]

#: Files of one version. Each look asks for the state of every one of them.
MAX_FILES: Final = 100

# A leak, or a cache that runs dry, takes minutes to show. Kubernetes asks for none by default (minReadySeconds: 0).
_HEALTHY_FOR: Final = 300.0


class _Look(NamedTuple):
    """
    One run of a probe: when it began, and what the files were then.
    """

    began: float
    signature: tuple[object, ...]


class _Seen(NamedTuple):
    """
    What the looks have found: replaced as a whole, so that a reader never sees half of it.
    """

    #: What tells without reading whether a file is still the same.
    signature: tuple[object, ...] = ()
    #: When the last look began that found these very files from its beginning to its end.
    looked_at: float = -math.inf
    #: The same of the files that were there before; minus infinity if they were not there in this process.
    changed_after: float = -math.inf
    #: Since when every answer has been healthy.
    healthy_since: float | None = None
    #: Whether these files are known to be in the store as the good version.
    kept: bool = False


class ConfigFiles:
    """
    One or several configuration files, and the last versions of them that worked.

    What is kept of a file is content, mode and owner, in a folder that only this user can enter (and its
    group, if you or Kubernetes say so). Several files are
    *one* version: they are put back together, or none is. They become the last known good version when the check that
    watches them (see `watching`) has been healthy for *healthy_for* seconds without a change of theirs. That version
    is never dropped; of all others, the good and what was rolled back from, the latest are kept.

    To make it reads and writes the disk: it finishes what a crash has left half-done. Several processes may use the same
    files with the same store; each of them has to reload by itself.

    Args:
        paths: The files: one path or several, 100 at most, of 4 MiB at most each. Symlinks are followed anew each time.
        reload: Called without arguments, sync or async, when the files were replaced: has the application read them. To
            raise means that it could not.
        healthy_for: Seconds of health that make a version good. Give it more than your application takes from a push
            until it has read the files.
        keep: Versions in the store, 2 at least.
        store: The folder of the versions. Default: ``.<name of the first file>.selfheal`` beside it. Give one where
            that folder is replaced by each release.
        name: For records.
        clock: The time; tests pass a virtual one.

    Raises:
        ConfigError: If an argument cannot work: also if a file could not be replaced, as on a read-only mount.

    .. versionadded:: 26.1.0
    """

    def __init__(
        self,
        paths: Path | Iterable[Path],
        *,
        reload: Callable[[], object],
        healthy_for: float | dt.timedelta = _HEALTHY_FOR,
        keep: int = 5,
        store: Path | None = None,
        name: str = "config",
        clock: Clock | None = None,
    ) -> None:
        given = (paths,) if isinstance(paths, str | os.PathLike) else tuple(paths)
        self.name: Final = require_name(name)
        self.paths: Final = tuple(os.path.abspath(os.fspath(path)) for path in given)
        self.reload: Final = reload
        self.healthy_for: Final = seconds(healthy_for)
        self._clock: Clock = SystemClock() if clock is None else clock
        self._seen: _Seen = _Seen()
        self._problem: str | None = None
        #: Of `RollbackConfig`: the incident in which it has rolled back last, and from which version; that is `None`
        #: once `RollForwardConfig` has taken it back.
        self.rolled_back: tuple[tuple[int, float], str | None] | None = None
        _validate(self, keep)
        folder, first = os.path.split(self.paths[0])
        self._files: Final = VersionedFiles(
            self.paths,
            ConfigStore(
                os.path.join(folder, f".{first}.selfheal") if store is None else os.path.abspath(os.fspath(store)),
                self.paths,
                keep,
            ),
        )

    @property
    def store(self) -> str:
        """
        The folder of the versions: ``versions.json``, and each content under its SHA-256.
        """
        return self._files.store.folder

    @property
    def good(self) -> str | None:
        """
        The id of the last known good version; `None`: none is known yet.
        """
        return self._files.store.load().good

    @property
    def present(self) -> str:
        """
        The id of what the files are now. Reads them.

        Raises:
            ConfigError: If one is no regular file, or too large.
            OSError: If one cannot be read.
        """
        return self._files.present()

    @property
    def versions(self) -> tuple[str, ...]:
        """
        The ids of all versions that are kept, the one that was seen last at the end.
        """
        return tuple(self._files.store.load().versions)

    @property
    def problem(self) -> str | None:
        """
        Why the present files could not be kept when they should have been; `None`: they could, or it is not time yet.
        """
        return self._problem

    @property
    def changed_after(self) -> float:
        """
        When a look began that still found the files as they were before: seconds of the clock, or minus infinity if
        there was none in this process. What is wrong since later may come from the change.
        """
        seen = self._seen
        return seen.changed_after if seen.signature == self._files.signature() else seen.looked_at

    def __repr__(self) -> str:
        return f"<ConfigFiles {self.name}: {', '.join(self.paths)}>"

    def watching(self, probe: Callable[[], object]) -> Callable[[], object]:
        """
        *probe*, which by the way tells how the present files do: they are good after ``healthy_for`` seconds of health.

        A look costs two ``stat`` for each file. Once for each version they are read and kept, on the thread or loop of
        the probe. If that fails, or another process has the lock of the store right now, the probe does not: `problem`
        says why, and the next look tries again. Where several probes are watched, all have to
        be healthy.
        """
        if is_async(probe) or getattr(probe, "is_async", False):

            @functools.wraps(probe)
            async def awatched() -> object:
                return await self._awatched(self._look(), cast("Awaitable[object]", probe()))

            return awatched

        @functools.wraps(probe)
        def watched() -> object:
            look = self._look()
            try:
                answer = probe()
            except Exception:
                self._learn(look, healthy=False)
                raise
            if inspect.isawaitable(answer):
                return self._awatched(look, answer)
            self._learn(look, healthy=_is_healthy(answer))
            return answer

        return watched

    def restore(self, version: str, *, instead_of: str | None = None) -> str:
        """
        Make the files what they were in *version*: all of them, or none. Nothing is reloaded.

        What they are now is kept in the store.

        Args:
            version: An id.
            instead_of: The id that the files must have now, so that nobody's later change is undone.

        Returns:
            The id of what they were.

        Raises:
            ConfigError: If *version* is not kept, or a file cannot be replaced. Nothing has changed then.
            SelfHealError: If the files are not *instead_of*, or were changed meanwhile. Nothing has changed then.
            OSError: If the disk is full, or the owner may not be given back. The files are what they were. A
                `TimeoutError`: another process has held the lock of the store for 5 s.
        """
        return drive(self.restoring(version, instead_of=instead_of))

    def restoring(
        self, version: str, *, instead_of: str | None = None, check: Callable[[], None] = lambda: None
    ) -> Plan[str]:
        """
        The steps of `restore`; *check* is called while it waits for the lock, and may end that by an error.
        """
        return (yield from self._files.restoring(version, instead_of, check))

    # -- what the probe tells ----------------------------------------------------

    def _look(self) -> _Look:
        return _Look(self._clock.now(), self._files.signature())

    async def _awatched(self, look: _Look, answering: Awaitable[object]) -> object:
        try:
            answer = await answering
        except Exception:
            self._learn(look, healthy=False)
            raise
        self._learn(look, healthy=_is_healthy(answer))
        return answer

    def _learn(self, look: _Look, *, healthy: bool) -> None:
        seen, signature = self._seen, self._files.signature()
        if signature != seen.signature:
            seen = _Seen(signature, changed_after=seen.looked_at)
        if not healthy:
            seen = seen._replace(healthy_since=None)
        # A run that began with other files, or before one that has ended since, is no evidence for these.
        elif look.signature == signature and look.began >= seen.looked_at:
            since = look.began if seen.healthy_since is None else seen.healthy_since
            due = not seen.kept and look.began - since >= self.healthy_for
            seen = seen._replace(healthy_since=since, kept=seen.kept or (due and self._keep(signature)))
        if look.signature == signature:
            seen = seen._replace(looked_at=max(look.began, seen.looked_at))
        self._seen = seen

    def _keep(self, signature: tuple[object, ...]) -> bool:
        try:
            kept = self._files.keep_good(signature)
        except (OSError, ConfigError) as exc:
            self._problem = f"{type(exc).__name__}: {exc}"  # the next look tries again
            return False
        self._problem = None
        return kept


def _is_healthy(answer: object) -> bool:
    return interpret(answer, FAULT_KINDS).status is HealthStatus.HEALTHY


def _validate(config: ConfigFiles, keep: int) -> None:
    """
    Say what cannot work.
    """
    problem = None
    if os.name != "posix":
        problem = "needs a POSIX system, for files have no mode and owner elsewhere."
    elif not 1 <= len(config.paths) <= MAX_FILES:
        problem = f"has {len(config.paths)} paths: give one at least, and {MAX_FILES} at most."
    elif len(set(map(os.path.realpath, config.paths))) < len(config.paths):
        problem = "names one file twice: a file has one path, whatever symlinks lead to it."
    elif not callable(config.reload):
        problem = f"reload={config.reload!r} cannot be called. Give a function without arguments."
    elif not 0 < config.healthy_for < math.inf:
        problem = f"healthy_for={config.healthy_for:g}: must be a finite number of seconds, greater than 0."
    elif isinstance(keep, bool) or not isinstance(cast("object", keep), int) or keep < 2:
        problem = f"keep={keep!r}: must be a whole number, 2 or more: the good version, and what was rolled back from."
    if problem is not None:
        msg = f"{config.name} {problem}"
        raise ConfigError(msg)
    for path in config.paths:
        require_replaceable(os.path.realpath(path))
