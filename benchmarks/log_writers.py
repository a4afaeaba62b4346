"""
``python -m benchmarks.log_writers KIND PATH PROCESS THREADS LINES BYTES``: one of several processes that write one log.

It says "ready", waits for a line, writes, and says how many errors it was told.
"""

from __future__ import annotations

import logging
import logging.handlers
import os
import sys
import threading
import time

from collections.abc import Callable

from selfheal import Unhealthy
from selfheal.model import Fault, Incident, RecoveryContext
from selfheal.recovery import RecoveryAction
from selfheal.resources.log_files import LogOverflow, RotateLog
from selfheal.resources.log_handlers import LogHandlers, ReopenLog, count_log_errors


FILLING = "x" * 80

#: What writes a line, and what says how many errors there were.
Writer = tuple[Callable[[str], object], Callable[[], int]]


def line(process: int, thread: int, number: int) -> str:
    """
    What stands in the log, once.
    """
    return f"{process} {thread} {number} {FILLING}"


def _stdlib(handler: logging.Handler) -> Writer:
    errors = count_log_errors(handler)
    logger = logging.getLogger("load")
    logger.setLevel(logging.INFO)
    logger.propagate = False
    logger.addHandler(handler)

    def end() -> int:
        handler.close()
        return errors.count

    return logger.info, end


def _healing(handler: logging.FileHandler, probe: Callable[[], object], action: RecoveryAction) -> Writer:
    """Look all the time: a `Healer` does the same more rarely."""
    write, close = _stdlib(handler)
    fault = Fault("full")
    ctx = RecoveryContext(
        incident=Incident(number=1, trigger=fault, began=0.0, opened=0.0),
        fault=fault,
        rung=0,
        attempt=1,
        deadline=time.monotonic() + 600,
        clock=time.monotonic,
        stopped=lambda: None,
        note=lambda _message, _fields: None,
    )
    stop = threading.Event()

    def heal() -> None:
        while not stop.wait(0.005):
            try:
                probe()
            except Unhealthy:
                action.recover(ctx)

    healer = threading.Thread(target=heal)
    healer.start()

    def end() -> int:
        stop.set()
        healer.join()
        return close()

    return write, end


def _loguru(path: str, limit: int) -> Writer:
    from loguru import logger

    failed: list[str] = []
    sys.stderr = type("Told", (), {"write": staticmethod(failed.append), "flush": staticmethod(lambda: None)})()
    logger.remove()
    logger.add(path, rotation=limit, format="{message}")

    def end() -> int:
        logger.complete()
        return sum("Logging error in Loguru Handler" in text for text in failed)

    return logger.info, end


def made(kind: str, path: str, limit: int) -> Writer:
    """
    The writer of one rival.
    """
    if kind in ("selfheal", "selfheal-gzip"):
        handler = logging.FileHandler(path)
        overflow = LogOverflow(handler, max_bytes=limit, min_free_bytes=0, min_free_inodes=0)
        return _healing(handler, overflow, RotateLog(handler, compress=kind == "selfheal-gzip"))
    if kind == "reopened":
        handler = logging.FileHandler(path)
        return _healing(handler, LogHandlers(), ReopenLog(handler))
    if kind == "loguru":
        return _loguru(path, limit)
    if kind == "concurrent":
        from concurrent_log_handler import ConcurrentRotatingFileHandler

        return _stdlib(ConcurrentRotatingFileHandler(path, maxBytes=limit, backupCount=1000))
    if kind == "rotating":
        return _stdlib(logging.handlers.RotatingFileHandler(path, maxBytes=limit, backupCount=1000))
    if kind == "watched":
        return _stdlib(logging.handlers.WatchedFileHandler(path))
    return _stdlib(logging.FileHandler(path))


def main(kind: str, path: str, *numbers: str) -> None:
    """
    Write.
    """
    process, threads, lines, limit = map(int, numbers)
    write, end = made(kind, path, limit)

    def work(thread: int) -> None:
        for number in range(lines):
            write(line(process, thread, number))

    workers = [threading.Thread(target=work, args=(thread,)) for thread in range(threads)]
    print("ready", flush=True)
    sys.stdin.readline()
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    print(end(), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
    sys.stdout.flush()
    os._exit(0)
