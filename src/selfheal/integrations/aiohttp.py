"""
The handler in an application of aiohttp.
"""

from __future__ import annotations

import asyncio

from typing import TYPE_CHECKING, Any

from selfheal.export.http.messages import Request, path_below, query_of
from selfheal.integrations import require


if TYPE_CHECKING:
    from selfheal.export.http.handler import Handler


def add_routes(app: Any, handler: Handler, at: str = "/selfheal") -> None:
    """
    Let *handler* answer for what is below the path *at*. There is no stream of events: the page polls instead.

    Args:
        app: The ``aiohttp.web.Application``, or one that is mounted in it.
        handler: What to answer.
        at: The path, without a trailing slash.

    Raises:
        MissingExtraError: If aiohttp is not installed.

    .. versionadded:: 26.1.0
    """
    web = require("aiohttp.web", who=__name__, package="aiohttp", extra="aiohttp")

    async def answer(request: Any) -> Any:
        asked = Request(
            method=request.method,
            path=path_below("/" + request.match_info.get("below", ""), ""),
            query=query_of(request.rel_url.raw_query_string),
            headers={name.lower(): value for name, value in request.headers.items()},
            body=await request.read() if request.method == "POST" else b"",
        )
        if request.method == "POST" or asked.path == "/metrics":  # these take their time
            told = await asyncio.get_running_loop().run_in_executor(None, handler.handle, asked)
        else:
            told = handler.handle(asked)
        fields = [(name, value) for name, value in told.fields() if name != "Content-Length"]
        return web.Response(status=told.status, body=told.body, headers=fields)

    for path in (at, f"{at}/{{below:.*}}") if at else ("/{below:.*}",):
        app.router.add_route("*", path, answer)
