"""
Servers, each started and ended in one way for all tests, and those who ask them.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import threading

from collections.abc import Generator
from typing import Any

import pytest


HERE = pathlib.Path(__file__).parent


class Answer:
    """
    All of an answer.
    """

    def __init__(self, answer: http.client.HTTPResponse) -> None:
        self.status = answer.status
        self.headers = {name.lower(): value for name, value in answer.getheaders()}
        self.body = answer.read()


class UnixConnection(http.client.HTTPConnection):
    """
    Over a UNIX socket.
    """

    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        """Open it."""
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class Ask:
    """
    Somebody who asks over a connection of its own each time.
    """

    def __init__(self, where: int | str, mount: str = "") -> None:
        self.where = where
        self.mount = mount

    def connection(self) -> http.client.HTTPConnection:
        """A new one."""
        if isinstance(self.where, str):
            return UnixConnection(self.where, 30)
        return http.client.HTTPConnection("localhost", self.where, timeout=30)

    def __call__(self, path: str, method: str = "GET", body: bytes | None = None, **headers: str) -> Answer:
        """What is answered."""
        fields = {name.replace("_", "-"): value for name, value in headers.items()}
        with contextlib.closing(self.connection()) as connection:
            connection.request(method, self.mount + path, body, fields)
            return Answer(connection.getresponse())


@contextlib.contextmanager
def uvicorn_serving(app: object, **options: Any) -> Generator[int]:
    """Serve *app* from a thread; its port."""
    uvicorn = pytest.importorskip("uvicorn")
    listening = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, **{"log_level": "critical", "ws": "none", **options}))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        yield listening.getsockname()[1]
    finally:
        server.should_exit = True
        thread.join(30)
        listening.close()


class Gunicorn:
    """
    A gunicorn that serves.
    """

    def __init__(self, process: subprocess.Popen[str], port: int) -> None:
        self.process, self.port = process, port

    def stop(self) -> int:
        """End it; its exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)


@contextlib.contextmanager
def gunicorn_serving(folder: pathlib.Path, app: str, *arguments: str, **environment: str) -> Generator[Gunicorn]:
    """Serve *app*, with *folder* as home and working directory, where its configuration may be."""
    pytest.importorskip("gunicorn")
    command = [sys.executable, "-W", "ignore", "-m", "gunicorn", app, "-b", "127.0.0.1:0", *arguments]
    process = subprocess.Popen(
        command, cwd=folder, env=beside(HOME=str(folder), **environment), stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    stderr = process.stderr
    found = next(match for line in stderr if (match := re.search(r"Listening at: \S+:(\d+)", line)))
    # What it says later would fill the pipe, and nobody reads it.
    reading = threading.Thread(target=stderr.read)
    reading.start()
    server = Gunicorn(process, int(found[1]))
    try:
        yield server
    finally:
        if process.poll() is None:
            server.stop()
        reading.join()
        stderr.close()


def beside(**environment: str) -> dict[str, str]:
    """The environment of a program that imports what is in this folder."""
    paths = [str(HERE), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in paths if path), **environment}
