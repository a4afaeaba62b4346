"""
The handler in an application of aiohttp.
"""

from __future__ import annotations

import asyncio
import contextlib

from typing import TYPE_CHECKING, Any

import anyio
import anyio.to_thread
import attrs

from selfheal.export.http import events, metrics
from selfheal.export.http.messages import (
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
from selfheal.integrations import require


if TYPE_CHECKING:
    from selfheal.export.http.handler import Handler


def add_routes(app: Any, handler: Handler, at: str = "/selfheal") -> None:
    """
    Let *handler* answer for what is below the path *at*.

    Args:
        app: The ``aiohttp.web.Application``, or one that is mounted in it.
        handler: What to answer.
        at: The path, without a trailing slash.

    Raises:
        MissingExtraError: If aiohttp is not installed.

    .. versionadded:: 26.1.0
    """
    web = require("aiohttp.web", who=__name__, package="aiohttp", extra="aiohttp")

    streams: set[asyncio.Task[Any] | None] = set()

    async def end_streams(_app: Any) -> None:
        for task in tuple(streams):
            if task is not None:
                task.cancel()

    # Before it waits for its requests: a stream does not end by itself.
    app.on_shutdown.append(end_streams)

    async def answer(request: Any) -> Any:
        asked = Request(
            method=request.method,
            path=path_below("/" + request.match_info.get("below", ""), ""),
            query=query_of(request.rel_url.raw_query_string),
            headers=fields_of(request.headers.items()),
        )
        told = await _told(handler, asked, request)
        if told is events.NO_STREAM and asked.method == "GET":
            async with contextlib.aclosing(on_loop(handler.changes)) as parts:
                if await anext(parts, None) is not None:
                    task = asyncio.current_task()
                    streams.add(task)
                    try:
                        stream = web.StreamResponse(headers=events.FIELDS)
                        await stream.prepare(request)
                        with contextlib.suppress(ConnectionError):  # the client is gone
                            async for part in parts:
                                await stream.write(part)
                        return stream
                    finally:
                        streams.discard(task)
            told = events.TOO_MANY
        fields = [(name, value) for name, value in told.fields() if name != "Content-Length"]
        return web.Response(status=told.status, body=told.body, headers=fields)

    for path in (at, f"{at}/{{below:.*}}") if at else ("/{below:.*}",):
        app.router.add_route("*", path, answer)


async def _told(handler: Handler, asked: Request, request: Any) -> Response:
    if asked.method == "POST":
        length = handler.wanted(asked)
        if isinstance(length, Response):
            return length
        try:
            async with asyncio.timeout(BODY_WITHIN):
                asked = attrs.evolve(asked, body=await request.read())
        except TimeoutError:
            return TOO_SLOW
        except ConnectionError:
            return CUT_OFF
    elif asked.path != metrics.PATH:
        return handler.handle(asked)
    # These take their time; on a thread of their own, for the application may have used up those of the loop.
    return await anyio.to_thread.run_sync(handler.handle, asked, limiter=anyio.CapacityLimiter(1))
