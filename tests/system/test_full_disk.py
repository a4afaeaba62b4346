"""
Log files on a disk that is really full. Needs root, for a small tmpfs.
"""

import contextlib
import gzip
import logging
import logging.handlers
import os
import shutil
import subprocess
import sys
import time

import attrs
import pytest

from selfheal import Escalate, HealthCheck, Unhealthy
from selfheal.model import Fault, Incident, IncidentResult, RecoveryContext
from selfheal.records import tell
from selfheal.resources.log_files import LogOverflow, PruneArchives, RotateLog, log_ladder
from selfheal.resources.log_handlers import LogHandlers, count_log_errors
from selfheal.testing import simulate


pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux") or os.geteuid() != 0, reason="needs Linux and root, to mount a tmpfs"
)


@contextlib.contextmanager
def mounted(folder, options):
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


@pytest.fixture
def said():
    return []


@pytest.fixture
def ctx(said):
    fault = Fault("full")
    return RecoveryContext(
        incident=Incident(number=1, trigger=fault, began=0.0, opened=0.0),
        fault=fault,
        rung=0,
        attempt=1,
        deadline=time.monotonic() + 60,
        clock=time.monotonic,
        stopped=lambda: None,
        note=lambda message, fields: said.append(message),
    )


def write(handler, text):
    handler.handle(logging.LogRecord("app", logging.INFO, "", 0, text, (), None))


def fill(folder):
    with contextlib.suppress(OSError), open(folder / "filler", "wb", buffering=0) as file:
        while True:
            file.write(b"x" * 4096)


def test_a_full_disk_is_seen_rotated_and_healed_by_pruning(tmp_path, ctx, said):
    """
    On a full disk the probe says so, the file is rotated without a byte to spare and left plain, and pruning makes room.
    """
    with mounted(tmp_path / "disk", "size=1m") as disk:
        lost = []
        handler = logging.FileHandler(disk / "app.log")
        handler.handleError = lost.append
        archive = disk / "app.log.20200101T000000Z-0"
        archive.write_bytes(b"x" * 200_000)
        write(handler, "x" * 100_000)
        probe = LogOverflow(handler, max_bytes=10**6, min_free_bytes=100_000, min_free_inodes=0)
        probe()
        fill(disk)
        with pytest.raises(Unhealthy, match=r"^full: the disk of .* has 0 bytes free"):
            probe()
        write(handler, "y" * 100_000)
        assert 1 == len(lost)
        RotateLog(handler).recover(ctx)
        assert any("stays as it is: 0 bytes are free" in message for message in said)
        assert handler.stream is not None
        (rotated,) = (path for path in disk.glob("app.log.*") if path != archive)
        assert rotated.read_text().startswith("x" * 100_000 + "\n")
        PruneArchives(disk, "app.log.*", min_free_bytes=150_000).recover(ctx)
        assert not archive.exists()
        assert rotated.exists()
        probe()
        write(handler, "z" * 1000)
        assert "z" * 1000 + "\n" == (disk / "app.log").read_text()
        assert 1 == len(lost)
        handler.close()


HANDLERS = {
    "plain": lambda path: logging.FileHandler(path),
    "rotating": lambda path: logging.handlers.RotatingFileHandler(path, maxBytes=10**6, backupCount=2),
    "watched": lambda path: logging.handlers.WatchedFileHandler(path),
}


@pytest.mark.parametrize("make", HANDLERS.values(), ids=HANDLERS)
def test_records_that_find_no_room_are_counted_and_logging_goes_on_when_there_is_some(tmp_path, capfd, make):
    """
    On a full disk lost records are a number and a fault, not tracebacks; every line after room was made is there.
    """
    with mounted(tmp_path / "disk", "size=1m") as disk, contextlib.closing(make(disk / "app.log")) as handler:
        errors, probe = count_log_errors(handler), LogHandlers()
        fill(disk)
        for number in range(500):
            write(handler, f"{number} " + "x" * 100)
        assert 450 <= errors.count <= 500  # the last page had room for some
        with pytest.raises(Unhealthy, match=r"^full: .*could not write \d+ records \(OSError ENOSPC\)"):
            probe()
        os.unlink(disk / "filler")
        after = [f"after {number}" for number in range(100)]
        for line in after:
            write(handler, line)
        assert probe() is None
        assert after == (disk / "app.log").read_text().splitlines()[-100:]
        assert ("", "") == capfd.readouterr()


