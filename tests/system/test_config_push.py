"""
A push of configuration that breaks a service, as a deployment makes it, and how soon it is undone. Needs root.
"""

from __future__ import annotations

import os
import pathlib
import sys
import time

from collections.abc import Callable

import pytest

from selfheal import Healer, HealingPolicy, HealthCheck, Unhealthy, names
from selfheal.model import IncidentResult
from selfheal.resources import ConfigFiles, RollbackConfig


pytestmark = pytest.mark.skipif(
    sys.platform == "win32" or os.geteuid() != 0, reason="needs root, to give files to others"
)

POLICY = HealingPolicy(interval=0.2, fast_interval=0.1, timeout=2, fall=2, rise=2, verify_within=5, probation=0.5)
GOOD = b"\xff\xfe port = 8080 \r\n\x00\n"  # any bytes at all


class Service:
    """Works as long as it has loaded the good file."""

    def __init__(self, path: pathlib.Path) -> None:
        self.path = path
        self.load()

    def load(self) -> None:
        self.loaded = self.path.read_bytes()

    def probe(self) -> None:
        if self.loaded != GOOD:
            raise Unhealthy("down")


def soon(claim: Callable[[], object]) -> bool:
    give_up = time.monotonic() + 30
    while not claim() and time.monotonic() < give_up:
        time.sleep(0.01)
    return bool(claim())


def state(path: pathlib.Path) -> tuple[bytes, int, int, int]:
    found = path.stat()
    return path.read_bytes(), found.st_mode & 0o7777, found.st_uid, found.st_gid


def test_a_push_is_undone_within_a_second_of_its_detection(tmp_path: pathlib.Path) -> None:
    """
    A pushed file of another owner and mode is rolled back, byte for byte, with its owner and mode, and the service runs.
    """
    path = tmp_path / "app.conf"
    path.write_bytes(GOOD)
    path.chmod(0o640)
    os.chown(path, 1234, 4321)
    service, good = Service(path), state(path)
    config = ConfigFiles(path, reload=service.load, healthy_for=0.5, name="app_conf")
    check = HealthCheck(config.watching(service.probe), name="app", policy=POLICY, recovery=RollbackConfig(config))
    when: dict[str, float] = {}
    with Healer([check]) as healer:
        healer.on_event(lambda event: when.setdefault(event.name, event.at))
        assert soon(lambda: config.good)
        (tmp_path / "pushed").write_bytes(b"port = 80800")
        (tmp_path / "pushed").chmod(0o600)
        os.replace(tmp_path / "pushed", path)
        service.load()
        assert (0o600, 0, 0) == state(path)[1:]
        assert soon(healer.incidents)
    assert when[names.ACTION_FINISHED] - when[names.INCIDENT_OPENED] < 1
    assert (good, GOOD) == (state(path), service.loaded)
    assert IncidentResult.HEALED is healer.incidents()[0].result
