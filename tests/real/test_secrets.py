"""
What a process knows and nobody is to read: planted everywhere, looked for in all that leaves it.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import logging
import pathlib
import socket
import time

from collections.abc import Iterator
from typing import Any

import prometheus_client
import pytest

from serving import Ask

from selfheal import Healer, HealingPolicy, HealthCheck, Unhealthy, recovery_action
from selfheal.export.http import Agent, StatusFile, listen
from selfheal.export.systemd import follow
from selfheal.export.tracing import TraceExporter
from selfheal.resources import SdNotify


psycopg_pool = pytest.importorskip("psycopg_pool")
sdk = pytest.importorskip("opentelemetry.sdk.trace")

#: The token that opens the details, one that somebody has sent by mistake, and the passwords of two databases.
TOKEN, MISTAKEN, PASSWORD, OTHER = (
    "tok-Zx81-opens-the-details",
    "tok-Qq77-of-somebody",
    "pw-Kj55-orders",
    "pw-Lm12-stock",
)
#: What an action logs on purpose is in the log, and nowhere else.
LOGGED = "pw-Vb34-logged"
POLICY = HealingPolicy(interval=0.2, fast_interval=0.1, timeout=5, fall=2, fall_for=0)

PATHS = [
    *("/", "/livez", "/readyz", "/startupz", "/health", "/state", "/incidents", "/history", "/metrics", "/nothing"),
    *(f"/{group}{rest}" for group in ("livez", "readyz", "startupz") for rest in ("?verbose", "/orders_db", "/stock")),
    *("/incidents?limit=x", "/pause", f"/livez/{OTHER}", f"/state?token={MISTAKEN}"),
]


class Kept(logging.Handler):
    """Every record that anybody logs, with all that is in it."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep it, as a formatter that writes all it finds would."""
        self.lines.append(f"{logging.Formatter().format(record)} {json.dumps(vars(record), default=repr)}")


@pytest.fixture
def log() -> Iterator[Kept]:
    """What is logged, from the lowest level on."""
    kept, root, ours = Kept(), logging.getLogger(), logging.getLogger("selfheal")
    root.addHandler(kept)
    ours.setLevel(logging.DEBUG)
    yield kept
    ours.setLevel(logging.NOTSET)
    root.removeHandler(kept)


@recovery_action
def reconnect(ctx: Any) -> None:
    """Tells what it must not, and fails with it."""
    ctx.log(f"connecting with {LOGGED}", key=LOGGED)
    raise RuntimeError(f"cannot connect with password {OTHER}")


def stock() -> None:
    """Fails as drivers do that put all they know into the text."""
    try:
        raise ValueError(f"password {OTHER}")
    except ValueError as exc:
        raise ConnectionError(f"postgresql://stock:{OTHER}@db is gone", {"token": TOKEN}) from exc


def denied() -> None:
    """A fault with words."""
    raise Unhealthy("denied", f"{TOKEN} and {OTHER} were refused")


def test_what_is_secret_is_in_nothing_that_leaves_the_process(log: Kept, tmp_path: pathlib.Path) -> None:
    """
    A DSN, a token and passwords, in exceptions, a connection string, a log of an action and headers, are in no answer,
    metric, log line, span, stream, page, file or status.
    """
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    from selfheal.integrations.psycopg import PoolHealth, pool_ladder

    spans, provider = InMemorySpanExporter(), sdk.TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(spans))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        nobody = taken.getsockname()[1]
    dsn = f"postgresql://orders:{PASSWORD}@127.0.0.1:{nobody}/orders"
    sinks: dict[str, str] = {}
    with (
        psycopg_pool.ConnectionPool(dsn, min_size=1, timeout=0.2, open=True) as pool,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd,
    ):
        systemd.bind(str(tmp_path / "notify"))
        checks = [
            HealthCheck(PoolHealth(pool, conninfo=dsn), name="orders_db", policy=POLICY, recovery=pool_ladder(pool)),
            HealthCheck(stock, name="stock", policy=POLICY, recovery=reconnect),
            HealthCheck(denied, name="denied", policy=POLICY),
        ]
        healer = Healer(checks, phase=0, registry=prometheus_client.CollectorRegistry())
        end_spans = TraceExporter(provider, probe_share=1.0).attach(healer)
        end_status = follow(healer, SdNotify({"NOTIFY_SOCKET": str(tmp_path / "notify")}))
        with (
            healer,
            listen(healer, TOKEN, port=0, actions=True) as listener,
            Agent(listener.handler, port=0) as agent,
            StatusFile(listener.handler, tmp_path / "live", group="readyz"),
        ):
            ask = Ask(int(listener.address.rpartition(":")[2]))
            sinks["stream"] = first_messages(ask)
            until = time.monotonic() + 30
            while not told_of_all(log) and time.monotonic() < until:
                time.sleep(0.05)
            for path in PATHS:
                for who in (TOKEN, MISTAKEN, None):
                    headers = {"X_Forwarded_For": PASSWORD, "Cookie": f"token={MISTAKEN}", "X_SelfHeal": "1"}
                    if who is not None:
                        headers["Authorization"] = f"Bearer {who}"
                    for method in ("GET", "POST", "PUT"):
                        answer = ask(path, method, b"{}" if method == "POST" else None, **headers)
                        sinks[f"{method} {path} {who}"] = f"{answer.headers} {answer.body.decode()}"
            sinks["open metrics"] = ask("/metrics", Accept="application/openmetrics-text").body.decode()
            sinks["agent"] = agent.line()
            sinks["file"] = (tmp_path / "live").read_text()
            sinks["repr"] = repr((listener.handler, listener, agent, healer, checks))
        end_status()
        end_spans()
        systemd.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while told := systemd.recv(65_536):
                sinks["systemd"] = sinks.get("systemd", "") + told.decode()
    sinks["log"] = "\n".join(log.lines)
    sinks["spans"] = "\n".join(span.to_json() for span in spans.get_finished_spans())
    for sink in ("stream", "log", "spans", "systemd", "file", f"GET /state {TOKEN}", "GET /metrics None"):
        assert "stock" in sinks[sink], sink
    sinks["log"] = sinks["log"].replace(LOGGED, "")
    secrets = (TOKEN, MISTAKEN, PASSWORD, OTHER, LOGGED, "postgresql://")
    assert {} == {
        (sink, secret): text[max(0, text.find(secret) - 60) :][:120]
        for sink, text in sinks.items()
        for secret in secrets
        if secret in text
    }


def told_of_all(log: Kept) -> bool:
    """Whether each fault was confirmed, and something done about one of them, in vain."""
    lines = "\n".join(tuple(log.lines))
    return lines.count("selfheal.incident.opened") >= 3 and "selfheal.action.finished" in lines


def first_messages(ask: Ask) -> str:
    """What the stream says of the first faults."""
    with contextlib.closing(ask.connection()) as connection:
        connection.request("GET", "/events", headers={"Authorization": f"Bearer {TOKEN}"})
        with connection.getresponse() as answer:
            assert 200 == answer.status
            return read(answer)


def read(answer: http.client.HTTPResponse) -> str:
    """Until each check has been told of."""
    told = ""
    for line in answer:
        told += line.decode()
        if all(f'"check":"{name}"' in told for name in ("orders_db", "stock", "denied")):
            return told
    raise AssertionError("the stream has ended")
