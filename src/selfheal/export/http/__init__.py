"""
Health, state, metrics and a page over HTTP: in your ASGI or WSGI application, or on a port of their own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypedDict, Unpack

from selfheal.export.http.access import AccessLogFilter
from selfheal.export.http.agent import Agent
from selfheal.export.http.asgi import AsgiApp
from selfheal.export.http.asgi import mounted as mounted_asgi
from selfheal.export.http.handler import Handler
from selfheal.export.http.listener import Listener
from selfheal.export.http.messages import Request, Response
from selfheal.export.http.status_file import StatusFile
from selfheal.export.http.wsgi import WsgiApp
from selfheal.export.http.wsgi import mounted as mounted_wsgi


if TYPE_CHECKING:
    from selfheal.healer import Healer

__all__ = [
    "AccessLogFilter",
    "Agent",
    "AsgiApp",
    "Handler",
    "HandlerOptions",
    "Listener",
    "Request",
    "Response",
    "StatusFile",
    "WsgiApp",
    "asgi_app",
    "health_schema",
    "listen",
    "mounted_asgi",
    "mounted_wsgi",
    "wsgi_app",
]


class HandlerOptions(TypedDict, total=False):
    """
    The keywords of `Handler`.
    """

    actions: bool
    shared_fails: bool
    warn_status: int
    drain_status: int
    expose_errors: bool


def asgi_app(healer: Healer, token: str | None = None, **options: Unpack[HandlerOptions]) -> AsgiApp:
    """
    An ASGI application that answers for *healer*: mount it, or put it beside yours with `mounted_asgi`.

    Args:
        healer: The healer. Start it yourself: a mounted application gets no lifespan.
        token: Whoever sends it as bearer sees details; without one nobody does.
        options: As of `Handler`.

    Raises:
        ConfigError: As of `Handler`.

    .. versionadded:: 26.1.0
    """
    return AsgiApp(Handler(healer, token, **options))


def wsgi_app(
    healer: Healer, token: str | None = None, *, streams: int = 0, **options: Unpack[HandlerOptions]
) -> WsgiApp:
    """
    As `asgi_app`, over WSGI.

    Args:
        healer: The healer.
        token: As of `asgi_app`.
        streams: How many clients of ``/events`` may keep a thread of the server each, where it has several.
        options: As of `Handler`.

    .. versionadded:: 26.1.0
    """
    return WsgiApp(Handler(healer, token, **options), streams=streams)


def health_schema() -> dict[str, Any]:
    """
    The JSON Schema of what ``/health`` answers, for whoever reads it.

    .. versionadded:: 26.1.0
    """
    import json

    from importlib import resources  # here: it takes milliseconds

    schema: dict[str, Any] = json.loads(
        (resources.files("selfheal.export.http") / "health.schema.json").read_text("utf-8")
    )
    return schema


def listen(
    healer: Healer,
    token: str | None = None,
    *,
    port: int = 9464,
    host: str = "127.0.0.1",
    path: str | None = None,
    **options: Unpack[HandlerOptions],
) -> Listener:
    """
    A listener of its own that answers for *healer* also while the application's loop is blocked; enter it.

    Args:
        healer: The healer.
        token: As of `asgi_app`; from this machine details are shown without one.
        port: The TCP port; 0 takes a free one.
        host: The address to bind.
        path: Instead of both: the path of a UNIX socket.
        options: As of `Handler`.

    Examples:
        ``with Healer(checks) as healer, listen(healer): serve()``

    .. versionadded:: 26.1.0
    """
    return Listener(Handler(healer, token, **options), port=port, host=host, path=path)
