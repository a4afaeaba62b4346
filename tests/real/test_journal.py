"""
The journal in real time: locked, full and read-only files, and forked processes.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
import subprocess
import sys
import threading
import time

import pytest

from selfheal import Healer, HealingPolicy, HealthCheck, RecoveryAction, Unhealthy, names
from selfheal.model import HeldPhase
from selfheal.records import JournalReader, SqliteJournal
from selfheal.records.owners import presence
from selfheal.records.store import Store


POLICY = HealingPolicy(
    interval=0.1, fast_interval=0.02, timeout=0.3, jitter=0, fall=2, rise=2, probation=0.1, verify_within=0.4
)


class Divert(RecoveryAction):
    """Helps."""

    def __init__(self, broken):
        self.broken = broken

    def recover(self, ctx):
        self.broken.clear()

    def revert(self, ctx):
        return None


def healing(journal):
    """A healer whose resource is broken, what it says, and what it is broken by."""
    broken, events = [True], []

    def probe():
        if broken:
            raise Unhealthy("down")

    check = HealthCheck(probe, name="db", policy=POLICY, recovery=Divert(broken))
    healer = Healer([check], journal=journal, phase=0, slack=0)
    healer.on_event(events.append)
    return healer, events, broken


def until(condition, within=10.0):
    """Wait until it holds."""
    end = time.monotonic() + within
    while not condition():
        assert time.monotonic() < end, "it has not come"
        time.sleep(0.02)


def heard(events, name):
    return [event.fields for event in events if event.name == name]


def test_a_file_that_somebody_else_has_locked(tmp_path):
    """
    While another process has the file locked, healing goes on, within seconds; what was lost is said; then all is written.
    """
    path = tmp_path / "selfheal.db"
    healer, events, _ = healing(SqliteJournal(path))
    with healer:
        until(lambda: healer.incidents())
    script = """if True:
        import sqlite3, sys
        connection = sqlite3.connect(sys.argv[1], isolation_level=None)
        connection.execute("BEGIN EXCLUSIVE")
        print("locked", flush=True)
        sys.stdin.read()
    """
    other = subprocess.Popen(
        [sys.executable, "-c", script, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    journal = SqliteJournal(path)
    healer, events, _ = healing(journal)
    with other:
        assert "locked\n" == other.stdout.readline()
        began = time.monotonic()
        with healer:
            until(lambda: healer.incidents(), 20)
            took = time.monotonic() - began
            assert "healed" == healer.incidents()[0].result.value
            assert 0 < journal.waiting
            other.stdin.close()
            until(lambda: journal.waiting == 0, 15)
    assert took < 10
    assert ["SQLITE_BUSY"] == [fields["reason"] for fields in heard(events, names.JOURNAL_LOST)]
    assert 1 == len(heard(events, names.JOURNAL_RESTORED))
    assert ["intent", "reverting"] == [fields["phase"] for fields in heard(events, names.HELD_UNRECORDED)]
    assert ["healed", "healed"] == [incident.result.value for incident in JournalReader(path).incidents()]


def test_leaving_does_not_wait_for_a_locked_file(tmp_path):
    """
    A healer whose journal cannot be written stops within its grace, and no thread of the journal is left.
    """
    path = tmp_path / "selfheal.db"
    journal = SqliteJournal(path)
    healer, _, _ = healing(journal)
    healer.start()
    until(lambda: healer.incidents())
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        healer.check_now("db")
        began = time.monotonic()
        healer.stop()
        assert time.monotonic() - began < 3
    until(lambda: "selfheal-journal" not in {thread.name for thread in threading.enumerate()})


@pytest.mark.skipif(sys.platform == "win32", reason="needs RLIMIT_FSIZE")
def test_files_that_must_not_grow(tmp_path):
    """
    A process that may write no more bytes heals on, and counts and says what the journal loses.
    """
    script = """if True:
        import resource, signal, sys, time
        sys.path.insert(0, sys.argv[2])
        import test_journal as here
        from selfheal import names
        from selfheal.records import SqliteJournal
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        journal = SqliteJournal(sys.argv[1], ring=20)
        healer, events, broken = here.healing(journal)
        with healer:
            here.until(lambda: healer.incidents())
            hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
            resource.setrlimit(resource.RLIMIT_FSIZE, (8192, hard))
            broken.append(True)
            here.until(lambda: len(healer.incidents()) == 2, 20)
            here.until(lambda: here.heard(events, names.JOURNAL_LOST))
            resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
            here.until(lambda: here.heard(events, names.JOURNAL_RESTORED), 20)
        print([incident.result.value for incident in healer.incidents()], len(journal.held()), journal.failing)
    """
    run = subprocess.run(
        [sys.executable, "-c", script, tmp_path / "selfheal.db", os.path.dirname(__file__)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ("['healed', 'healed'] 0 \n", "") == (run.stdout, run.stderr)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_child_writes_as_a_process_of_its_own(tmp_path):
    """
    A forked child that starts its own healer on the same journal takes nothing from its living parent, and both write.
    """
    script = """if True:
        import os, sys, time, warnings
        sys.path.insert(0, sys.argv[2])
        import test_journal as here
        from selfheal import names
        from selfheal.records import SqliteJournal
        warnings.simplefilter("ignore")
        journal = SqliteJournal(sys.argv[1])
        healer, events, broken = here.healing(journal)
        healer.start()
        here.until(lambda: healer.incidents())
        child = os.fork()
        if child == 0:
            broken.append(True)
            events.clear()
            with healer:
                here.until(lambda: healer.incidents())
            os._exit(0 if not here.heard(events, names.HELD_ADOPTED) else 1)
        assert os.waitpid(child, 0)[1] == 0
        broken.append(True)
        here.until(lambda: len(healer.incidents()) == 2)
        healer.stop()
        print(len(journal.incidents()), len({change.pid for change in journal.held(reverted=True)}))
    """
    run = subprocess.run(
        [sys.executable, "-c", script, tmp_path / "selfheal.db", os.path.dirname(__file__)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ("3 2\n", "") == (run.stdout, run.stderr)


def test_the_loop_is_never_blocked_by_a_locked_journal(tmp_path):
    """
    An async program goes on turning while its healer starts on a file that is locked, and waits for it.
    """
    path = tmp_path / "selfheal.db"
    healer, _, _ = healing(SqliteJournal(path))
    with healer:
        until(lambda: healer.incidents())
    healer, events, _ = healing(SqliteJournal(path))
    gaps = []

    async def watch():
        while True:
            began = time.monotonic()
            await asyncio.sleep(0.005)
            gaps.append(time.monotonic() - began)

    async def main():
        watching = asyncio.create_task(watch())
        await asyncio.sleep(0)
        async with healer:
            while not healer.incidents():
                await asyncio.sleep(0.005)
        watching.cancel()

    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        asyncio.run(asyncio.wait_for(main(), 20))
    assert heard(events, names.JOURNAL_LOST)
    assert max(gaps) < 0.7
    assert [HeldPhase.REVERTED] == [change.phase for change in JournalReader(path).held(reverted=True)]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_child_that_starts_by_itself_has_its_own_journal(tmp_path):
    """
    With after_fork="start" the child's healer writes and heals at once, whatever the parent was doing.
    """
    script = """if True:
        import os, sys, time, warnings
        sys.path.insert(0, sys.argv[2])
        import test_journal as here
        from selfheal import Healer
        from selfheal.records import SqliteJournal
        warnings.simplefilter("ignore")  # of a fork beside threads: that is what this is about
        made, events, broken = here.healing(None)
        journal = SqliteJournal(sys.argv[1])
        with Healer(made.checks, journal=journal, phase=0, slack=0, after_fork="start") as healer:
            here.until(lambda: healer.incidents())
            for _ in range(5):
                child = os.fork()
                if child == 0:
                    broken.append(True)
                    here.until(lambda: healer.incidents())
                    healer.stop()
                    os._exit(0 if journal.waiting == 0 and not journal.failing else 1)
                assert os.waitpid(child, 0)[1] == 0
        print(len(journal.incidents()))
    """
    run = subprocess.run(
        [sys.executable, "-c", script, tmp_path / "selfheal.db", os.path.dirname(__file__)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ("6\n", "") == (run.stdout, run.stderr)


def test_a_damaged_file_is_moved_aside_by_one_at_a_time(tmp_path):
    """
    Who waited while another moved the damaged file leaves the new one in place, and nothing is overwritten.
    """
    path = str(tmp_path / "selfheal.db")
    (tmp_path / "selfheal.db").write_bytes(b"rubbish" * 2000)
    first, second = (Store(path, max_incidents=9, max_results=9, wall=time.time) for _ in range(2))
    for store in (first, second):
        with pytest.raises(sqlite3.DatabaseError):
            store.open()
    moved = []
    thread = threading.Thread(target=lambda: moved.append(second.move_aside()))
    with presence(path).alone():
        thread.start()
        thread.join(0.2)
        (tmp_path / "selfheal.db").rename(tmp_path / "selfheal.db.corrupt-1")
        (tmp_path / "selfheal.db").write_bytes(b"")
    thread.join(10)
    first.open()
    first.leave()

    assert [None] == moved
    assert b"rubbish" * 2000 == (tmp_path / "selfheal.db.corrupt-1").read_bytes()
    assert [] == list(tmp_path.glob("*.corrupt-2"))
    assert () == JournalReader(path).held()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_disk_that_hangs_holds_up_nobody_else(tmp_path):
    """
    While one journal waits for its disk, others are written and read, healers start, and forks go on, in seconds.
    """
    script = """if True:
        import os, sys, threading, time, warnings
        sys.path.insert(0, sys.argv[2])
        import test_journal as here
        from selfheal.records.schema import guard
        warnings.simplefilter("ignore")
        hanging, rescue = threading.Event(), threading.Event()
        def hang():
            with guard():
                hanging.set()
                rescue.wait()
        thread = threading.Thread(target=hang)
        thread.start()
        hanging.wait()
        began = time.monotonic()
        healer, events, broken = here.healing(sys.argv[1])
        with healer:
            here.until(lambda: healer.incidents())
        child = os.fork()
        if child == 0:
            broken.append(True)
            with healer:
                here.until(lambda: healer.incidents())
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        print(len(here.JournalReader(sys.argv[1]).incidents()))
        assert time.monotonic() - began < 20
        rescue.set()
        thread.join()
    """
    run = subprocess.run(
        [sys.executable, "-c", script, tmp_path / "selfheal.db", os.path.dirname(__file__)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ("2\n", "") == (run.stdout, run.stderr)
