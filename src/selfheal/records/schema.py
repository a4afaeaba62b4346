"""
The file of a journal: its tables, whose it is, and how it is opened.
"""

from __future__ import annotations

import contextlib
import functools
import os
import sqlite3
import stat
import threading

from collections.abc import Generator
from typing import Final
from urllib.parse import quote

from selfheal.errors import ConfigError


#: In the header of the file (PRAGMA application_id), so that no other database is ever taken for a journal.
APPLICATION_ID: Final = 0x5E1F4EA1

#: PRAGMA user_version. A newer one was written by a newer selfheal.
VERSION: Final = 1

#: Seconds to wait for another process that writes. Measured: a write takes 0.1 ms.
BUSY_WITHIN: Final = 0.8

#: Times are seconds since 1970. AUTOINCREMENT: numbers are never used again, and what is old is told by them.
_TABLES: Final = """
CREATE TABLE owners (id INTEGER PRIMARY KEY, host TEXT NOT NULL, pid INTEGER NOT NULL, started REAL NOT NULL);
CREATE TABLE incidents (
    id INTEGER PRIMARY KEY AUTOINCREMENT, owner INTEGER NOT NULL, check_name TEXT NOT NULL, resource TEXT NOT NULL,
    number INTEGER NOT NULL, kind TEXT NOT NULL, began REAL NOT NULL, opened REAL NOT NULL, recovered REAL, ended REAL,
    result TEXT, actions INTEGER NOT NULL DEFAULT 0, entries INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX incidents_open ON incidents (owner, check_name, number) WHERE ended IS NULL;
CREATE INDEX incidents_opened ON incidents (opened);
CREATE TABLE entries (
    id INTEGER PRIMARY KEY, incident INTEGER NOT NULL, at REAL NOT NULL, event TEXT NOT NULL, fields TEXT NOT NULL
);
CREATE INDEX entries_incident ON entries (incident);
CREATE TABLE results (
    id INTEGER PRIMARY KEY AUTOINCREMENT, check_name TEXT NOT NULL, at REAL NOT NULL, status TEXT NOT NULL, kind TEXT,
    duration REAL
);
CREATE TABLE held (
    id INTEGER PRIMARY KEY AUTOINCREMENT, owner INTEGER NOT NULL, check_name TEXT NOT NULL, rung TEXT NOT NULL,
    leaf TEXT NOT NULL, position INTEGER NOT NULL, phase TEXT NOT NULL, at REAL NOT NULL
);
CREATE INDEX held_open ON held (owner) WHERE phase <> 'reverted';
"""

#: As SQLite keeps them.
_STATEMENTS: Final = tuple(statement.strip() for statement in _TABLES.split(";\n") if statement.strip())

#: Seconds that a fork waits for the statements that run. Longer only if the disk hangs; then no lock that a child
#: needs is held: SQLite waits for a disk with the locks of that one connection.
FORK_WITHIN: Final = 1.0


