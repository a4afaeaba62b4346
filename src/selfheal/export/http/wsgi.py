"""
The handler as a WSGI application.
"""

from __future__ import annotations

import contextlib
import http

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from selfheal.export.http.messages import BODY_LIMIT, Request, Response, path_below, query_of, refused


if TYPE_CHECKING:
    from selfheal.export.http.handler import Handler

Environ = dict[str, Any]
StartResponse = Callable[..., Any]
Application = Callable[[Environ, StartResponse], Iterable[bytes]]


class WsgiApp:
    """
    Answers over WSGI. A stream of events would keep a worker for itself, so there is none: the page polls instead.

    Args:
        handler: What to answer.
    """

    def __init__(self, handler: Handler) -> None:
        self.handler = handler

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """
        Serve one request.
        """
        request = _request(environ)
        answer = _too_long(environ) if request.method == "POST" else None
        if answer is None:
            answer = self.handler.handle(request)
        phrase = http.HTTPStatus(answer.status).phrase
        start_response(f"{answer.status} {phrase}", answer.fields())
        return [b"" if request.method == "HEAD" else answer.body]


def _request(environ: Environ) -> Request:
    headers = {name[5:].replace("_", "-").lower(): value for name, value in environ.items() if name.startswith("HTTP_")}
    body = b""
    if environ["REQUEST_METHOD"] == "POST" and _too_long(environ) is None:
        body = environ["wsgi.input"].read(_length(environ))
    return Request(
        method=environ["REQUEST_METHOD"],
        path=path_below(environ.get("PATH_INFO", ""), ""),
        query=query_of(environ.get("QUERY_STRING", "")),
        headers=headers,
        body=body,
    )


def _length(environ: Environ) -> int:
    with contextlib.suppress(ValueError):
        return max(0, int(environ.get("CONTENT_LENGTH") or 0))
    return 0


def _too_long(environ: Environ) -> Response | None:
    if _length(environ) > BODY_LIMIT:
        return refused(f"the body must not have more than {BODY_LIMIT} bytes", 413)
    return None


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
