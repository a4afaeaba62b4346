"""
The middleware that closes stale connections in the thread that owns them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from selfheal.integrations import require
from selfheal.integrations.django.epochs import close_stale_connections, something_is_stale


class FreshConnectionsMiddleware:
    """
    Begin each request without the connections that `RenewConnections` has declared out of date.

    Put it first::

        MIDDLEWARE = ["selfheal.integrations.django.FreshConnectionsMiddleware", ...]

    It works with sync and async servers. While nothing was ever healed it costs
    a glance at a dictionary; it never closes in the middle of an atomic block.

    .. versionadded:: 26.1.0
    """

    sync_capable: ClassVar[bool] = True
    async_capable: ClassVar[bool] = True

    def __init__(self, get_response: Callable[[Any], Any]) -> None:
        self._get_response = get_response
        self._sync = require("asgiref.sync", who=__name__, package="django", extra="django")
        self._is_async = self._sync.iscoroutinefunction(get_response)
        if self._is_async:
            self._sync.markcoroutinefunction(self)

    def __call__(self, request: Any) -> Any:
        """
        Called by Django.
        """
        if self._is_async:
            return self._acall(request)
        close_stale_connections()
        return self._get_response(request)

    async def _acall(self, request: Any) -> Any:
        if something_is_stale():
            # In the thread in which the queries of this request run.
            await self._sync.sync_to_async(close_stale_connections, thread_sensitive=True)()
        return await self._get_response(request)