class Guard:
    """
    Lets no fork happen inside SQLite: its own locks would stay locked in the child. Statements do not wait for others.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._inside = 0
        self._forks = 0

    def __enter__(self) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._forks == 0)
            self._inside += 1

    def __exit__(self, *_exc: object) -> None:
        with self._changed:
            self._inside -= 1
            self._changed.notify_all()

    def before_fork(self) -> None:
        """
        Let no statement begin, and wait for those that run.
        """
        with self._changed:
            self._forks += 1
            self._changed.wait_for(lambda: self._inside <= 0, FORK_WITHIN)

    def after_fork(self) -> None:
        """
        Go on.
        """
        with self._changed:
            self._forks -= 1
            self._changed.notify_all()


#: By process: a child has one of its own, from its first moment on.
_guards: Final[dict[int, Guard]] = {}


def guard() -> Guard:
    """
    The guard of this process, made when it is needed: importing starts nothing.
    """
    _look_at_forks()
    return _guards.setdefault(os.getpid(), Guard())


@functools.cache
def _look_at_forks() -> None:
    if hasattr(os, "register_at_fork"):  # not on Windows
        os.register_at_fork(before=lambda: guard().before_fork(), after_in_parent=lambda: guard().after_fork())


def refuse_foreign(path: str) -> None:
    """
    Let nobody write where something else is; what cannot be read at once is for the writer to find out.

    Raises:
        ConfigError: If the file at *path* is neither empty nor a journal of ours.
    """
    if not os.path.exists(path):
        return
    _require_file(path)
    # Never with open(): when it closes the file, SQLite's own locks on it are lost to all of this process.
    try:
        with contextlib.closing(_connect_to_read(path, timeout=0)) as connection:
            require_ours(connection, path)
    except sqlite3.Error as exc:
        if is_damage(exc) and not os.path.exists(f"{path}-owners"):  # a damaged journal of ours has those
            msg = f"{path} is no journal but a file of something else. Give the journal a file of its own."
            raise ConfigError(msg) from None


def is_damage(error: Exception) -> bool:
    """
    Whether *error* means that the file itself is broken, so that waiting will not help.
    """
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    return code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def _require_file(path: str) -> None:
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode):  # reading a FIFO waits for ever
        msg = f"{path} is no ordinary file, and so no journal."
        raise ConfigError(msg)
    # What belongs to a journal stands beside its name. Under two names the living would take one another for dead.
    if status.st_nlink > 1 or _is_mounted(path):
        msg = f"{path} has another name as well, as a hard link or a mount of its own: mount the folder, not the file."
        raise ConfigError(msg)


def _is_mounted(path: str) -> bool:
    try:
        with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as mounts:
            return any(line.split(" ", 5)[4] == path.replace(" ", r"\040") for line in mounts)
    except OSError:  # only Linux tells
        return False


def _connect_to_read(path: str, *, timeout: float = BUSY_WITHIN) -> sqlite3.Connection:
    uri = f"file:{quote(os.fsencode(path))}?mode=ro"
    return sqlite3.connect(uri, timeout=timeout, uri=True, isolation_level=None)


def open_to_read(path: str) -> sqlite3.Connection:
    """
    A connection that writes nothing, to a journal that may be in use elsewhere.

    Raises:
        ConfigError: If there is no file, or it is no journal of ours.
        sqlite3.Error: If it cannot be read.
    """
    if not os.path.exists(path):
        msg = f"there is no journal at {path}. Healer(journal={path!r}) writes one there."
        raise ConfigError(msg)
    _require_file(path)
    connection = _connect_to_read(path)
    try:
        try:
            ours = require_ours(connection, path)
        except sqlite3.OperationalError:
            if os.path.exists(f"{path}-wal"):
                raise
            # In a folder that we may not write to, SQLite cannot share a file; nobody writes to it either.
            connection.close()
            connection = sqlite3.connect(f"file:{quote(os.fsencode(path))}?immutable=1", uri=True, isolation_level=None)
            ours = require_ours(connection, path)
        if not ours:
            msg = f"{path} is empty: no journal was written there yet."
            raise ConfigError(msg)
    except BaseException:
        connection.close()
        raise
    return connection


def make_file(path: str) -> None:
    """
    Make an empty file if there is none: SQLite would make it readable for all.

    Raises:
        OSError: If it cannot be made.
    """
    with contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0), 0o600))


def open_to_write(path: str) -> sqlite3.Connection:
    """
    A connection to the file at *path*, which becomes a journal if it is empty.

    Raises:
        ConfigError: If the file is not ours to write.
        sqlite3.Error: If it cannot be written.
    """
    # A transaction begins where we say so; under virtual time several threads use it, one after the other.
    connection = sqlite3.connect(path, timeout=BUSY_WITHIN, isolation_level=None, check_same_thread=False)
    try:
        if not require_ours(connection, path):
            _make(connection, path)
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute("PRAGMA journal_size_limit = 4194304")
    except BaseException:
        connection.close()
        raise
    return connection


def require_ours(connection: sqlite3.Connection, path: str) -> bool:
    """
    Whether there is a journal of ours behind *connection*; `False` if there is nothing yet.

    Raises:
        ConfigError: If there is something else.
        sqlite3.DatabaseError: If it is no database.
    """
    ((application,),) = connection.execute("PRAGMA application_id").fetchall()
    ((version,),) = connection.execute("PRAGMA user_version").fetchall()
    ((tables,),) = connection.execute("SELECT count(*) FROM sqlite_master").fetchall()
    if application == 0 and tables == 0:
        return False
    if application != APPLICATION_ID:
        msg = f"{path} is a database of something else. Give the journal a file of its own."
        raise ConfigError(msg)
    if version == VERSION and not set(_STATEMENTS) <= {
        sql for (sql,) in connection.execute("SELECT sql FROM sqlite_master")
    }:
        damaged = sqlite3.DatabaseError(f"tables of the journal {path} are missing or changed")
        damaged.sqlite_errorcode, damaged.sqlite_errorname = sqlite3.SQLITE_CORRUPT, "SQLITE_CORRUPT"
        raise damaged
    if version > VERSION:
        msg = (
            f"the journal {path} was written by a newer selfheal (its version is {version}, this one knows {VERSION}). "
            "Upgrade selfheal, or give this program a journal of its own."
        )
        raise ConfigError(msg)
    return True


def _make(connection: sqlite3.Connection, path: str) -> None:
    connection.execute("PRAGMA journal_mode = WAL")
    with transaction(connection):
        if require_ours(connection, path):  # another process was faster
            return
        for statement in _STATEMENTS:
            connection.execute(statement)
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {VERSION}")


@contextlib.contextmanager
def transaction(connection: sqlite3.Connection) -> Generator[None, None, None]:
    """
    All of it, or nothing.
    """
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        if connection.in_transaction:  # a full disk ends it by itself
            connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")
