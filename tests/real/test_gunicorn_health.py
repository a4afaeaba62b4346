"""
Health from four workers of gunicorn, and metrics of all of them as one.
"""

from __future__ import annotations

import http.client
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

from collections.abc import Iterator

import pytest

from selfheal import ConfigError
from selfheal.integrations.gunicorn import hooks


pytest.importorskip("gunicorn")

TOKEN = "correct horse battery staple"

APPLICATION = f"""
import os
from selfheal import Healer, HealthCheck
from selfheal.export.http import mounted_wsgi, wsgi_app

healer = Healer([HealthCheck(lambda: None, name="orders_db", interval=0.2, timeout=5)], registry=True)

def hello(environ, start_response):
    start_response("200 OK", [])
    return [str(os.getpid()).encode()]

application = mounted_wsgi(hello, wsgi_app(healer, {TOKEN!r}))
"""

CONFIGURATION = """
from selfheal.integrations.gunicorn import hooks

bind = "127.0.0.1:0"
workers = 4
post_worker_init, worker_exit, child_exit = hooks("orders:healer")
"""


class Server:
    def __init__(self, process: subprocess.Popen[str], port: int, metrics: pathlib.Path) -> None:
        self.process, self.port, self.metrics = process, port, metrics

    def ask(self, path: str, method: str = "GET", **headers: str) -> tuple[int, str]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request(method, path, headers=headers)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        finally:
            connection.close()

    def workers(self) -> set[str]:
        """Those who answer, as soon as four do."""
        deadline, seen = time.monotonic() + 30, set[str]()
        while len(seen) < 4 and time.monotonic() < deadline:
            seen.add(self.ask("/")[1])
        return seen

    def settles(self, path: str, *answer: object) -> bool:
        """Whether twenty requests in a row get this *answer*, soon."""
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            if {answer} == {self.ask(path) for _ in range(20)}:
                return True
            time.sleep(0.1)
        return False

    def gauges(self) -> set[str]:
        """The processes of which there are gauges that only the living have."""
        names = [path.stem.rpartition("_") for path in self.metrics.glob("gauge_live*.db")]
        return {pid for _, _, pid in names}


@pytest.fixture
def server(tmp_path: pathlib.Path) -> Iterator[Server]:
    (tmp_path / "orders.py").write_text(APPLICATION)
    (tmp_path / "gunicorn.conf.py").write_text(CONFIGURATION)
    metrics = tmp_path / "metrics"
    metrics.mkdir()
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-m", "gunicorn", "orders"],
        cwd=tmp_path,
        env={**os.environ, "HOME": str(tmp_path), "PROMETHEUS_MULTIPROC_DIR": str(metrics)},
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    found = next(match for line in process.stderr if (match := re.search(r"Listening at: \S+:(\d+)", line)))
    try:
        yield Server(process, int(found[1]), metrics)
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)


def test_four_workers_answer_as_one(server: Server) -> None:
    """
    Each is ready once it has looked; the metrics are those of all; one that is killed leaves no gauge behind.
    """
    workers = server.workers()
    assert 4 == len(workers)
    for path in ("/selfheal/livez", "/selfheal/readyz", "/selfheal/startupz"):
        assert server.settles(path, 200, "ok\n")
    assert workers == server.gauges()
    assert server.settles("/selfheal/health", 200, '{"status":"pass"}')
    bearer = {"Authorization": f"Bearer {TOKEN}"}
    assert 401 == server.ask("/selfheal/state")[0]
    assert "orders_db" == json.loads(server.ask("/selfheal/state", **bearer)[1])["checks"][0]["check"]
    assert {404, 405} == {server.ask("/selfheal/nothing")[0], server.ask("/selfheal/livez", "PUT")[0]}

    page = server.ask("/selfheal/metrics")[1]
    assert 1 == page.count('selfheal_probe_up{check="orders_db"} 1.0')
    assert "pid=" not in page
    victim = min(workers)
    os.kill(int(victim), signal.SIGKILL)
    deadline = time.monotonic() + 30
    while victim in server.gauges() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert victim not in server.gauges()
    assert 4 == len(server.workers() - {victim})

    server.process.send_signal(signal.SIGTERM)
    server.process.communicate(timeout=30)
    assert (0, set()) == (server.process.returncode, server.gauges())


@pytest.mark.parametrize("target", ["", "orders", "orders:", ":healer"])
def test_where_the_healer_is_has_to_be_said(target: str) -> None:
    """
    As module:name.
    """
    with pytest.raises(ConfigError, match="'module:name'"):
        hooks(target)
