"""
redis-py's pools, sync and asyncio, for Valkey too: what one call may take.
"""

from __future__ import annotations

import inspect

from typing import Any, Final

from selfheal.doctor import peek
from selfheal.doctor.findings import Rule, Severity, Sign, Signs, rule
from selfheal.doctor.kinds import REDIS_POOL, loaded


#: Seconds that one call may take by its time limits and retries together.
_CALL_MAX: Final = 20.0


def setting(pool: Any, name: str) -> Any:
    """
    What its connections are told, or what they take by themselves: that differs between the versions of redis-py.
    """
    told = pool.connection_kwargs
    if name in told:
        return told[name]
    for owner in pool.connection_class.__mro__:
        parameter = inspect.signature(owner.__init__).parameters.get(name) if "__init__" in vars(owner) else None
        if parameter is not None and parameter.default is not inspect.Parameter.empty:
            return parameter.default
    return None


def retries(pool: Any) -> int:
    """
    How often a call is tried again.
    """
    retry = pool.connection_kwargs.get("retry")
    again = getattr(retry, "_retries", 0)
    return again if isinstance(again, int) else 0


def worst(pool: Any) -> float | None:
    """
    Seconds that one call to a silent server may take, pauses between tries left out; `None`: for ever.
    """
    limit = setting(pool, "socket_timeout")
    return None if limit is None else (retries(pool) + 1) * float(limit)


@rule(
    "SH401",
    Severity.WARNING,
    REDIS_POOL,
    "retries that make a call last a minute",
    why="With its defaults, 10 retries of 5 s each, one call to a silent server takes 59 s, and so does every caller's.",
)
def retried_for_long(pool: Any) -> Signs:
    """One call takes a minute."""
    took = worst(pool)
    if retries(pool) < 0:
        yield Sign("a call is tried again for ever", "Pass retry=Retry(ExponentialBackoff(), 1).")
    elif took is not None and took > _CALL_MAX:
        yield Sign(
            f"one call is tried {retries(pool) + 1} times for {setting(pool, 'socket_timeout'):g} s each",
            "Pass socket_timeout=2, retry=Retry(ExponentialBackoff(), 1) to the client.",
        )


@rule(
    "SH402",
    Severity.WARNING,
    REDIS_POOL,
    "no socket_timeout",
    why="A call to a server that is silent hangs for ever.",
)
def no_socket_timeout(pool: Any) -> Signs:
    """Answers have no limit."""
    if setting(pool, "socket_timeout") is None:
        yield Sign("waiting for an answer has no time limit", "Pass socket_timeout=2 to the client.")


@rule(
    "SH403",
    Severity.WARNING,
    REDIS_POOL,
    "no socket_connect_timeout",
    why="A connect to a host that swallows packets takes the kernel's 130 s, and every caller waits that long.",
)
def no_connect_timeout(pool: Any) -> Signs:
    """Connecting has no limit."""
    # Without one of its own it takes the other.
    if setting(pool, "socket_connect_timeout") is None and setting(pool, "socket_timeout") is None:
        yield Sign("connecting has no time limit", "Pass socket_connect_timeout=2 to the client.")


@rule(
    "SH404",
    Severity.WARNING,
    REDIS_POOL,
    "a blocking pool without a timeout",
    why="When connections have leaked, everybody waits for one for ever, and no error tells.",
)
def waits_for_ever(pool: Any) -> Signs:
    """Callers wait for a connection for ever."""
    blocking = loaded("redis:BlockingConnectionPool", "redis.asyncio:BlockingConnectionPool")
    if peek.is_a(pool, *blocking) and pool.timeout is None:
        yield Sign("waiting for a connection has no time limit", "Pass BlockingConnectionPool(timeout=5).")


RULES: Final[tuple[Rule, ...]] = (retried_for_long, no_socket_timeout, no_connect_timeout, waits_for_ever)
