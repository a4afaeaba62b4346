"""
Health over HTTP, through real servers and sockets: the same answers wherever it is mounted.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import socket
import subprocess
import sys
import threading
import time

from collections.abc import Callable, Generator
from typing import Any

import pytest

from selfheal import ConfigError, Healer, HealingPolicy, HealthCheck
from selfheal.errors import IllegalTransitionError
from selfheal.export.http import Handler, Listener, asgi_app, listen, mounted_asgi, mounted_wsgi, wsgi_app
from selfheal.export.http.asking import ask


TOKEN = "correct horse battery staple"
POLICY = HealingPolicy(interval=0.2, fast_interval=0.1, timeout=1, fall=2, rise=2)


class Answer:
    def __init__(self, answer: http.client.HTTPResponse) -> None:
        self.status = answer.status
        self.headers = {name.lower(): value for name, value in answer.getheaders()}
        self.body = answer.read()


class Ask:
    """Somebody who asks over a connection of its own each time."""

    def __init__(self, port: int, mount: str = "") -> None:
        self.port = port
        self.mount = mount

    def __call__(self, path: str, method: str = "GET", body: bytes | None = None, **headers: str) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        fields = {name.replace("_", "-"): value for name, value in headers.items()}
        with contextlib.closing(connection):
            connection.request(method, self.mount + path, body, fields)
            return Answer(connection.getresponse())


def port_of(listener: Listener) -> int:
    return int(listener.address.rpartition(":")[2])


@contextlib.contextmanager
def uvicorn_serving(app: object) -> Generator[int]:
    uvicorn = pytest.importorskip("uvicorn")
    listening = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="critical", lifespan="auto", ws="none"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        yield listening.getsockname()[1]
    finally:
        server.should_exit = True
        thread.join(30)
        listening.close()


@contextlib.contextmanager
def wsgi_serving(app: object) -> Generator[int]:
    import wsgiref.simple_server

    class Silent(wsgiref.simple_server.WSGIRequestHandler):
        def log_message(self, *args: object) -> None:
            """Nobody reads it."""

    with wsgiref.simple_server.make_server("127.0.0.1", 0, app, handler_class=Silent) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join(30)


async def hello_asgi(scope, receive, send) -> None:
    """The application beside it."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"hello"})


def hello_wsgi(environ, start_response):
    """The application beside it."""
    start_response("200 OK", [])
    return [b"hello"]


@contextlib.contextmanager
def bare_asgi(service: Any) -> Generator[Ask]:
    with uvicorn_serving(asgi_app(service.healer, TOKEN, actions=True)) as port:
        yield Ask(port)


@contextlib.contextmanager
def around_asgi(service: Any) -> Generator[Ask]:
    app = mounted_asgi(hello_asgi, asgi_app(service.healer, TOKEN, actions=True))
    with uvicorn_serving(app) as port:
        assert b"hello" == Ask(port)("/").body
        assert b"hello" == Ask(port)("/selfhealing").body
        yield Ask(port, "/selfheal")


@contextlib.contextmanager
def starlette(service: Any) -> Generator[Ask]:
    applications = pytest.importorskip("starlette.applications")
    from starlette.routing import Mount

    app = applications.Starlette(routes=[Mount("/health", asgi_app(service.healer, TOKEN, actions=True))])
    with uvicorn_serving(app) as port:
        yield Ask(port, "/health")


@contextlib.contextmanager
def fastapi(service: Any) -> Generator[Ask]:
    module = pytest.importorskip("fastapi")
    app = module.FastAPI()
    app.mount("/deep/health", asgi_app(service.healer, TOKEN, actions=True))
    with uvicorn_serving(app) as port:
        yield Ask(port, "/deep/health")


@contextlib.contextmanager
def bare_wsgi(service: Any) -> Generator[Ask]:
    with wsgi_serving(wsgi_app(service.healer, TOKEN, actions=True)) as port:
        yield Ask(port)


@contextlib.contextmanager
def flask(service: Any) -> Generator[Ask]:
    module = pytest.importorskip("flask")
    from werkzeug.middleware.dispatcher import DispatcherMiddleware

    app = module.Flask("hello")
    app.wsgi_app = DispatcherMiddleware(app.wsgi_app, {"/selfheal": wsgi_app(service.healer, TOKEN, actions=True)})
    with wsgi_serving(app) as port:
        yield Ask(port, "/selfheal")


@contextlib.contextmanager
def around_wsgi(service: Any) -> Generator[Ask]:
    app = mounted_wsgi(hello_wsgi, wsgi_app(service.healer, TOKEN, actions=True), at="/-")
    with wsgi_serving(app) as port:
        assert b"hello" == Ask(port)("/").body
        yield Ask(port, "/-")


