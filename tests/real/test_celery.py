"""
A real worker of Celery, without a broker to speak of.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import signal
import subprocess
import sys
import time

from collections.abc import Callable

import pytest

from selfheal.export.http.asking import ask


pytest.importorskip("celery")

APPLICATION = """
import os
from celery import Celery
from selfheal import Healer, HealthCheck
from selfheal.integrations.celery import attach

app = Celery("shop", broker="memory://")
app.conf.worker_hijack_root_logger = False
healer = Healer([HealthCheck(lambda: None, name="db", interval=0.2, timeout=5)])
attach(healer, file=os.environ["SHOP_FILE"])
"""


def soon(claim: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 30
    while not claim() and time.monotonic() < deadline:
        time.sleep(0.05)
    return claim()


@pytest.mark.at_length
@pytest.mark.parametrize(("pool", "processes"), [("solo", 1), ("prefork", 2)])
def test_each_process_heals_and_says_that_it_lives(tmp_path: pathlib.Path, pool: str, processes: int) -> None:
    """
    One file for each process that runs tasks, fresh and well, and none when the worker has been stopped.
    """
    (tmp_path / "shop.py").write_text(APPLICATION)
    (tmp_path / "run").mkdir()
    command = [sys.executable, "-W", "ignore", "-m", "celery", "-A", "shop", "worker", f"--pool={pool}"]
    command += [
        f"--concurrency={processes}",
        "--loglevel=info",
        "--without-gossip",
        "--without-mingle",
        "--without-heartbeat",
    ]
    environment = {**os.environ, "SHOP_FILE": str(tmp_path / "run" / "{pid}"), "C_FORCE_ROOT": "1"}
    with (tmp_path / "log").open("wb") as log:
        worker = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=log, stderr=log)

    def living() -> list[str]:
        said = {path.name: ask(f"file:{path}") for path in (tmp_path / "run").iterdir()}
        return [name for name, each in said.items() if each.well and "healer ok" in each.text]

    try:
        assert soon(lambda: " ready." in (tmp_path / "log").read_text()), (tmp_path / "log").read_text()
        assert soon(lambda: processes == len(living())), (tmp_path / "log").read_text()
        assert (pool == "solo") == ([str(worker.pid)] == living())
        worker.send_signal(signal.SIGTERM)
        assert 0 == worker.wait(60)
        assert [] == list((tmp_path / "run").iterdir())
    finally:
        with contextlib.suppress(ProcessLookupError):
            worker.kill()
        worker.wait()
