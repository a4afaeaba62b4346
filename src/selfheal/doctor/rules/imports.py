"""
What the import of an application has opened, and a server that forks afterwards would hand on to every worker.
"""

from __future__ import annotations

import logging.handlers

from typing import Any, Final

from selfheal.doctor.findings import Rule, Severity, Sign, Signs, rule
from selfheal.doctor.kinds import ENGINE, IMPORTED, PSYCOPG_POOL
from selfheal.doctor.logs import LogFile
from selfheal.doctor.subjects import Patient


@rule(
    "SH901",
    Severity.WARNING,
    IMPORTED,
    "connections that are opened at import",
    why="A worker forked afterwards (gunicorn --preload) shares their sockets and has none of the pool's threads: both "
    "sides read each other's answers.",
)
def opened_at_import(thing: Any) -> Signs:
    """It is open as soon as the application is imported."""
    if PSYCOPG_POOL.has(thing) and not thing.closed:
        yield Sign(
            "the pool is open as soon as the application is imported",
            "Make it in a Rebuildable, which opens it at first use and anew in each child; or pass open=False and open it "
            "in each worker.",
        )
    elif ENGINE.has(thing) and getattr(thing.pool, "checkedin", int)() + getattr(thing.pool, "checkedout", int)():
        yield Sign(
            "the engine has connected as soon as the application is imported",
            "Connect after the fork only; or call engine.dispose(close=False) in each worker first.",
        )


@rule(
    "SH902",
    Severity.ERROR,
    IMPORTED,
    "a healer that is started at import",
    why="Its thread does not survive a fork: no worker of a server that preloads the application heals anything.",
)
def started_at_import(thing: Any) -> Signs:
    """It runs as soon as the application is imported."""
    if isinstance(thing, Patient) and thing.engine.running and thing.settings.after_fork == "warn":
        yield Sign(
            "it runs as soon as the application is imported",
            "Start it where the program serves (post_worker_init of gunicorn), or pass Healer(after_fork='start').",
        )


@rule(
    "SH903",
    Severity.WARNING,
    IMPORTED,
    "a log that each worker rolls over",
    why="Workers forked afterwards rename the file and each other's archives without a common lock, and overwrite them: "
    "lines are lost, hardly one of them with an error.",
)
def rolled_over_by_each(thing: Any) -> Signs:
    """Its handler rolls over by itself, in every worker."""
    if isinstance(thing, LogFile) and any(_rolls_over(handler) for handler in thing.handlers):
        yield Sign(
            "its handler rolls over by itself, and would in every worker",
            "Use the ConcurrentRotatingFileHandler of concurrent-log-handler, made in each worker; or a plain FileHandler "
            "with a LogOverflow check and RotateLog, which keep out of each other's way.",
        )


def _rolls_over(handler: logging.FileHandler) -> bool:
    # One that goes by the time has no such number.
    return isinstance(handler, logging.handlers.BaseRotatingHandler) and getattr(handler, "maxBytes", 1) > 0


RULES: Final[tuple[Rule, ...]] = (opened_at_import, started_at_import, rolled_over_by_each)
