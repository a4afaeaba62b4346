"""
``python -m benchmarks.http_requests``: what a question about health costs, beside a constant from the same server;
writes HTTP.md.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import http.client
import http.server
import importlib.metadata
import os
import pathlib
import platform
import socket
import subprocess
import sys
import threading
import time

from collections.abc import Callable, Generator
from typing import Any

import uvicorn

from benchmarks.__main__ import processor
from benchmarks.harness import Case, Goal, measure
from selfheal import Healer, HealingPolicy, HealthCheck
from selfheal.export.http import Request, asgi_app, listen, wsgi_app


RESULTS = pathlib.Path(__file__).with_name("HTTP.md")
CHECKS, REQUESTS, ROUNDS = 50, 500, 15
PATHS = ("/readyz", "/health")

#: How much more than a constant an answer may cost.
LIMIT = 1.5

#: Of the answer that is repeated as a constant: what every server adds by itself is left out.
HEADERS = [
    ("Content-Type", "text/plain; charset=utf-8"),
    ("X-Content-Type-Options", "nosniff"),
    ("Cache-Control", "no-store"),
    ("X-SelfHeal-Status", "pass"),
]

#: What the constant is.
BODIES = {"/readyz": b"ok\n", "/health": b'{"status":"pass"}'}

PREAMBLE = f"""# A request

