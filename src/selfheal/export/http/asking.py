"""
Ask a process that selfheal watches how it is: for Docker, Compose and scripts.
"""

from __future__ import annotations

import http.client
import os
import socket
import stat

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

#: From here on it is no.
_BAD: Final = 400


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


def ask(target: str, *, timeout: float = 3.0) -> Said:
    """
    Ask *target*, through no proxy whatever the environment says.

    Args:
        target: ``http://host:port/path``, by default ``/livez``; or ``unix:/path/of.sock``, optionally with
            ``:/path`` behind it; or ``file:/path``, as `StatusFile` writes it, optionally with ``:30`` behind it for
            the seconds after which it is too old, by default 15.
        timeout: Seconds for each part of it.

    Raises:
        ConfigError: If *target* is none of these.
    """
    if target.startswith(_FILE) and len(target) > len(_FILE):
        return _read(target[len(_FILE) :])
    connection, path = _opened(target, timeout)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        text = answer.read(_SHOWN).decode("utf-8", "replace").strip()
        return Said(answer.status < _BAD, text or f"status {answer.status}")
    except (OSError, http.client.HTTPException) as exc:
        return Said(well=False, text=f"{target} does not answer: {str(exc) or type(exc).__name__}")
    finally:
        connection.close()


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
    except ValueError:
        host = port = None
        url = urlsplit("")
    kinds = {"http": http.client.HTTPConnection, "https": http.client.HTTPSConnection}
    if url.scheme not in kinds or not host or not target.isprintable() or " " in target:
        msg = f"{target!r} cannot be asked. Write http://127.0.0.1:9464/readyz, unix:/run/shop.sock, or file:/run/shop/live."
        raise ConfigError(msg)
    path = url.path or "/livez"
    return kinds[url.scheme](host, port, timeout=timeout), f"{path}?{url.query}" if url.query else path
