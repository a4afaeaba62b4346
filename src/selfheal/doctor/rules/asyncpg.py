"""
asyncpg's pools, which have no limit for a query unless they are told one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from selfheal.doctor.findings import Rule, Severity, Sign, Signs, rule
from selfheal.doctor.kinds import ASYNCPG_POOL
from selfheal.doctor.rules.versions import older


_GOOD_VERSION: Final = (0, 32)
_CONNECT_MAX: Final = 15.0


def _told(pool: Any) -> Mapping[str, Any]:
    told: Mapping[str, Any] = getattr(pool, "_connect_kwargs", {})
    return told


@rule(
    "SH301",
    Severity.WARNING,
    ASYNCPG_POOL,
    "no command_timeout",
    why="acquire(timeout=) limits the wait for a connection, not the query: on a silent server it hangs for ever.",
)
def no_command_timeout(pool: Any) -> Signs:
    """Queries have no limit."""
    if not _told(pool).get("command_timeout"):
        yield Sign("queries have no time limit", "Pass create_pool(..., command_timeout=10).")


@rule(
    "SH302",
    Severity.WARNING,
    ASYNCPG_POOL,
    "a long time to connect",
    why="While its server is unreachable, each caller of the pool waits for a connect that takes 60 s by default.",
)
def slow_connect(pool: Any) -> Signs:
    """It connects for a minute."""
    timeout = _told(pool).get("timeout", 60)
    if not timeout or timeout > _CONNECT_MAX:
        yield Sign(f"connecting may take {timeout} s", "Pass create_pool(..., timeout=3).")


@rule(
    "SH303",
    Severity.WARNING,
    ASYNCPG_POOL,
    "an asyncpg that loses connections",
    why="Before 0.32 a connection that is aborted may never come back to its pool, until none is left.",
)
def leaky_version(_pool: Any) -> Signs:
    """Connections do not come back."""
    version = older("asyncpg", _GOOD_VERSION)
    if version:
        yield Sign(f"asyncpg is {version}", "Install asyncpg>=0.32.")


RULES: Final[tuple[Rule, ...]] = (no_command_timeout, slow_connect, leaky_version)
