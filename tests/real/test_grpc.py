"""
The health service of gRPC, asked and watched by a real client.
"""

from __future__ import annotations

import contextlib
import queue
import threading

from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from selfheal.export.http import Handler
from selfheal.integrations.grpc import GrpcHealth


grpc = pytest.importorskip("grpc")
pytest.importorskip("grpc_health.v1.health")


@contextlib.contextmanager
def serving(service: Any, **options: Any) -> Generator[tuple[GrpcHealth, Any]]:
    """The health service, not started yet, and a client."""
    from grpc_health.v1 import health_pb2_grpc

    with ThreadPoolExecutor(4) as pool:
        server = grpc.server(pool)
        port = server.add_insecure_port("127.0.0.1:0")
        health = GrpcHealth(Handler(service.healer), server, interval=0.05, **options)
        server.start()
        try:
            with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
                yield health, health_pb2_grpc.HealthStub(channel)
        finally:
            server.stop(None).wait(30)


def word(answer: Any) -> str:
    from grpc_health.v1.health_pb2 import HealthCheckResponse

    return HealthCheckResponse.ServingStatus.Name(answer.status)


def wish(service: str) -> Any:
    from grpc_health.v1.health_pb2 import HealthCheckRequest

    return HealthCheckRequest(service=service)


def test_each_group_and_check_is_a_service(service: Any) -> None:
    """
    Nothing serves before it is started, all does while it is well, and nothing after it was stopped.
    """
    names = ("", "readiness", "liveness", "startup")
    with serving(service, checks=True) as (health, client):

        def asked(*names: str) -> list[str]:
            return [word(client.Check(wish(name), timeout=30)) for name in names]

        assert ["NOT_SERVING"] * 4 == asked(*names)
        with health:
            assert ["SERVING"] * 5 == asked(*names, "db")
            with pytest.raises(grpc.RpcError) as error:
                asked("cache")
            assert grpc.StatusCode.NOT_FOUND == error.value.code()
        assert ["NOT_SERVING"] * 4 == asked(*names)


def test_checks_are_shown_to_nobody_unless_wanted(service: Any) -> None:
    """
    Without checks=True their names are unknown.
    """
    with serving(service) as (health, client), health, pytest.raises(grpc.RpcError) as error:
        client.Check(wish("db"), timeout=30)
    assert grpc.StatusCode.NOT_FOUND == error.value.code()


def test_a_client_watches_it_go_and_come_back(service: Any) -> None:
    """
    Each change is told once, as it happens; what is removed is not known any more.
    """
    with serving(service, checks=True) as (health, client), health:
        heard: queue.Queue[tuple[str, str]] = queue.Queue()
        calls = {name: client.Watch(wish(name), timeout=60) for name in ("readiness", "liveness", "db")}

        def listen(name: str) -> None:
            with contextlib.suppress(grpc.RpcError):  # cancelled
                for answer in calls[name]:
                    heard.put((name, word(answer)))

        threads = [threading.Thread(target=listen, args=(name,)) for name in calls]
        for thread in threads:
            thread.start()

        def hears(count: int) -> set[tuple[str, str]]:
            return {heard.get(timeout=30) for _ in range(count)}

        try:
            assert {("readiness", "SERVING"), ("liveness", "SERVING"), ("db", "SERVING")} == hears(3)
            service.down = True
            assert {("readiness", "NOT_SERVING"), ("db", "NOT_SERVING")} == hears(2)
            service.down = False
            assert {("readiness", "SERVING"), ("db", "SERVING")} == hears(2)
            service.healer.remove("db")
            assert {("db", "SERVICE_UNKNOWN")} == hears(1)
        finally:
            for call in calls.values():
                call.cancel()
            for thread in threads:
                thread.join(30)
        assert heard.empty()