@contextlib.contextmanager
def aiohttp(service: Any) -> Generator[Ask]:
    web = pytest.importorskip("aiohttp.web")
    import asyncio

    from selfheal.integrations.aiohttp import add_routes

    loop, app = asyncio.new_event_loop(), web.Application()
    add_routes(app, Handler(service.healer, TOKEN, actions=True), "/-/health")
    runner = web.AppRunner(app)
    listening = socket.create_server(("127.0.0.1", 0))

    async def start() -> None:
        await runner.setup()
        await web.SockSite(runner, listening).start()

    loop.run_until_complete(start())
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield Ask(listening.getsockname()[1], "/-/health")
    finally:
        asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result(30)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(30)
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()


@contextlib.contextmanager
def django_project() -> Generator[None]:
    """One that no probe by the address of a pod would get past: it knows one host, and redirects to TLS."""
    django = pytest.importorskip("django")
    from django.conf import settings
    from django.utils.functional import empty

    others, settings._wrapped = settings._wrapped, empty  # another file of tests may have a project of its own
    settings.configure(
        ALLOWED_HOSTS=["shop.example"],
        LOGGING_CONFIG=None,
        MIDDLEWARE=["django.middleware.security.SecurityMiddleware", "django.middleware.common.CommonMiddleware"],
        ROOT_URLCONF=__name__,
        SECRET_KEY="secret",
        SECURE_SSL_REDIRECT=True,
    )
    try:
        django.setup()
        yield
    finally:
        from django.db import connections

        settings._wrapped, connections._settings = others, None
        connections.__dict__.pop("settings", None)  # which it has looked up


urlpatterns: list[object] = []


@contextlib.contextmanager
def django_asgi(service: Any) -> Generator[Ask]:
    with django_project():
        from django.core.asgi import get_asgi_application

        app = mounted_asgi(get_asgi_application(), asgi_app(service.healer, TOKEN, actions=True))
        with uvicorn_serving(app) as port:
            assert (301, 400) == (Ask(port)("/", Host="shop.example").status, Ask(port)("/").status)
            yield Ask(port, "/selfheal")


@contextlib.contextmanager
def django_wsgi(service: Any) -> Generator[Ask]:
    with django_project():
        from django.core.wsgi import get_wsgi_application

        app = mounted_wsgi(get_wsgi_application(), wsgi_app(service.healer, TOKEN, actions=True))
        with wsgi_serving(app) as port:
            assert (301, 400) == (Ask(port)("/", Host="shop.example").status, Ask(port)("/").status)
            yield Ask(port, "/selfheal")


@contextlib.contextmanager
def own_port(service: Any) -> Generator[Ask]:
    with listen(service.healer, TOKEN, port=0, actions=True) as listener:
        yield Ask(port_of(listener))


MOUNTS = [
    bare_asgi,
    around_asgi,
    starlette,
    fastapi,
    bare_wsgi,
    around_wsgi,
    flask,
    aiohttp,
    django_asgi,
    django_wsgi,
    own_port,
]


@pytest.mark.parametrize("mount", MOUNTS)
def test_the_same_answers_wherever_it_is_mounted(service: Any, mount) -> None:
    """
    Paths, codes, bodies, methods, details, writing and a fault, through every server and framework.
    """
    bearer = {"Authorization": f"Bearer {TOKEN}"}
    forwarded = {"X_Forwarded_For": "10.0.0.1"}  # else the listener of our own shows details to this machine
    with mount(service) as asks:
        for path in ("/livez", "/readyz", "/startupz", "/readyz/"):
            answer = asks(path)
            assert (200, b"ok\n", "pass", "no-store") == (
                answer.status,
                answer.body,
                answer.headers["x-selfheal-status"],
                answer.headers["cache-control"],
            )
            assert str(len(answer.body)) == answer.headers["content-length"]
        head = asks("/health", "HEAD")
        assert (200, b"") == (head.status, head.body)
        assert {"status": "pass"} == json.loads(asks("/health", **forwarded).body)
        assert {"db:responseTime"} == set(json.loads(asks("/health", **bearer).body)["checks"])
        assert 401 == asks("/state", **forwarded).status
        assert 401 == asks("/state", Authorization="Bearer wrong", **forwarded).status
        assert "db" == json.loads(asks("/state", **bearer).body)["checks"][0]["check"]
        assert b"[+]db ok" in asks("/livez?verbose", **bearer).body
        assert b"selfheal_probe_up" in asks("/metrics").body
        assert 404 == asks("/nothing").status
        assert (405, "GET, HEAD") == ((answer := asks("/livez", "PUT")).status, answer.headers["allow"])
        wish = json.dumps({"reason": "deploy", "ttl": 60}).encode()
        assert 401 == asks("/pause", "POST", wish, X_SelfHeal="1", **forwarded).status
        assert 403 == asks("/pause", "POST", wish, **bearer).status
        assert 413 == asks("/pause", "POST", b"x" * 20_000, X_SelfHeal="1", **bearer).status
        assert not service.healer.paused
        assert 200 == asks("/pause", "POST", wish, X_SelfHeal="1", **bearer).status
        assert service.healer.paused
        service.down = True
        until = time.monotonic() + 30
        while asks("/readyz").status != 503 and time.monotonic() < until:
            time.sleep(0.05)
        answer = asks("/health", **bearer)
        assert (503, "fail") == (answer.status, json.loads(answer.body)["status"])
        assert b"hunter2" not in answer.body + asks("/incidents", **bearer).body + asks("/state", **bearer).body


