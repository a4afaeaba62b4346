"""
The sockets under SQLAlchemy's connections: who waits for an answer on them, and how one is cut without touching another.
"""

from __future__ import annotations

import contextlib
import os
import socket

from typing import Any, Final

import attrs

from selfheal.integrations.tcp import Ages, tcp_ages
from selfheal.integrations.waiting import waits_in_asyncpg, waits_in_psycopg


#: Where drivers keep their socket, beside a ``fileno`` method of their own (psycopg, psycopg2): asyncpg's transport,
#: PyMySQL's ``_sock``.
_TRANSPORT: Final = "_transport"
_SOCKET: Final = "_sock"


@attrs.frozen(eq=False)
class Socket:
    """
    The socket of one driver connection, as it was when that was made.

    Args:
        fd: Its number, which is reused at once after a close.
        identity: Device and inode, which tell whose the number is now.
        address: Of the server.
        pid: Of the server process behind it; `None` where the driver does not say.
        adapter: SQLAlchemy's connection.
        driver: The driver's.
    """

    fd: int
    identity: tuple[int, int]
    address: Any
    pid: int | None
    adapter: Any
    driver: Any

    @classmethod
    def of(cls, adapter: Any) -> Socket | None:
        """
        The socket of a connection as SQLAlchemy has it, or `None` if it is closed, or its driver does not show one.
        """
        driver = getattr(adapter, "driver_connection", adapter)
        try:
            fd = _fileno(driver)
            if fd is None:
                return None
            with socket.socket(fileno=os.dup(fd)) as duplicate:
                return cls(fd, _identity(fd), duplicate.getpeername(), _pid(driver), adapter, driver)
        except Exception:  # noqa: BLE001 - each driver says in its own words that it is closed
            return None

    @property
    def busy(self) -> bool | None:
        """
        Whether a query was sent whose answer has not been taken in; `None` where the driver does not say.
        """
        pgconn = getattr(self.driver, "pgconn", None)
        if pgconn is not None:
            return _is_active(pgconn)
        return waits_in_asyncpg(self.driver) if hasattr(self.driver, "_protocol") else None

    def silent_for(self) -> float | None:
        """
        Seconds since anything was sent or received; `None` if it is closed, or where the system does not count them.
        """
        ages = self._ages()
        return None if ages is None else min(ages.sent, ages.received)

    def waiting_for(self) -> float | None:
        """
        Seconds since something was sent, if nothing at all has been received since; else `None`.
        """
        busy = self.busy
        ages = None if busy is False else self._ages()
        if ages is None:
            return None
        unanswered = ages.unanswered
        if unanswered is None and busy:
            unanswered = waits_in_psycopg(self.driver) if hasattr(self.driver, "pgconn") else True
        return ages.sent if unanswered else None

    def sever(self) -> bool:
        """
        Shut it down in both directions; whoever waits on it gets an error at once.

        Returns:
            Whether it was; `False` if it has been closed meanwhile.
        """
        duplicate = self._duplicate()
        if duplicate is None:
            return False
        with duplicate, contextlib.suppress(OSError):  # it has been cut before
            duplicate.shutdown(socket.SHUT_RDWR)
            return True
        return False

    def _ages(self) -> Ages | None:
        duplicate = self._duplicate()
        if duplicate is None:
            return None
        with duplicate:
            return tcp_ages(duplicate)

    def _duplicate(self) -> socket.socket | None:
        """
        A second descriptor, or `None` if the number is not surely this socket's any more.
        """
        try:
            fd = os.dup(self.fd)
        except OSError:
            return None
        # Asked of the duplicate, which nobody can close under us.
        if _identity(fd) == self.identity:
            return socket.socket(fileno=fd)
        os.close(fd)
        return None


def _fileno(driver: Any) -> int | None:
    if hasattr(driver, "fileno"):
        return int(driver.fileno())
    if (transport := getattr(driver, _TRANSPORT, None)) is not None:
        return int(transport.get_extra_info("socket").fileno())
    sock = getattr(driver, _SOCKET, None)
    return None if sock is None else int(sock.fileno())


def _identity(fd: int) -> tuple[int, int]:
    status = os.fstat(fd)
    return status.st_dev, status.st_ino


def _pid(driver: Any) -> int | None:
    if hasattr(driver, "get_server_pid"):
        return int(driver.get_server_pid())
    info = getattr(driver, "info", None)
    return getattr(info, "backend_pid", None)


def _is_active(pgconn: Any) -> bool:
    from psycopg import Error
    from psycopg.pq import TransactionStatus

    try:
        return bool(pgconn.transaction_status == TransactionStatus.ACTIVE)
    except Error:  # closed meanwhile
        return False
