"""
A journal as its readers see it, in this process or in another.
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3

from collections.abc import Generator, Iterator
from typing import Any, Final, NamedTuple

from selfheal.errors import ConfigError
from selfheal.model import Entry, Fault, HealthStatus, HeldChange, HeldKey, HeldPhase, Incident, IncidentResult
from selfheal.records.schema import guard, open_to_read


#: Given at once unless more is asked for.
INCIDENTS_LIMIT: Final = 100
RESULTS_LIMIT: Final = 1000


class JournaledResult(NamedTuple):
    """
    One result that was kept.

    Args:
        check: The check's name.
        at: Seconds since 1970 when it came.
        status: What it has shown.
        kind: Of its fault, or `None`.
        duration: Seconds it took, or `None`.
    """

    check: str
    at: float
    status: HealthStatus
    kind: str | None
    duration: float | None


_PHASES: Final = frozenset(phase.value for phase in HeldPhase)


class JournalReader:
    """
    Reads a journal that this or another process writes. Nothing is kept open.

    All times are seconds since 1970.

    Args:
        path: The file.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        given = os.fsdecode(path)
        if "\0" in given or os.path.isdir(given or "."):
            msg = f"{given!r} cannot be a journal: give the path of a file."
            raise ConfigError(msg)
        # Whoever changes the folder later means the same file; and what stands beside it stands beside the real one.
        self.path = os.path.realpath(given)

    def incidents(
        self, *, since: float | None = None, check: str | None = None, limit: int = INCIDENTS_LIMIT
    ) -> tuple[Incident, ...]:
        """
        The last incidents, oldest first, open ones included.

        They are as `Healer.incidents` gives them, but for two things: their
        times are seconds since 1970, and the text of the fault was not kept.

        Args:
            since: Opened then or later.
            check: Of this check alone.
            limit: So many at most.

        Raises:
            ConfigError: If there is no journal, it cannot be read, or *limit* is less than 0.
        """
        with self._reading() as connection:
            rows = connection.execute(
                "SELECT id, number, check_name, resource, kind, began, opened, recovered, ended, result, actions, entries "
                "FROM incidents WHERE opened >= ? AND (? IS NULL OR check_name = ?) ORDER BY opened DESC, id DESC LIMIT ?",
                _narrowed(since, check, limit),
            ).fetchall()
            return tuple(_incident(row, _timeline(connection, row[0])) for row in reversed(rows))

    def held(self, *, reverted: bool = False) -> tuple[HeldChange, ...]:
        """
        Held changes that are in force, or may be; in the order in which they were applied.

        Args:
            reverted: Those that were taken back as well.

        Raises:
            ConfigError: If there is no journal, or it cannot be read.
        """
        with self._reading() as connection:
            found = list(changes(connection, reverted=reverted))
        return tuple(change for change, _ in found)

    def results(
        self, *, since: float | None = None, check: str | None = None, limit: int = RESULTS_LIMIT
    ) -> tuple[JournaledResult, ...]:
        """
        The last results that were kept, oldest first: each change of status or kind, and one a minute.

        Args:
            since: Given then or later.
            check: Of this check alone.
            limit: So many at most.

        Raises:
            ConfigError: If there is no journal, it cannot be read, or *limit* is less than 0.
        """
        with self._reading() as connection:
            rows = connection.execute(
                "SELECT check_name, at, status, kind, duration FROM results "
                "WHERE at >= ? AND (? IS NULL OR check_name = ?) ORDER BY id DESC LIMIT ?",
                _narrowed(since, check, limit),
            ).fetchall()
            return tuple(
                JournaledResult(name, at, HealthStatus(status), kind, duration)
                for name, at, status, kind, duration in reversed(rows)
            )

    @contextlib.contextmanager
    def _reading(self) -> Generator[sqlite3.Connection, None, None]:
        with guard():
            try:
                with contextlib.closing(open_to_read(self.path)) as connection:
                    connection.execute("BEGIN")  # one moment for all that is read
                    yield connection
            except sqlite3.Error as exc:
                msg = f"the journal {self.path} cannot be read: {exc}."
                raise ConfigError(msg) from exc
            except ConfigError:
                raise
            except (ValueError, TypeError) as exc:
                msg = f"the journal {self.path} holds something that nobody understands ({exc}): it is damaged."
                raise ConfigError(msg) from exc


def _narrowed(since: float | None, check: str | None, limit: int) -> tuple[float, str | None, str | None, int]:
    """
    What a query is narrowed down by, as SQLite can take it.
    """
    if limit < 0:
        msg = f"limit={limit}: must be at least 0."
        raise ConfigError(msg)
    # No check has a name that is not UTF-8, as an argument of the command line may be.
    name = None if check is None else check.encode(errors="replace").decode()
    return (-1e300 if since is None else since, name, name, min(limit, 2**63 - 1))


def changes(connection: sqlite3.Connection, *, reverted: bool = False) -> Iterator[tuple[HeldChange, int]]:
    """
    Held changes and the numbers of their owners, oldest first; those that were taken back only if *reverted*.
    """
    rows = connection.execute(
        """
        SELECT held.id, check_name, rung, leaf, position, phase, at, coalesce(host, ''), coalesce(pid, 0), owner
        FROM held LEFT JOIN owners ON owners.id = owner WHERE ? OR phase <> 'reverted' ORDER BY held.id
        """,
        (reverted,),
    ).fetchall()
    for number, check, rung, leaf, position, phase, at, host, pid, owner in rows:
        key = HeldKey(check, rung, leaf, position)
        known = (
            phase if phase in _PHASES else HeldPhase.UNKNOWN
        )  # a case for a person, like whatever nobody understands
        yield HeldChange(number, key, HeldPhase(known), at, host, pid), owner


def _timeline(connection: sqlite3.Connection, incident: int) -> tuple[Entry, ...]:
    rows = connection.execute("SELECT at, event, fields FROM entries WHERE incident = ? ORDER BY id", (incident,))
    return tuple(Entry(at, event, json.loads(fields)) for at, event, fields in rows)


def _incident(row: tuple[Any, ...], timeline: tuple[Entry, ...]) -> Incident:
    _, number, check, resource, kind, began, opened, recovered, ended, result, actions, entries = row
    return Incident(
        number=number,
        trigger=Fault(kind),
        began=float(began),
        opened=float(opened),
        check=check,
        resource=resource,
        recovered=None if recovered is None else float(recovered),
        ended=None if ended is None else float(ended),
        result=None if result is None else IncidentResult(result),
        actions=actions,
        timeline=timeline,
        dropped=max(0, entries - len(timeline)),
        opened_wall=opened,
    )