def test_uncounted_each_lost_record_is_a_traceback(tmp_path, capfd):
    """
    The harm that is spared: the standard library prints a traceback for each record that finds no room.
    """
    with (
        mounted(tmp_path / "disk", "size=1m") as disk,
        contextlib.closing(logging.FileHandler(disk / "app.log")) as handler,
    ):
        fill(disk)
        for number in range(500):
            write(handler, f"{number} " + "x" * 100)
        os.unlink(disk / "filler")
    told = capfd.readouterr().err
    assert told.count("Traceback (most recent call last)") >= 450
    assert len(told) > 450 * 500


def gzipped(source, target):
    """What many give their RotatingFileHandler as its rotator."""
    with open(source, "rb") as plain, gzip.open(f"{target}.gz", "wb") as packed:
        shutil.copyfileobj(plain, packed)
    os.unlink(source)


def test_a_handler_that_compresses_while_it_logs_is_rotated_where_it_cannot(tmp_path, ctx):
    """
    Without room for a compressed copy, a handler that makes one itself loses every record although there is room for
    those; rotated by a rename it loses none.
    """
    with mounted(tmp_path / "disk", "size=1m") as disk:
        handler = logging.handlers.RotatingFileHandler(
            disk / "app.log", maxBytes=300_000, backupCount=3, encoding="latin-1"
        )
        handler.rotator = gzipped
        with contextlib.closing(handler):
            errors = count_log_errors(handler)
            write(handler, os.urandom(299_900).decode("latin-1"))
            fill(disk)
            os.truncate(disk / "filler", (disk / "filler").stat().st_size - 100_000)
            for number in range(100):
                write(handler, f"{number} " + "x" * 100)
            assert errors.count > 95
            for half in disk.glob("*.gz"):
                half.unlink()
            RotateLog(handler).recover(ctx)
            lost, lines = errors.count, [f"{number} " + "x" * 100 for number in range(100)]
            for line in lines:
                write(handler, line)
            assert lost == errors.count
            assert lines == (disk / "app.log").read_text().splitlines()


def test_a_disk_that_fills_up_during_compression_leaves_the_plain_archive(tmp_path, ctx, said):
    """
    If the room is taken while the archive is compressed, the archive stays plain and nothing half-done is left.
    """
    with mounted(tmp_path / "disk", "size=4m") as disk:
        handler = logging.FileHandler(disk / "app.log", encoding="latin-1")
        write(handler, os.urandom(1_500_000).decode("latin-1"))
        size = os.path.getsize(handler.baseFilename)
        checks = []

        def note(message, fields):
            said.append(message)

        def stopped():
            checks.append(1)
            if len(checks) == 3:
                fill(disk)

        RotateLog(handler).recover(attrs.evolve(ctx, note=note, stopped=stopped))
        handler.close()
        assert "the archive could not be compressed" == said[-1]
        (rotated,) = disk.glob("app.log.*")
        assert size == rotated.stat().st_size


def use_up_inodes(folder):
    with contextlib.suppress(OSError):
        for number in range(100):
            (folder / f"filler{number}").touch()


def test_a_disk_without_inodes_is_seen(tmp_path, ctx, said):
    """
    With bytes free and no inode left, the disk is full too; the log goes on in the old file, which loses nothing.
    """
    with mounted(tmp_path / "disk", "size=4m,nr_inodes=6") as disk:
        handler = logging.FileHandler(disk / "app.log")
        write(handler, "before")
        probe = LogOverflow(handler, max_bytes=10**6, min_free_bytes=0, min_free_inodes=1)
        probe()
        use_up_inodes(disk)
        with pytest.raises(Unhealthy, match=r"^full: the disk of .* has 0 inodes free"):
            probe()
        RotateLog(handler).recover(ctx)
        assert ["there is no room for a new file; the old one is written on"] == said
        write(handler, "after")
        handler.close()
        assert "before\nafter\n" == (disk / "app.log").read_text()
        assert [] == list(disk.glob("app.log.*"))


