"""
What libpq needs to notice that its server is gone; for psycopg, alone or behind SQLAlchemy.
"""

from __future__ import annotations

import os

from collections.abc import Mapping
from typing import Final

from selfheal.doctor.findings import Sign, Signs


#: What each setting is called, and the variable of the environment that sets it as well.
_VARIABLES: Final = {"connect_timeout": "PGCONNECT_TIMEOUT"}

#: Seconds after which a silent server should be given up, by any of the three numbers together.
_SILENT_MAX: Final = 60

WHY_CONNECT: Final = (
    "A connect to a host that swallows packets takes the kernel's 130 s, and every caller waits that long."
)
WHY_UNSENT: Final = (
    "On a dead link a query that is not acknowledged hangs for a quarter of an hour; keepalives do not cover it."
)
WHY_ANSWER: Final = (
    "A link that dies while an answer is awaited is noticed by keepalives alone, by default after two hours."
)


def no_connect_timeout(settings: Mapping[str, object], place: str) -> Signs:
    """
    It connects without a limit.
    """
    if not _number(settings, "connect_timeout") > 0:
        yield Sign("connecting has no time limit: there is no connect_timeout", f"Add connect_timeout=3 to {place}.")


def no_user_timeout(settings: Mapping[str, object], place: str) -> Signs:
    """
    Sent data may stay without an acknowledgement for ever.
    """
    if not is_local(settings) and not _number(settings, "tcp_user_timeout") > 0:
        yield Sign(
            "what was sent may stay unacknowledged for ever: there is no tcp_user_timeout",
            f"Add tcp_user_timeout=5000 (milliseconds) to {place}.",
        )


def slow_keepalives(settings: Mapping[str, object], place: str) -> Signs:
    """
    An answer may stay away for ever.
    """
    if is_local(settings):
        return
    idle, interval, count = (_number(settings, f"keepalives_{part}") for part in ("idle", "interval", "count"))
    is_off = str(settings.get("keepalives", 1)) == "0"
    if is_off or not all((idle, interval, count)) or idle + interval * count > _SILENT_MAX:
        took = "are off" if is_off else "are the kernel's, or slower than a minute"
        yield Sign(
            f"keepalives {took}",
            f"Add keepalives=1, keepalives_idle=5, keepalives_interval=2 and keepalives_count=3 to {place}.",
        )


def is_local(settings: Mapping[str, object]) -> bool:
    """
    Whether the server is on the other side of a unix socket, which no network can cut.
    """
    return str(settings.get("host") or os.environ.get("PGHOST", "")).startswith(("/", "@"))


def _number(settings: Mapping[str, object], name: str) -> float:
    given = settings.get(name) or os.environ.get(_VARIABLES.get(name, ""), 0)
    try:
        return float(str(given))
    except ValueError:
        return 0.0
