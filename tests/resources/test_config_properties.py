"""
ConfigFiles beside a slow oracle that remembers all that ever happened and searches it.
"""

from __future__ import annotations

import os
import pathlib
import shutil
import stat
import tempfile

import attrs
import hypothesis.strategies as st

from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from selfheal.resources import ConfigFiles
from selfheal.testing import VirtualClock


NAMES = ("a", "b")
HEALTHY_FOR = 30
KEEP = 3

#: A file: what is in it, and its mode; `None`: there is none.
FILES = st.none() | st.tuples(st.sampled_from([b"", b"1", b"2\n", bytes(range(256))]), st.sampled_from([0o600, 0o644]))


@attrs.frozen
class Look:
    """
    One run of the probe. *era* is what tells the start and the files from all others when it began, *ended* at its end.

    A file that is missing is like any other time that it is missing.
    """

    at: float
    healthy: bool
    era: tuple[int | None, ...]
    ended: tuple[int | None, ...]
    state: tuple[object, ...]


class Versions(RuleBasedStateMachine):
    """
    Pushes, looks, restarts and rollbacks in any order.
    """

    def __init__(self) -> None:
        super().__init__()
        self.folder = pathlib.Path(tempfile.mkdtemp())
        self.clock = VirtualClock()
        self.looks: list[Look] = []
        self.changes = self.starts = 0
        self.stamps: dict[str, int | None] = dict.fromkeys(NAMES)
        self.ids: dict[str, tuple[object, ...]] = {}
        for name in NAMES:
            self.write(name, (b"1", 0o600))
        self.start()

    def teardown(self) -> None:
        shutil.rmtree(self.folder)

    # -- what happens ---------------------------------------------------------------

    def write(self, name: str, file: tuple[bytes, int] | None) -> None:
        path = self.folder / name
        self.changed(name, file)
        path.unlink(missing_ok=True)
        if file is not None:
            path.write_bytes(file[0])
            path.chmod(file[1])
            # Two pushes within one tick of the file system's clock would look the same.
            os.utime(path, ns=(self.changes, self.changes))

    def changed(self, name: str, file: object) -> None:
        self.changes += 1
        self.stamps[name] = None if file is None else self.changes

    @property
    def era(self) -> tuple[int | None, ...]:
        return (self.starts, *self.stamps.values())

    def restore(self, version: str) -> None:
        before = self.state()
        source = self.config.restore(version)
        for name, old, new in zip(NAMES, before, self.state(), strict=True):
            if old != new:
                self.changed(name, new)
        if source != version:
            self.ids[source] = before

    def start(self) -> None:
        self.starts += 1
        paths = [self.folder / name for name in NAMES]
        self.config = ConfigFiles(
            paths, reload=list, healthy_for=HEALTHY_FOR, keep=KEEP, store=self.folder / "store", clock=self.clock
        )

    @rule(name=st.sampled_from(NAMES), file=FILES)
    def push(self, name: str, file: tuple[bytes, int] | None) -> None:
        if file is not None or self.config.versions:
            self.write(name, file)

    @precondition(lambda self: self.config.versions or None not in self.state())
    @rule()
    def restart(self) -> None:
        self.start()

    @rule(healthy=st.booleans(), push=st.none() | st.tuples(st.sampled_from(NAMES), FILES))
    def look(self, healthy: bool, push: tuple[str, tuple[bytes, int] | None] | None) -> None:
        """Now and then somebody pushes in the middle of it."""
        at, era = self.clock.now(), self.era

        def probe() -> bool:
            if push is not None and push[1] is not None:
                self.write(*push)
            return healthy

        self.config.watching(probe)()
        self.looks.append(Look(at, healthy, era, self.era, self.state()))
        self.clock.pass_time(10)

    @rule(times=st.integers(1, 6))
    def looks_well(self, times: int) -> None:
        for _ in range(times):
            self.look(True, None)

    @precondition(lambda self: self.config.good is not None)
    @rule()
    def roll_back(self) -> None:
        assert self.config.good is not None
        self.restore(self.config.good)
        assert self.expected_good() == self.state()

    @precondition(lambda self: self.ids)
    @rule(data=st.data())
    def roll_forward(self, data: st.DataObject) -> None:
        kept = [version for version in self.ids if version in self.config.versions]
        if kept:
            version = data.draw(st.sampled_from(kept))
            self.restore(version)
            assert self.ids[version] == self.state()

    # -- what must hold ----------------------------------------------------------------

    def state(self) -> tuple[object, ...]:
        return tuple(
            (path.read_bytes(), stat.S_IMODE(path.stat().st_mode)) if (path := self.folder / name).exists() else None
            for name in NAMES
        )

    def expected_good(self) -> tuple[object, ...] | None:
        """
        What the files were at the last look that ended a stretch of healthy ones, long enough and without a change.
        """
        for end in range(len(self.looks), 0, -1):
            last = self.looks[end - 1]
            for begin in range(end):
                stretch = self.looks[begin:end]
                if last.at - stretch[0].at >= HEALTHY_FOR and all(
                    look.healthy and look.era == look.ended == last.ended for look in stretch
                ):
                    return last.state
        return None

    @invariant()
    def the_good_version_is_the_expected_one(self) -> None:
        expected, good = self.expected_good(), self.config.good
        assert (expected is None) == (good is None)
        if good is not None:
            if good not in self.ids:
                self.ids[good] = expected or ()
            assert expected == self.ids[good]

    @invariant()
    def the_store_is_bounded_and_has_the_good_version(self) -> None:
        versions = self.config.versions
        assert len(versions) <= KEEP
        assert self.config.good is None or self.config.good in versions
        assert len(os.listdir(self.config.store)) <= 2 + KEEP * len(NAMES)

    @invariant()
    def nothing_else_is_in_the_folder(self) -> None:
        assert set(os.listdir(self.folder)) <= {*NAMES, "store"}


TestVersions = Versions.TestCase
TestVersions.__doc__ = """
Whatever is pushed, looked at, restarted and restored: the good version is the one that the whole history says.
"""
TestVersions.settings = settings(max_examples=25, stateful_step_count=25, deadline=None)
