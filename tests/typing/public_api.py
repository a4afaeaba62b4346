"""
The public API as an editor sees it. Type checkers read this file; nothing runs it.

An expected error carries an ignore for each checker. Both complain about an
ignore that is not needed, so should the error go away, this file fails.
"""

from __future__ import annotations

import datetime as dt

from collections.abc import Awaitable, Callable
from typing import assert_type

from selfheal import (
    Budget,
    CheckResult,
    Healer,
    HealingPolicy,
    HealingState,
    HealthCheck,
    HealthStatus,
    Incident,
    Ladder,
    LatencyMonitor,
    Outcome,
    Rebuildable,
    RecoveryAction,
    RecoveryContext,
    by_fault,
    health_check,
    recovery_action,
    rung,
)


class Pool:
    """
    Something that an application owns.
    """

    def close(self) -> None:
        """
        Let it go.
        """


# -- checks: marked, not wrapped ------------------------------------------------


@health_check
def bare() -> int:
    return 1


@health_check(interval=5, timeout=dt.timedelta(seconds=1), resource="db", kinds={"odd"})
async def with_options(deep: bool = False) -> bytes:
    return b"" if deep else b"deep"


class Service:
    @health_check(name="service")
    def healthy(self, grade: str = "") -> HealthStatus:
        return HealthStatus.HEALTHY


async def checks_keep_their_signature() -> None:
    assert_type(bare(), int)
    assert_type(await with_options(deep=True), bytes)
    assert_type(Service().healthy("a"), HealthStatus)
    bare("1")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    health_check(interval="5")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
    HealthCheck(bare, every=5)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


# -- the hot path ----------------------------------------------------------------

latency = LatencyMonitor(window_size=50, threshold_ms=500, statistic="p95")


@latency.timed
def place_order(order: str, *, fast: bool = False) -> int:
    return len(order) if fast else 0


@latency.timed
async def fetch(sql: str) -> list[int]:
    return [len(sql)]


async def timed_functions_keep_their_signature() -> None:
    assert_type(place_order("book", fast=True), int)
    assert_type(await fetch("select 1"), list[int])
    place_order(1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    LatencyMonitor(window_size=50, threshold_ms=500, statistic="p42")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    with latency.timing():
        latency.add_sample(12.5)
    assert_type(latency.is_unhealthy(), bool)


# -- actions and ladders -----------------------------------------------------------


class Drop(RecoveryAction):
    def recover(self, ctx: RecoveryContext) -> None:
        ctx.log("dropped", rows=1)


class Divert(RecoveryAction):
    async def recover(self, ctx: RecoveryContext) -> None:
        ctx.check()

    async def revert(self, ctx: RecoveryContext) -> None:
        assert_type(ctx.remaining(), float)


@recovery_action
def warm_cache(ctx: RecoveryContext) -> None: ...


@recovery_action(destructive=True)
async def restart(ctx: RecoveryContext) -> None: ...


@warm_cache.reverting
def drop_cache(ctx: RecoveryContext) -> None: ...


def operators_make_ladders(ctx: RecoveryContext) -> None:
    assert_type(Drop() >> Divert() >> warm_cache, Ladder)
    assert_type((Drop() + warm_cache).within(5) >> restart, Ladder)
    assert_type(rung(Drop(), attempts=2, cooldown=dt.timedelta(seconds=5)) >> restart, Ladder)
    assert_type(by_fault({"stale": Drop()}, default=warm_cache), RecoveryAction)
    assert_type(warm_cache(ctx), None)
    Drop() >> Divert  # type: ignore[operator]  # pyright: ignore[reportOperatorIssue, reportUnusedExpression]


# -- values ------------------------------------------------------------------------


def values_are_keyword_only_and_frozen() -> None:
    policy = HealingPolicy(interval=10, fast_interval=dt.timedelta(seconds=1))
    assert_type(policy.interval, float)
    HealingPolicy(3)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    policy.fall = 2  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]
    assert_type(CheckResult.healthy(), CheckResult)
    assert_type(Outcome.done().ok, bool)
    assert_type(Budget(10, per=600).per, float)


# -- what an application owns -------------------------------------------------------


async def rebuildables_know_what_they_hold() -> None:
    pool = Rebuildable(Pool, close=Pool.close, name="db")
    assert_type(pool, Rebuildable[Pool])
    assert_type(pool.current, Pool)
    with pool.use() as lent:
        assert_type(lent, Pool)
    async with pool.use() as lent:
        assert_type(lent, Pool)
    assert_type(await pool.arebuild(), Pool)

    async def make() -> Pool:
        return Pool()

    assert_type(Rebuildable(make, close=Pool.close, name="db").current, Pool)


# -- the front door -------------------------------------------------------------------


async def a_healer_is_entered_both_ways(method: Callable[[], Awaitable[None]]) -> None:
    with Healer([bare, HealthCheck(method, name="method")], mode="observe") as healer:
        assert_type(healer, Healer)
        assert_type(healer.heal("bare"), Incident)
        assert_type(healer.wait_healthy("bare", timeout=5), bool)
        assert_type(healer.incidents(), tuple[Incident, ...])
    async with Healer([with_options]) as healer:
        assert_type(await healer.await_healthy("with_options"), bool)
        assert_type(healer.status()["with_options"].state, HealingState)
        assert_type(str(healer.explain("with_options")), str)
    Healer([bare], mode="dream")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
