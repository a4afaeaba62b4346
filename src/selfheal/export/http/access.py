"""
Keeps probes that went well out of access logs: they come every second, and are nobody's news.
"""

from __future__ import annotations

import logging

from collections.abc import Mapping
from typing import Final


#: What is asked by machines, all day long.
_PROBED: Final = ("livez", "readyz", "startupz", "health", "metrics")

#: The statuses that say yes.
_WELL: Final = range(200, 300)

#: How many values uvicorn logs: client, method, path, version, status; and werkzeug: request line, status, size.
_UVICORN: Final = 5
_WERKZEUG: Final = 3


class AccessLogFilter(logging.Filter):
    """
    Drops what was answered by 2xx to a probe or a scrape; whatever else is logged passes.

    It knows the records of ``uvicorn.access``, ``gunicorn.access``, ``werkzeug`` and ``aiohttp.access`` (where the
    format has ``%r`` and ``%s``, as it has by default), whatever they are formatted to::

        logging.getLogger("uvicorn.access").addFilter(AccessLogFilter())

    It reads the request itself and not the line, so nobody hides a request behind a header that looks like a probe.

    Args:
        at: The path of the mount, without a trailing slash; "" where there is none.

    .. versionadded:: 26.1.0
    """

    def __init__(self, at: str = "/selfheal") -> None:
        super().__init__()
        self._paths = frozenset(f"{at}/{name}" for name in _PROBED)

    def filter(self, record: logging.LogRecord) -> bool:
        """
        Whether *record* is to be logged. It never raises.
        """
        line, status = _request_of(record)
        if not status.isdecimal() or int(status) not in _WELL:
            return True
        method, _, rest = line.partition(" ")
        path = rest.partition(" ")[0].partition("?")[0].removesuffix("/")
        return method not in {"GET", "HEAD"} or path not in self._paths


def _request_of(record: logging.LogRecord) -> tuple[str, str]:
    """
    The request line and the status, as each server hands them over; empty, if this is something else.
    """
    args = record.args
    if isinstance(args, Mapping):  # gunicorn: all it knows of the request, whatever the format takes of it
        return str(args.get("r", "")), str(args.get("s", ""))
    if args and len(args) == _UVICORN:
        return f"{args[1]} {args[2]}", str(args[4])
    if args and len(args) == _WERKZEUG:
        return str(args[0]), str(args[1])
    return str(getattr(record, "first_request_line", "")), str(getattr(record, "response_status", ""))  # aiohttp
