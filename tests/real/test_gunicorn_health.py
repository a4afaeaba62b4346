"""
Health from four workers of gunicorn, and metrics of all of them as one.
"""

from __future__ import annotations

import os
import pathlib
import signal
import time

from collections.abc import Iterator

import pytest

from serving import Ask, Gunicorn, gunicorn_serving

from selfheal import ConfigError
from selfheal.integrations.gunicorn import hooks


APPLICATION = """
import os
from selfheal import Healer, HealthCheck
from selfheal.export.http import mounted_wsgi, wsgi_app

healer = Healer([HealthCheck(lambda: None, name="orders_db", interval=0.2, timeout=5)], registry=True)

def hello(environ, start_response):
    start_response("200 OK", [])
    return [str(os.getpid()).encode()]

application = mounted_wsgi(hello, wsgi_app(healer))
"""

CONFIGURATION = """
from selfheal.integrations.gunicorn import hooks

workers = 4
post_worker_init, worker_exit, child_exit = hooks("orders:healer")
"""


class Server:
    def __init__(self, gunicorn: Gunicorn, metrics: pathlib.Path) -> None:
        self.gunicorn, self.metrics = gunicorn, metrics
        self.ask = Ask(gunicorn.port)

    def workers(self) -> set[str]:
        """Those who answer, as soon as four do."""
        deadline, seen = time.monotonic() + 30, set[str]()
        while len(seen) < 4 and time.monotonic() < deadline:
            seen.add(self.ask("/").body.decode())
        return seen

    def settles(self, path: str, status: int, body: bytes) -> bool:
        """Whether twenty requests in a row get this, soon."""
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            answers = [self.ask(path) for _ in range(20)]
            if {(status, body)} == {(answer.status, answer.body) for answer in answers}:
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
    with gunicorn_serving(tmp_path, "orders", PROMETHEUS_MULTIPROC_DIR=str(metrics)) as gunicorn:
        yield Server(gunicorn, metrics)


def test_four_workers_answer_as_one(server: Server) -> None:
    """
    Each is ready once it has looked; the metrics are those of all; one that is killed leaves no gauge behind.
    """
    workers = server.workers()
    assert 4 == len(workers)
    assert server.settles("/selfheal/readyz", 200, b"ok\n")
    assert workers == server.gauges()
    page = server.ask("/selfheal/metrics").body.decode()
    assert 1 == page.count('selfheal_probe_up{check="orders_db"} 1.0')
    assert "pid=" not in page
    victim = min(workers)
    os.kill(int(victim), signal.SIGKILL)
    deadline = time.monotonic() + 30
    while victim in server.gauges() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert victim not in server.gauges()
    assert 4 == len(server.workers() - {victim})

    assert (0, set()) == (server.gunicorn.stop(), server.gauges())


@pytest.mark.parametrize("target", ["", "orders", "orders:", ":healer"])
def test_where_the_healer_is_has_to_be_said(target: str) -> None:
    """
    As module:name.
    """
    with pytest.raises(ConfigError, match="'module:name'"):
        hooks(target)
