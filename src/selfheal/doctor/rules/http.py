"""
HTTP clients: httpx, httpx2 and aiohttp.
"""

from __future__ import annotations

import math

from typing import Any, Final

from selfheal.doctor import peek
from selfheal.doctor.findings import Rule, Severity, Sign, Signs, rule
from selfheal.doctor.kinds import AIOHTTP_SESSION, HTTPX_CLIENT, loaded
from selfheal.doctor.rules.versions import older


_TOTAL_MAX: Final = 120.0
_FIXED: Final = (1, 0)


def httpx_limit(client: Any) -> float:
    """
    Seconds that a client waits for one thing, at most.
    """
    timeout = client.timeout
    return max(math.inf if part is None else part for part in (timeout.connect, timeout.read, timeout.pool))


def aiohttp_limit(session: Any) -> float:
    """
    Seconds that a request may take.
    """
    return session.timeout.total or math.inf


@rule(
    "SH501",
    Severity.WARNING,
    HTTPX_CLIENT,
    "waiting without a time limit",
    why="A request to a server that is silent hangs for ever, and keeps its place in the pool.",
)
def no_timeout(client: Any) -> Signs:
    """It waits for ever."""
    if httpx_limit(client) == math.inf:
        yield Sign("connecting, reading or waiting for the pool has no time limit", "Pass timeout=5.0.")


@rule(
    "SH502",
    Severity.WARNING,
    HTTPX_CLIENT,
    "an httpx that loses connections",
    why="A request that is cancelled at the wrong moment takes its place in the pool with it, and only a new client heals.",
)
def leaky_version(client: Any) -> Signs:
    """Its pool shrinks with each cancellation."""
    version = older("httpx", _FIXED)
    if version and peek.is_a(client, *loaded("httpx:AsyncClient")):
        yield Sign(
            f"httpx is {version}, whose async pool leaks when a request is cancelled",
            "Use httpx2.AsyncClient, which has the same interface.",
        )


@rule(
    "SH503",
    Severity.WARNING,
    AIOHTTP_SESSION,
    "five minutes for one request",
    why="A server that is silent keeps each caller for as long, while the probe has given it up after a second.",
)
def long_total(session: Any) -> Signs:
    """A request may take minutes."""
    limit = aiohttp_limit(session)
    if limit > _TOTAL_MAX:
        took = "has no time limit" if limit == math.inf else f"may take {limit:g} s"
        yield Sign(f"a request {took}", "Pass ClientSession(timeout=aiohttp.ClientTimeout(total=10)).")


RULES: Final[tuple[Rule, ...]] = (no_timeout, leaky_version, long_total)
