"""
The handler as an ASGI 3 application, for asyncio and trio.
"""

from __future__ import annotations

import contextlib

from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import TYPE_CHECKING, Any, Final

from selfheal.export.http import events, metrics
from selfheal.export.http.messages import BODY_LIMIT, Request, Response, path_below, query_of, refused
from selfheal.resources.loops import running


if TYPE_CHECKING:
    from selfheal.export.http.handler import Handler

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

#: Seconds that a body may take.
_BODY_WITHIN: Final = 5.0


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
            body = await _body(receive)
            # It may wait for the healer's loop, and this may be that loop.
            answer = body if isinstance(body, Response) else await _in_thread(self.handler, request, body)
            await _send(send, answer)
        elif request.path == metrics.PATH:  # it takes milliseconds, and reads files where there are several processes
            await _send(send, await _in_thread(self.handler, request, b""), head=head)
        else:
            await _send(send, self.handler.handle(request), head=head)

    async def _stream(self, receive: Receive, send: Send) -> None:
        import anyio

        loop, changed = running(), anyio.Event()

        def wake() -> None:
            with contextlib.suppress(RuntimeError):  # the loop has ended, and the client with it
                loop.post(lambda: changed.set())

        client = self.handler.changes.join(wake)
        if client is None:
            await _send(send, events.TOO_MANY)
            return
        try:
            await send({"type": "http.response.start", "status": 200, "headers": _encoded(events.FIELDS)})
            await send({"type": "http.response.body", "body": events.OPENING, "more_body": True})
            async with anyio.create_task_group() as group:
                group.start_soon(_until_gone, receive, group.cancel_scope)
                while True:
                    with anyio.move_on_after(events.HEARTBEAT):
                        await changed.wait()
                    changed = anyio.Event()
                    await send({"type": "http.response.body", "body": client.take() or events.BEAT, "more_body": True})
                    await anyio.sleep(events.PAUSE)
        finally:
            client.leave()


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
    headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
    return Request(
        method=scope["method"],
        path=path_below(scope["path"], scope.get("root_path", "")),
        query=query_of(scope.get("query_string", b"").decode("latin-1")),
        headers=headers,
    )


async def _body(receive: Receive) -> bytes | Response:
    """
    The body, or why it is not taken.
    """
    import anyio

    body = bytearray()
    with anyio.move_on_after(_BODY_WITHIN):
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return refused("the request has ended too soon")
            body += message.get("body", b"")
            if len(body) > BODY_LIMIT or not message.get("more_body", False):
                return bytes(body)
    return refused(f"the body has not come within {_BODY_WITHIN:g} s", 408)


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
        path = scope.get("path", "")
        if scope["type"] == "http" and (path == at or path.startswith(f"{at}/")):
            await health({**scope, "root_path": at}, receive, send)
        else:
            await app(scope, receive, send)

    return both
