"""
The workers of gunicorn write one log file, configured as the documentation says; one of them rotates it, whoever is killed.
"""

from __future__ import annotations

import collections
import contextlib
import gzip
import http.client
import itertools
import os
import pathlib
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.request

from collections.abc import Callable, Iterator

import pytest


pytest.importorskip("gunicorn")

PAGE = pathlib.Path(__file__).parents[2] / "docs" / "how-to" / "log-files.md"
WORKERS, MAX_BYTES = 4, 20_000

#: What the page says for days, in seconds.
SOONER = {
    "/var/log/orders/app.log": "app.log",
    "interval=10": "policy=HealingPolicy(interval=0.2, fast_interval=0.1, timeout=2, fall=1, rise=1, probation=0.1)",
    "max_bytes=50_000_000": f"max_bytes={MAX_BYTES}",
    "max_total_bytes=500_000_000": "max_total_bytes=500_000_000, attempts=9, cooldown=0",
    "from selfheal import Healer, HealthCheck": "from selfheal import Healer, HealingPolicy, HealthCheck",
}

#: The first process that gets to the armed place is killed there, by itself, so that it is always the same place.
MINES = """
import fcntl, os, signal

def mined(call, place):
    def called(*args):
        die_at(f"before-{place(*args)}")
        result = call(*args)
        die_at(f"after-{place(*args)}")
        return result
    return called

def die_at(place):
    try:
        os.unlink(f"mine-{place}")
    except FileNotFoundError:
        return
    os.kill(os.getpid(), signal.SIGKILL)

fcntl.flock = mined(fcntl.flock, lambda file, how: "unlock" if how == fcntl.LOCK_UN else "lock")
os.replace = mined(os.replace, lambda source, target: "pack" if target.endswith(".gz") else "rename")
"""


class Server:
    """
    gunicorn in a folder, and callers that keep asking it.
    """

    def __init__(self, folder: pathlib.Path, *options: str) -> None:
        application, configuration = re.findall(
            r"^```python\n((?:# orders\.py|# gunicorn\.conf\.py)\n.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL
        )
        for said, sooner in SOONER.items():
            assert said in application
            application = application.replace(said, sooner)
        (folder / "orders.py").write_text(MINES + application)
        (folder / "gunicorn.conf.py").write_text(configuration.replace("workers = 4", f"workers = {WORKERS}"))
        self.folder = folder
        self.answered: set[str] = set()
        self._numbers = itertools.count()
        command = [sys.executable, "-W", "ignore", "-m", "gunicorn", "-b", "127.0.0.1:0", *options]
        self.process = subprocess.Popen(
            command, cwd=folder, env={**os.environ, "HOME": str(folder)}, stderr=subprocess.PIPE, text=True
        )
        assert self.process.stderr is not None
        self._said: list[str] = []
        for line in self.process.stderr:
            self._said.append(line)
            if listening := re.search(r"Listening at: (http://\S+)", line):
                break
        else:
            pytest.fail("".join(self._said))
        self._address = listening[1]
        self._reader = threading.Thread(target=lambda: self._said.extend(self.process.stderr or ()))
        self._reader.start()

    def ask(self) -> None:
        """Place an order; whoever answers it has logged it."""
        order = f"order-{next(self._numbers)}-{'x' * 600}-end"
        with (
            contextlib.suppress(OSError, http.client.HTTPException),
            urllib.request.urlopen(f"{self._address}/{order}", timeout=20) as page,
        ):
            page.read()
            self.answered.add(order)

    def ask_until(self, done: Callable[[], bool]) -> None:
        """Four callers place orders until it is done."""
        give_up = time.monotonic() + 40
        failed: list[str] = []

        def ask() -> None:
            while not done():
                if time.monotonic() > give_up:
                    failed.append("".join(self._said))
                    return
                self.ask()

        callers = [threading.Thread(target=ask) for _ in range(WORKERS)]
        for caller in callers:
            caller.start()
        for caller in callers:
            caller.join()
        assert [] == failed, (failed, sorted((path.name, path.stat().st_size) for path in self.folder.glob("app.log*")))

    def archives(self) -> dict[str, bytes]:
        """What is in the archives, by name."""
        found: dict[str, bytes] = {}
        for path in self.folder.glob("app.log.*"):
            with contextlib.suppress(FileNotFoundError):  # packed meanwhile
                if path.suffix == ".gz":
                    found[path.name] = gzip.decompress(path.read_bytes())
                elif path.suffix != ".tmp" and path.stat().st_size:
                    found[path.name] = path.read_bytes()
        return found

    def is_finished(self) -> bool:
        """Whether no archive is there in both forms."""
        names = {path.name for path in self.folder.glob("app.log.*")}
        return not any(f"{name}.gz" in names for name in names)

    def stop(self) -> None:
        """End it, as its supervisor would."""
        self.process.send_signal(signal.SIGTERM)
        assert 0 == self.process.wait(40), "".join(self._said)

    def close(self) -> None:
        """Whatever has happened."""
        self.process.kill()
        self.process.wait()
        self._reader.join()
        assert self.process.stderr is not None
        self.process.stderr.close()


@pytest.fixture
def serve(tmp_path: pathlib.Path) -> Iterator[Callable[..., Server]]:
    servers: list[Server] = []

    def start(*options: str) -> Server:
        servers.append(Server(tmp_path, *options))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


def assert_nothing_is_lost_and_each_was_due(server: Server) -> None:
    archives = server.archives()
    contents = [(server.folder / "app.log").read_bytes(), *archives.values()]
    lines = collections.Counter(line for content in contents for line in content.decode().splitlines())
    assert set() == server.answered - set(lines)
    assert [] == [line for line in lines if not re.fullmatch(r"order-\d+-x{600}-end", line)]
    assert {1} == set(lines.values())
    assert {} == {name: len(content) for name, content in archives.items() if len(content) <= MAX_BYTES}


def test_a_log_of_four_workers_is_rotated_by_one_of_them(serve: Callable[..., Server]) -> None:
    """
    Each time the file has grown too long one worker rotates it and the others go on in the new one: no line is lost,
    torn or doubled, and no archive is shorter than it may be.
    """
    server = serve("--worker-class=gthread", "--threads=4")
    server.ask_until(lambda: len(server.archives()) >= 3)
    server.stop()
    assert_nothing_is_lost_and_each_was_due(server)


@pytest.mark.at_length
def test_whoever_is_killed_while_it_rotates_costs_no_line(serve: Callable[..., Server]) -> None:
    """
    The worker that rotates is killed at each step of it, one after the other: another finishes the work, a new worker
    takes part, and no line is lost, torn or doubled.
    """
    server = serve("--preload")
    for place in ("after-lock", "before-rename", "after-rename", "before-unlock", "before-pack", "after-pack"):
        mine = server.folder / f"mine-{place}"
        mine.touch()
        server.ask_until(lambda mine=mine: not mine.exists())
        done = len(server.archives())
        server.ask_until(lambda done=done: len(server.archives()) > done and server.is_finished())
    server.stop()
    assert_nothing_is_lost_and_each_was_due(server)
