"""
The handler as an ASGI 3 application, for asyncio and trio.
"""

from __future__ import annotations

import contextlib

from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import TYPE_CHECKING, Any

from selfheal.export.http import events, metrics
from selfheal.export.http.messages import (
    BODY_LIMIT,
    BODY_WITHIN,
    CUT_OFF,
    TOO_SLOW,
    Request,
    Response,
    fields_of,
    path_below,
    query_of,
)
from selfheal.export.http.streams import on_loop


if TYPE_CHECKING:
    from selfheal.export.http.handler import Handler

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]


class AsgiApp:
    """
    Answers over ASGI.

    Args:
        handler: What to answer.
    """

    def __init__(self, handler: Handler) -> None:
        self.handler = handler

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """
        Serve one request. A lifespan is confirmed, a WebSocket refused.
        """
        if scope["type"] == "lifespan":
            await _live(receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        elif scope["type"] == "http":
            await self._answer(scope, receive, send)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = _request(scope)
        head = request.method == "HEAD"
        if request.path == events.PATH and request.method == "GET" and self.handler.sees_details(request):
            await self._stream(receive, send)
        elif request.method == "POST":
            body = await _body(self.handler.wanted(request), receive)
            # It may wait for the healer's loop, and this may be that loop.
            answer = body if isinstance(body, Response) else await _in_thread(self.handler, request, body)
            await _send(send, answer)
        elif request.path == metrics.PATH:  # it takes milliseconds, and reads files where there are several processes
            await _send(send, await _in_thread(self.handler, request, b""), head=head)
        else:
            await _send(send, self.handler.handle(request), head=head)

    async def _stream(self, receive: Receive, send: Send) -> None:
        import anyio

        async with contextlib.aclosing(on_loop(self.handler.changes)) as parts:
            if await anext(parts, None) is None:
                await _send(send, events.TOO_MANY)
                return
            await send({"type": "http.response.start", "status": 200, "headers": _encoded(events.FIELDS)})
            async with anyio.create_task_group() as group:
                group.start_soon(_until_gone, receive, group.cancel_scope)
                async for part in parts:
                    await send({"type": "http.response.body", "body": part, "more_body": True})


async def _until_gone(receive: Receive, scope: Any) -> None:
    while (await receive())["type"] != "http.disconnect":
        continue
    scope.cancel()


async def _live(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return


def _request(scope: Scope) -> Request:
    headers = fields_of((name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"])
    return Request(
        method=scope["method"],
        path=path_below(scope["path"], scope.get("root_path", "")),
        query=query_of(scope.get("query_string", b"").decode("latin-1")),
        headers=headers,
    )


async def _body(length: int | Response, receive: Receive) -> bytes | Response:
    """
    The body, if its *length* is known; or why it is not taken.
    """
    import anyio

    if isinstance(length, Response):
        return length
    body = bytearray()
    with anyio.move_on_after(BODY_WITHIN):
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return CUT_OFF
            body += message.get("body", b"")
            if len(body) > BODY_LIMIT or not message.get("more_body", False):
                return bytes(body)
    return TOO_SLOW


async def _in_thread(handler: Handler, request: Request, body: bytes) -> Response:
    import anyio
    import anyio.to_thread
    import attrs

    # A limiter of its own: the application may have used up the one that all share.
    with_body = attrs.evolve(request, body=body)
    return await anyio.to_thread.run_sync(handler.handle, with_body, limiter=anyio.CapacityLimiter(1))


def _encoded(fields: Iterable[tuple[str, str]]) -> list[tuple[bytes, bytes]]:
    return [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in fields]


async def _send(send: Send, answer: Response, *, head: bool = False) -> None:
    await send({"type": "http.response.start", "status": answer.status, "headers": _encoded(answer.fields())})
    await send({"type": "http.response.body", "body": b"" if head else answer.body})


def mounted(app: Application, health: Application, at: str = "/selfheal") -> Application:
    """
    Both in one: *health* below the path *at*, *app* for the rest.

    Around a framework instead of inside it, so that neither its host check, its redirects nor its login stand before
    a probe.

    Args:
        app: Your application.
        health: What `asgi_app` has made.
        at: The path, without a trailing slash.

    .. versionadded:: 26.1.0
    """

    async def both(scope: Scope, receive: Receive, send: Send) -> None:
        root = scope.get("root_path", "")
        path = path_below(scope.get("path", ""), root)  # some servers put it before the path, some do not
        if scope["type"] == "http" and (path == at or path.startswith(f"{at}/")):
            await health({**scope, "root_path": root + at, "path": root + path}, receive, send)
        else:
            await app(scope, receive, send)

    return both
