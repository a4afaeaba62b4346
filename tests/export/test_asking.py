"""
``python -m selfheal check``: what it takes for a yes, and what it does not wait for.
"""

from __future__ import annotations

import contextlib
import itertools
import socket
import threading
import time

from collections.abc import Iterable, Iterator

import pytest

from selfheal import ConfigError
from selfheal.__main__ import main
from selfheal.export.http.asking import Said, ask


@contextlib.contextmanager
def answers(parts: Iterable[bytes], *, every: float = 0.0) -> Iterator[str]:
    """Somebody who sends *parts* to the first who asks; the address."""
    ended = threading.Event()

    def serve() -> None:
        with contextlib.suppress(OSError):
            connection, _ = listening.accept()
            with connection:
                connection.recv(4096)
                for part in parts:
                    connection.sendall(part)
                    if ended.wait(every):
                        return

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            ended.set()
            with contextlib.suppress(OSError):
                listening.shutdown(socket.SHUT_RDWR)
            thread.join()


def said(status: str, *fields: str, body: str = "told") -> list[bytes]:
    head = [f"HTTP/1.1 {status}", *fields, f"Content-Length: {len(body)}", "", ""]
    return ["\r\n".join(head).encode() + body.encode()]


def test_who_drips_is_not_waited_for() -> None:
    """
    The deadline is one for all of it: a byte of a header now and then makes it no later.
    """
    drip = itertools.chain([b"HTTP/1.1 200 OK\r\nX-Y: "], itertools.repeat(b"y"))
    with answers(drip, every=0.05) as address:
        began = time.monotonic()
        assert Said(well=False, text=f"{address} does not answer: timed out") == ask(address, timeout=0.3)
        assert time.monotonic() - began < 10


@pytest.mark.parametrize(
    ("status", "expected"),
    [("200 OK", 0), ("204 No Content", 0), ("299 Mine", 0), ("401 Unauthorized", 1), ("503 No", 1), ("600 What", 1)],
)
def test_only_a_status_of_2xx_is_well(status: str, expected: int) -> None:
    """
    Any other answer is a no.
    """
    with answers(said(status, body="" if "204" in status else "told")) as address:
        assert expected == main(["check", f"{address}/readyz", "--timeout", "60"])


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (said("302 Found", "Location: /login"), "leads elsewhere, with status 302"),
        (said("304 Not Modified", body=""), "leads elsewhere, with status 304"),
        (said("200 OK", "Content-Type: text/html; charset=utf-8"), "is a page for people: name /livez or /readyz"),
    ],
)
def test_what_says_nothing_of_health_is_no_yes(answer: list[bytes], why: str, capsys: pytest.CaptureFixture) -> None:
    """
    A redirect, which is not followed, and the page: one line that says what to ask instead, and 2.
    """
    with answers(answer) as address:
        assert 2 == main(["check", f"{address}/", "--timeout", "60"])
    told = capsys.readouterr()
    assert ("", True, 1) == (told.out, why in told.err, told.err.count("\n"))


@pytest.mark.parametrize(
    "target",
    [
        "http://127.0.0.1:1/ä",
        f"http://{'x' * 64}.example/",
        "http://u:hunter2@/",
        "http://u:hunter2/x@h/ä",
        "u:hunter2@h",
    ],
)
def test_a_target_that_is_none_is_one_line(target: str, capsys: pytest.CaptureFixture) -> None:
    """
    Without the password that stands in it.
    """
    assert 2 == main(["check", target])
    told = capsys.readouterr()
    assert ("", 1) == (told.out, told.err.count("\n"))
    assert "hunter2" not in told.err


def test_a_password_is_not_told_of_who_does_not_answer() -> None:
    """
    The address is, without it.
    """
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    told = ask(f"http://u:hunter2@127.0.0.1:{port}/livez")
    assert (False, True) == (told.well, told.text.startswith(f"***@127.0.0.1:{port}/livez does not answer: "))


@pytest.mark.parametrize("seconds", ["0", "-1", "nan", "inf", "1e12", "soon"])
def test_a_timeout_that_nobody_waits_for_is_refused(seconds: str, capsys: pytest.CaptureFixture) -> None:
    """
    As every mistyped option is.
    """
    with pytest.raises(SystemExit, match="2"):
        main(["check", "http://127.0.0.1:1", "--timeout", seconds])
    assert "--timeout" in capsys.readouterr().err


def test_what_cannot_be_asked_is_a_setting() -> None:
    """
    In Python it is a `ConfigError`.
    """
    with pytest.raises(ConfigError, match="cannot be asked"):
        ask("ftp://127.0.0.1")
