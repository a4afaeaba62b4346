"""
Access logs of real servers, without the probes that went well.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import logging
import pathlib
import re
import socket
import threading

from collections.abc import Callable, Generator

import pytest

from serving import gunicorn_serving, uvicorn_serving

from selfheal import Healer
from selfheal.export.http import AccessLogFilter, asgi_app, mounted_asgi, mounted_wsgi, wsgi_app


FORGED = '"GET /selfheal/livez HTTP/1.1" 200'

#: What is asked of each server, and whether it is to be logged; the application beside answers 200 to everything.
ASKED = [
    ("GET", "/selfheal/livez", False),  # nothing is watched, so all is well
    ("GET", "/selfheal/livez/?verbose", False),
    ("HEAD", "/selfheal/metrics", True),  # there are none: 404
    ("GET", "/selfheal/readyz", True),  # it does not run: 503
    ("GET", "/selfheal/livez/../../orders", True),
    ("POST", "/selfheal/livez", True),
    ("GET", "/orders", True),
    ("GET", "/selfhealing/livez", True),
    ("POST", "/livez", True),
    ("GET", "/orders?to=/selfheal/livez", True),
]


def ask_all(port: int) -> None:
    for method, path, _ in ASKED:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        with contextlib.closing(connection):
            connection.request(method, path, headers={"User-Agent": FORGED, "Referer": FORGED})
            connection.getresponse().read()


async def hello_asgi(scope, receive, send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"hello"})


def hello_wsgi(environ, start_response):
    start_response("200 OK", [])
    return [b"hello"]


@contextlib.contextmanager
def uvicorn() -> Generator[int]:
    app = mounted_asgi(hello_asgi, asgi_app(Healer()))
    with uvicorn_serving(app, log_config=None, log_level="info", lifespan="off") as port:
        yield port


@contextlib.contextmanager
def werkzeug() -> Generator[int]:
    serving = pytest.importorskip("werkzeug.serving")
    server = serving.make_server("127.0.0.1", 0, mounted_wsgi(hello_wsgi, wsgi_app(Healer())))
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        thread.join(30)
        server.server_close()


@contextlib.contextmanager
def aiohttp() -> Generator[int]:
    web = pytest.importorskip("aiohttp.web")

    async def hello(request):
        return web.Response(
            status=503 if request.path.endswith("readyz") else 404 if "metrics" in request.path else 200
        )

    loop = asyncio.new_event_loop()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", hello)
    runner = web.AppRunner(app)
    listening = socket.create_server(("127.0.0.1", 0))

    async def start() -> None:
        await runner.setup()
        await web.SockSite(runner, listening).start()

    loop.run_until_complete(start())
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield listening.getsockname()[1]
    finally:
        asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result(30)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(30)
        loop.close()


class Lines(logging.Handler):
    """Keeps what is logged."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


def requests_in(lines: list[str]) -> list[tuple[str, str]]:
    plain = [re.sub(r"\x1b\[\d+m", "", line) for line in lines]  # werkzeug colours what went wrong
    found = [re.search(r'"(\w+) (\S+) ?[^"]*" \d+', line) for line in plain]
    return [(match[1], match[2]) for match in found if match]


@pytest.mark.parametrize(
    ("server", "name"), [(uvicorn, "uvicorn.access"), (werkzeug, "werkzeug"), (aiohttp, "aiohttp.access")]
)
def test_only_what_went_well_is_left_out(server: Callable, name: str) -> None:
    """
    Probes that went well are dropped; those that failed, and every other request, are logged, whatever it carries.
    """
    logger, kept, dropping = logging.getLogger(name), Lines(), AccessLogFilter()
    logger.addHandler(kept)
    logger.addFilter(dropping)
    level = logger.level
    logger.setLevel(logging.INFO)
    try:
        with server() as port:
            ask_all(port)
    finally:
        logger.removeFilter(dropping)
        logger.removeHandler(kept)
        logger.setLevel(level)
    assert [(method, path) for method, path, is_logged in ASKED if is_logged] == requests_in(kept.lines)


def test_gunicorns_too(tmp_path: pathlib.Path) -> None:
    """
    With its default format, and what it knows of a request.
    """
    log = tmp_path / "access.log"
    (tmp_path / "gunicorn.conf.py").write_text(
        "import logging\nfrom selfheal.export.http import AccessLogFilter\n"
        'logging.getLogger("gunicorn.access").addFilter(AccessLogFilter())\n'
    )
    (tmp_path / "shop.py").write_text(
        "from selfheal import Healer\nfrom selfheal.export.http import mounted_wsgi, wsgi_app\n"
        "def hello(environ, start_response):\n    start_response('200 OK', [])\n    return [b'hello']\n"
        "application = mounted_wsgi(hello, wsgi_app(Healer()))\n"
    )
    with gunicorn_serving(tmp_path, "shop", "--access-logfile", str(log)) as server:
        ask_all(server.port)
    logged = requests_in(log.read_text().splitlines())
    assert [(method, path) for method, path, is_logged in ASKED if is_logged] == logged


def test_what_is_no_access_record_passes() -> None:
    """
    Whatever else a server logs there, with any values or none.
    """
    dropping = AccessLogFilter("")
    for args in (None, (), (1,), ("a", "b", "c"), (1, 2, 3, 4, 5), ({"r": None},), ("a", "GET", "/livez", "1.1", None)):
        assert dropping.filter(logging.LogRecord("x", logging.INFO, "", 0, "%s", args, None))
    ours = logging.LogRecord("x", logging.INFO, "", 0, "%s", ("a", "GET", "/livez", "1.1", 200), None)
    assert not dropping.filter(ours)
