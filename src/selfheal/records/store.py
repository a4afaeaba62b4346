"""
What the writer of a journal does to its file. One thread at a time; nothing here waits longer than for another writer.
"""

from __future__ import annotations

import contextlib
import os
import platform
import sqlite3

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, Final

from selfheal.errors import ConfigError
from selfheal.model import HeldChange, HeldKey, HeldPhase
from selfheal.records.owners import presence
from selfheal.records.reading import changes
from selfheal.records.schema import make_file, open_to_write, transaction


#: Statements and their parameters; ``:owner`` is filled in, and ``:incident`` for what has a ``number``.
Statement = tuple[tuple[str, ...], Mapping[str, Any]]

OPEN: Final = (
    """
    INSERT INTO incidents (owner, check_name, resource, number, kind, began, opened)
    VALUES (:owner, :check, :resource, :number, :kind, :began, :opened)
    """,
)
ENTRY: Final = (
    "UPDATE incidents SET entries = entries + 1 WHERE id = :incident",
    """
    INSERT INTO entries (incident, at, event, fields)
    SELECT id, :at, :event, :fields FROM incidents WHERE id = :incident AND entries <= :limit
    """,
)
CLOSE: Final = (
    """
    UPDATE incidents SET ended = :at, result = :result, actions = :actions, recovered = began + :time_to_recover
    WHERE id = :incident
    """,
)
RESULT: Final = (
    "INSERT INTO results (check_name, at, status, kind, duration) VALUES (:check, :at, :status, :kind, :duration)",
)

_INCIDENT: Final = """
    SELECT id FROM incidents WHERE owner = :owner AND check_name = :check AND number = :number AND ended IS NULL
    ORDER BY id DESC LIMIT 1
"""
_MARK: Final = """
    UPDATE held SET phase = :phase, at = :at
    WHERE owner = :owner AND check_name = :check AND rung = :rung AND leaf = :leaf AND position = :position
    AND phase NOT IN ('reverted', 'unknown')
"""
_NEW_MARK: Final = """
    INSERT INTO held (owner, check_name, rung, leaf, position, phase, at)
    VALUES (:owner, :check, :rung, :leaf, :position, :phase, :at)
"""
_OLD_RESULTS: Final = """
    DELETE FROM results WHERE id IN
    (SELECT id FROM results WHERE id <= (SELECT max(id) FROM results) - ? ORDER BY id LIMIT ?)
"""
_OLD_HELD: Final = """
    DELETE FROM held WHERE id IN
    (SELECT id FROM held WHERE id <= (SELECT max(id) FROM held) - ? AND phase = 'reverted' ORDER BY id LIMIT ?)
"""
_OLD_INCIDENTS: Final = """
    SELECT id, entries FROM incidents WHERE id <= (SELECT max(id) FROM incidents) - ? AND ended IS NOT NULL
    ORDER BY id LIMIT ?
"""

#: Statements between two looks at what is too old, and rows that one such look deletes at most.
_PRUNE_EVERY: Final = 200
_PRUNE_ROWS: Final = 400

#: Changes that were taken back, kept to be looked at.
_REVERTED_KEPT: Final = 1000


