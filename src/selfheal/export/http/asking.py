"""
Ask a process that selfheal watches how it is: for Docker, Compose and scripts.
"""

from __future__ import annotations

import http.client
import socket

from typing import Final, NamedTuple
from urllib.parse import urlsplit

from selfheal.errors import ConfigError


_UNIX: Final = "unix:"

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
            ``:/path`` behind it.
        timeout: Seconds for each part of it.

    Raises:
        ConfigError: If *target* is none of these.
    """
    connection, path = _opened(target, timeout)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        text = answer.read(_SHOWN).decode("utf-8", "replace").strip()
        return Said(answer.status < _BAD, text or f"status {answer.status}")
    except (OSError, http.client.HTTPException) as exc:
        return Said(well=False, text=f"{target} does not answer: {exc or type(exc).__name__}")
    finally:
        connection.close()


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
        msg = f"{target!r} cannot be asked. Write http://127.0.0.1:9464/readyz, or unix:/run/shop.sock."
        raise ConfigError(msg)
    path = url.path or "/livez"
    return kinds[url.scheme](host, port, timeout=timeout), f"{path}?{url.query}" if url.query else path
