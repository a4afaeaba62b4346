"""
One contract for every mount, under real servers: the same paths, codes, headers and bodies, and the same no to whoever
means ill.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import pathlib
import re
import socket
import subprocess
import sys
import time

from collections.abc import Callable, Collection, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import pytest

from serving import Answer, Ask, beside, gunicorn_serving


for needed in ("aiohttp", "django", "fastapi", "flask", "gunicorn", "uvicorn"):
    pytest.importorskip(needed)

TOKEN = "correct horse battery staple"
BEARER = {"Authorization": f"Bearer {TOKEN}"}
#: Of somebody far away: a listener of our own shows details to this machine.
FORWARDED = {"X-Forwarded-For": "127.0.0.1"}
MAY = {**BEARER, "X-SelfHeal": "1"}

#: Server and mount. The first four share a process, and so a healer; the last has four of both.
MOUNTS = [
    *(("uvicorn", at) for at in ("", "/around/-", "/django/selfheal", "/django-view", "/fastapi/health", "/starlette")),
    ("aiohttp", "/-/health"),
    ("listener", ""),
    ("unix", ""),
    *(("gunicorn", at) for at in ("", "/around/-", "/django/selfheal", "/django-view", "/flask/selfheal")),
    ("workers", "/around/-"),
]
every_mount = pytest.mark.parametrize("name", MOUNTS, ids=[f"{server}{at}" for server, at in MOUNTS])


class Shops:
    """
    All servers.
    """

    def __init__(self, folders: dict[str, pathlib.Path], where: dict[str, int | str]) -> None:
        self.folders, self.where = folders, where

    def ask(self, name: tuple[str, str]) -> Ask:
        """Who asks at a mount."""
        server, at = name
        return Ask(self.where[server], at)

    def folder(self, name: tuple[str, str]) -> pathlib.Path:
        """Where it is broken, and where what it does is told."""
        return self.folders[name[0]]

    @contextlib.contextmanager
    def broken(self) -> Generator[None]:
        """The database of all is down."""
        folders = set(self.folders.values())
        for folder in folders:
            (folder / "down").touch()
        try:
            self.settle(lambda ask: ask("/readyz").status == 503)
            yield
        finally:
            for folder in folders:
                (folder / "down").unlink()
            self.settle(is_idle)

    def settle(self, holds: Callable[[Ask], bool], mounts: Collection[tuple[str, str]] = MOUNTS) -> None:
        """Wait until it holds at all mounts; of each of several workers, which one question in a row may miss."""
        until = time.monotonic() + 60
        for name in mounts:
            while not all(holds(self.ask(name)) for _ in range(12 if name[0] == "workers" else 1)):
                assert time.monotonic() < until
                time.sleep(0.05)


def is_idle(ask: Ask) -> bool:
    """Whether nothing is wrong, and nothing is done about anything."""
    checks = json.loads(ask("/state", **BEARER).body)["checks"]
    return {("pass", "idle")} == {(check["status"], check["state"]) for check in checks}


@pytest.fixture(scope="module")
def shops(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shops]:
    """All servers, started together."""
    loop, threads, several = (tmp_path_factory.mktemp(name) for name in ("loop", "threads", "several"))
    for folder in (threads, several):
        (folder / "gunicorn.conf.py").write_text(
            "from selfheal.integrations.gunicorn import hooks\n"
            'post_worker_init, worker_exit, child_exit = hooks("shops:healer")\n'
        )
    (several / "metrics").mkdir()
    command = [sys.executable, "-W", "ignore", "-m", "shops"]
    environment = beside(SHOP=str(loop))
    with (
        subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process,
        gunicorn_serving(
            *(several, "shops:wsgi()", "--workers", "4", "--preload"),
            SHOP=str(several),
            PROMETHEUS_MULTIPROC_DIR=str(several / "metrics"),
        ) as workers,
        gunicorn_serving(
            threads, "shops:wsgi()", "--worker-class", "gthread", "--threads", "8", SHOP=str(threads)
        ) as gunicorn,
    ):
        assert process.stdout is not None
        uvicorn, aiohttp, own = json.loads(process.stdout.readline())
        shops = Shops(
            {
                **dict.fromkeys(("uvicorn", "aiohttp", "listener", "unix"), loop),
                "gunicorn": threads,
                "workers": several,
            },
            {
                "uvicorn": uvicorn,
                "aiohttp": aiohttp,
                "listener": own,
                "unix": str(loop / "health.sock"),
                "gunicorn": gunicorn.port,
                "workers": workers.port,
            },
        )
        shops.settle(is_idle)
        yield shops
        process.communicate("\n", timeout=60)
        assert 0 == process.returncode


# --- the contract ---------------------------------------------------------------


class Case(NamedTuple):
    """
    What is asked, and what is answered to it everywhere.
    """

    method: str
    path: str
    sent: dict[str, str]
    status: int
    body: str  # all of it, as a regular expression
    headers: dict[str, str] = {}  # noqa: RUF012 - nobody changes it
    wish: bytes | None = None


TEXT = {"content-type": "text/plain; charset=utf-8"}
JSON = {"content-type": "application/json"}
HEALTH = {"content-type": "application/health+json", "vary": "Authorization"}
PASS = {"x-selfheal-status": "pass"}
LINES = r"(\[\+\][a-z.]+ ok\n)+{} check passed\n"
NEEDED = {**JSON, "www-authenticate": 'Bearer realm="selfheal"'}
NOTHING = r'{"error":"there is nothing here"}'
READ_ONLY = {**JSON, "allow": "GET, HEAD"}

CONTRACT = [
    Case("GET", "/livez", {}, 200, "ok\n", {**TEXT, **PASS}),
    Case("GET", "/readyz", {}, 200, "ok\n", {**TEXT, **PASS}),
    Case("GET", "/startupz", {}, 200, "ok\n", {**TEXT, **PASS}),
    Case("GET", "/readyz/", {}, 200, "ok\n", PASS),
    Case("GET", "/livez?x=%00&y", {}, 200, "ok\n", PASS),
    Case("HEAD", "/livez", {}, 200, "", {"content-length": "3", **PASS}),
    Case("HEAD", "/health", FORWARDED, 200, "", {"content-length": "17", **HEALTH, **PASS}),
    Case("GET", "/livez?verbose", FORWARDED, 200, "ok\n"),
    Case("GET", "/livez?verbose", BEARER, 200, LINES.format("livez")),
    Case("GET", "/readyz?verbose&exclude=cache", BEARER, 200, LINES.format("readyz")),
    Case("GET", "/startupz?verbose", BEARER, 200, LINES.format("startupz")),
    Case("GET", "/livez/db", FORWARDED, 404, NOTHING, JSON),
    Case("GET", "/livez/db", BEARER, 200, r"\[\+\]db ok\nlivez check passed\n"),
    Case("GET", "/livez/nothing", BEARER, 404, NOTHING, JSON),
    Case("GET", "/health", FORWARDED, 200, r'{"status":"pass"}', {**HEALTH, **PASS}),
    Case("GET", "/health", BEARER, 200, r'{"status":"pass","checks":{"db:responseTime":.*"cache:.*}}', HEALTH),
    Case("GET", "/state", FORWARDED, 401, '{"error":"a token is needed"}', NEEDED),
    Case("GET", "/state", {"Authorization": f"bearer  {TOKEN} "}, 200, r'{"time":.*"running":true.*}', JSON),
    Case("GET", "/incidents", FORWARDED, 401, ".*", NEEDED),
    Case("GET", "/incidents?limit=1", BEARER, 200, r'{"incidents":\[.*\]}', JSON),
    Case("GET", "/incidents?limit=0", BEARER, 400, '{"error":"limit must be.*"}', JSON),
    Case("GET", "/history", FORWARDED, 401, ".*", NEEDED),
    Case("GET", "/history?check=db&limit=1", BEARER, 200, r'{"history":{"db":\[\[".*Z","pass",[^]]*\]\]}}', JSON),
    Case("GET", "/history?check=nothing", BEARER, 404, NOTHING, JSON),
    Case("GET", "/events", FORWARDED, 401, ".*", NEEDED),
    Case("GET", "/metrics", FORWARDED, 200, '.*selfheal_probe_up{check="db"} 1.0\n.*'),
    Case("GET", "/", FORWARDED, 200, "<!doctype html>.*", {"content-type": "text/html; charset=utf-8"}),
    Case("GET", "/nothing", BEARER, 404, NOTHING, JSON),
    Case("POST", "/nothing", MAY, 404, NOTHING, JSON, b"{}"),
    Case("PUT", "/livez", {}, 405, '{"error":"only GET, HEAD"}', READ_ONLY),
    Case("DELETE", "/state", BEARER, 405, '{"error":"only GET, HEAD"}', READ_ONLY),
    Case("POST", "/state", MAY, 405, '{"error":"only GET, HEAD"}', READ_ONLY, b"{}"),
    Case("GET", "/pause", MAY, 405, '{"error":"only POST"}', {"allow": "POST"}),
    Case("POST", "/pause", {**FORWARDED, "X-SelfHeal": "1"}, 401, ".*", NEEDED, b"{}"),
    Case("POST", "/pause", BEARER, 403, '{"error":"a header .*"}', JSON, b"{}"),
    Case("POST", "/pause", MAY, 400, '{"error":".*"}', JSON, b'{"reason": "x", "ttl": -1}'),
    Case("POST", "/pause", MAY, 404, '{"error":".*nothing.*"}', JSON, b'{"reason": "x", "resource": "nothing"}'),
    Case("POST", "/pause", MAY, 413, '{"error":"the body must not.*"}', JSON, b"x" * 20_000),
    Case("POST", "/heal", MAY, 404, '{"error":".*nothing.*"}', JSON, b'{"check": "nothing"}'),
    Case("POST", "/drain", MAY, 400, '{"error":"the body must be JSON"}', JSON, b"{"),
]

WORKING = [
    Case("POST", "/pause", MAY, 200, '{"paused":true}', JSON, b'{"reason": "deploy", "ttl": 0.2}'),
    Case("POST", "/resume", MAY, 200, '{"paused":false}', JSON, b'{"reason": "done"}'),
    Case("POST", "/heal", MAY, 202, r'{"incident":"cache-\d+"}', JSON, b'{"check": "cache"}'),
    Case("POST", "/drain", MAY, 200, '{"draining":false}', JSON, b'{"drain": false}'),
]

BROKEN = [
    Case("GET", "/livez", {}, 200, "ok\n", PASS),  # it has no ladder, so nothing says that a restart would help
    Case("GET", "/readyz", {}, 503, "fail\n", {"x-selfheal-status": "fail", "retry-after": "1"}),
    Case("HEAD", "/readyz", {}, 503, "", {"content-length": "5"}),
    Case("GET", "/startupz", {}, 200, "ok\n"),
    Case("GET", "/readyz/db", BEARER, 503, r"\[-\]db failed: stale\nreadyz check failed\n"),
    Case("GET", "/readyz?exclude=db", BEARER, 200, "ok\n"),
    Case("GET", "/health", FORWARDED, 503, '{"status":"fail"}', HEALTH),
    Case("GET", "/health", BEARER, 503, '{"status":"fail","checks":.*"output":"stale",.*}', HEALTH),
    Case("GET", "/state", BEARER, 200, '.*"fault":{"kind":"stale","message":""}.*"incident":{"id":"db-.*}', JSON),
    Case("GET", "/metrics", FORWARDED, 200, '.*selfheal_probe_up{check="db"} 0.0\n.*'),
]


def differences(ask: Ask, cases: list[Case]) -> list[str]:
    """What is not as it is promised."""
    return [line for case in cases if (line := difference(ask, case))]


def difference(ask: Ask, case: Case) -> str:
    """How what is answered differs."""
    with contextlib.closing(ask.connection()) as connection:
        connection.request(case.method, ask.mount + case.path, case.wish, case.sent)
        answer = Answer(connection.getresponse())
    body, found = answer.body.decode(), answer.headers
    promised = {"x-content-type-options": "nosniff", "cache-control": "no-store", **case.headers}
    if case.method != "HEAD":
        promised["content-length"] = str(len(answer.body))
    same = answer.status == case.status and re.fullmatch(case.body, body, re.DOTALL | re.IGNORECASE)
    if same and "hunter2" not in body and promised == {name: found.get(name) for name in promised}:
        return ""
    return f"{case.method} {case.path} {case.sent}: {answer.status} {body[:200]!r} {found}"


@every_mount
def test_the_contract_holds_wherever_it_is_mounted(shops: Shops, name: tuple[str, str]) -> None:
    """
    Paths, codes, headers and bodies are the same through every server and framework, and from each of four workers.
    """
    assert [] == differences(shops.ask(name), CONTRACT)


@every_mount
def test_what_is_asked_for_is_done_and_told(shops: Shops, name: tuple[str, str]) -> None:
    """
    Each action is answered the same everywhere, carried out, and recorded once.
    """
    ask, told = shops.ask(name), shops.folder(name) / "told"
    before = told.read_text()
    assert [] == differences(ask, WORKING)
    shops.settle(is_idle, [name])
    accepted = [line for line in told.read_text().removeprefix(before).splitlines() if "request.accepted" in line]
    actions = [json.loads(line.partition(" ")[2])["action"] for line in accepted]
    assert ["drain", "heal", "pause", "resume"] == sorted(actions)  # several processes write it
    if name[0] != "workers":  # where each answer is that of one of them
        wish = {"method": "POST", "body": b"", **{name.replace("-", "_"): value for name, value in MAY.items()}}
        assert (200, 503) == (ask("/drain", **wish).status, ask("/readyz").status)
        assert (200, 200) == (ask("/drain", **{**wish, "body": b'{"drain": false}'}).status, ask("/readyz").status)


def test_a_fault_is_told_the_same_everywhere(shops: Shops) -> None:
    """
    What fails, what does not, and no word of what the probe has said.
    """
    with shops.broken():
        assert {} == {name: found for name in MOUNTS if (found := differences(shops.ask(name), BROKEN))}


def test_what_stands_before_a_view_does_not_stand_before_a_wrapper(shops: Shops) -> None:
    """
    A probe by the address of a pod gets past Django's host check and redirects only outside of Django.
    """
    for server in ("uvicorn", "gunicorn"):
        project, view, wrapper = (shops.ask((server, at)) for at in ("/django/", "/django-view", "/django/selfheal"))
        assert (400, 301) == (project("", Host="10.0.0.7").status, project("", Host="shop.example").status)
        assert (400, 200) == (view("/livez", Host="10.0.0.7").status, view("/livez", Host="shop.example").status)
        assert 200 == wrapper("/livez", Host="10.0.0.7").status


def test_the_application_beside_it_is_left_alone(shops: Shops) -> None:
    """
    What is not below the mount, if it looks like it, is the application's.
    """
    for server in ("uvicorn", "gunicorn"):
        ask = shops.ask((server, "/around"))
        assert [b"hello"] * 3 == [ask(path).body[:5] for path in ("", "/-x", "/livez")]


# --- streams --------------------------------------------------------------------


@contextlib.contextmanager
def listening(ask: Ask) -> Generator[http.client.HTTPResponse]:
    """A client of the stream."""
    with contextlib.closing(ask.connection()) as connection:
        connection.request("GET", f"{ask.mount}/events", headers=BEARER)
        with connection.getresponse() as answer:
            assert (200, "text/event-stream") == (answer.status, answer.getheader("Content-Type"))
            assert b"retry: 2000\n" == answer.readline()
            yield answer


def test_changes_are_streamed_as_they_happen(shops: Shops) -> None:
    """
    Whoever stays learns of a fault without asking, from a loop or a thread.
    """
    streams = [("uvicorn", ""), ("aiohttp", "/-/health"), ("listener", ""), ("unix", ""), ("gunicorn", "/around/-")]
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(listening(shops.ask(name))) for name in streams]
        assert 406 == shops.ask(streams[-1])("/events", **BEARER).status  # there is a thread for one alone
        stack.enter_context(shops.broken())
        for client in clients:
            messages = (json.loads(line[6:]) for line in client if line.startswith(b"data: "))
            assert "db" == next(check["check"] for said in messages for check in said["checks"] if check["fault"])


def test_where_there_is_no_stream_the_answer_says_so(shops: Shops) -> None:
    """
    A stream that would keep a thread for itself, which nobody has asked for, is a 406.
    """
    for name in (("gunicorn", ""), ("gunicorn", "/django-view"), ("uvicorn", "/django-view"), ("workers", "/around/-")):
        answer = shops.ask(name)("/events", **BEARER)
        assert (406, b'{"error":"there is no stream here: ask /state instead"}') == (answer.status, answer.body)


# --- the hostile ----------------------------------------------------------------


class Raw(NamedTuple):
    """
    Bytes that somebody sends; ``@`` is the mount.
    """

    data: str | bytes
    #: The server in front may close the connection without a word.
    closes: bool = False
    #: It is not complete, and whoever sends it goes after a while.
    ends: bool = False
    #: What else a server in front may say.
    also: tuple[int, ...] = ()


AUTH = f"Authorization: Bearer {TOKEN}\n"
MAY_ACT = f"{AUTH}X-SelfHeal: 1\n"
BY = "Host: localhost\nConnection: close\n"
FAR = f"{BY}X-Forwarded-For: 127.0.0.1\n"
#: What would be answered to somebody near, if a server took it for a request of its own.
SECOND = "GET @/state HTTP/1.1\nHost: localhost\nConnection: close\n\n"


def get(path: str, fields: str = "", method: str = "GET") -> str:
    """Somebody far away asks for what is below the mount."""
    return f"{method} @{path} HTTP/1.1\n{FAR}{fields}\n"


def post(path: str, body: str = "", fields: str = MAY_ACT, *, length: int | None = None) -> str:
    """Somebody far away wishes something, with the token and the header that is needed."""
    return f"POST @{path} HTTP/1.1\n{FAR}{fields}Content-Length: {len(body) if length is None else length}\n\n{body}"


HOSTILE = {
    # Tricks with paths
    "up": Raw(get("/../state")),
    "up again": Raw(get("/livez/../state")),
    "up, encoded": Raw(get("/livez/%2e%2e/state")),
    "up, out": Raw(get("/%2e%2e/%2e%2e/%2e%2e/etc/passwd")),
    "up, overlong": Raw(get("/%c0%ae%c0%ae/state")),
    "two slashes": Raw(get("//state")),
    "backslash": Raw(get("/livez\\..\\state")),
    "parameter": Raw(get("/state;x=1")),
    "encoded letter": Raw(get("/%73tate")),
    "encoded slash": Raw(get("/livez%2f..%2fstate")),
    "twice encoded": Raw(get("/%2573tate")),
    "NUL": Raw(get("/livez%00")),
    "raw NUL": Raw(get("/livez\0"), closes=True),
    "header in path": Raw(get("/livez/%0d%0aX-Evil:%20yes")),
    "markup": Raw(get("/livez/%3cscript%3e")),
    "capitals": Raw(get("/STATE")),
    "deeper": Raw(get("/livez/db/x")),
    "whole address": Raw(f"GET http://localhost@/state HTTP/1.1\n{FAR}\n"),
    "long": Raw(get("/" + "a" * 70_000), closes=True),
    "long name": Raw(get("/livez/" + "a" * 3_000)),
    # Tokens
    "none": Raw(get("/state")),
    "forged peer": Raw(get("/state", "Forwarded: for=127.0.0.1\nX-Real-IP: 127.0.0.1\nX-Forwarded-Host: localhost\n")),
    "wrong": Raw(get("/state", "Authorization: Bearer incorrect horse battery stapler\n")),
    "empty": Raw(get("/state", "Authorization: Bearer \n")),
    "beginning": Raw(get("/state", f"Authorization: Bearer {TOKEN[:-1]}\n")),
    "longer": Raw(get("/state", f"Authorization: Bearer {TOKEN}s\n")),
    "capital": Raw(get("/state", f"Authorization: Bearer {TOKEN.capitalize()}\n")),
    "twice in one": Raw(get("/state", f"Authorization: Bearer {TOKEN} {TOKEN}\n")),
    "two, one right": Raw(get("/state", f"Authorization: Bearer wrong\n{AUTH}"), closes=True),
    "as Basic": Raw(get("/state", f"Authorization: Basic {TOKEN}\n")),
    "without a scheme": Raw(get("/state", f"Authorization: {TOKEN}\n")),
    "no ASCII": Raw(get("/state", "Authorization: Bearer correct horse b\u00e4ttery staple\n").encode("latin-1")),
    "with NUL": Raw(get("/state", f"Authorization: Bearer {TOKEN}\0\n"), closes=True),
    "in the query": Raw(get(f"/state?token={TOKEN.replace(' ', '+')}&authorization=Bearer")),
    "as a cookie": Raw(get("/state", f"Cookie: token={TOKEN}; Authorization=Bearer\n")),
    "of a proxy": Raw(get("/state", f"Proxy-Authorization: Bearer {TOKEN}\nX-Authorization: Bearer {TOKEN}\n")),
    "HEAD": Raw(get("/incidents", method="HEAD")),
    # Queries
    "limit below 1": Raw(get("/incidents?limit=-1", AUTH)),
    "limit no number": Raw(get("/incidents?limit=1e9", AUTH)),
    "limit NUL": Raw(get("/history?limit=%00", AUTH)),
    "limit of others": Raw(get("/history?limit=%D9%A1", AUTH)),
    "limit twice": Raw(get("/history?limit=1&limit=x", AUTH)),
    "check is a path": Raw(get("/history?check=../../etc/passwd", AUTH)),
    "check is SQL": Raw(get("/history?check=db'%20OR%201=1--", AUTH)),
    "check of nobody": Raw(get("/livez/nothing?verbose&exclude=%00", AUTH)),
    # Methods
    "TRACE": Raw(get("/state", method="TRACE")),
    "CONNECT": Raw(get("/state", method="CONNECT"), closes=True),
    "OPTIONS": Raw(get("/pause", "Origin: http://evil.example\nAccess-Control-Request-Method: POST\n", "OPTIONS")),
    "BREW": Raw(get("/livez", method="BREW")),
    "small letters": Raw(get("/state", method="get")),
    "DELETE": Raw(get("/state", MAY_ACT, "DELETE")),
    "PUT": Raw(get("/pause", MAY_ACT, "PUT")),
    "GET of an action": Raw(get("/drain", MAY_ACT)),
    "GET with parameters": Raw(get("/pause?reason=x&ttl=60", MAY_ACT)),
    "overridden": Raw(get("/drain", f"{MAY_ACT}X-HTTP-Method-Override: POST\n")),
    # Posts of foreign pages
    "form": Raw(post("/drain", "drain=1", "Origin: http://evil.example\nContent-Type: text/plain\nCookie: a=b\n")),
    "with a token": Raw(post("/drain", "{}", f"{AUTH}Origin: http://evil.example\nSec-Fetch-Site: cross-site\n")),
    "another header": Raw(post("/drain", "{}", f"{AUTH}X-Requested-With: XMLHttpRequest\n")),
    "header without a token": Raw(post("/drain", "{}", "X-SelfHeal: 1\n")),
    "form with files": Raw(
        post("/drain", "--x\r\n\r\n--x--", f"{AUTH}Content-Type: multipart/form-data; boundary=x\n")
    ),
    "token in the body": Raw(post("/drain", f'{{"token": "{TOKEN}"}}', "X-SelfHeal: 1\n")),
    # Bodies
    "large": Raw(post("/drain", "x" * 20_000), closes=True),
    "larger": Raw(post("/drain", " " * 3_000_000), closes=True),
    "said to be huge": Raw(post("/drain", length=10**12), closes=True, ends=True),
    "deep": Raw(post("/drain", "[" * 16_000)),
    "a list": Raw(post("/drain", "[]")),
    "no JSON": Raw(post("/drain", "\xff\xfe")),
    "wrong type": Raw(post("/drain", '{"drain": "yes"}')),
    "not a number": Raw(post("/pause", '{"reason": "x", "ttl": NaN}')),
    "for ever": Raw(post("/pause", '{"reason": "x", "ttl": null}')),
    "infinite": Raw(post("/pause", '{"reason": "x", "ttl": 1e999}')),
    "no reason": Raw(post("/pause", "{}")),
    "nobody's": Raw(post("/resume", '{"resource": "../db"}')),
    "an object": Raw(post("/heal", '{"check": {"$ne": ""}}')),
    "cut off": Raw(post("/drain", "{}", length=40), closes=True, ends=True),
    "cut off before": Raw(post("/drain", length=40), closes=True, ends=True),
    "slow": Raw(post("/drain", "{", length=2), closes=True, ends=True),
    # Where one request ends and the next begins
    "negative length": Raw(post("/drain", "{}", length=-1), closes=True),
    "length with a sign": Raw(f"POST @/drain HTTP/1.1\n{FAR}{MAY_ACT}Content-Length: +2\n\n{{}}", closes=True),
    "length of words": Raw(f"POST @/drain HTTP/1.1\n{FAR}{MAY_ACT}Content-Length: two\n\n{{}}", closes=True),
    "two lengths": Raw(post("/drain", "{}" + SECOND, f"{MAY_ACT}Content-Length: 2\n"), closes=True),
    "length and chunks": Raw(
        post("/drain", "0\r\n\r\n" + SECOND, f"{MAY_ACT}Transfer-Encoding: chunked\n", length=5), closes=True
    ),
    "chunks": Raw(
        f"POST @/drain HTTP/1.1\n{FAR}{MAY_ACT}Transfer-Encoding: chunked\n\n2\r\n{{}}\r\n0\r\n\r\n", closes=True
    ),
    "chunks of words": Raw(f"POST @/drain HTTP/1.1\n{FAR}Transfer-Encoding: chunked\n\nzz\r\n{SECOND}", closes=True),
    "no chunks": Raw(
        f"POST @/drain HTTP/1.1\n{FAR}{MAY_ACT}Transfer-Encoding: xchunked\n\n{SECOND}", closes=True, also=(501,)
    ),
    "space before the colon": Raw(
        f"POST @/drain HTTP/1.1\n{FAR}Transfer-Encoding : chunked\nContent-Length: 5\n\n0\r\n\r\n{SECOND}", closes=True
    ),
    "request as the body of a GET": Raw(
        f"GET @/state HTTP/1.1\n{FAR.replace('Connection: close', 'X: y')}Content-Length: {len(SECOND) + 3}\n\n{SECOND}",
        closes=True,
    ),
    "request after a GET": Raw(get("/state", f"X: y\r\n\r\nPOST @/drain HTTP/1.1\n{FAR}"), closes=True),
    "folded header": Raw(get("/state", f"X: y\n {AUTH}"), closes=True),
    # Floods, and what is no HTTP
    "headers": Raw(get("/livez", "".join(f"X-{n}: {'y' * 300}\n" for n in range(300))), closes=True),
    "one header": Raw(get("/livez", f"X: {'y' * 70_000}\n"), closes=True),
    "parameters": Raw(get("/state?" + "&".join(f"a{n}=1" for n in range(500)))),
    "another version": Raw(f"GET @/state HTTP/9.9\n{FAR}\n", closes=True),
    "no version": Raw("GET @/state\n\n", closes=True),
    "TLS": Raw(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", closes=True),
    "HTTP/2": Raw("PRI * HTTP/2.0\n\nSM\n\n", closes=True),
    "noise": Raw(bytes(range(256)) + b"\r\n\r\n", closes=True),
}


def statuses(ask: Ask, raw: Raw) -> list[int]:
    """Send it, and see what it is answered."""
    data = raw.data
    if isinstance(data, str):
        head, end, body = data.partition("\n\n")
        data = f"{head}{end}".replace("\r\n", "\n").replace("\n", "\r\n").encode() + body.encode("latin-1")
    received = b""
    unix = isinstance(ask.where, str)
    with socket.socket(socket.AF_UNIX if unix else socket.AF_INET) as client:
        client.settimeout(30)
        client.connect(ask.where if unix else ("127.0.0.1", ask.where))
        # It may be refused before all of it is there.
        with contextlib.suppress(TimeoutError, ConnectionError):
            client.sendall(data.replace(b"@", ask.mount.encode()))
            client.settimeout(0.3 if raw.ends else 30)
            while part := client.recv(65_536):
                received += part
                client.settimeout(0.3)
    return [int(status) for status in re.findall(rb"HTTP/1\.[01] (\d{3})", received)]


def held(ask: Ask) -> set[str]:
    """What could have been changed, in each of the workers."""
    states = [json.loads(ask("/state", **BEARER).body) for _ in range(8)]
    kept = ("paused", "pauses", "draining", "mode", "running")
    return {json.dumps([*(now[name] for name in kept), [check["state"] for check in now["checks"]]]) for now in states}


@pytest.mark.at_length
@every_mount
def test_hostile_requests_change_nothing(shops: Shops, name: tuple[str, str]) -> None:
    """
    Each gets its 4xx, or the server in front closes the connection; nothing has been done and nothing is different.
    """
    ask, told = shops.ask(name), shops.folder(name) / "told"
    shops.settle(is_idle, [name])
    before = (told.read_text(), held(ask))
    with ThreadPoolExecutor(8) as pool:
        answers = dict(zip(HOSTILE, pool.map(lambda raw: statuses(ask, raw), HOSTILE.values()), strict=True))
    assert {} == {
        key: found
        for key, found in answers.items()
        if not all(400 <= status < 500 or status in HOSTILE[key].also for status in found)
        or not (found or HOSTILE[key].closes)
    }
    assert before == (told.read_text(), held(ask))
    assert 200 == ask("/livez").status


def test_there_are_many_of_them() -> None:
    """
    At least forty; and most of them are answered, not only closed.
    """
    assert 40 <= sum(not raw.closes for raw in HOSTILE.values())
