"""
Log files under real load: threads that write while the file is rotated beneath them.
"""

import collections
import glob
import gzip
import logging
import logging.handlers
import os
import pathlib
import subprocess
import sys
import textwrap
import threading
import time

import pytest

from selfheal.model import Fault, Incident, RecoveryContext
from selfheal.resources.log_files import LogOverflow, PruneArchives, RotateLog


THREADS, LINES, ROTATIONS = 4, 5_000, 50


@pytest.fixture
def ctx():
    fault = Fault("full")
    return RecoveryContext(
        incident=Incident(number=1, trigger=fault, began=0.0, opened=0.0),
        fault=fault,
        rung=0,
        attempt=1,
        deadline=time.monotonic() + 60,
        clock=time.monotonic,
        stopped=lambda: None,
        note=lambda message, fields: None,
    )


def all_lines(folder):
    lines = []
    for path in sorted(folder.iterdir()):
        text = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        assert text.endswith(b"\n") or not text
        lines += text.decode().splitlines()
    return lines


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize(
    "make",
    [
        lambda path: logging.FileHandler(path),
        lambda path: logging.FileHandler(path, mode="w", delay=True),
        lambda path: logging.handlers.RotatingFileHandler(path, maxBytes=10**9, backupCount=2),
        lambda path: logging.handlers.TimedRotatingFileHandler(path, when="midnight", backupCount=2),
        lambda path: logging.handlers.WatchedFileHandler(path),
    ],
    ids=["append", "write", "rotating", "timed", "watched"],
)
def test_not_one_line_is_lost_torn_or_doubled(tmp_path, ctx, make, compress, monkeypatch):
    """
    Four threads write 20 000 lines while the file is rotated 50 times: every line is there once and whole, in order.
    """
    handler = make(tmp_path / "app.log")
    failed = []
    handler.handleError = failed.append
    logger = logging.getLogger("selfheal-load")
    monkeypatch.setattr(logger, "handlers", [handler])
    monkeypatch.setattr(logger, "propagate", False)
    logger.setLevel(logging.INFO)
    turn = threading.Semaphore(THREADS)  # so that no writer is done before the last rotation

    def work(thread):
        for number in range(LINES):
            if number % (LINES // ROTATIONS) == 0:
                assert turn.acquire(timeout=30)
            logger.info("%d %d %s", thread, number, "x" * 80)

    threads = [threading.Thread(target=work, args=(thread,)) for thread in range(THREADS)]
    for thread in threads:
        thread.start()
    rotate = RotateLog(handler, compress=compress)
    for _ in range(ROTATIONS):
        while not os.path.exists(handler.baseFilename) or os.path.getsize(handler.baseFilename) < 5_000:
            time.sleep(0.0005)
        rotate.recover(ctx)
        turn.release(THREADS)
    for thread in threads:
        thread.join(30)
    handler.close()
    assert [] == failed
    assert ROTATIONS <= len(list(tmp_path.iterdir())) <= ROTATIONS + 1
    lines = all_lines(tmp_path)
    assert THREADS * LINES == len(lines)
    written = collections.defaultdict(list)
    for line in lines:
        thread, number, rest = line.split(" ")
        assert "x" * 80 == rest
        written[int(thread)].append(int(number))
    assert {thread: set(range(LINES)) for thread in range(THREADS)} == {t: set(n) for t, n in written.items()}


def repeat(call, stop, errors):
    while not stop.is_set():
        try:
            call()
        except Exception as exc:
            errors.append(exc)


def test_probe_and_pruning_beside_rotation_never_stumble(tmp_path, ctx, monkeypatch):
    """
    Probe and pruning run all the time beside writers and rotations: no false alarm, no error, the live file stays.
    """
    handler = logging.FileHandler(tmp_path / "app.log")
    logger = logging.getLogger("selfheal-load")
    monkeypatch.setattr(logger, "handlers", [handler])
    monkeypatch.setattr(logger, "propagate", False)
    logger.setLevel(logging.INFO)
    probe = LogOverflow(handler, max_bytes=10**9)
    prune = PruneArchives(tmp_path, "app.log.*", max_total_bytes=200_000, keep=1)
    stop, errors = threading.Event(), []
    # So many lines a file at most: one that is longer than all archives may be would be a good reason to complain.
    lines = threading.Semaphore(500)

    def write():
        if lines.acquire(timeout=0.01):
            logger.info("x" * 100)

    calls = [write, lambda: prune.recover(ctx), probe]
    threads = [threading.Thread(target=repeat, args=(call, stop, errors)) for call in calls]
    for thread in threads:
        thread.start()
    for _ in range(ROTATIONS):
        time.sleep(0.01)
        RotateLog(handler).recover(ctx)
        while lines.acquire(blocking=False):
            pass
        lines.release(500)
    stop.set()
    for thread in threads:
        thread.join(10)
    handler.close()
    assert [] == errors
    assert (tmp_path / "app.log").exists()


def test_two_processes_never_take_each_others_archive(tmp_path):
    """
    Two processes rotate files of the same name in the same folder at the same time: no archive is overwritten.
    """
    script = textwrap.dedent(
        """
        import logging, sys
        from selfheal.model import Fault, Incident, RecoveryContext
        from selfheal.resources.log_files import RotateLog
        fault = Fault("full")
        ctx = RecoveryContext(
            incident=Incident(number=1, trigger=fault, began=0.0, opened=0.0), fault=fault, rung=0, attempt=1,
            deadline=1.0, clock=lambda: 0.0, stopped=lambda: None, note=lambda message, fields: None,
        )
        handler = logging.FileHandler(sys.argv[1])
        logger = logging.Logger("load")
        logger.addHandler(handler)
        for number in range(300):
            logger.info("%s %d", sys.argv[2], number)
            RotateLog(handler, compress=False).recover(ctx)
        """
    )
    runs = [
        subprocess.Popen([sys.executable, "-c", script, str(tmp_path / "app.log"), name], stderr=subprocess.PIPE)
        for name in ("one", "two")
    ]
    for run in runs:
        _, stderr = run.communicate(timeout=60)
        assert (b"", 0) == (stderr, run.returncode)
    lines = [line for path in glob.glob(f"{tmp_path}/*") for line in pathlib.Path(path).read_text().splitlines()]
    assert {f"{name} {number}" for name in ("one", "two") for number in range(300)} == set(lines)
    assert 600 == len(lines)


def test_a_kill_during_compression_leaves_the_whole_archive(tmp_path):
    """
    Killed in the middle of a compression, a process leaves the plain archive whole, and a later one is not in its way.
    """
    script = textwrap.dedent(
        """
        import os, signal, sys
        from selfheal.resources.log_compression import compress
        chunks = 0
        def check():
            global chunks
            chunks += 1
            if chunks == 3:
                os.kill(os.getpid(), signal.SIGKILL)
        compress(sys.argv[1], "gzip", check=check)
        """
    )
    archive = tmp_path / "app.log.20200101T000000Z-0"
    archive.write_bytes(os.urandom(2**20))
    content = archive.read_bytes()
    run = subprocess.run([sys.executable, "-c", script, str(archive)], check=False, timeout=60)
    assert -9 == run.returncode
    assert content == archive.read_bytes()
    assert [archive.name, f"{archive.name}.gz.tmp"] == sorted(os.listdir(tmp_path))