def first_message(ask_port: int, path: str, *, until: Callable[[dict], bool]) -> dict:
    """Read a stream of events until one is what is waited for."""
    connection = http.client.HTTPConnection("127.0.0.1", ask_port, timeout=30)
    with contextlib.closing(connection):
        connection.request("GET", path, headers={"Authorization": f"Bearer {TOKEN}"})
        answer = connection.getresponse()
        assert (200, "text/event-stream") == (answer.status, answer.getheader("Content-Type"))
        for line in answer:
            if line.startswith(b"data: "):
                message = json.loads(line[6:])
                if until(message):
                    return message
    raise AssertionError("the stream has ended")


@pytest.mark.parametrize("mount", [bare_asgi, own_port])
def test_changes_are_streamed_as_they_happen(service: Any, mount) -> None:
    """
    Whoever stays learns of a fault without asking, and costs nothing once it has gone.
    """
    with mount(service) as asks:
        threading.Timer(0.3, lambda: setattr(service, "down", True)).start()
        message = first_message(
            asks.port, "/events", until=lambda said: any(check["status"] == "fail" for check in said["checks"])
        )
        assert "db" == message["checks"][0]["check"]


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
        for header in ("Forwarded", "Via", "X_Forwarded_For", "X_Forwarded_Host", "X_Real_Ip"):
            assert 404 == asks("/state", **{header: "x"}).status
        assert 404 == asks("/state", Host="rebound.example.com").status


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
            client.sendall(b"GET /state HTTP/1.0\r\n\r\n")
            assert b" 200 " in client.recv(65536)
        with pytest.raises(ConfigError, match="cannot be listened to"):
            listen(service.healer, path=str(path)).start()
    assert not path.exists()


def raw(port: int, data: bytes, *, wait: float = 10.0) -> bytes:
    """Send *data*, end the sending, and read what comes."""
    with socket.create_connection(("127.0.0.1", port), timeout=wait) as client:
        client.sendall(data)
        client.shutdown(socket.SHUT_WR)
        received = b""
        with contextlib.suppress(TimeoutError, ConnectionError):
            while part := client.recv(65536):
                received += part
        return received


HOSTILE = [
    b"GET /../../etc/passwd HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"GET /livez/../state HTTP/1.1\r\nHost: localhost\r\nVia: x\r\n\r\n",
    b"GET //state HTTP/1.1\r\nHost: localhost\r\nVia: x\r\n\r\n",
    b"GET /%2e%2e/state HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"GET /livez/%00 HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"GET /state;x HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"GET http://evil/state HTTP/1.1\r\nHost: evil\r\n\r\n",
    b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\n\r\n",
    b"GET /livez HTTP/1.1\r\n" + b"".join(b"X-%d: y\r\n" % number for number in range(90)) + b"\r\n",
    b"GET /livez HTTP/1.1\r\n" + b"".join(b"X-%d: y\r\n" % number for number in range(300)) + b"\r\n",
    b"GET /livez HTTP/1.1\r\nX: " + b"a" * 70_000 + b"\r\n\r\n",
    b"GET /livez HTTP/9.9\r\n\r\n",
    b"GET //[ HTTP/1.1\r\nHost: [\r\n\r\n",
    b"BREW /livez HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
    b"POST /pause HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"POST /pause HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
    b"POST /pause HTTP/1.1\r\nContent-Length: 99999999999999999999\r\n\r\n",
    b"POST /pause HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n{}",
    b"POST /pause HTTP/1.1\r\nContent-Length: 2\r\nAuthorization: Bearer\r\n\r\n{}",
    b"POST /pause HTTP/1.1\r\nContent-Length: 2\r\nAuthorization: Basic eDp5\r\n\r\n{}",
    b"POST /drain HTTP/1.1\r\nContent-Length: 2\r\nOrigin: http://evil\r\n\r\n{}",
]


@pytest.mark.parametrize("request_", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_requests_change_nothing(service: Any, request_: bytes) -> None:
    """
    Path tricks, floods of headers, bodies of every wrong length: a 4xx, and the next request is served.
    """
    with listen(service.healer, TOKEN, port=0, actions=True) as listener:
        port = port_of(listener)
        status = raw(port, request_).partition(b"\r\n")[0].split(b" ")[1:2]
        assert status, "no answer"
        assert b"400" <= status[0] < b"500"
        assert 200 == Ask(port)("/livez").status
    assert (False, False) == (service.healer.paused, listener.handler.draining)


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
