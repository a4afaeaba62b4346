"""
Log files: how their handlers open them.
"""

from __future__ import annotations

from typing import Final

from selfheal.doctor.findings import Rule, Severity, Sign, Signs, rule
from selfheal.doctor.kinds import LOG_FILE
from selfheal.doctor.logs import LogFile


@rule(
    "SH551",
    Severity.WARNING,
    LOG_FILE,
    "a handler that does not append",
    why="With mode 'w' each opening empties the file, after a copytruncate it begins with NULs, and once closed the handler "
    "drops every record in silence.",
)
def emptied(file: LogFile) -> Signs:
    """The file is emptied."""
    if any(handler.mode.startswith("w") for handler in file.handlers):
        yield Sign("its handler has mode 'w'", "Pass mode='a', and move the old file away at the start if it must go.")


@rule(
    "SH552",
    Severity.WARNING,
    LOG_FILE,
    "one file in several handlers",
    why="They do not share a lock: what one of them rotates, the others still write.",
)
def shared(file: LogFile) -> Signs:
    """Several handlers write it."""
    if len(file.handlers) > 1:
        kinds = ", ".join(type(handler).__name__ for handler in file.handlers)
        yield Sign(f"{len(file.handlers)} handlers write it: {kinds}", "Give all loggers the same handler.")


RULES: Final[tuple[Rule, ...]] = (emptied, shared)
