"""
A real HAProxy drains an instance and gives it work again, as its healer says.
"""

from __future__ import annotations

import collections
import contextlib
import http.client
import http.server
import pathlib
import shutil
import socket
import subprocess
import threading
import time

from collections.abc import Generator, Iterator

import pytest

from selfheal import Healer, HealingPolicy, HealthCheck, Unhealthy
from selfheal.export.http import Agent, Listener, listen


pytestmark = pytest.mark.skipif(shutil.which("haproxy") is None, reason="needs haproxy")

POLICY = HealingPolicy(interval=0.2, fast_interval=0.1, timeout=2, fall=2, rise=2)

CONFIGURATION = """
global
    stats socket {admin} level admin

defaults
    mode http
    timeout connect 5s
    timeout client 5s
    timeout server 5s
    default-server check inter 100ms fall 2 rise 1

frontend by_agent
    bind 127.0.0.1:{agents}
    default_backend agents

frontend by_404
    bind 127.0.0.1:{codes}
    default_backend codes

backend agents
    server one 127.0.0.1:{one.port} agent-check agent-port {one.agent_port} agent-inter 100ms
    server two 127.0.0.1:{two.port} agent-check agent-port {two.agent_port} agent-inter 100ms

backend codes
    option httpchk GET /readyz
    http-check disable-on-404
    server one 127.0.0.1:{one.port} port {one.health_port}
    server two 127.0.0.1:{two.port} port {two.health_port}
"""


class Instance:
    """An application that says its name, its healer, and those who tell of it."""

    def __init__(self, name: str) -> None:
        self.down = False

        class Says(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(200)
                self.send_header("Content-Length", str(len(name)))
                self.end_headers()
                self.wfile.write(name.encode())

            def log_message(self, *args: object) -> None:
                """Nobody reads it."""

        self._application = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Says)
        self.port = self._application.server_port
        self.healer = Healer([HealthCheck(self._probe, name="db", policy=POLICY)], phase=0)

    def _probe(self) -> None:
        if self.down:
            raise Unhealthy("stale")

    @contextlib.contextmanager
    def runs(self) -> Generator[None]:
        thread = threading.Thread(target=self._application.serve_forever, args=(0.05,))
        thread.start()
        try:
            with (
                self.healer,
                listen(self.healer, port=0, drain_status=404) as listener,
                Agent(listener.handler, port=0) as agent,
            ):
                self.handler = listener.handler
                self.health_port, self.agent_port = port_of(listener), port_of(agent)
                yield
        finally:
            self._application.shutdown()
            thread.join()
            self._application.server_close()


def port_of(listener: Listener) -> int:
    return int(listener.address.rpartition(":")[2])


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


@pytest.fixture
def instances() -> Iterator[tuple[Instance, Instance]]:
    one, two = Instance("one"), Instance("two")
    with one.runs(), two.runs():
        for instance in (one, two):
            instance.healer.wait_healthy("db", timeout=30)
        yield one, two


@pytest.fixture
def frontends(instances: tuple[Instance, Instance], tmp_path: pathlib.Path) -> Iterator[dict[str, int]]:
    """The ports of a HAProxy before both instances, by what it listens to."""
    ports = {"agents": free_port(), "codes": free_port()}
    path = tmp_path / "haproxy.cfg"
    path.write_text(CONFIGURATION.format(one=instances[0], two=instances[1], admin=tmp_path / "admin", **ports))
    process = subprocess.Popen(["haproxy", "-db", "-q", "-f", str(path)], stderr=subprocess.DEVNULL)
    try:
        yield ports
    finally:
        process.terminate()
        process.wait(30)


def answers(port: int) -> collections.Counter[str]:
    """Who answers ten requests."""
    counted: collections.Counter[str] = collections.Counter()
    for _ in range(10):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        with contextlib.closing(connection):
            try:
                connection.request("GET", "/")
                answer = connection.getresponse()
                counted[answer.read().decode() if answer.status == 200 else str(answer.status)] += 1
            except OSError:
                counted["nobody"] += 1
    return counted


def settles(port: int, wanted: dict[str, int], seen: set[str] | None = None) -> bool:
    """Whether the answers become what is wanted; all that come meanwhile are *seen*."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        counted = answers(port)
        if seen is not None:
            seen.update(counted)
        if counted == wanted:
            return True
        time.sleep(0.1)
    return False


BOTH = {"one": 5, "two": 5}
ALONE = {"two": 10}


@pytest.mark.parametrize("kind", ["agents", "codes"])
def test_it_drains_and_refills_an_instance(frontends, instances, kind: str) -> None:
    """
    Drained it gets no request, nor with a confirmed fault, and none is lost meanwhile; afterwards it gets its half.
    """
    one, _ = instances
    port, seen = frontends[kind], set()
    assert settles(port, BOTH)
    for target, name in ((one.handler, "draining"), (one, "down")):
        setattr(target, name, True)
        assert settles(port, ALONE, seen)
        setattr(target, name, False)
        assert settles(port, BOTH, seen)
    assert {"one", "two"} == seen


def test_what_an_operator_has_drained_stays_drained(frontends, instances, tmp_path: pathlib.Path) -> None:
    """
    However well the instance says it is: who has taken it out by hand wants it out.
    """
    port = frontends["agents"]
    assert settles(port, BOTH)
    with socket.socket(socket.AF_UNIX) as admin:
        admin.connect(str(tmp_path / "admin"))
        admin.sendall(b"set server agents/one state drain\n")
        admin.recv(4096)
    assert settles(port, ALONE)
    time.sleep(1)  # ten checks later
    assert ALONE == answers(port)