Written by `python -m benchmarks.http_requests`. A healer of {CHECKS} checks, all well; one client that asks over one connection,
as fast as it is answered. CPU microseconds of the thread that answers (under gunicorn: of the worker), each the mean of
{REQUESTS} requests; all alternatives of a table interleaved in a fresh random order in each of {ROUNDS} rounds, medians
and quartiles. The constant has the headers of our answer and as many bytes: our own listener tells all {CHECKS} checks in
`/health` (12 kB), the others, who got no token, the word alone. Both servers of the standard library end a connection that
is silent for 5 s. Compare ratios.
"""


async def constant_asgi(scope: Any, receive: Any, send: Any) -> None:
    """
    As little as an ASGI application can do.
    """
    if scope["type"] == "http":
        body = BODIES[scope["path"]]
        fields = [*HEADERS, ("Content-Length", str(len(body)))]
        headers = [(name.lower().encode(), value.encode()) for name, value in fields]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})


def constant_wsgi(environ: Any, start_response: Any) -> list[bytes]:
    """
    As little as a WSGI application can do.
    """
    body = BODIES[environ["PATH_INFO"]]
    start_response("200 OK", [*HEADERS, ("Content-Length", str(len(body)))])
    return [body]


class ConstantConversation(http.server.BaseHTTPRequestHandler):
    """
    As little as http.server can do.
    """

    protocol_version = "HTTP/1.1"
    timeout = 5  # as ours: a server that waits for ever is another one
    wbufsize = -1
    disable_nagle_algorithm = True
    bodies = BODIES

    def do_GET(self) -> None:
        """Answer."""
        self.send_response_only(200)
        body = self.bodies[self.path]
        for name, value in (*HEADERS, ("Content-Length", str(len(body)))):
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)


def healer() -> Healer:
    """
    One that has seldom anything to do.
    """
    policy = HealingPolicy(interval=60, timeout=3)
    return Healer([HealthCheck(lambda: None, name=f"pool-{number:02}", policy=policy) for number in range(CHECKS)])


def wsgi() -> Callable[..., Any]:
    """
    For gunicorn: an application with a healer of its own.
    """
    own = healer()
    own.start()
    return wsgi_app(own)


class Client:
    """
    Asks over one connection.
    """

    def __init__(self, port: int, path: str) -> None:
        self.request = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nAccept: */*\r\n\r\n".encode()
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.ask()

    def ask(self) -> None:
        """
        One request.
        """
        self.socket.sendall(self.request)
        # Else a server that writes an answer in two pieces waits 40 ms for the other end's word between them.
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
        answer = b""
        while b"\r\n\r\n" not in answer or answer.endswith(b"\r\n\r\n"):
            answer += self.socket.recv(65536)
        if not answer.startswith(b"HTTP/1.1 200"):
            raise AssertionError(answer)


def microseconds(port: int, path: str, clock: int | None) -> Callable[[], float]:
    """
    What one request costs whoever has this *clock*; `None`: the thread that a connection gets.
    """

    def cost() -> float:
        before = set(threading.enumerate())
        client = Client(port, path)
        with client.socket:
            if clock is None:
                (thread,) = [some for some in set(threading.enumerate()) - before if "process_request" in some.name]
                ours = time.pthread_getcpuclockid(thread.ident or 0)
            else:
                ours = clock
            start = time.clock_gettime_ns(ours)
            for _ in range(REQUESTS):
                client.ask()
            return (time.clock_gettime_ns(ours) - start) / REQUESTS / 1000

    return cost


def ready(port: int) -> None:
    """
    Come back when whoever is there is ready.
    """
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError):
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
            connection.request("GET", "/readyz")
            status = connection.getresponse().status
            connection.close()
            if status == 200:
                return
        time.sleep(0.1)
    raise TimeoutError(port)


def free_port() -> int:
    """
    One that nobody has.
    """
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


@contextlib.contextmanager
def under_uvicorn(app: Any) -> Generator[tuple[int, int]]:
    """
    The port and the clock of a server in a thread.
    """
    port = free_port()
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_level="error", access_log=False, lifespan="off"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    ready(port)
    try:
        yield port, time.pthread_getcpuclockid(thread.ident or 0)
    finally:
        server.should_exit = True
        thread.join()


@contextlib.contextmanager
def under_gunicorn(app: str) -> Generator[tuple[int, int]]:
    """
    The port of a server with one worker and one thread, and the clock of that worker.
    """
    port = free_port()
    command = [sys.executable, "-m", "gunicorn", "-k", "gthread", "--threads", "1", "--keep-alive", "60", "-b"]
    server = subprocess.Popen(
        [*command, f"127.0.0.1:{port}", "--log-level", "error", f"benchmarks.http_requests:{app}"]
    )
    try:
        ready(port)
        (worker,) = pathlib.Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text().split()
        yield port, ~int(worker) << 3 | 2  # as clock_getcpuclockid(3) makes it
    finally:
        server.terminate()
        server.wait()


@contextlib.contextmanager
def under_http_server() -> Generator[int]:
    """
    The port of a server of the standard library.
    """
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), ConstantConversation)
    thread = threading.Thread(target=server.serve_forever, args=(0.5,), daemon=True)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()


def costs(constant: tuple[int, int | None], ours: tuple[int, int | None]) -> tuple[str, float]:
    """
    A table, and the worst ratio in it.
    """
    cases = [
        Case(f"{what} {path}", microseconds(port, path, clock))
        for path in PATHS
        for what, (port, clock) in (("constant", constant), ("ours", ours))
    ]
    found = measure(cases, rounds=ROUNDS)
    lines, ratios = ["| path | a constant, median µs (quartiles) | selfheal | ratio |", "|---|---:|---:|---:|"], []
    for path in PATHS:
        base, own = found[f"constant {path}"], found[f"ours {path}"]
        ratios.append(own.median / base.median)
        told = [f"{some.median:.0f} ({some.low:.0f} to {some.high:.0f})" for some in (base, own)]
        lines.append(f"| `{path}` | {told[0]} | {told[1]} | {ratios[-1]:.2f} |")
    return "\n".join(lines), max(ratios)


def main() -> int:
    """
    Measure, print, keep; 1 if the goal was not met.
    """
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("uvicorn", "h11", "gunicorn"))
    load = ", ".join(f"{load:.1f}" for load in os.getloadavg())
    tables = {}
    with healer() as own:
        while not all(status.was_good for status in own.status().values()):
            time.sleep(0.05)
        with under_uvicorn(constant_asgi) as constant, under_uvicorn(asgi_app(own)) as ours:
            tables["ASGI, uvicorn"] = costs(constant, ours)
        with under_http_server() as port, listen(own, port=0) as listener:
            asked = Request(method="GET", path="/health", direct=True)
            ConstantConversation.bodies = {**BODIES, "/health": listener.handler.handle(asked).body}
            tables["Our own listener, http.server"] = costs(
                (port, None), (int(listener.address.rpartition(":")[2]), None)
            )
    with under_gunicorn("constant_wsgi") as constant, under_gunicorn("wsgi()") as ours:
        tables["WSGI, gunicorn with a thread"] = costs(constant, ours)
    goals = [Goal(f"{title}: an answer, beside a constant", worst, LIMIT) for title, (_, worst) in tables.items()]
    sections = "\n\n".join(f"## {title}\n\n{text}" for title, (text, _) in tables.items())
    text = (
        f"{PREAMBLE}\n{processor()}, {os.cpu_count()} cores, load {load}; Python {platform.python_version()}, {versions}; "
        f"{dt.datetime.now(dt.UTC):%Y-%m-%d}.\n\n| goal | limit | measured | |\n|---|---:|---:|---|\n"
        + "\n".join(map(str, goals))
        + f"\n\n{sections}\n"
    )
    print(text)
    RESULTS.write_text(text)
    return 0 if all(goal.met for goal in goals) else 1


if __name__ == "__main__":
    sys.exit(main())
