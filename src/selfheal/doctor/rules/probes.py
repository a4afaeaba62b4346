"""
Probes: what makes one late, or say something else than what is the case.
"""

from __future__ import annotations

import math
import types

from collections.abc import Iterator
from typing import Any, Final, cast

from selfheal.doctor import peek
from selfheal.doctor.findings import Rule, Severity, Sign, Signs, rule
from selfheal.doctor.kinds import (
    AIOHTTP_SESSION,
    CHECK,
    ENGINE,
    HTTPX_CLIENT,
    POOLED_HEALTH,
    PSYCOPG_POOL,
    REDIS_POOL,
    loaded,
)
from selfheal.doctor.rules import http, redis
from selfheal.doctor.subjects import Watched
from selfheal.doctor.walk import Found, reached


#: Whose decorators try again.
_RETRYING: Final = frozenset({"backoff", "retry", "retrying", "stamina", "tenacity"})

#: A probe may take so many intervals before it is the probe that sets the pace.
_INTERVALS_MAX: Final = 2.0


def _bare(watched: Watched) -> tuple[Found, ...]:
    """
    What the probe uses without the ready-made probes, which have limits and connections of their own.
    """
    healths = [found for found in watched.probing if POOLED_HEALTH.has(found.thing)]
    inside = {id(found.thing) for health in healths for found in reached(health.thing, health.name)}
    return tuple(found for found in watched.probing if id(found.thing) not in inside)


def _retries(thing: Any) -> str:
    """
    What in it tries again, or nothing.
    """
    if peek.is_a(thing, types.FunctionType) and hasattr(thing, "__wrapped__"):
        library = str(thing.__globals__.get("__name__")).partition(".")[0]
        if library in _RETRYING:
            return f"it calls {thing.__name__}(), which {library} calls again when it fails"
    if peek.is_a(thing, *loaded("tenacity:BaseRetrying", "stamina:RetryingCaller", "stamina:AsyncRetryingCaller")):
        return f"it uses a {peek.kind_of(thing)}"
    if REDIS_POOL.has(thing) and redis.retries(thing):
        return f"it goes through a redis client that tries {redis.retries(thing)} times more"
    if peek.is_a(thing, *loaded("urllib3:PoolManager")) and _again(thing.connection_pool_kw.get("retries")):
        return "it goes through a urllib3 client that tries again"
    if peek.is_a(thing, *loaded("requests:Session")) and any(
        _again(adapter.max_retries) for adapter in thing.adapters.values()
    ):
        return "it goes through a requests session that tries again"
    return ""


def _again(retries: Any) -> bool:
    """
    Whether urllib3 tries again: by default three times.
    """
    return retries is not False and getattr(retries, "total", retries) != 0


@rule(
    "SH601",
    Severity.WARNING,
    CHECK,
    "retries inside the probe",
    why="A probe that tries again is late and sees less: the fault is over, or minutes old, before anything is counted. "
    "fall= is the patience.",
)
def retries_inside(watched: Watched) -> Signs:
    """The probe tries again."""
    for found in _bare(watched):
        problem = _retries(found.thing)
        if problem:
            yield Sign(
                problem,
                "Ask once, with a client of the probe's own that does not retry, or call the function's __wrapped__.",
            )


@rule(
    "SH602",
    Severity.INFO,
    CHECK,
    "a client that waits longer than the probe",
    why="The probe is given up first, so that it says 'timeout' whatever is wrong, and hangs in a thread meanwhile.",
)
def outlasted(watched: Watched) -> Signs:
    """The client waits longer than the probe."""
    timeout = watched.check.policy.timeout
    for found in _bare(watched):
        limit = _limit(found.thing)
        if limit is not None and limit > timeout:
            took = "for ever" if limit == math.inf else f"{limit:g} s"
            yield Sign(
                f"{found.name} may wait {took}, the probe {timeout:g} s",
                "Let a ready-made probe look at it, such as PoolHealth or EngineHealth; or pass the call a shorter timeout.",
            )


def _limit(thing: Any) -> float | None:
    """
    Seconds that a client waits; `None`: it is none, or waits in another way.
    """
    if PSYCOPG_POOL.has(thing):
        return float(thing.timeout)
    if ENGINE.has(thing):
        waits = getattr(thing.pool, "_timeout", None)
        return None if waits is None else float(waits)
    if REDIS_POOL.has(thing):
        worst = redis.worst(thing)
        return math.inf if worst is None else worst
    if HTTPX_CLIENT.has(thing):
        return http.httpx_limit(thing)
    if AIOHTTP_SESSION.has(thing):
        return http.aiohttp_limit(thing)
    return None


def _healths(watched: Watched) -> Iterator[Any]:
    return (found.thing for found in watched.probing if POOLED_HEALTH.has(found.thing))


@rule(
    "SH603",
    Severity.WARNING,
    CHECK,
    "a ready-made probe that is cut off",
    why="It ends by itself and says which fault it is; cut off before, it says 'timeout', for which no rung is meant.",
)
def cut_off(watched: Watched) -> Signs:
    """The ready-made probe is cut off."""
    timeout = watched.check.policy.timeout
    for health in _healths(watched):
        own: float = vars(cast("object", health)).get("_timeout", 0.0)
        if own >= timeout:
            yield Sign(
                f"its {type(health).__name__} takes up to {own:g} s, and is given up after {timeout:g} s",
                f"Pass {type(health).__name__}(..., timeout={0.8 * timeout:g}).",
            )


@rule(
    "SH604",
    Severity.WARNING,
    CHECK,
    "a timeout of several intervals",
    why="A probe that hangs is run that much more rarely, just when something is wrong.",
)
def slow_pace(watched: Watched) -> Signs:
    """The timeout sets the pace."""
    policy = watched.check.policy
    if policy.timeout > _INTERVALS_MAX * policy.interval:
        yield Sign(
            f"timeout is {policy.timeout:g} s and interval {policy.interval:g} s",
            f"Set timeout={policy.interval:g} or less.",
        )


RULES: Final[tuple[Rule, ...]] = (retries_inside, outlasted, cut_off, slow_pace)
