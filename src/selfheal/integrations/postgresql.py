"""
What every driver of PostgreSQL asks its server, and how a refusal is told.
"""

from __future__ import annotations

import re

from collections.abc import Hashable, Iterable, Mapping
from typing import Any, Final, TypeVar


K = TypeVar("K", bound=Hashable)

#: Also true where an operator, or a full disk, has made a primary read-only.
READ_ONLY: Final = "pg_is_in_recovery() OR current_setting('transaction_read_only')::bool"

#: Connections that the server could still take.
FREE: Final = """
    current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int
    - (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend')
"""

#: What a server says about class 28. libpq keeps no SQLSTATE of a connection that failed, so the text has to do.
REFUSED: Final = re.compile(
    "authentication failed|no password supplied|pg_hba.conf|role .* does not exist|not permitted to log in"
)

#: And what it says with SQLSTATE 53300, when it takes no more connections.
FULL: Final = re.compile("too many clients|too many connections|remaining connection slots")

#: What the server processes of these numbers do, which of them is ours, and where the server believes to be.
_DEEDS: Final = """
    SELECT pid, CASE WHEN state <> 'active' THEN 'rests' WHEN pid = pg_backend_pid() THEN 'asks' ELSE 'works' END,
    host(inet_server_addr()) || ' ' || inet_server_port()
    FROM pg_stat_activity WHERE pid IN ({}, pg_backend_pid())
"""


def deeds(pids: Iterable[int]) -> str:
    """
    What to ask a server about its processes; `judge` knows what the answer means.
    """
    return _DEEDS.format(",".join(map(str, pids)))


def judge(suspects: Mapping[K, int], answer: Iterable[Any], *, own: int, dialled: str) -> tuple[list[K], list[K]]:
    """
    Which of the connections that have long waited for an answer the server does not work for, and for which it does.

    Args:
        suspects: The connections, all to this server, and the processes behind them.
        answer: What it says to `deeds`.
        own: The process behind the connection over which it was asked.
        dialled: The address and port that all of these connections were made to.
    """
    told: dict[int, str] = {}
    is_here = True
    for pid, deed, where in answer:
        told[int(pid)] = deed
        # At another address than its own there may be several servers: a process that this one does not know may be
        # another's, and work.
        is_here = where is None or where == dialled
    # Behind a pooler the numbers are not those of server processes: then nothing can be said about them. Nor where the
    # server does not track what its processes do.
    if [own] != [pid for pid, deed in told.items() if deed == "asks"]:
        return [], []
    working = [one for one, pid in suspects.items() if told.get(pid) == "works"]
    hung = [one for one, pid in suspects.items() if told.get(pid) == "rests" or (is_here and pid not in told)]
    return hung, working
