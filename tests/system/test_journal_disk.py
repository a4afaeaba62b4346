"""
The journal on disks that are really full or read-only. Needs root, for a small tmpfs.
"""

import contextlib
import os
import subprocess
import sys
import time

import pytest

from selfheal import Healer, HealingPolicy, HealthCheck, RecoveryAction, Unhealthy, names
from selfheal.records import JournalReader, SqliteJournal


pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux") or os.geteuid() != 0, reason="needs Linux and root, to mount a tmpfs"
)

POLICY = HealingPolicy(
    interval=0.1, fast_interval=0.02, timeout=0.3, jitter=0, fall=2, rise=2, probation=0.1, verify_within=0.4
)


#: Another process, so that this one holds no file there open.
FIRST = """if True:
    import sys, time
    from selfheal import Healer
    with Healer([], journal=sys.argv[1]):
        time.sleep(0.2)
"""


class Divert(RecoveryAction):
    """Helps."""

    def __init__(self, broken):
        self.broken = broken

    def recover(self, ctx):
        self.broken.clear()

    def revert(self, ctx):
        return None


@pytest.fixture
def disk(tmp_path):
    """A disk of a megabyte."""
    folder = tmp_path / "disk"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], check=True)
    yield folder
    # Lazily: a process that has written a journal holds a lock beside it for as long as it lives.
    subprocess.run(["umount", "--lazy", folder], check=True)


def until(condition, within=20.0):
    end = time.monotonic() + within
    while not condition():
        assert time.monotonic() < end, "it has not come"
        time.sleep(0.02)


def fill(folder):
    with contextlib.suppress(OSError), open(folder / "filler", "wb", buffering=0) as file:
        while True:
            file.write(b"x" * 4096)
    with contextlib.suppress(OSError), open(folder / "filler", "ab", buffering=0) as file:
        while True:
            file.write(b"x")


def breaks_and_heals(disk, spoil, mend):
    """One healing on a good disk, one on a bad one, and the way back."""
    broken, events = [True], []

    def probe():
        if broken:
            raise Unhealthy("down")

    journal = SqliteJournal(disk / "selfheal.db", ring=20)
    check = HealthCheck(probe, name="db", policy=POLICY, recovery=Divert(broken))
    healer = Healer([check], journal=journal, phase=0, slack=0)
    healer.on_event(events.append)
    with healer:
        until(lambda: healer.incidents())
        spoil(disk)
        broken.append(True)
        until(lambda: len(healer.incidents()) == 2)
        until(lambda: journal.failing)
        mend(disk)
        until(lambda: not journal.failing)
    assert ["healed", "healed"] == [incident.result.value for incident in healer.incidents()]
    heard = [event for event in events if event.name.startswith("selfheal.journal.")]
    assert [names.JOURNAL_LOST, names.JOURNAL_RESTORED] == [event.name for event in heard]
    assert journal.dropped == heard[-1].fields["dropped"]
    assert () == JournalReader(journal.path).held()
    return heard[0].fields["reason"]


def test_on_a_full_disk_healing_goes_on_and_the_loss_is_counted(disk):
    """
    With no byte to spare the newest rows wait in memory; once there is room, they are written.
    """
    reason = breaks_and_heals(disk, fill, lambda folder: (folder / "filler").unlink())

    assert reason in ("SQLITE_FULL", "SQLITE_IOERR_WRITE", "SQLITE_IOERR_SHMSIZE", "SQLITE_IOERR_SHMMAP")


def test_on_a_disk_that_became_read_only_it_starts_all_the_same(disk):
    """
    A journal on a read-only disk keeps nobody from healing, and is written as soon as it can be.
    """

    def remount(how):
        subprocess.run(["mount", "-o", f"remount,{how}", disk], check=True)

    subprocess.run([sys.executable, "-c", FIRST, disk / "selfheal.db"], check=True)
    remount("ro")
    broken = [True]

    def probe():
        if broken:
            raise Unhealthy("down")

    journal = SqliteJournal(disk / "selfheal.db")
    check = HealthCheck(probe, name="db", policy=POLICY, recovery=Divert(broken))
    healer, events = Healer([check], journal=journal, phase=0, slack=0), []
    healer.on_event(events.append)
    with healer:
        until(lambda: healer.incidents())
        assert journal.failing
        remount("rw")
        until(lambda: not journal.failing)
    assert ["healed"] == [incident.result.value for incident in JournalReader(journal.path).incidents()]
    assert 1 == len([event for event in events if event.name == names.JOURNAL_LOST])
