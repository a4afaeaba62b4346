"""
The databases of a Django project: what its defaults, and its own pool's, hide or make last.
"""

from __future__ import annotations

import os

from collections.abc import Callable, Mapping
from typing import Final

from selfheal.doctor.databases import Database
from selfheal.doctor.findings import Rule, Severity, Sign, Signs, rule
from selfheal.doctor.kinds import DJANGO
from selfheal.doctor.rules import libpq, psycopg


_PLACE: Final = "its OPTIONS"

#: Seconds: most servers give a request 30 s, and kill its worker then.
_WAIT_MAX: Final = 15.0

#: psycopg_pool's own.
_WAIT: Final = 30.0
_RECONNECT: Final = 300.0


@rule(
    "SH151",
    Severity.WARNING,
    DJANGO,
    "connections that are kept and never looked at",
    why="After a restart of the server, the next request of every thread fails on the dead connection that it has kept.",
)
def kept_unseen(database: Database) -> Signs:
    """Dead connections are used."""
    settings = database.settings
    age = settings.get("CONN_MAX_AGE", 0)
    if age != 0 and not settings.get("CONN_HEALTH_CHECKS") and database.pool is None:
        kept = "for ever" if age is None else f"for {age:g} s"
        yield Sign(f"connections are kept {kept}, and CONN_HEALTH_CHECKS is off", "Set CONN_HEALTH_CHECKS=True.")


@rule(
    "SH152",
    Severity.WARNING,
    DJANGO,
    "a long wait for a connection of the pool",
    why="While the server is away each request keeps its thread for so long: soon none is left, also for pages that need "
    "no database, and workers are killed for being late.",
)
def long_wait(database: Database) -> Signs:
    """Requests wait for a connection for half a minute."""
    pool = database.pool
    waits = 0.0 if pool is None else float(pool.get("timeout", _WAIT))
    if waits > _WAIT_MAX:
        yield Sign(f"a request waits up to {waits:g} s for a connection", 'Set OPTIONS={"pool": {"timeout": 5, ...}}.')


@rule("SH153", Severity.WARNING, DJANGO, "a long reconnect_timeout of the pool", why=psycopg.WHY_BACK_OFF)
def long_back_off(database: Database) -> Signs:
    """The pool backs off for minutes."""
    pool = database.pool
    until = 0.0 if pool is None else float(pool.get("reconnect_timeout", _RECONNECT))
    if until > psycopg.RECONNECT_MAX:
        yield Sign(
            f"reconnect_timeout is {until:g} s", 'Set OPTIONS={"pool": {"reconnect_timeout": 30, ...}}, or less.'
        )


def _libpq(look: Callable[[Mapping[str, object], str], Signs]) -> Callable[[Database], Signs]:
    def signs(database: Database) -> Signs:
        if database.is_postgresql:
            # Without a host it is the unix socket, unless a service says otherwise.
            elsewhere = "" if "service" in database.options else os.environ.get("PGHOST", "/")
            host = database.settings.get("HOST") or elsewhere
            yield from look({"host": host, **database.options}, _PLACE)

    return signs


no_connect_timeout = rule("SH154", Severity.WARNING, DJANGO, "connecting without a time limit", why=libpq.WHY_CONNECT)(
    _libpq(libpq.no_connect_timeout)
)

no_user_timeout = rule("SH155", Severity.WARNING, DJANGO, "no tcp_user_timeout", why=libpq.WHY_UNSENT)(
    _libpq(libpq.no_user_timeout)
)

slow_keepalives = rule("SH156", Severity.WARNING, DJANGO, "no quick keepalives", why=libpq.WHY_ANSWER)(
    _libpq(libpq.slow_keepalives)
)


@rule(
    "SH157",
    Severity.WARNING,
    DJANGO,
    "RenewConnections without its middleware",
    why="The action only says that connections are out of date; nobody but its own thread may close one, when asked to.",
)
def renewed_by_nobody(database: Database) -> Signs:
    """Nobody closes what is out of date."""
    fresh = any(name.endswith(".FreshConnectionsMiddleware") for name in database.middleware)
    if database.renewed and not fresh:
        yield Sign(
            "RenewConnections is in its ladder, and FreshConnectionsMiddleware is not in MIDDLEWARE",
            "Put 'selfheal.integrations.django.FreshConnectionsMiddleware' first in MIDDLEWARE; a worker without requests "
            "calls close_stale_connections() before each job, and may ignore this.",
        )


RULES: Final[tuple[Rule, ...]] = (
    kept_unseen,
    long_wait,
    long_back_off,
    no_connect_timeout,
    no_user_timeout,
    slow_keepalives,
    renewed_by_nobody,
)
