"""
What the import of an application has opened, and a server that forks afterwards would hand on to every worker.
"""

from __future__ import annotations

from typing import Any, Final

from selfheal.doctor.findings import Rule, Severity, Sign, Signs, rule
from selfheal.doctor.kinds import ENGINE, IMPORTED, PSYCOPG_POOL
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


RULES: Final[tuple[Rule, ...]] = (opened_at_import, started_at_import)
