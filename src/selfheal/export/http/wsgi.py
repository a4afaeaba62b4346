"""
The handler as a WSGI application.
"""

from __future__ import annotations

import http.client
import threading

from collections.abc import Callable, Generator, Iterable
from typing import TYPE_CHECKING, Any

import attrs

from selfheal.export.http import events
from selfheal.export.http.messages import CUT_OFF, Request, Response, path_below, query_of
from selfheal.export.http.streams import in_thread


if TYPE_CHECKING:
    from selfheal.export.http.handler import Handler

Environ = dict[str, Any]
StartResponse = Callable[..., Any]
Application = Callable[[Environ, StartResponse], Iterable[bytes]]


class WsgiApp:
    """
    Answers over WSGI.

    Args:
        handler: What to answer.
        streams: How many clients of ``/events`` may keep a thread of the server each. By default none: they get a
            406, and the page asks every two seconds instead. So they do where a process has one thread.
    """

    def __init__(self, handler: Handler, *, streams: int = 0) -> None:
        self.handler = handler
        self._free = threading.BoundedSemaphore(streams)

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """
        Serve one request.
        """
        request = _request(environ)
        answer = self.handler.handle(request) if request.method != "POST" else self._act(environ, request)
        if answer is events.NO_STREAM and request.method == "GET" and environ.get("wsgi.multithread"):
            parts = self._limited()
            if next(parts, None) is not None:
                start_response("200 OK", list(events.FIELDS))
                return parts
        phrase = http.client.responses.get(answer.status, "Unassigned")  # such as 520
        start_response(f"{answer.status} {phrase}", answer.fields())
        return [b"" if request.method == "HEAD" else answer.body]

    def _act(self, environ: Environ, request: Request) -> Response:
        length = self.handler.wanted(request)
        if isinstance(length, Response):
            return length
        body: bytes = environ["wsgi.input"].read(length)
        return self.handler.handle(attrs.evolve(request, body=body)) if len(body) == length else CUT_OFF

    def _limited(self) -> Generator[bytes]:
        if self._free.acquire(blocking=False):
            try:
                yield from in_thread(self.handler.changes)
            finally:
                self._free.release()


def _request(environ: Environ) -> Request:
    headers = {name[5:].replace("_", "-").lower(): value for name, value in environ.items() if name.startswith("HTTP_")}
    headers["content-length"] = environ.get("CONTENT_LENGTH") or "0"
    return Request(
        method=environ["REQUEST_METHOD"],
        path=path_below(environ.get("PATH_INFO", ""), ""),
        query=query_of(environ.get("QUERY_STRING", "")),
        headers=headers,
    )


def mounted(app: Application, health: Application, at: str = "/selfheal") -> Application:
    """
    Both in one: *health* below the path *at*, *app* for the rest. As for ASGI.

    Args:
        app: Your application.
        health: What `wsgi_app` has made.
        at: The path, without a trailing slash.

    .. versionadded:: 26.1.0
    """

    def both(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        path = environ.get("PATH_INFO", "")
        if path == at or path.startswith(f"{at}/"):
            inside = {**environ, "SCRIPT_NAME": environ.get("SCRIPT_NAME", "") + at, "PATH_INFO": path[len(at) :]}
            return health(inside, start_response)
        return app(environ, start_response)

    return both
