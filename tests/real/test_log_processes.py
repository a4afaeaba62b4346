"""
One log file and several processes, each of which heals it.
"""

import collections
import gzip
import json
import logging
import os
import subprocess
import sys
import textwrap
import threading
import time

import pytest

from selfheal.model import Fault, Incident, RecoveryContext
from selfheal.resources.log_files import PruneArchives, RotateLog


PROCESSES, THREADS, LINES, MAX_BYTES = 4, 4, 3_750, 300_000

SCRIPT = textwrap.dedent(
    """
    import json, logging, os, signal, sys, threading, time
    from selfheal import Unhealthy
    from selfheal.model import Fault, Incident, RecoveryContext
    from selfheal.resources.log_files import LogOverflow, PruneArchives, RotateLog
    from selfheal.resources.log_handlers import ReopenLog
    from selfheal.resources.log_level import LowerLogLevel

    path, when, lines, threads, processes, max_bytes, kills = sys.argv[1], sys.argv[2], *map(int, sys.argv[3:])
    logger = logging.getLogger("load")
    logger.setLevel(logging.DEBUG)
    less = LowerLogLevel(logger, to="INFO")
    prune = PruneArchives(os.path.dirname(path), "app.log.*", max_total_bytes=10**9)
    said, failed = [], []

    def listen():
        handler = logging.FileHandler(path)
        handler.handleError = failed.append
        logger.addHandler(handler)
        return handler

    def write(process, thread):
        for number in range(lines):
            logger.info("%d %d %d %s", process, thread, number, "x" * 80)

    def heal(handler):
        fault = Fault("full")
        incident = Incident(number=1, trigger=fault, began=0.0, opened=0.0)
        ctx = RecoveryContext(
            incident=incident, fault=fault, rung=0, attempt=1, deadline=time.monotonic() + 60, clock=time.monotonic,
            stopped=lambda: None, note=lambda message, fields: said.append(message),
        )
        try:
            LogOverflow(handler, max_bytes=max_bytes)()
        except Unhealthy:
            for action in (less, RotateLog(handler), ReopenLog(handler), prune):
                action.recover(ctx)
            less.revert(ctx)

    def work(process, handler):
        handler = handler or listen()
        writers = [threading.Thread(target=write, args=(process, number)) for number in range(threads)]
        for writer in writers:
            writer.start()
        while any(writer.is_alive() for writer in writers):
            heal(handler)
            time.sleep(0.003)
        heal(handler)
        logging.shutdown()
        assert not failed

    def main():
        handler = listen() if when == "before" else None
        children = []
        for process in range(processes):
            child = os.fork()
            if not child:
                status = 1
                try:
                    work(process, handler)
                    with open(f"{path}-{process}.said", "w") as file:
                        json.dump(said, file)
                    status = 0
                finally:
                    os._exit(status)
            children.append(child)
        for _ in range(kills):
            child = os.fork()
            if not child:
                victim = listen()
                while True:
                    heal(victim)
            time.sleep(0.02)
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        sys.exit(any(os.waitpid(child, 0)[1] for child in children))

    main()
    """
)


WANTED = {
    f"{process} {thread} {number} {'x' * 80}"
    for process in range(PROCESSES)
    for thread in range(THREADS)
    for number in range(LINES)
}


def written(log, when, *, kills=0):
    """Run the script; what is in the log and in its archives then, by name."""
    numbers = map(str, (LINES, THREADS, PROCESSES, MAX_BYTES, kills))
    command = [sys.executable, "-c", SCRIPT, str(log), when, *numbers]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert ("", 0) == (run.stderr, run.returncode)
    return {
        path.name: gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        for path in log.parent.glob("app.log*")
        if path.suffix not in (".said", ".tmp")
    }


@pytest.mark.parametrize("when", ["before", "after"])
def test_four_processes_lose_no_line_and_rotate_once(tmp_path, when):
    """
    Four processes of four threads write 60 000 lines, all heal the file by every action there is, and it was opened
    before or after the fork: each line is there once and whole, and no file is rotated before it is due.
    """
    contents = written(tmp_path / "app.log", when)
    found = collections.Counter(line for content in contents.values() for line in content.decode().splitlines())
    assert WANTED == set(found)
    assert PROCESSES * THREADS * LINES == found.total()
    archives = [name for name in contents if name != "app.log"]
    said = [message for path in tmp_path.glob("*.said") for message in json.loads(path.read_text())]
    assert len(archives) == sum("was rotated (" in message for message in said)
    assert len(archives) > 3
    assert [] == [name for name in archives if len(contents[name]) <= MAX_BYTES]
    assert any(name.endswith(".gz") for name in archives)


