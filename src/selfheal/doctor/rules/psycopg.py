"""
psycopg_pool: the defaults that hide a fault, or make it last.
"""

from __future__ import annotations

import sys

from collections.abc import Callable, Mapping
from typing import Any, Final

from selfheal.doctor.findings import Rule, Severity, Sign, Signs, rule
from selfheal.doctor.kinds import PSYCOPG_POOL
from selfheal.doctor.rules import libpq
from selfheal.doctor.rules.versions import older


#: Up to so many dead connections are checked before a caller's 30 s are over, with pauses of 1, 2, 4 and 8 s.
_CHECKED_MAX: Final = 4

#: Seconds of the longest pause between two tries to reconnect.
RECONNECT_MAX: Final = 60.0
_WORKERS: Final = 3
_GOOD_VERSION: Final = (3, 3, 1)
_PLACE: Final = "the conninfo, or to kwargs="

WHY_BACK_OFF: Final = "The pauses between tries to reconnect double until then, so the pool stays dead about as long again as its server was."


def _told(pool: Any) -> Mapping[str, object] | None:
    """
    What its connections are told; `None`: nobody knows.
    """
    if callable(pool.conninfo) or callable(pool.kwargs):
        return None  # nobody's to call but the pool's
    psycopg = sys.modules["psycopg"]
    try:
        return {**psycopg.conninfo.conninfo_to_dict(pool.conninfo), **(pool.kwargs or {})}
    except psycopg.ProgrammingError:
        return None  # libpq cannot read it, and will say so itself


def _libpq(look: Callable[[Mapping[str, object], str], Signs]) -> Callable[[Any], Signs]:
    def signs(pool: Any) -> Signs:
        told = _told(pool)
        if told is not None:
            yield from look(told, _PLACE)

    return signs


no_connect_timeout = rule(
    "SH101", Severity.WARNING, PSYCOPG_POOL, "connecting without a time limit", why=libpq.WHY_CONNECT
)(_libpq(libpq.no_connect_timeout))

no_user_timeout = rule("SH102", Severity.WARNING, PSYCOPG_POOL, "no tcp_user_timeout", why=libpq.WHY_UNSENT)(
    _libpq(libpq.no_user_timeout)
)

slow_keepalives = rule("SH103", Severity.WARNING, PSYCOPG_POOL, "no quick keepalives", why=libpq.WHY_ANSWER)(
    _libpq(libpq.slow_keepalives)
)


@rule(
    "SH104",
    Severity.WARNING,
    PSYCOPG_POOL,
    "check= with many connections",
    why="After a restart of the server one caller gets to try the dead connections one by one, with pauses that double: "
    "ten of them are a PoolTimeout after 30 s.",
)
def checked_one_by_one(pool: Any) -> Signs:
    """Connections are checked one by one."""
    if getattr(pool, "_check", None) is not None and pool.min_size > _CHECKED_MAX:
        yield Sign(
            f"check= tries its connections when they are asked for, and it keeps {pool.min_size}",
            "Drop check= and let pool_ladder's CheckPool replace dead connections, or set min_size to 4 or less.",
        )


@rule(
    "SH105",
    Severity.WARNING,
    PSYCOPG_POOL,
    "reset= with few workers",
    why="Returned connections wait for the same workers that hang in connecting to a dead server, so good ones are missing.",
)
def reset_by_few(pool: Any) -> Signs:
    """Connections come back through workers that may hang."""
    if getattr(pool, "_reset", None) is not None and pool.num_workers <= _WORKERS:
        yield Sign(
            f"reset= is run by {pool.num_workers} workers, which also connect",
            "Drop reset=, or set num_workers=6 or more.",
        )


@rule(
    "SH106",
    Severity.WARNING,
    PSYCOPG_POOL,
    "a long reconnect_timeout",
    why=WHY_BACK_OFF,
)
def long_back_off(pool: Any) -> Signs:
    """It backs off for minutes."""
    if pool.reconnect_timeout > RECONNECT_MAX:
        yield Sign(f"reconnect_timeout is {pool.reconnect_timeout:g} s", "Set reconnect_timeout=30 or less.")


@rule(
    "SH107",
    Severity.WARNING,
    PSYCOPG_POOL,
    "a psycopg_pool that loses connections",
    why="Before 3.3.1 a cancelled request may take its connection with it, until none is left.",
)
def leaky_version(_pool: Any) -> Signs:
    """Connections leak when a request is cancelled."""
    version = older("psycopg_pool", _GOOD_VERSION)
    if version:
        yield Sign(f"psycopg_pool is {version}", "Install psycopg-pool>=3.3.1.")


RULES: Final[tuple[Rule, ...]] = (
    no_connect_timeout,
    no_user_timeout,
    slow_keepalives,
    checked_one_by_one,
    reset_by_few,
    long_back_off,
    leaky_version,
)
