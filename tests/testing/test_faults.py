"""
The fault kit, on real sockets of the loopback and without a sleep.
"""

from __future__ import annotations

import contextlib
import math
import socket
import struct
import threading

from collections.abc import Iterator

import anyio
import pytest

from selfheal.errors import SelfHealError
from selfheal.testing import FaultProxy, Flaky


@pytest.fixture
def echo() -> Iterator[int]:
    """The port of a server that says everything back."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                threading.Thread(target=say_back, args=(connection,), daemon=True).start()

        def say_back(connection: socket.socket) -> None:
            with connection:
                try:
                    while data := connection.recv(65_536):
                        connection.sendall(data)
                except OSError:
                    return

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)
    thread.join()


@pytest.fixture
def proxy(echo: int) -> Iterator[FaultProxy]:
    """A proxy in front of it."""
    with FaultProxy(echo) as proxy:
        yield proxy


def client(proxy: FaultProxy) -> socket.socket:
    """A connection that gives up after 5 s."""
    return socket.create_connection(("127.0.0.1", proxy.port), timeout=5)


def said_back(connection: socket.socket, data: bytes) -> bytes:
    """What comes back for *data*."""
    connection.sendall(data)
    answer = b""
    while len(answer) < len(data) and (piece := connection.recv(65_536)):
        answer += piece
    return answer


def is_mute(connection: socket.socket) -> bool:
    """Whether nothing comes back for a while."""
    connection.sendall(b"anyone?")
    connection.settimeout(0.1)
    try:
        connection.recv(1)
    except TimeoutError:
        return True
    return False


def test_a_server_that_breaks_off_is_felt_through_the_proxy() -> None:
    """
    A client that waits for an answer is not left waiting when the server resets the connection.
    """
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        FaultProxy(server.getsockname()[1]) as proxy,
        client(proxy) as waiting,
    ):
        waiting.sendall(b"a question")
        peer, _ = server.accept()
        peer.recv(10)
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        peer.close()
        with contextlib.suppress(ConnectionResetError):  # as good
            assert b"" == waiting.recv(1)


def test_a_retargeted_proxy_leads_newcomers_elsewhere(proxy: FaultProxy) -> None:
    """
    New connections go to the other server, open ones stay with theirs.
    """
    with socket.create_server(("127.0.0.1", 0)) as other, client(proxy) as old:
        assert b"here" == said_back(old, b"here")
        proxy.retarget(other.getsockname()[1])
        with client(proxy) as new, other.accept()[0] as peer:
            peer.sendall(b"there")
            assert b"there" == new.recv(5, socket.MSG_WAITALL)
            assert b"still here" == said_back(old, b"still here")


def test_a_proxy_lets_everything_through_at_first(proxy: FaultProxy) -> None:
    """
    Untold, the proxy carries a megabyte there and back unchanged.
    """
    data = bytes(range(256)) * 4096
    with client(proxy) as connection:
        sender = threading.Thread(target=connection.sendall, args=(data,))
        sender.start()
        answer = b""
        while len(answer) < len(data):
            answer += connection.recv(65_536)
        sender.join()
        assert data == answer
        assert 1 == proxy.connections


def test_the_end_of_one_side_reaches_the_other(proxy: FaultProxy) -> None:
    """
    A client that says it is done gets the rest of the answer, then the end.
    """
    with client(proxy) as connection:
        connection.sendall(b"last words")
        connection.shutdown(socket.SHUT_WR)
        answer = b""
        while piece := connection.recv(65_536):
            answer += piece
        assert b"last words" == answer


def test_a_refusing_proxy_refuses_new_connections_only(proxy: FaultProxy) -> None:
    """
    `refuse` gives ECONNREFUSED to newcomers and leaves open connections alone, until `heal` on the same port.
    """
    with client(proxy) as old:
        assert b"a" == said_back(old, b"a")
        proxy.refuse()
        with pytest.raises(ConnectionRefusedError):
            client(proxy)
        assert b"b" == said_back(old, b"b")
        proxy.heal()
        with client(proxy) as new:
            assert b"c" == said_back(new, b"c")


def test_a_blackhole_accepts_and_never_answers(proxy: FaultProxy) -> None:
    """
    In a `blackhole` old and new connections work and stay mute.
    """
    with client(proxy) as old:
        assert b"a" == said_back(old, b"a")
        proxy.blackhole()
        assert is_mute(old)
        with client(proxy) as new:
            assert is_mute(new)


def test_what_a_blackhole_has_swallowed_is_lost_for_good(proxy: FaultProxy) -> None:
    """
    After `heal` a connection that lost something stays mute; one that lost nothing, and a new one, work.
    """
    with client(proxy) as talker, client(proxy) as listener:
        assert (b"a", b"a") == (said_back(talker, b"a"), said_back(listener, b"a"))
        proxy.blackhole()
        assert is_mute(talker)
        proxy.heal()
        assert is_mute(talker)
        assert b"b" == said_back(listener, b"b")
        with client(proxy) as new:
            assert b"c" == said_back(new, b"c")


def test_a_reset_breaks_what_is_open(proxy: FaultProxy) -> None:
    """
    `reset` sends RST over every open connection, once.
    """
    with client(proxy) as old:
        assert b"a" == said_back(old, b"a")
        proxy.reset()
        with pytest.raises(ConnectionResetError):
            old.recv(1)
    with client(proxy) as new:
        assert b"b" == said_back(new, b"b")


def test_an_answer_is_cut_in_the_middle(proxy: FaultProxy) -> None:
    """
    `cut` lets so many bytes of each connection's answers through, then closes it.
    """
    with client(proxy) as old:
        assert b"whole" == said_back(old, b"whole")
        proxy.cut(after=3)
        assert b"hal" == said_back(old, b"half")
        with client(proxy) as new:
            assert b"12" == said_back(new, b"12")
            assert b"3" == said_back(new, b"34")
    proxy.heal()
    with client(proxy) as healed:
        assert b"whole" == said_back(healed, b"whole")


def test_a_server_that_is_not_there_ends_the_connection() -> None:
    """
    A proxy without a server behind it closes what it accepts.
    """
    with socket.create_server(("127.0.0.1", 0)) as gone:
        port = gone.getsockname()[1]
    with FaultProxy(port) as proxy, client(proxy) as connection:
        assert b"" == connection.recv(1)


def test_a_closed_proxy_says_so(echo: int) -> None:
    """
    Outside its block a proxy has no connections and takes no orders.
    """
    with FaultProxy(echo) as proxy, client(proxy) as connection:
        assert b"a" == said_back(connection, b"a")
    with pytest.raises(SelfHealError, match="does not run"):
        proxy.blackhole()
    with pytest.raises(ConnectionRefusedError):
        client(proxy)


def test_a_script_is_followed_before_the_mood() -> None:
    """
    `Flaky` takes one entry of its script a call, then does what it was last told.
    """
    spent: list[float] = []
    flaky = Flaky("fine", script=[None, OSError("scripted"), 3.0], sleep=spent.append)
    flaky.fail()
    assert "fine" == flaky()
    with pytest.raises(OSError, match="scripted"):
        flaky()
    assert ("fine", [3.0]) == (flaky(), spent)
    with pytest.raises(ConnectionError, match="told to fail"):
        flaky()
    flaky.slow(7.0)
    assert ("fine", [3.0, 7.0], 5) == (flaky(), spent, flaky.calls)


def test_a_hanging_call_returns_when_it_is_healed() -> None:
    """
    A call that hangs in a thread is counted, and gives its result once healed.
    """
    flaky = Flaky("late", script=[math.inf])
    answers: list[str] = []
    thread = threading.Thread(target=lambda: answers.append(flaky()))
    thread.start()
    while not flaky.hanging:
        thread.join(0.001)
    flaky.heal()
    thread.join(5)
    assert (["late"], 0) == (answers, flaky.hanging)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_an_async_call_does_the_same(backend: str) -> None:
    """
    `acall` fails, hangs and heals like a plain call, on asyncio and on trio, and can be cancelled.
    """

    async def main() -> None:
        flaky = Flaky("fine", script=[OSError("scripted"), 0.0])
        with pytest.raises(OSError, match="scripted"):
            await flaky.acall()
        assert "fine" == await flaky.acall()
        flaky.hang()
        with anyio.move_on_after(0.01) as scope:
            await flaky.acall()
        assert (True, 0) == (scope.cancelled_caught, flaky.hanging)
        answers: list[str] = []

        async def call() -> None:
            answers.append(await flaky.acall())

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(call)
            while not flaky.hanging:
                await anyio.lowlevel.checkpoint()
            flaky.heal()
        assert ["fine"] == answers

    anyio.run(main, backend=backend)
