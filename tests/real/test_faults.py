"""
What of the fault kit takes real time, and the servers that are broken on purpose.
"""

from __future__ import annotations

import os
import pathlib
import shutil
import socket
import tempfile
import time

from collections.abc import Callable, Collection, Iterator

import pytest

from selfheal.errors import SelfHealError
from selfheal.testing import FaultProxy, Flaky
from selfheal.testing.servers import Postgres


def eventually(claim: Callable[[], bool], within: float = 5.0) -> bool:
    """
    Whether *claim* comes true in time.
    """
    give_up = time.monotonic() + within
    while not claim():
        if time.monotonic() > give_up:
            return False
        time.sleep(0.01)
    return True


def test_a_slow_proxy_delays_answers() -> None:
    """
    With a latency every answer is late by it, and by nothing any more after `heal`.
    """
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        FaultProxy(server.getsockname()[1]) as proxy,
        socket.create_connection(("127.0.0.1", proxy.port), timeout=5) as client,
        server.accept()[0] as peer,
    ):

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


@pytest.fixture
def temporary(monkeypatch: pytest.MonkeyPatch) -> Iterator[pathlib.Path]:
    """A temporary folder of this test alone, which an unprivileged user can look into."""
    folder = pathlib.Path(tempfile.mkdtemp(prefix="selfheal-test-"))
    folder.chmod(0o755)
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield folder
    shutil.rmtree(folder)


def segments() -> dict[str, int]:
    """
    Shared memory segments, and the process that has made each.
    """
    table = pathlib.Path("/proc/sysvipc/shm")
    rows = [line.split() for line in table.read_text().splitlines()[1:]] if table.exists() else []
    return {row[1]: int(row[4]) for row in rows}


def left_behind(before: Collection[str], creators: set[int | None]) -> list[str]:
    """
    Segments that these processes have made. One that was there *before* is of an earlier process of the same number.
    """
    return [name for name, creator in segments().items() if creator in creators and name not in before]


def test_a_server_leaves_nothing_behind_after_a_crash(temporary: pathlib.Path) -> None:
    """
    After any crash, and with frozen processes, closing ends every process and removes every file and segment.
    """
    before = segments()
    with Postgres() as server:
        assert 5432 != server.port
        pids = {server.pid}
        server.kill()
        assert server.pid is None
        server.start()
        pids.add(server.pid)
        with socket.create_connection(("127.0.0.1", server.port)):
            server.freeze_backends()
            server.freeze()
            assert not server.accepts(timeout=0.1)
    assert ([], []) == (list(temporary.iterdir()), left_behind(before, pids))
    assert not any(pathlib.Path(f"/proc/{pid}").exists() for pid in pids)
    with pytest.raises(SelfHealError, match="closed"):
        server.start()


def test_a_postmaster_killed_from_outside_is_cleaned_up_after(temporary: pathlib.Path) -> None:
    """
    A server whose postmaster somebody else has killed is noticed as gone, starts again, and leaves nothing behind.
    """
    before = segments()
    with Postgres() as server:
        pids = {server.pid}
        os.kill(server.pid or 0, 9)
        assert eventually(lambda: server.pid is None)
        server.start()
        assert server.accepts()
        pids.add(server.pid)
        os.kill(server.pid or 0, 9)
    assert ([], []) == (list(temporary.iterdir()), left_behind(before, pids))


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
