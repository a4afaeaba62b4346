"""
The listener of our own, the command line that asks it, and ASGI on either loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import http.client
import os
import socket
import subprocess
import sys
import threading
import time

from typing import Any

import pytest

from serving import Ask

from selfheal import ConfigError, Healer, HealingPolicy, HealthCheck
from selfheal.errors import IllegalTransitionError
from selfheal.export.http import Listener, asgi_app, listen
from selfheal.export.http import listener as listener_module
from selfheal.export.http.asking import ask


TOKEN = "correct horse battery staple"
POLICY = HealingPolicy(interval=0.2, fast_interval=0.1, timeout=1, fall=2, rise=2)


def port_of(listener: Listener) -> int:
    return int(listener.address.rpartition(":")[2])


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_asyncio_and_trio_are_served(service: Any, backend: str) -> None:
    """
    An action, metrics and a stream that ends with its client, on either loop.
    """
    import anyio

    app = asgi_app(service.healer, TOKEN, actions=True)
    headers = [(b"authorization", f"Bearer {TOKEN}".encode()), (b"x-selfheal", b"1")]

    async def call(method: str, path: str, body: bytes = b"", *, parts: int = 2) -> list[dict]:
        sent: list[dict] = []
        gone = anyio.Event()
        received = [{"type": "http.request", "body": body}]

        async def receive() -> dict:
            if received:
                return received.pop()
            await gone.wait()
            return {"type": "http.disconnect"}

        async def send(message: dict) -> None:
            sent.append(message)
            if len(sent) >= parts:
                gone.set()

        with anyio.fail_after(30):
            await app({"type": "http", "method": method, "path": path, "headers": headers}, receive, send)
        return sent

    async def main() -> None:
        assert b"paused" in (await call("POST", "/pause", b'{"reason": "x"}'))[1]["body"]
        assert b"selfheal_probe_up" in (await call("GET", "/metrics"))[1]["body"]
        stream = await call("GET", "/events", parts=4)
        assert stream[3]["body"].startswith(b"event: change")

    anyio.run(main, backend=backend)
    assert service.healer.paused


def test_the_listener_answers_while_the_loop_is_blocked() -> None:
    """
    Liveness comes from threads of its own: at once, and it says that the loop does not turn.
    """
    import asyncio

    released = threading.Event()

    async def main() -> list[tuple[float, int, str, bytes]]:
        healer = Healer([HealthCheck(lambda: None, name="db", policy=POLICY)])
        async with healer:
            await healer.await_healthy("db", timeout=30)
            with listen(healer, port=0) as listener:
                asks = Ask(port_of(listener))
                answers = []

                def look() -> None:
                    for _ in range(8):
                        time.sleep(0.4)
                        began = time.monotonic()
                        answer = asks("/livez?verbose")
                        took = time.monotonic() - began
                        answers.append((took, answer.status, answer.headers["x-selfheal-status"], answer.body))
                    released.set()

                looking = threading.Thread(target=look)
                looking.start()
                released.wait(60)  # the loop is blocked
                looking.join()
                return answers

    answers = asyncio.run(main())
    assert {200} == {status for _, status, _, _ in answers}
    assert "warn" == answers[-1][2]
    assert b"its loop has not turned for" in answers[-1][3]
    # Far below the three seconds for which the loop is blocked, on the slowest machine.
    assert max(took for took, *_ in answers) < 2


def test_details_are_not_for_proxies_and_foreign_names(service: Any) -> None:
    """
    What a proxy has passed on, and a page that has made its name lead here, need the token.
    """
    with listen(service.healer, port=0) as listener:
        asks = Ask(port_of(listener))
        assert 200 == asks("/state").status
        assert 200 == asks("/state", Host="localhost:1").status
        for header in ("Forwarded", "Via", "X_Forwarded_For", "X_Forwarded_Host", "X_Real_Ip", "True_Client_IP"):
            assert 404 == asks("/state", **{header: "x"}).status
        for header in ("X_Client_IP", "CF_Connecting_IP", "X_Original_Forwarded_For"):
            assert 404 == asks("/state", **{header: "x"}).status
        assert 404 == asks("/state", Host="rebound.example.com").status
        assert 404 == asks("/state", Host="rebound.example.com@localhost").status


def test_a_listener_says_what_is_in_its_way(service: Any, tmp_path) -> None:
    """
    A port that is taken, a path that is no socket, and a second start.
    """
    with listen(service.healer, port=0) as listener:
        port = port_of(listener)
        with pytest.raises(ConfigError, match=f"{port} cannot be listened to"):
            listen(service.healer, port=port).start()
        with pytest.raises(IllegalTransitionError, match="already"):
            listener.start()
    (tmp_path / "file").write_text("precious")
    with pytest.raises(ConfigError, match="cannot be listened to"):
        listen(service.healer, path=str(tmp_path / "file")).start()
    assert "precious" == (tmp_path / "file").read_text()


def test_a_unix_socket_is_for_this_user_alone(service: Any, tmp_path) -> None:
    """
    Its mode is 0600, a stale one is replaced, one that somebody serves is not, and it goes with the listener.
    Whoever connects sees details, by whatever name.
    """
    path = tmp_path / "health.sock"
    stale = socket.socket(socket.AF_UNIX)
    stale.bind(str(path))
    stale.close()
    with listen(service.healer, path=str(path)) as listener:
        assert 0o600 == path.stat().st_mode & 0o777
        assert f"unix:{path}" == listener.address
        client = socket.socket(socket.AF_UNIX)
        with contextlib.closing(client):
            client.connect(str(path))
            client.sendall(b"GET /state HTTP/1.1\r\nHost: shop\r\n\r\n")
            assert b" 200 " in client.recv(65536)
        with pytest.raises(ConfigError, match="cannot be listened to"):
            listen(service.healer, path=str(path)).start()
    assert not path.exists()


def serving() -> list[str]:
    """Threads of listeners and of their connections."""
    names = (thread.name for thread in threading.enumerate())
    return [name for name in names if name == "selfheal-http" or "process_request_thread" in name]


def test_silent_and_many_clients_do_not_keep_others_out(service: Any) -> None:
    """
    Connections that say nothing are closed, more than the bound at once, and a stopped listener leaves no thread.
    """
    with listen(service.healer, port=0) as listener:
        port = port_of(listener)
        idle = [socket.create_connection(("127.0.0.1", port)) for _ in range(300)]
        time.sleep(0.5)
        closed = 0
        for client in idle:
            client.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                closed += client.recv(1) == b""
        assert 300 - 256 <= closed
        for client in idle:
            client.close()
        until = time.monotonic() + 30
        while time.monotonic() < until:
            with contextlib.suppress(OSError, http.client.HTTPException):
                if Ask(port)("/livez").status == 200:
                    break
            time.sleep(0.05)
        else:
            pytest.fail("nobody is served any more")
    until = time.monotonic() + 30
    while serving() and time.monotonic() < until:
        time.sleep(0.05)
    assert [] == serving()


@pytest.mark.parametrize(
    "beginning", [b"", b"POST /drain HTTP/1.1\r\nHost: localhost\r\nContent-Length: 999\r\n\r\n"], ids=["head", "body"]
)
def test_who_sends_a_byte_now_and_then_keeps_no_connection(
    service: Any, beginning: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    A request that does not come to an end is not waited for, however busy its client; a stream goes on.
    """
    monkeypatch.setattr(listener_module, "_PATIENCE", 0.3)
    with listen(service.healer, TOKEN, port=0) as listener:
        where = ("127.0.0.1", port_of(listener))
        with socket.create_connection(where) as stream, socket.create_connection(where) as client:
            stream.sendall(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
            stream.settimeout(30)
            until = time.monotonic() + 30
            with contextlib.suppress(ConnectionError):
                client.sendall(beginning)
                while time.monotonic() < until:
                    client.sendall(b"x")
                    time.sleep(0.1)
            assert time.monotonic() < until
            service.down = True
            received = b""
            while b"event: change" not in received:
                part = stream.recv(65_536)
                assert part
                received += part


def test_connections_for_which_there_was_no_thread_are_forgotten(service: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    When there are threads again, the listener answers, however many connections had none.
    """
    monkeypatch.setattr(listener_module, "_CONNECTIONS", 2)
    start = threading.Thread.start

    def none_left(thread: threading.Thread) -> None:
        if "process_request_thread" in thread.name:
            msg = "can't start new thread"
            raise RuntimeError(msg)
        start(thread)

    with listen(service.healer, port=0) as listener:
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", none_left)
            for _ in range(3):
                with socket.create_connection(("127.0.0.1", port_of(listener))) as client:
                    client.settimeout(30)
                    with contextlib.suppress(ConnectionError):
                        assert b"" == client.recv(1)
        assert 200 == Ask(port_of(listener))("/livez").status


def test_a_listener_that_got_no_thread_can_be_started_again(
    service: Any, tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    It says so, listens to nothing, and stops at once.
    """

    def none_left(thread: threading.Thread) -> None:
        msg = "can't start new thread"
        raise RuntimeError(msg)

    listener = listen(service.healer, path=str(tmp_path / "health"))
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", none_left)
        with pytest.raises(RuntimeError, match="thread"):
            listener.start()
    listener.stop()
    with listener:
        assert "pass" in ask(f"{listener.address}:/health")[1]


def test_a_process_without_descriptors_does_not_spin(service: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    A connection that cannot be accepted is tried again now and then, and answered when it can.
    """
    tried = []
    accept = socket.socket.accept

    def none_left(listening: socket.socket) -> Any:
        tried.append(listening)
        raise OSError(errno.EMFILE, "Too many open files")

    with listen(service.healer, port=0) as listener:
        with monkeypatch.context() as patch:
            patch.setattr(socket.socket, "accept", none_left)
            with socket.create_connection(("127.0.0.1", port_of(listener))) as client:
                client.sendall(b"GET /livez HTTP/1.0\r\n\r\n")
                time.sleep(0.5)
                patch.setattr(socket.socket, "accept", accept)
                assert client.recv(65_536).startswith(b"HTTP/1.1 200")
        assert 1 <= len(tried) <= 10


def test_a_listener_that_has_stopped_answers_nobody(service: Any) -> None:
    """
    Connections that were kept alive are closed, and streams end: nothing can be asked for any more.
    """
    with listen(service.healer, TOKEN, port=0) as listener:
        kept = http.client.HTTPConnection("127.0.0.1", port_of(listener), timeout=30)
        stream = http.client.HTTPConnection("127.0.0.1", port_of(listener), timeout=30)
        with contextlib.closing(kept), contextlib.closing(stream):
            stream.request("GET", "/events")
            events = stream.getresponse()
            assert b"retry: 2000\n" == events.readline()
            kept.request("GET", "/livez")
            assert b"ok\n" == kept.getresponse().read()
            listener.stop()
            events.read()
            with pytest.raises((http.client.RemoteDisconnected, ConnectionError)):  # noqa: PT012 - whichever sees it
                kept.request("GET", "/livez")
                kept.getresponse()


@pytest.mark.parametrize(
    "head",
    [
        b"Host: localhost\r\nContent-Length : 57",
        b"Host: localhost\r\nno header\r\nX-Forwarded-For: 192.0.2.1",
        b"Host: localhost\r\nA: b\r\r\nX-Forwarded-For: 192.0.2.1",
        b"Host: localhost\r\nA: b\rContent-Length: 57",
        b"Host: localhost\r\nA: b\r\n X-Forwarded-For: 192.0.2.1",
        b"Host: localhost\r\nHost: orders.example",
        b"A: b",
    ],
    ids=["space", "no-colon", "bare-end", "bare", "folded", "two-hosts", "no-host"],
)
def test_what_servers_read_in_different_ways_is_refused(service: Any, head: bytes) -> None:
    """
    A 400 and the end: nothing behind it is taken for a request, and no header before a proxy's hides it.
    """
    hidden = b"GET /state HTTP/1.1\r\nHost: localhost\r\n\r\n"
    received = b""
    with (
        listen(service.healer, port=0) as listener,
        socket.create_connection(("127.0.0.1", port_of(listener))) as client,
    ):
        client.settimeout(30)
        # In one piece: who is refused may not be there any more for a second.
        client.sendall(b"GET /state HTTP/1.1\r\n" + head + b"\r\n\r\n" + hidden)
        with contextlib.suppress(ConnectionError):
            while part := client.recv(65_536):
                received += part
    assert [b"400 "] == [answer[:4] for answer in received.split(b"HTTP/1.1 ")[1:]]


def test_an_open_stream_does_not_keep_aiohttp_from_ending(service: Any) -> None:
    """
    When the application shuts down its streams end, so that nobody waits for them.
    """
    import asyncio

    web = pytest.importorskip("aiohttp.web")

    from selfheal.export.http import Handler
    from selfheal.integrations.aiohttp import add_routes

    async def main() -> float:
        app = web.Application()
        add_routes(app, Handler(service.healer, TOKEN))
        runner = web.AppRunner(app, shutdown_timeout=60)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        reader, writer = await asyncio.open_connection(*runner.addresses[0])
        asked = f"GET /selfheal/events HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\n\r\n"
        writer.write(asked.encode())
        await reader.readuntil(b"retry: 2000")
        began = time.monotonic()
        await runner.cleanup()
        took = time.monotonic() - began
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
        return took

    assert asyncio.run(main()) < 20


FORKS = """
import os, socket, sys, warnings
from selfheal import Healer, HealthCheck
from selfheal.export.http import listen
warnings.simplefilter("ignore")
with Healer([HealthCheck(lambda: None, name="db")]) as healer:
    listener = listen(healer, port=0)
    listener.start()
    port = int(listener.address.rpartition(":")[2])
    ready, told = os.pipe()
    if not os.fork():
        listener.stop()
        os.write(told, b"x")
        sys.stdin.read()
        os._exit(0)
    assert os.read(ready, 1) == b"x"
    socket.create_connection(("127.0.0.1", port)).close()
    listener.stop()
    try:
        socket.create_connection(("127.0.0.1", port))
    except ConnectionRefusedError:
        print("closed", flush=True)
"""


def test_a_fork_takes_no_connections() -> None:
    """
    A child stops at once, and once its parent has stopped nobody listens any more.
    """
    command = [sys.executable, "-c", FORKS]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert "closed\n" == process.stdout.readline()
        process.stdin.close()


def test_the_listener_is_a_class_of_its_own(service: Any) -> None:
    """
    One handler may be served in several places, and they drain together.
    """
    app = asgi_app(service.healer, TOKEN, actions=True)
    with Listener(app.handler, port=0) as listener:
        asks = Ask(port_of(listener))
        app.handler.draining = True
        app.handler.renew()
        assert 503 == asks("/readyz").status


def checked(*arguments: str) -> tuple[int, str]:
    """What the command line says, and how it ends."""
    command = [sys.executable, "-W", "ignore", "-m", "selfheal", "check", *arguments]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60, env={**os.environ, "http_proxy": "x"})
    return run.returncode, run.stdout + run.stderr


def test_the_command_line_asks_for_docker(service: Any, tmp_path) -> None:
    """
    0 and the answer, or 1: over TCP and a UNIX socket, through no proxy.
    """
    with listen(service.healer, port=0) as tcp, listen(service.healer, path=str(tmp_path / "s")) as unix:
        assert (0, "ok\n") == checked(tcp.address, "--timeout", "30")
        assert (0, "ok\n") == checked(f"{unix.address}:/readyz", "--timeout", "30")
        code, said = checked(f"{tcp.address}/nothing?x=1")
        assert (1, True) == (code, "nothing here" in said)
        gone = tcp.address
    code, said = checked(gone)
    assert (1, True) == (code, "does not answer" in said)


@pytest.mark.parametrize(
    "target", ["", "127.0.0.1:1", "ftp://x/", "http://", "unix:", "http://[", "http://x:y/", "http://x/ y"]
)
def test_a_target_that_cannot_be_asked_is_named(target: str) -> None:
    """
    With what to write instead.
    """
    with pytest.raises(ConfigError, match=r"cannot be asked\. Write http:"):
        ask(target)


def test_metrics_and_actions_are_answered_though_the_application_has_used_up_its_threads(service: Any) -> None:
    """
    In an aiohttp application whose executor is busy for long, `/metrics` and a pause are answered at once.
    """
    aiohttp = pytest.importorskip("aiohttp")
    from aiohttp import test_utils, web

    from selfheal.export.http import Handler
    from selfheal.integrations.aiohttp import add_routes

    over = threading.Event()

    async def statuses() -> list[int]:
        app = web.Application()
        add_routes(app, Handler(service.healer, TOKEN, actions=True))
        headers = {"Authorization": f"Bearer {TOKEN}", "X-SelfHeal": "1"}
        loop = asyncio.get_running_loop()
        waiting = [loop.run_in_executor(None, over.wait, 30) for _ in range(64)]
        async with test_utils.TestClient(
            test_utils.TestServer(app), headers=headers, timeout=aiohttp.ClientTimeout(total=10)
        ) as client:
            metrics = await client.get("/selfheal/metrics")
            paused = await client.post("/selfheal/pause", json={"reason": "a test"})
            over.set()
            await asyncio.gather(*waiting)
            return [metrics.status, paused.status]

    assert [200, 200] == asyncio.run(statuses())
