"""
The handler as a view, for a project around which nothing can be put.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import attrs

from selfheal.export.http.messages import CUT_OFF, Request, Response, fields_of, path_below, query_of
from selfheal.integrations import require


if TYPE_CHECKING:
    from selfheal.export.http.handler import Handler


def health_view(handler: Handler) -> Callable[..., Any]:
    """
    A view that answers for *handler*.

    The middleware of the project stands before it: its host check, redirects and login hold for probes as well, which
    `mounted_asgi` and `mounted_wsgi` avoid. There is no stream of events: the page asks every two seconds instead::

        urlpatterns = [re_path(r"^selfheal(?P<below>/.*)?$", health_view(Handler(healer, token)))]

    Args:
        handler: What to answer.

    Raises:
        MissingExtraError: If Django is not installed.

    .. versionadded:: 26.1.0
    """
    http = require("django.http", who=__name__, package="django", extra="django")
    csrf = require("django.views.decorators.csrf", who=__name__, package="django", extra="django")

    def view(request: Any, below: str | None = None) -> Any:
        told = _told(handler, request, below or "")
        body = b"" if request.method == "HEAD" else told.body
        return http.HttpResponse(body, status=told.status, headers=dict(told.fields()))

    # An action needs a token and a header of ours, and no cookie counts for anything.
    exempt: Callable[..., Any] = csrf.csrf_exempt(view)
    return exempt


def _told(handler: Handler, request: Any, below: str) -> Response:
    asked = Request(
        method=request.method,
        path=path_below(below, ""),
        query=query_of(request.META.get("QUERY_STRING", "")),
        headers=fields_of(request.headers.items()),
    )
    if asked.method != "POST":
        return handler.handle(asked)
    length = handler.wanted(asked)
    if isinstance(length, Response):
        return length
    try:
        body = request.body
    except OSError:  # Django's UnreadablePostError is one
        return CUT_OFF
    return handler.handle(attrs.evolve(asked, body=body)) if len(body) == length else CUT_OFF