@pytest.mark.parametrize(
    ("use_up", "options"), [(fill, "size=1m"), (use_up_inodes, "size=1m,nr_inodes=16")], ids=["bytes", "inodes"]
)
def test_a_ladder_makes_room_of_the_oldest_archives_and_every_line_is_there_again(tmp_path, use_up, options):
    """
    The ladder deletes the oldest archives of a full disk until there is room, nothing else, and nothing elsewhere; each
    line since is there.
    """
    canary = tmp_path / "app.log.20200101T000000Z-0"
    canary.write_text("canary")
    with (
        mounted(tmp_path / "disk", options) as disk,
        contextlib.closing(logging.FileHandler(disk / "app.log")) as handler,
    ):
        errors = count_log_errors(handler)
        archives = [disk / f"app.log.2020010{number}T000000Z-0" for number in range(1, 6)]
        for age, archive in enumerate(archives):
            archive.write_bytes(b"x" * 100_000)
            os.utime(archive, (age, age))
        link = disk / "app.log.20200109T000000Z-0"
        link.symlink_to(canary)
        use_up(disk)
        for number in range(500):
            write(handler, f"{number} " + "x" * 100)
        assert (errors.count > 0) == (use_up is fill)
        others = set(disk.iterdir()) - set(archives)

        check = HealthCheck(
            LogOverflow(handler, max_bytes=10**6, min_free_bytes=150_000, min_free_inodes=2),
            name="app_log",
            recovery=log_ladder(handler, min_free_bytes=190_000, min_free_inodes=2, compress=False),
        )
        (incident,) = simulate([check], until=300).incidents
        assert IncidentResult.HEALED is incident.result, tell(incident)

        assert archives[2:] == [archive for archive in archives if archive.exists()]
        assert others <= set(disk.iterdir())
        assert "canary" == link.read_text()
        lost = errors.count
        after = [f"after {number}" for number in range(1000)]
        for line in after:
            write(handler, line)
        assert lost == errors.count
        assert after == (disk / "app.log").read_text().splitlines()[-1000:]


def test_a_disk_that_became_read_only_is_told_apart(tmp_path, ctx):
    """
    On a read-only disk no second attempt will help: the next rung is asked for at once.
    """
    with mounted(tmp_path / "disk", "size=1m") as disk:
        (disk / "app.log").write_text("a line\n")
        handler = logging.FileHandler(disk / "app.log", delay=True)
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        with pytest.raises(Escalate, match="Read-only file system"):
            RotateLog(handler).recover(ctx)
        assert "a line\n" == (disk / "app.log").read_text()


def test_a_folder_of_somebody_else_is_told_apart(tmp_path):
    """
    An unprivileged process that may write the file and not its folder is told so, and goes on writing.
    """
    script = """if True:
        import logging, os, sys
        from selfheal import Escalate
        from selfheal.model import Fault, Incident, RecoveryContext
        from selfheal.resources.log_files import RotateLog
        fault = Fault("full")
        ctx = RecoveryContext(
            incident=Incident(number=1, trigger=fault, began=0.0, opened=0.0), fault=fault, rung=0, attempt=1,
            deadline=1.0, clock=lambda: 0.0, stopped=lambda: None, note=lambda message, fields: None,
        )
        handler = logging.FileHandler(sys.argv[1])
        RotateLog(handler)
        os.setuid(65534)
        write = lambda text: handler.handle(logging.LogRecord("app", logging.INFO, "", 0, text, (), None))
        write("before")
        try:
            RotateLog(handler).recover(ctx)
        except Escalate as exc:
            print(exc.reason.partition(": ")[2])
        write("after")
    """
    folder = tmp_path
    while folder != folder.parent:  # pytest's folders are for root alone
        mode = folder.stat().st_mode
        if not mode & 0o001:
            folder.chmod(mode | 0o011)
        folder = folder.parent
    (tmp_path / "log").mkdir(mode=0o755)
    run = subprocess.run(
        [sys.executable, "-c", script, tmp_path / "log" / "app.log"], capture_output=True, text=True, check=False
    )
    expected = "Permission denied. This process must be allowed to write to its folder.\n"
    assert (expected, "", 0) == (run.stdout, run.stderr, run.returncode)
    assert "before\nafter\n" == (tmp_path / "log" / "app.log").read_text()
