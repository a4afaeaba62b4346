"""
What happens to lines of several processes where nobody heals the log, or somebody else rotates it: the harm that is
spared.
"""

import os
import shutil
import subprocess
import sys
import textwrap
import time

import pytest


PROCESSES, LINES = 4, 2_000

SCRIPT = textwrap.dedent(
    """
    import logging, logging.handlers, sys
    make, path, process, lines = sys.argv[1], sys.argv[2], *map(int, sys.argv[3:])
    failed = []
    if make == "rotating":
        handler = logging.handlers.RotatingFileHandler(path, maxBytes=10_000, backupCount=500)
    elif make == "concurrent":
        from concurrent_log_handler import ConcurrentRotatingFileHandler
        handler = ConcurrentRotatingFileHandler(path, maxBytes=10_000, backupCount=500)
    else:
        handler = logging.FileHandler(path)
    handler.handleError = failed.append
    logger = logging.Logger("load")
    logger.addHandler(handler)
    print("ready", flush=True)
    sys.stdin.readline()
    for number in range(lines):
        logger.info("%d %d %s", process, number, "x" * 80)
    handler.close()
    print(len(failed))
    """
)


def lost_and_told(folder, make, rotate=None):
    """Have all processes write at once; count the lines that are missing, and the errors that handlers have told."""
    path = folder / "app.log"
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", SCRIPT, make, str(path), str(number), str(LINES)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(PROCESSES)
    ]
    assert ["ready\n"] * PROCESSES == [writer.stdout.readline() for writer in writers]
    for writer in writers:
        writer.stdin.write("go\n")
        writer.stdin.flush()
    while rotate is not None and any(writer.poll() is None for writer in writers):
        rotate(path)
    told = sum(int(writer.communicate(timeout=60)[0]) for writer in writers)
    found = {line for file in folder.glob("app.log*") for line in file.read_text(errors="replace").splitlines()}
    wanted = {f"{process} {number} {'x' * 80}" for process in range(PROCESSES) for number in range(LINES)}
    return len(wanted - found), told


@pytest.mark.at_length
def test_rotating_file_handlers_of_several_processes_lose_lines_in_silence(tmp_path):
    """
    The standard library's handler, in several processes, loses more lines than it tells errors.
    """
    lost, told = lost_and_told(tmp_path, "rotating")
    assert lost > told


@pytest.mark.at_length
def test_copytruncate_loses_lines_in_silence(tmp_path):
    """
    What is written between the copy and the truncation, as logrotate does both, is gone without an error.
    """
    copies = 0

    def rotate(path):
        nonlocal copies
        copies += 1
        shutil.copyfile(path, f"{path}.{copies}")
        os.truncate(path, 0)
        time.sleep(0.002)

    lost, told = lost_and_told(tmp_path, "plain", rotate)
    assert (True, 0) == (lost > 0, told)


@pytest.mark.at_length
def test_concurrent_log_handler_loses_none(tmp_path):
    """
    concurrent-log-handler, which is recommended for rotation in several processes, loses no line.
    """
    pytest.importorskip("concurrent_log_handler")
    assert (0, 0) == lost_and_told(tmp_path, "concurrent")
