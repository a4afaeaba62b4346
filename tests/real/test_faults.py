"""
What of the fault kit takes real time, and the servers that are broken on purpose.
"""

from __future__ import annotations

import os
import pathlib
import socket
import tempfile
import time

import pytest

from selfheal.errors import SelfHealError
from selfheal.testing.faults import FaultProxy, Flaky
from selfheal.testing.servers import Postgres


def test_a_slow_proxy_delays_answers() -> None:
    """
    With a latency every answer is late by it, and by nothing any more after `heal`.
    """
    with socket.create_server(("127.0.0.1", 0)) as server, FaultProxy(server.getsockname()[1]) as proxy:
        with socket.create_connection(("127.0.0.1", proxy.port), timeout=5) as client, server.accept()[0] as peer:

            def answered_after() -> float:
                started = time.monotonic()
                peer.sendall(b"x")
                client.recv(1)
                return time.monotonic() - started

            proxy.latency = 0.2
            assert 0.2 <= answered_after() < 1
            proxy.heal()
            assert answered_after() < 0.2


def test_a_slow_call_takes_its_time() -> None:
    """
    `Flaky.slow` really takes the seconds.
    """
    flaky = Flaky("late")
    flaky.slow(0.1)
    started = time.monotonic()
    assert "late" == flaky()
    assert 0.1 <= time.monotonic() - started < 1


def traces() -> tuple[set[str], int]:
    """
    Our folders in the temporary folder, and shared memory segments.
    """
    segments = pathlib.Path("/proc/sysvipc/shm")
    return (
        {path.name for path in pathlib.Path(tempfile.gettempdir()).glob("selfheal-*")},
        len(segments.read_text().splitlines()) if segments.exists() else 0,
    )


def test_a_server_leaves_nothing_behind_after_a_crash() -> None:
    """
    After any crash, and with frozen processes, closing ends every process and removes every file and segment.
    """
    before = traces()
    with Postgres() as server:
        assert 5432 != server.port
        postmaster = server.pid
        server.kill()
        assert server.pid is None
        server.start()
        with socket.create_connection(("127.0.0.1", server.port)):
            server.freeze_backends()
            server.freeze()
            assert not server.accepts(timeout=0.1)
    assert before == traces()
    assert not pathlib.Path(f"/proc/{postmaster}").exists()
    with pytest.raises(SelfHealError, match="closed"):
        server.start()


def test_a_postmaster_killed_from_outside_is_cleaned_up_after() -> None:
    """
    A server whose postmaster somebody else has killed is noticed as gone, starts again, and leaves nothing behind.
    """
    before = traces()
    with Postgres() as server:
        pid = server.pid
        assert pid is not None
        os.kill(pid, 9)
        deadline = time.monotonic() + 5
        while server.pid is not None and time.monotonic() < deadline:
            time.sleep(0.01)
        assert server.pid is None
        server.start()
        assert server.accepts()
        os.kill(server.pid or 0, 9)
    assert before == traces()


def test_only_a_servers_own_backends_are_frozen(primary: Postgres) -> None:
    """
    A process id that is no backend of the server is left alone.
    """
    assert [] == primary.freeze_backends([os.getpid(), 1])


def test_a_primary_cannot_be_promoted(primary: Postgres) -> None:
    """
    `promote` says what PostgreSQL says.
    """
    with pytest.raises(SelfHealError, match="not in standby mode"):
        primary.promote()