class Store:
    """
    The file of one journal, opened when it is needed.

    Args:
        path: Where it is.
        max_incidents: Incidents kept.
        max_results: Results kept.
        wall: Tells seconds since 1970.
    """

    def __init__(self, path: str, *, max_incidents: int, max_results: int, wall: Callable[[], float]) -> None:
        self._path = path
        self._max_incidents = max_incidents
        self._max_results = max_results
        self.wall = wall
        self._connection: sqlite3.Connection | None = None
        self._file: os.stat_result | None = None
        self._owner = 0
        self._since_pruned = 0
        #: Rows that did not fit into their table.
        self.refused = 0

    def open(self) -> bool:
        """
        Open the file if it is not open, or not there any more; whether it is one that does not know this life.

        Raises:
            OSError: If it cannot be made.
            sqlite3.Error: If it cannot be written.
            ConfigError: If it is not ours to write.
        """
        if self._connection is not None and self._is_there():
            return False
        self.close()
        present = presence(self._path)
        with present.alone():  # while nobody moves it aside
            make_file(self._path)
            self._file = os.stat(self._path)  # known already if it turns out to be damaged
            self._connection = connection = open_to_write(self._path)
            self._owner = present.enter(self._owner)
        with transaction(connection):
            made = connection.execute(
                "INSERT OR IGNORE INTO owners VALUES (?, ?, ?, ?)",
                (self._owner, platform.node(), os.getpid(), self.wall()),
            )
        return made.rowcount > 0

    def close(self) -> None:
        """
        Let go of the file.
        """
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def leave(self) -> None:
        """
        This life of the journal ends: what it leaves behind is for whoever starts next.
        """
        self.close()
        presence(self._path).leave(self._owner)

    def begin(self) -> None:
        """
        Another life of the journal begins.
        """
        self._owner = 0

    def write(self, statements: Iterable[Statement], marks: Iterable[tuple[HeldKey, HeldPhase]]) -> None:
        """
        Write all of it, or nothing. Marks are on the disk when it returns, not only with the kernel.

        Raises:
            sqlite3.Error: If it could not be written.
        """
        connection, marks = self._opened(), list(marks)
        if marks:
            connection.execute("PRAGMA synchronous = FULL")
        refused = 0
        with transaction(connection):
            for sqls, parameters in statements:
                self._since_pruned += 1
                values = {**parameters, "owner": self._owner}
                try:
                    if "number" in values:
                        found = connection.execute(_INCIDENT, values).fetchone()
                        values["incident"] = found and found[0]
                    for sql in sqls:
                        connection.execute(sql, values)
                except (ValueError, OverflowError, sqlite3.IntegrityError, sqlite3.InterfaceError):
                    refused += 1  # it will never fit: what comes after it must not wait for it
            for key, phase in marks:
                self._mark(connection, key, phase)
        self.refused += refused
        if marks:
            connection.execute("PRAGMA synchronous = NORMAL")
        if self._since_pruned >= _PRUNE_EVERY:
            self._since_pruned = 0
            self._prune(connection)

    def _mark(self, connection: sqlite3.Connection, key: HeldKey, phase: HeldPhase) -> None:
        values = {**_columns(key), "owner": self._owner, "phase": phase.value, "at": self.wall()}
        if connection.execute(_MARK, values).rowcount == 0:
            connection.execute(_NEW_MARK, values)

    def claim(self, keys: Collection[HeldKey]) -> list[HeldChange]:
        """
        The open changes that nobody alive answers for; those of *keys* are ours from now on, our own included.

        Incidents that the dead have left open are closed as aborted.

        Raises:
            sqlite3.Error: If it could not be written.
        """
        connection = self._opened()
        with transaction(connection):
            owners = [owner for (owner,) in connection.execute("SELECT id FROM owners").fetchall()]
            present = presence(self._path)
            dead = [owner for owner in owners if not present.is_alive(owner)]
            self._bury(connection, dead)
            left = [
                (change, owner)
                for change, owner in changes(connection)
                if owner in dead or (owner == self._owner and change.key in keys)
            ]
            connection.executemany(
                "UPDATE held SET owner = ? WHERE id = ?",
                [(self._owner, change.number) for change, _ in left if change.key in keys],
            )
        return [change for change, _ in left]

    def _bury(self, connection: sqlite3.Connection, dead: list[int]) -> None:
        for owner in dead:
            connection.execute(
                "UPDATE incidents SET result = 'aborted', ended = "
                "coalesce((SELECT max(at) FROM entries WHERE incident = incidents.id), opened) "
                "WHERE owner = ? AND ended IS NULL",
                (owner,),
            )
            connection.execute(
                "DELETE FROM owners WHERE id = ? AND id NOT IN (SELECT owner FROM held) "
                "AND id NOT IN (SELECT owner FROM incidents)",
                (owner,),
            )

    def move_aside(self) -> str | None:
        """
        Keep the damaged file under another name; that name, or `None` if it is another file already.

        Raises:
            OSError: If it cannot be renamed.
        """
        self.close()
        with presence(self._path).alone():
            if not self._is_there():
                return None
            number = 1
            while os.path.lexists(f"{self._path}.corrupt-{number}"):
                number += 1
            name = f"{self._path}.corrupt-{number}"
            os.rename(self._path, name)
            for suffix in ("-wal", "-shm"):  # left behind, they would be taken for those of the next one
                if os.path.exists(self._path + suffix):
                    os.rename(self._path + suffix, name + suffix)
        return name

    def _opened(self) -> sqlite3.Connection:
        if self._connection is None:
            msg = "open() comes first"
            raise sqlite3.ProgrammingError(msg)
        return self._connection

    def _is_there(self) -> bool:
        try:
            return self._file is not None and os.path.samestat(self._file, os.stat(self._path))
        except OSError:
            return False

    def _prune(self, connection: sqlite3.Connection) -> None:
        """
        Delete what is too old, a bounded number of rows at a time.
        """
        with transaction(connection):
            connection.execute(_OLD_RESULTS, (self._max_results, _PRUNE_ROWS))
            connection.execute(_OLD_HELD, (_REVERTED_KEPT, _PRUNE_ROWS))
            rows = connection.execute(_OLD_INCIDENTS, (self._max_incidents, _PRUNE_ROWS)).fetchall()
            gone = 0
            for incident, entries in rows:
                if gone > _PRUNE_ROWS:
                    break
                gone += entries
                connection.execute("DELETE FROM entries WHERE incident = ?", (incident,))
                connection.execute("DELETE FROM incidents WHERE id = ?", (incident,))


def settle(path: str, number: int, at: float) -> bool:
    """
    A person has seen to an open change; whether there was one of this number.

    Raises:
        ConfigError: If there is no journal.
        OSError, sqlite3.Error: If it cannot be written.
    """
    if not os.path.exists(path):
        msg = f"there is no journal at {path}."
        raise ConfigError(msg)
    with contextlib.closing(open_to_write(path)) as connection, transaction(connection):
        found = connection.execute(
            "UPDATE held SET phase = 'reverted', at = ? WHERE id = ? AND phase <> 'reverted'", (at, number)
        )
        return found.rowcount > 0


def _columns(key: HeldKey) -> dict[str, Any]:
    return {"check": key.check, "rung": key.rung, "leaf": key.leaf, "position": key.position}
