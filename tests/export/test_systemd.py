"""
What systemd hears of a healer, over a datagram socket that stands for its own.
"""

from __future__ import annotations

import os
import socket

from collections.abc import Iterator

import pytest

from selfheal import ConfigError, Healer, HealingPolicy, HealthCheck, Unhealthy, recovery_action
from selfheal.export.systemd import follow
from selfheal.resources import SdNotify
from selfheal.testing import VirtualClock


POLICY = HealingPolicy(interval=5, fast_interval=1, timeout=2, jitter=0, fall=2, rise=2, probation=10, verify_within=10)


@recovery_action
def rebuild(_ctx) -> None:
    """In vain."""


class Unit:
    """A service in virtual time whose checks are down when told to be, and what systemd has heard of it."""

    def __init__(self, address: str, receiver: socket.socket, **options) -> None:
        self.down: set[str] = set()
        self.clock = VirtualClock()
        self._receiver = receiver
        environ = {"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "20000000", "WATCHDOG_PID": str(os.getpid())}
        checks = [
            HealthCheck(self._probe, name="db", policy=POLICY, recovery=rebuild, **options),
            HealthCheck(lambda: None, name="cache", policy=POLICY),
        ]
        self.healer = Healer(checks, clock=self.clock, phase=0, slack=0)
        self.end = follow(self.healer, SdNotify(environ))

    def _probe(self) -> None:
        if "db" in self.down:
            raise Unhealthy("stale")

    def heard(self) -> list[str]:
        messages = []
        while True:
            try:
                messages.append(self._receiver.recv(4096).decode())
            except BlockingIOError:
                return messages


@pytest.fixture
def make(tmp_path) -> Iterator[object]:
    address = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(address)
        receiver.setblocking(False)
        yield lambda **options: Unit(address, receiver, **options)


@pytest.mark.parametrize("shared", [False, True])
def test_signs_of_life_stop_when_a_ladder_of_its_own_was_climbed_in_vain(make, shared: bool) -> None:
    """
    Each 10 s while a restart would help nobody; none while it would; again when it has come back.
    """
    unit, signs = make(shared=shared), []

    async def main() -> None:
        async with unit.healer:
            for down in (False, True, False):
                unit.down = {"db"} if down else set()
                await unit.clock.sleep(60)  # until it is exhausted, or restored
                unit.heard()
                await unit.clock.sleep(100)
                signs.append(unit.heard().count("WATCHDOG=1"))

    unit.clock.run(main)
    assert [10, 10 if shared else 0, 10] == signs


def test_the_status_line_follows_the_checks(make) -> None:
    """
    It says how many are well and what is done about the others, and nothing twice.
    """
    unit = make()

    async def main() -> None:
        async with unit.healer:
            await unit.clock.sleep(7)
            unit.down = {"db"}
            await unit.clock.sleep(100)

    unit.clock.run(main)
    assert [
        "STATUS=2 of 2 checks are well",
        "STATUS=1 of 2 checks are well",
        "STATUS=1 of 2 checks are well; db is recovering (stale)",
        "STATUS=1 of 2 checks are well; db is verifying (stale)",
        "STATUS=1 of 2 checks are well; db is exhausted (stale)",
        "STATUS=1 of 2 checks are well",  # the healer is stopped, and nobody heals it any more
    ] == [message for message in unit.heard() if message.startswith("STATUS=")]


def test_it_can_be_ended(make) -> None:
    """
    Then its check is gone, nothing is heard any more, and it may be followed anew; while it is, only once.
    """
    unit = make()
    with pytest.raises(ConfigError, match="systemd"):
        follow(unit.healer, SdNotify({}))
    unit.end()
    unit.end()
    assert ["db", "cache"] == [check.name for check in unit.healer.checks]

    async def main() -> None:
        async with unit.healer:
            await unit.clock.sleep(30)

    unit.clock.run(main)
    assert [] == unit.heard()
    follow(unit.healer, SdNotify({}))
