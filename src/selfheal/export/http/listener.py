"""
A listener of our own, on threads of its own: it answers also while the application's loop is blocked.
"""

from __future__ import annotations

import contextlib
import functools
import http
import http.server
import io
import ipaddress
import itertools
import os
import re
import socket
import socketserver
import stat
import threading

from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self, cast
from urllib.parse import urlsplit

from selfheal.clock import SystemClock
from selfheal.errors import ConfigError, IllegalTransitionError
from selfheal.export.http import events
from selfheal.export.http.accepting import Accepting
from selfheal.export.http.messages import (
    CUT_OFF,
    Request,
    Response,
    fields_of,
    is_forwarded,
    length_of,
    path_below,
    query_of,
    refused,
)
from selfheal.export.http.streams import in_thread


if TYPE_CHECKING:
    from selfheal.export.http.handler import Handler

#: Free in the list of Prometheus' exporters; the 9091 of many an article is the Pushgateway's.
PORT: Final = 9464

#: Seconds that a client may be silent in the middle of a request, or between two.
_SILENCE: Final = 5.0

#: Seconds within which a request has to be there: who sends a byte now and then would keep one of the connections.
_PATIENCE: Final = 10.0

#: Seconds between two looks at the healer, and after which it notices that it is to stop.
_LOOK_EVERY: Final = 0.5

#: Connections at the same time; more are closed at once. Event streams are among them.
_CONNECTIONS: Final = 256

#: What a browser on this machine calls it. Any other name in ``Host`` may be a foreign page's that leads here.
_LOCAL_NAMES: Final = frozenset({"localhost", "127.0.0.1", "::1", ""})


class Listener:
    """
    Serves a healer over HTTP from threads of its own. ``with`` starts and stops it.

    It is reached from this machine only, unless *host* says otherwise, and then shows details without a token, but not
    to what a proxy has passed on.

    Args:
        handler: What to answer.
        port: The TCP port; 0 takes a free one.
        host: The address to bind.
        path: Instead of both: the path of a UNIX socket, which only this user may connect to.

    Raises:
        ConfigError: If it cannot listen there.
    """

    def __init__(self, handler: Handler, *, port: int = PORT, host: str = "127.0.0.1", path: str | None = None) -> None:
        self.handler = handler
        self._path = path
        self._where: str | tuple[str, int] = (host, port) if path is None else path
        self._local = path is not None or _is_loopback(host)
        self._server: Accepting | None = None
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def address(self) -> str:
        """
        Where it listens, as ``python -m selfheal check`` takes it.
        """
        if self._path is not None:
            return f"unix:{self._path}"
        where: Any = self._where if self._server is None else self._server.server_address
        host, port = where[:2]
        return f"http://[{host}]:{port}" if ":" in str(host) else f"http://{host}:{port}"

    def start(self) -> None:
        """
        Listen.

        Raises:
            ConfigError: If the address is taken, or cannot be had.
            IllegalTransitionError: If it listens already.
        """
        if self._server is not None and not self._server.left:
            msg = f"this listener serves {self.address} already."
            raise IllegalTransitionError(msg)
        try:
            if self._path is not None:
                _remove_stale(self._path)
            server = self._serve(self._where)
        except (OSError, OverflowError, TypeError, ValueError) as exc:
            msg = f"{self.address} cannot be listened to: {exc}. Take another port or path, or stop what is there."
            raise ConfigError(msg) from exc
        thread = threading.Thread(target=server.serve_forever, args=(_LOOK_EVERY,), name="selfheal-http", daemon=True)
        try:
            thread.start()
        except BaseException:  # there is no thread to be had
            server.server_close()
            raise
        self._server, self._thread = server, thread

    def _serve(self, where: str | tuple[str, int]) -> Accepting:
        return _Server(where, self.handler, local=self._local)

    def stop(self) -> None:
        """
        Listen no more. Requests that are being answered end by themselves, and their connections with them.
        """
        server, thread, self._server, self._thread = self._server, self._thread, None, None
        if server is None or thread is None or server.left:
            return
        server.end()
        server.shutdown()
        server.server_close()
        thread.join()
        if self._path is not None:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._path)


class _Server(socketserver.ThreadingMixIn, Accepting):
    daemon_threads = True
    block_on_close = False

    def __init__(self, where: str | tuple[str, int], handler: Handler, *, local: bool) -> None:
        self.handler, self.local = handler, local
        self._free = threading.BoundedSemaphore(_CONNECTIONS)
        self.reading: dict[socket.socket, float] = {}  # since when a request is waited for
        self.streams: set[socket.socket] = set()
        super().__init__(where, _Conversation)

    def server_bind(self) -> None:
        if self.address_family == getattr(socket, "AF_UNIX", None):
            path = cast("str", self.server_address)
            self.socket.bind(path)
            os.chmod(path, 0o600)  # nobody can connect before it listens
        else:
            super().server_bind()

    def end(self) -> None:
        super().end()
        # Whoever is heard already still gets the answer; a stream has none.
        for connection in self.reading.copy():
            _cut(connection, socket.SHUT_RD)
        for connection in self.streams.copy():
            _cut(connection, socket.SHUT_RDWR)

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._free.acquire(blocking=False):
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except BaseException:  # no thread was to be had
            self._free.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def service_actions(self) -> None:
        # Asks the loop whether it turns, so that the answer is there before the question.
        self.handler.view()
        overdue = SystemClock.now() - _PATIENCE
        for connection, since in self.reading.copy().items():
            if since < overdue:
                _cut(connection, socket.SHUT_RDWR)


