"""
The decision table of a pooled database, row by row, on a real PostgreSQL: told apart before, healed after.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import socket
import time

from typing import Any

import pytest

from selfheal.errors import ConfigError, Escalate, SelfHealError, Unhealthy
from selfheal.integrations.psycopg import (
    CheckPool,
    ConnectionRegistry,
    DrainPool,
    KickPool,
    PoolHealth,
    RebuildPool,
    SeverHung,
    pool_ladder,
)
from selfheal.model import Fault, HealthStatus, RecoveryContext
from selfheal.testing.servers import Postgres


psycopg = pytest.importorskip("psycopg")
psycopg_pool = pytest.importorskip("psycopg_pool")


def look(world: Any, probe: Any) -> str:
    """
    The verdict in one word.
    """
    try:
        result = world.call(probe)
    except Unhealthy as exc:
        return f"{exc.kind}!" if exc.fatal else exc.kind
    return str(result.status.value)


def eventually_looks(world: Any, probe: Any, verdict: str, within: float = 5.0) -> bool:
    give_up = time.monotonic() + within
    while (seen := look(world, probe)) != verdict:
        if time.monotonic() > give_up:
            pytest.fail(f"still {seen} after {within} s, not {verdict}")
    return True


def lease(world: Any, pool: Any) -> Any:
    return world.call(pool.getconn)


def full(pool: Any) -> Any:
    return pool.get_stats()["pool_available"] == pool.min_size


@pytest.fixture
def pool(world: Any, primary: Postgres) -> Any:
    """A pool whose two connections are there."""
    pool = world.pool(primary.dsn)
    world.call(pool.wait)
    return pool


def test_a_good_pool_is_healthy_and_costs_no_connection_of_its_own(world: Any, pool: Any, primary: Postgres) -> None:
    """
    A healthy pool is looked at through its own connections alone, and none is lost.
    """
    before = primary.backends()
    probe = PoolHealth(pool)
    assert ["healthy"] * 20 == [look(world, probe) for _ in range(20)]
    assert before == primary.backends()


def test_dead_connections_are_stale_until_the_pool_has_checked_them(
    world: Any, pool: Any, primary: Postgres, context: RecoveryContext
) -> None:
    """
    Terminated backends are `stale`; after `CheckPool` no user of the pool gets an error.
    """
    primary.terminate_backends()
    assert "stale" == look(world, PoolHealth(pool))
    world.call(CheckPool(pool).recover, context)
    for _ in range(4):
        world.execute(pool, "select 1")
    assert "healthy" == look(world, PoolHealth(pool))


def test_a_stopped_server_is_down_and_nothing_is_done(
    world: Any, pool: Any, primary: Postgres, context: RecoveryContext
) -> None:
    """
    While no fresh connection can be had the fault is `down`, no rung applies, and actions refuse to act.
    """
    primary.stop()
    assert "down" == look(world, PoolHealth(pool))
    assert [] == [rung.name for rung in pool_ladder(pool).rungs if rung.applies(Fault("down"))]
    for action in (CheckPool(pool), KickPool(pool), DrainPool(pool), SeverHung(pool)):
        with pytest.raises(Escalate, match="a fresh connection fails as well"):
            world.call(action.recover, context)


def test_a_server_that_does_not_answer_is_down_in_time(world: Any, pool: Any, primary: Postgres) -> None:
    """
    A server that accepts and never answers is `down` within the probe's own timeout.
    """
    primary.freeze()
    primary.freeze_backends()
    started = time.monotonic()
    assert "down" == look(world, PoolHealth(pool, timeout=0.6))
    assert time.monotonic() - started < 0.9


def test_a_pool_that_waits_to_reconnect_is_kicked(
    world: Any, pool: Any, primary: Postgres, context: RecoveryContext
) -> None:
    """
    Once the server is back a waiting pool is `backoff`, and `KickPool` brings it back at once.
    """
    primary.stop()
    for _ in range(2):
        with contextlib.suppress(psycopg.OperationalError):
            world.execute(pool, "select 1")
    time.sleep(1.3)  # its second try is over, the third is due at 3 s
    primary.start()
    assert "backoff" == look(world, PoolHealth(pool))
    started = time.monotonic()
    world.call(KickPool(pool).recover, context)
    world.execute(pool, "select 1")
    assert time.monotonic() - started < 0.5
    assert "healthy" == look(world, PoolHealth(pool))
    assert (2, 2) == (pool.min_size, pool.max_size)


def test_an_outage_leaves_no_requests_in_the_queue(world: Any, pool: Any, primary: Postgres) -> None:
    """
    Looking at a pool that waits to reconnect adds nothing to its queue.
    """
    primary.stop()
    probe = PoolHealth(pool)
    assert {"down"} == {look(world, probe) for _ in range(5)}
    waiting = pool.get_stats()["requests_waiting"]
    assert {"down"} == {look(world, probe) for _ in range(20)}
    assert waiting == pool.get_stats()["requests_waiting"]


def test_a_refused_user_is_auth(world: Any, primary: Postgres) -> None:
    """
    A fresh connection that is refused for who it is, is `auth`, and no rung applies.
    """
    pool = world.pool(primary.dsn.replace("postgres@", "stranger@"))
    assert "auth" == look(world, PoolHealth(pool))
    assert [] == [rung.name for rung in pool_ladder(pool).rungs if rung.applies(Fault("auth"))]


def test_leaked_connections_are_exhausted_until_the_pool_is_rebuilt(
    world: Any, primary: Postgres, context: RecoveryContext
) -> None:
    """
    Connections that were given out and never used again are `exhausted`, and `RebuildPool` gives new ones. Those of
    which nobody had need for long, and that were taken a moment ago, are not.
    """
    box = world.rebuildable(primary.dsn)
    pool = box.current
    time.sleep(0.4)
    leaked = [lease(world, pool) for _ in range(2)]
    probe = PoolHealth(box, leak_after=0.3)
    assert "degraded" == look(world, probe)
    time.sleep(0.4)
    assert "exhausted" == look(world, probe)
    world.call(RebuildPool(box).recover, context)
    assert 2 == box.generation
    assert "healthy" == look(world, probe)
    for connection in leaked:
        world.call(pool.putconn, connection)


def test_a_connection_that_listens_has_not_leaked(world: Any, pool: Any) -> None:
    """
    Silent connections are in use while somebody waits for notifications on them, or has said what to do with those.
    """
    waiting, handling = (lease(world, pool) for _ in range(2))
    handling.add_notify_handler(print)

    async def anotifies() -> None:
        async for _ in waiting.notifies(timeout=2.5):
            pass

    def notifies() -> None:
        for _ in waiting.notifies(timeout=2.5):
            pass

    listening = world.start(world.call, anotifies if world.is_async else notifies)
    probe = PoolHealth(pool, leak_after=0.3)
    assert "degraded" == look(world, probe)
    time.sleep(0.4)
    assert "degraded" == look(world, probe)
    handling.remove_notify_handler(print)
    assert listening.ended(5)
    time.sleep(0.4)
    assert "exhausted" == look(world, probe)
    for connection in (waiting, handling):
        world.call(pool.putconn, connection)


def test_a_server_without_room_for_a_second_pool_forbids_the_rebuild(
    world: Any, primary: Postgres, context: RecoveryContext
) -> None:
    """
    `RebuildPool` changes nothing if the server could not take the new pool beside the old one.
    """
    box = world.rebuildable(primary.dsn, min_size=2, max_size=2)
    world.call(box.current.resize, 200, 200)
    with pytest.raises(SelfHealError, match="the server takes only"):
        world.call(RebuildPool(box).recover, context)
    assert 1 == box.generation
    world.call(box.current.resize, 2, 2)


def test_a_busy_pool_is_slow_and_nothing_is_cut(
    world: Any, pool: Any, primary: Postgres, context: RecoveryContext
) -> None:
    """
    A pool whose connections all work is only degraded, and `SeverHung` leaves them alone.
    """
    users = [world.start(world.execute, pool, "select pg_sleep(1.5)") for _ in range(2)]
    time.sleep(0.5)
    assert "degraded" == look(world, PoolHealth(pool, hung_after=0.3))
    world.call(SeverHung(pool, older_than=0.3).recover, context)
    assert [True, True] == [user.ended(within=5) for user in users]
    assert [None, None] == [user.error for user in users]


def test_a_slow_reader_of_a_stream_is_no_hung_query(
    world: Any, pool: Any, primary: Postgres, context: RecoveryContext
) -> None:
    """
    A query whose answer has come and is read at leisure is left alone.
    """
    rows: list[Any] = []

    async def aread() -> None:
        async with pool.connection() as connection:
            async for row in connection.cursor().stream("select generate_series(1, 3)"):
                rows.append(row)
                await asyncio.sleep(0.3)

    def read() -> None:
        with pool.connection() as connection:
            for row in connection.cursor().stream("select generate_series(1, 3)"):
                rows.append(row)
                time.sleep(0.3)

    user = world.start(world.call, aread if world.is_async else read)
    time.sleep(0.5)
    assert "healthy" == look(world, PoolHealth(pool, hung_after=0.2))
    world.call(SeverHung(pool, older_than=0.2).recover, context)
    assert user.ended(within=2)
    assert (None, 3) == (user.error, len(rows))


def test_callers_of_frozen_backends_are_stuck_until_they_are_severed(
    world: Any, pool: Any, primary: Postgres, context: RecoveryContext
) -> None:
    """
    Queries that nobody works on are `stuck`; `SeverHung` frees their callers, and the pool then works.
    """
    connections = [lease(world, pool) for _ in range(2)]
    primary.freeze_backends()
    users = [world.start(world.call, connection.execute, "select 1") for connection in connections]
    probe = PoolHealth(pool, hung_after=0.3)
    time.sleep(0.5)
    assert "stuck" == look(world, probe)
    world.call(SeverHung(pool, older_than=0.3).recover, context)
    assert [True, True] == [user.ended(within=1) for user in users]
    assert ["OperationalError"] * 2 == [type(user.error).__name__ for user in users]
    for connection in connections:
        world.call(pool.putconn, connection)
    assert eventually_looks(world, probe, "healthy")


def test_callers_of_a_frozen_server_are_severed_once_another_has_taken_over(
    world: Any, primary: Postgres, standby: Postgres, context: RecoveryContext
) -> None:
    """
    Queries that wait for a server which answers nobody are `stuck` as soon as fresh connections lead to another one.
    """
    target = [primary.dsn]
    pool = world.pool(lambda: target[0])
    world.call(pool.wait)
    connections = [lease(world, pool) for _ in range(2)]
    primary.freeze()
    primary.freeze_backends()
    users = [world.start(world.call, connection.execute, "select 1") for connection in connections]
    time.sleep(0.4)
    probe = PoolHealth(pool, role="any", hung_after=0.3)
    assert "down" == look(world, probe)
    target[0] = standby.dsn
    assert "stuck" == look(world, probe)
    world.call(SeverHung(pool, older_than=0.3).recover, context)
    assert [True, True] == [user.ended(within=1) for user in users]
    for connection in connections:
        world.call(pool.putconn, connection)
    assert eventually_looks(world, probe, "healthy")


def test_some_hung_callers_are_seen_though_the_pool_still_serves(world: Any, primary: Postgres) -> None:
    """
    A pool that still answers is `stuck` as long as one of its users waits for a dead server process.
    """
    pool = world.pool(primary.dsn, min_size=1, max_size=4)
    connection = lease(world, pool)
    primary.freeze_backends([connection.info.backend_pid])
    user = world.start(world.call, connection.execute, "select 1")
    time.sleep(0.4)
    assert "stuck" == look(world, PoolHealth(pool, hung_after=0.3))
    primary.thaw_backends()
    assert user.ended(within=2)
    assert "healthy" == look(world, PoolHealth(pool, hung_after=0.3))
    world.call(connection.rollback)
    world.call(pool.putconn, connection)


def test_frozen_idle_connections_are_stuck_until_the_pool_is_drained(
    world: Any, pool: Any, primary: Postgres, context: RecoveryContext
) -> None:
    """
    An idle connection that does not answer is `stuck` in time, is not kept, and `DrainPool` replaces the rest.
    """
    primary.freeze_backends()
    started = time.monotonic()
    assert "stuck" == look(world, PoolHealth(pool, timeout=0.6))
    assert time.monotonic() - started < 0.9
    world.call(DrainPool(pool).recover, context)
    assert eventually_looks(world, PoolHealth(pool), "healthy")


def test_a_pool_on_the_wrong_server_is_read_only_until_it_is_drained(
    world: Any, primary: Postgres, standby: Postgres, context: RecoveryContext
) -> None:
    """
    Connections that stay on a read-only server are `read_only`, certainly, and `DrainPool` leads them to the primary.
    """
    target = [standby.dsn]
    pool = world.pool(lambda: target[0])
    world.call(pool.wait)
    target[0] = primary.dsn
    assert "read_only!" == look(world, PoolHealth(pool))
    assert "healthy" == look(world, PoolHealth(pool, role="any"))
    world.call(DrainPool(pool).recover, context)
    world.execute(pool, "create temporary table t (x int)")
    assert "healthy" == look(world, PoolHealth(pool))


def test_no_writable_server_anywhere_is_down(world: Any, standby: Postgres) -> None:
    """
    If a fresh connection cannot write either, nothing of ours is broken: `down`.
    """
    pool = world.pool(standby.dsn)
    world.call(pool.wait)
    assert "down" == look(world, PoolHealth(pool))
    assert "healthy" == look(world, PoolHealth(pool, role="any"))


def test_a_closed_pool_is_exhausted_until_it_is_rebuilt(
    world: Any, primary: Postgres, context: RecoveryContext
) -> None:
    """
    A pool that somebody closed can only be replaced.
    """
    box = world.rebuildable(primary.dsn)
    world.call(box.current.close)
    assert "exhausted" == look(world, PoolHealth(box))
    world.call(RebuildPool(box).recover, context)
    assert "healthy" == look(world, PoolHealth(box))


def test_no_rebuild_while_the_server_is_down(world: Any, primary: Postgres, context: RecoveryContext) -> None:
    """
    `RebuildPool` fails and changes nothing while no fresh connection can be had.
    """
    box = world.rebuildable(primary.dsn)
    primary.stop()
    with pytest.raises(SelfHealError, match="not rebuilt"):
        world.call(RebuildPool(box).recover, context)
    assert 1 == box.generation


def test_a_check_callback_does_not_hold_the_probe(world: Any, primary: Postgres) -> None:
    """
    A pool that checks connections when it gives them out, without a bound, is still looked at in time.
    """
    import psycopg_pool

    pool_class = psycopg_pool.AsyncConnectionPool if world.is_async else psycopg_pool.ConnectionPool
    pool = world.pool(primary.dsn, check=pool_class.check_connection)
    world.call(pool.wait)
    primary.freeze_backends()
    started = time.monotonic()
    assert "stuck" == look(world, PoolHealth(pool, timeout=0.6))
    assert time.monotonic() - started < 0.9


def test_probes_of_a_failing_pool_leave_no_connection_behind(world: Any, pool: Any, primary: Postgres) -> None:
    """
    However often a bad pool is looked at, the server has as many connections afterwards.
    """
    connections = [lease(world, pool) for _ in range(2)]
    before = primary.backends()
    assert {"degraded"} == {look(world, PoolHealth(pool)) for _ in range(4)}
    for _ in range(40):  # a server process takes its time to notice that its client has left
        if before == primary.backends():
            break
        time.sleep(0.05)
    assert before == primary.backends()
    for connection in connections:
        world.call(pool.putconn, connection)


def test_a_look_takes_no_place_in_the_queue(world: Any, primary: Postgres) -> None:
    """
    A pool with `max_waiting=1` sends no caller away because the probe waits as well, and keeps its limit.
    """
    pool = world.pool(primary.dsn, min_size=1, max_size=1, max_waiting=1)
    world.call(pool.wait)
    probe = PoolHealth(pool, timeout=10)

    def waiting(count: int) -> bool:
        give_up = time.monotonic() + 3
        while pool.get_stats().get("requests_waiting", 0) != count and time.monotonic() < give_up:
            time.sleep(0.01)
        return pool.get_stats().get("requests_waiting", 0) == count

    used = lease(world, pool)
    looking = world.start(world.call, probe)
    assert waiting(1)
    calling = world.start(world.execute, pool, "select 1")
    assert waiting(2)
    with pytest.raises(psycopg_pool.TooManyRequests):
        world.execute(pool, "select 1")
    world.call(pool.putconn, used)
    assert (True, True) == (looking.ended(5), calling.ended(5))
    assert (None, None, 1) == (looking.error, calling.error, pool.max_waiting)


def test_an_async_probe_gives_an_awaitable_and_a_sync_one_a_result(world: Any, pool: Any) -> None:
    """
    The colour of the probe is the colour of the pool.
    """

    def colour() -> tuple[bool, object]:
        answer = PoolHealth(pool)()
        if inspect.isawaitable(answer):
            return True, answer
        return False, answer

    async def acolour() -> tuple[bool, object]:
        is_async, answer = colour()
        return is_async, await answer  # type: ignore[misc]

    is_async, result = world.call(acolour if world.is_async else colour)
    assert (world.is_async, HealthStatus.HEALTHY) == (is_async, result.status)


def test_a_reused_descriptor_is_left_alone(world: Any, pool: Any) -> None:
    """
    Severing a connection that is closed touches nobody, though its descriptor's number is a stranger's by then.
    """
    registry = ConnectionRegistry.of(pool)
    connection = lease(world, pool)
    registry.adopt(connection)
    fd = connection.pgconn.socket
    world.call(connection.close)
    with contextlib.ExitStack() as strangers:
        numbers = set()
        while fd not in numbers:
            one, other = (strangers.enter_context(end) for end in socket.socketpair())
            numbers |= {one.fileno(), other.fileno()}
            if fd in {one.fileno(), other.fileno()}:
                assert not registry.sever(connection)
                one.sendall(b"x")
                assert b"x" == other.recv(1)
    world.call(pool.putconn, connection)


def test_a_connection_whose_socket_was_swapped_is_left_alone(world: Any, pool: Any) -> None:
    """
    The inode is what counts: under the same open connection another socket with its number is not cut.
    """
    import os

    registry = ConnectionRegistry.of(pool)
    connection = lease(world, pool)
    registry.adopt(connection)
    fd = connection.pgconn.socket
    one, other = socket.socketpair()
    with one, other:
        os.dup2(one.fileno(), fd)
        assert not registry.sever(connection)
        other.sendall(b"x")
        assert b"x" == one.recv(1)
    world.call(connection.close)
    world.call(pool.putconn, connection)


def test_only_the_severed_connection_breaks(world: Any, pool: Any) -> None:
    """
    Severing one connection frees its user and leaves the pool's other connection as it is.
    """
    registry = ConnectionRegistry.of(pool)
    connections = [lease(world, pool) for _ in range(2)]
    user = world.start(world.call, connections[0].execute, "select pg_sleep(30)")
    time.sleep(0.2)
    assert registry.sever(connections[0])
    assert user.ended(within=1)
    assert isinstance(user.error, psycopg.OperationalError)
    world.call(connections[1].execute, "select 1")
    world.call(connections[1].rollback)
    for connection in connections:
        world.call(pool.putconn, connection)


def test_a_registry_given_as_configure_passes_on_to_your_own(world: Any, primary: Postgres) -> None:
    """
    `ConnectionRegistry` can be the pool's ``configure`` callback, calls yours, and is the one that is used.
    """
    configured: list[Any] = []

    async def aconfigure(connection: Any) -> None:
        configured.append(connection)

    registry = ConnectionRegistry(then=aconfigure if world.is_async else configured.append)
    pool = world.pool(primary.dsn, configure=registry)
    world.call(pool.wait)
    assert registry is ConnectionRegistry.of(pool)
    assert set(configured) == set(registry.sessions(pool))


def test_a_plain_pool_cannot_be_rebuilt(pool: Any) -> None:
    """
    `RebuildPool` insists on a `Rebuildable`, and the ladder of a plain pool has no such rung.
    """
    with pytest.raises(ConfigError, match="needs a Rebuildable"):
        RebuildPool(pool)
    assert ["check_pool", "kick_pool", "sever_hung", "drain_pool"] == [rung.name for rung in pool_ladder(pool).rungs]
