"""
Ask a process that selfheal watches how it is: for Docker, Compose and scripts.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import socket
import stat
import threading

from typing import Final, NamedTuple
from urllib.parse import urlsplit

from selfheal.clock import SystemClock
from selfheal.errors import ConfigError


_UNIX: Final = "unix:"
_FILE: Final = "file:"

#: Seconds for which a file is believed: it is written every second.
_FRESH: Final = 15.0

#: Characters of an answer that are worth printing.
_SHOWN: Final = 4096

#: The statuses that say yes, and those that lead elsewhere.
_WELL: Final = range(200, 300)
_ELSEWHERE: Final = range(300, 400)


class Said(NamedTuple):
    """
    Whether all is well, and what was answered.
    """

    well: bool
    text: str


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class _Asking(threading.Thread):
    """
    Asks in a thread: who sends a byte now and then, or a name server that does not, keeps nobody beyond the deadline.
    """

    def __init__(self, connection: http.client.HTTPConnection, path: str) -> None:
        super().__init__(name="selfheal-asks", daemon=True)
        self._connection, self._path = connection, path
        #: Status, media type and text.
        self.answer: tuple[int, str, str] | None = None
        self.problem = "timed out"

    def run(self) -> None:
        try:
            self._connection.request("GET", self._path)
            answer = self._connection.getresponse()
            text = answer.read(_SHOWN).decode("utf-8", "replace").strip()
            self.answer = answer.status, answer.headers.get_content_type(), text
        except (OSError, ValueError, http.client.HTTPException) as exc:
            self.problem = str(exc) or type(exc).__name__
        finally:
            self._connection.close()


def ask(target: str, *, timeout: float = 3.0) -> Said:
    """
    Ask *target*, through no proxy whatever the environment says.

    Args:
        target: ``http://host:port/path``, by default ``/livez``; or ``unix:/path/of.sock``, optionally with
            ``:/path`` behind it; or ``file:/path``, as `StatusFile` writes it, optionally with ``:30`` behind it for
            the seconds after which it is too old, by default 15.
        timeout: Seconds for all of it, up to a day.

    Raises:
        ConfigError: If *target* is none of these, or nothing that says how a process is: a redirect, a page.
    """
    if target.startswith(_FILE) and len(target) > len(_FILE):
        return _read(target[len(_FILE) :])
    connection, path = _opened(target, timeout)
    asking = _Asking(connection, path)
    asking.start()
    asking.join(timeout)
    shown = _shown(target)
    if asking.answer is None:
        with contextlib.suppress(AttributeError, OSError):  # there is no connection, or none any more
            connection.sock.shutdown(socket.SHUT_RDWR)
        return Said(well=False, text=f"{shown} does not answer: {asking.problem}")
    status, kind, text = asking.answer
    if status in _ELSEWHERE:
        msg = f"{shown} leads elsewhere, with status {status}: name what is to be asked itself."
        raise ConfigError(msg)
    if status in _WELL and kind == "text/html":
        msg = f"{shown} is a page for people: name /livez or /readyz behind its address."
        raise ConfigError(msg)
    return Said(status in _WELL, text or f"status {status}")


def _read(target: str) -> Said:
    path, _, limit = target.rpartition(":")
    if not path or not limit.isdecimal():
        path, limit = target, ""
    try:
        # Not for ever if it is a pipe, and nothing is read of what is no file.
        with open(os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)), "rb") as file:
            about = os.fstat(file.fileno())
            text = file.read(_SHOWN).decode("utf-8", "replace") if stat.S_ISREG(about.st_mode) else "it is no file"
    except OSError as exc:
        return Said(well=False, text=f"{path} cannot be read: {exc.strerror}")
    age = SystemClock.wall() - about.st_mtime
    # One that is from the future is as old as a clock that was set back: it says nothing of now.
    if abs(age) > (float(limit) if limit else _FRESH):
        return Said(well=False, text=f"{path} was last written {age:.0f} s ago: nobody lives there any more")
    word, _, rest = text.partition("\n")
    return Said(well=word == "ok", text=rest.strip() or word)


def _opened(target: str, timeout: float) -> tuple[http.client.HTTPConnection, str]:
    if target.startswith(_UNIX):
        sock, _, path = target[len(_UNIX) :].partition(":")
        if sock:
            return _UnixConnection(sock, timeout), path or "/livez"
    try:
        url = urlsplit(target)
        host, port = url.hostname, url.port
        (host or "").encode("idna")
    except ValueError:
        host = port = None
        url = urlsplit("")
    kinds = {"http": http.client.HTTPConnection, "https": http.client.HTTPSConnection}
    fits = target.isprintable() and " " not in target and f"{url.path}{url.query}".isascii()
    if url.scheme not in kinds or not host or not fits:
        msg = f"{_shown(target)!r} cannot be asked. Write http://127.0.0.1:9464/readyz, unix:/run/shop.sock, or file:/run/shop/live."
        raise ConfigError(msg)
    path = url.path or "/livez"
    return kinds[url.scheme](host, port, timeout=timeout), f"{path}?{url.query}" if url.query else path


def _shown(target: str) -> str:
    """
    *target* without a password that may stand in it.
    """
    _, at, rest = target.rpartition("@")
    return f"***@{rest}" if at else target