#: A line of a head: a header, or the empty one at its end. Others are read by each server in a way of its own.
_LINE: Final = re.compile(rb"(?:[!#$%&'*+.^_`|~0-9A-Za-z-]+:[^\r\n\0]*)?\r?\n")


class _Lines(io.BufferedReader):
    """
    Remembers whether a line was none of a head.
    """

    odd = False

    def readline(self, size: int | None = -1, /) -> bytes:
        line = super().readline(-1 if size is None else size)
        self.odd = self.odd or _LINE.fullmatch(line) is None
        return line


class _Conversation(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = _SILENCE
    server_version = "selfheal"
    sys_version = ""
    raw_requestline: bytes

    def setup(self) -> None:
        super().setup()
        self._ours = cast("_Server", self.server)
        self.rfile = self._lines = _Lines(cast("io.BufferedReader", self.rfile).detach())

    def handle_one_request(self) -> None:
        self._ours.reading[self.connection] = SystemClock.now()
        try:
            if self._ours.ended.is_set():  # looked at last: what `end` does not cut sees it
                self.close_connection = True
            else:
                super().handle_one_request()
        finally:
            self._ours.reading.pop(self.connection, None)

    def do_GET(self) -> None:
        request = self._request(b"")
        handler = self._ours.handler
        if request.path == events.PATH and self.command == "GET" and handler.sees_details(request):
            self._stream()
        else:
            self._send(handler.handle(request))

    do_HEAD = do_PUT = do_DELETE = do_PATCH = do_OPTIONS = do_GET  # noqa: N815 - as http.server calls them

    def do_POST(self) -> None:
        body = self.rfile.read(self._length)
        request = self._request(body)
        self._send(CUT_OFF if len(body) < self._length else self._ours.handler.handle(request))

    def parse_request(self) -> bool:
        self._lines.odd = b"\r" in self.raw_requestline.removesuffix(b"\r\n")
        if not super().parse_request():
            return False
        hosts = len(self.headers.get_all("Host", ()))
        # HTTP/0.9 has no headers, so whoever passes it on cannot say so.
        if self._lines.odd or self.request_version == "HTTP/0.9" or (hosts != 1 and self.request_version != "HTTP/1.0"):
            self.send_error(400)
            return False
        self._fields = fields_of(self.headers.items())
        length = length_of(self._fields)
        if not isinstance(length, Response) and length and self.command != "POST":
            length = refused("only a POST has a body")
        if isinstance(length, Response):
            self.close_connection = True  # what follows would be taken for the next request
            self._send(length)
            return False
        self._length = length
        return True

    def _request(self, body: bytes) -> Request:
        self._ours.reading.pop(self.connection, None)  # it is here
        path, _, query = self.path.partition("?")
        return Request(
            method=self.command,
            path=path_below(path, ""),
            query=query_of(query),
            headers=self._fields,
            body=body,
            direct=self._ours.local and not is_forwarded(self._fields) and self._is_named_here(),
        )

    def _is_named_here(self) -> bool:
        # No page leads a browser to a UNIX socket, whatever its name.
        unix = self._ours.address_family == getattr(socket, "AF_UNIX", None)
        return unix or _is_local(self._fields.get("host", ""))

    def _send(self, answer: Response) -> None:
        # In one piece: a client that has got the first of two may be slow to say so.
        self.wfile.write(answer.head if self.command == "HEAD" else answer.head + answer.body)

    def _stream(self) -> None:
        self.close_connection = True
        server = self._ours
        with contextlib.closing(in_thread(server.handler.changes)) as parts:
            if next(parts, None) is None:
                self._send(events.TOO_MANY)
                return
            server.streams.add(self.connection)
            try:
                self.send_response_only(200)
                for name, value in (*events.FIELDS, ("Connection", "close")):
                    self.send_header(name, value)
                self.end_headers()
                for part in itertools.takewhile(lambda _: not server.ended.is_set(), parts):
                    self.wfile.write(part)
            finally:
                server.streams.discard(self.connection)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        del message, explain  # they repeat what was sent
        self.close_connection = True
        self.command = self.command or "GET"
        status = {501: 405, 505: 400}.get(code, code)  # what a client sends is no fault of ours
        self._send(refused(http.HTTPStatus(status).phrase, status))

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - as http.server calls it
        """Probes come every second: they are nobody's news."""


def _cut(connection: socket.socket, how: int) -> None:
    with contextlib.suppress(OSError):  # it is gone
        connection.shutdown(how)


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


@functools.lru_cache(maxsize=16)  # a prober sends the same one all day long
def _is_local(host: str) -> bool:
    try:
        return "@" not in host and (urlsplit(f"//{host}").hostname or "") in _LOCAL_NAMES
    except ValueError:
        return False


def _remove_stale(path: str) -> None:
    """
    Take away the socket of a process that is gone, and nothing else.
    """
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            return  # bind will say that it is taken
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
