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


#: What every SQLite file begins with.
_HEAD: Final = b"SQLite format 3\0"


class Guard:
    """
    Lets no fork happen inside SQLite: its own locks would stay locked in the child.
    """

    def __init__(self) -> None:
        self.lock = threading.RLock()

    def before_fork(self) -> None:
        """
        Wait for the statement that runs.
        """
        self.lock.acquire()

    def after_fork(self) -> None:
        """
        Go on, in the parent and in the child: it is held by the thread that has forked, which is in both.
        """
        self.lock.release()


@functools.cache
def guard() -> Guard:
    """
    The guard of this process, made at the first call: importing starts nothing.
    """
    made = Guard()
    if hasattr(os, "register_at_fork"):  # not on Windows
        os.register_at_fork(before=made.before_fork, after_in_parent=made.after_fork, after_in_child=made.after_fork)
    return made


def refuse_foreign(path: str) -> None:
    """
    Let nobody write where something else is; what cannot be read now is for the writer to find out.

    Raises:
        ConfigError: If the file at *path* is neither empty nor a journal of ours.
    """
    if not os.path.exists(path):
        return
    _require_file(path)
    with contextlib.suppress(OSError), open(path, "rb") as file:
        head = file.read(len(_HEAD))
        if head and head != _HEAD and not os.path.exists(f"{path}-owners"):  # a damaged journal of ours has those
            msg = f"{path} is no journal but a file of something else. Give the journal a file of its own."
            raise ConfigError(msg)
    with contextlib.suppress(sqlite3.Error), contextlib.closing(_connect_to_read(path)) as connection:
        require_ours(connection, path)


def _require_file(path: str) -> None:
    if not stat.S_ISREG(os.stat(path).st_mode):  # reading a FIFO waits for ever
        msg = f"{path} is no ordinary file, and so no journal."
        raise ConfigError(msg)


def _connect_to_read(path: str) -> sqlite3.Connection:
    uri = f"file:{quote(os.fsencode(path))}?mode=ro"
    return sqlite3.connect(uri, timeout=BUSY_WITHIN, uri=True, isolation_level=None)


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


def open_to_write(path: str) -> sqlite3.Connection:
    """
    A connection to the journal at *path*, which is made if there is none.

    Raises:
        ConfigError: If the file is not ours to write.
        OSError: If it cannot be made.
        sqlite3.Error: If it cannot be written.
    """
    with contextlib.suppress(FileExistsError):  # SQLite would make it readable for all
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0), 0o600))
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
        for statement in _TABLES.split(";\n"):
            if statement.strip():
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