def test_processes_that_are_killed_while_they_rotate_cost_no_line(tmp_path, ctx, request):
    """
    Forty processes that do nothing but rotate and compress are killed beside four that write: no line is lost or torn,
    and once the next one has rotated, none is there twice and nothing half-done is left.
    """
    written(tmp_path / "app.log", "after", kills=40)
    handler = request.getfixturevalue("handler")  # which would else keep an archive open
    write(handler, "the last line")
    RotateLog(handler).recover(ctx)
    found = collections.Counter(
        line
        for path in tmp_path.glob("app.log.*.gz")
        for line in gzip.decompress(path.read_bytes()).decode().splitlines()
    )
    assert {*WANTED, "the last line"} == set(found)
    assert {1} == set(found.values())
    left = [
        path.name for path in tmp_path.glob("app.log*") if path.suffix not in (".gz", ".said") and path.stat().st_size
    ]
    assert [] == left


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


@pytest.fixture
def handler(tmp_path):
    handler = logging.FileHandler(tmp_path / "app.log")
    yield handler
    handler.close()


def write(handler, text):
    handler.handle(logging.LogRecord("app", logging.INFO, "", 0, text, (), None))


def archives(folder):
    return sorted(path.suffix == ".gz" for path in folder.glob("app.log.*"))


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells who writes a file")
def test_what_another_process_still_writes_is_compressed_once_it_has_left(tmp_path, ctx, handler):
    """
    An archive that another process has open stays plain, with all that it writes; a later rotation compresses it.
    """
    with (tmp_path / "app.log").open("ab") as shared:
        other = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=shared)
    write(handler, "ours")
    RotateLog(handler).recover(ctx)
    assert [False] == archives(tmp_path)
    other.communicate(b"theirs\n", timeout=10)
    write(handler, "more")
    RotateLog(handler).recover(ctx)
    assert [True, True] == archives(tmp_path)
    lines = {gzip.decompress(path.read_bytes()).decode() for path in tmp_path.glob("app.log.*")}
    assert {"ours\ntheirs\n", "more\n"} == lines


def test_a_rotator_that_is_stopped_delays_the_others_and_blocks_no_line(tmp_path, ctx, handler):
    """
    While another process holds the lock, lines are written and a rotation waits; it is done when that one is killed.
    """
    write(handler, "before")
    program = (
        "import fcntl, sys; f = open(sys.argv[1]); fcntl.flock(f, fcntl.LOCK_EX); print('held', flush=True); input()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", program, handler.baseFilename], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert "held\n" == holder.stdout.readline()
    rotation = threading.Thread(target=RotateLog(handler, compress=False).recover, args=(ctx,))
    rotation.start()
    write(handler, "meanwhile")
    assert [] == archives(tmp_path)
    holder.kill()
    holder.communicate(timeout=10)
    rotation.join(10)
    write(handler, "after")
    assert "after\n" == (tmp_path / "app.log").read_text()
    assert ["before\nmeanwhile\n"] == [path.read_text() for path in tmp_path.glob("app.log.*")]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells who writes a file")
def test_what_another_process_still_writes_is_not_pruned(tmp_path, ctx):
    """
    An archive that another process has open to write is passed over, and goes once that has closed it.
    """
    prune = PruneArchives(tmp_path, "app.log.*", max_total_bytes=4, keep=0)
    (tmp_path / "app.log.2").write_text("free")
    with (tmp_path / "app.log.1").open("wb") as shared:
        shared.write(b"open")
        other = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=shared)
    os.utime(tmp_path / "app.log.1", (0, 0))
    prune.recover(ctx)
    assert ["app.log.1"] == os.listdir(tmp_path)
    other.communicate(b"theirs", timeout=10)
    prune.recover(ctx)
    assert [] == os.listdir(tmp_path)
