"""
A Flask application with SQLAlchemy under gunicorn, four workers, preloaded. Its database was read-only for a while, and
connections from that time stay so, for good; each worker heals its own.

This file is the application, gunicorn's configuration, and a program that runs both against a PostgreSQL of its own:

    python examples/flask_gunicorn.py
"""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import time
import urllib.request

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg

from flask import Flask
from sqlalchemy import Engine, create_engine, text
from sqlalchemy.exc import DBAPIError

from selfheal import Healer, HealingPolicy, HealthCheck, Rebuildable
from selfheal.integrations.sqlalchemy import EngineHealth, engine_ladder
from selfheal.records import tell
from selfheal.testing.servers import Postgres


# -- the application: nothing here connects or starts anything, so it may be preloaded --------------------------------

DSN = os.environ.get("ORDERS_DSN", "")

# Made in each worker at its first use; a forked child never uses its parent's.
engine = Rebuildable(
    lambda: create_engine(DSN, pool_size=2, max_overflow=0, pool_timeout=2), close=Engine.dispose, name="orders_db"
)

# Seconds instead of the defaults' minutes, because somebody is watching.
POLICY = HealingPolicy(interval=1, fast_interval=0.2, timeout=3, fall=2, rise=1, verify_within=5, probation=1)
healer = Healer([HealthCheck(EngineHealth(engine), name="orders_db", policy=POLICY, recovery=engine_ladder(engine))])

app = Flask(__name__)


@app.get("/order")
def order() -> dict[str, Any]:
    time.sleep(0.02)  # else one worker would answer all who ask
    try:
        with engine.use() as current, current.begin() as connection:
            connection.execute(text("INSERT INTO orders DEFAULT VALUES"))
    except DBAPIError as exc:
        return {"worker": os.getpid(), "order": type(exc.orig).__name__}
    return {"worker": os.getpid(), "order": "taken"}


@app.get("/incidents")
def incidents() -> dict[str, Any]:
    time.sleep(0.02)
    return {"worker": os.getpid(), "incidents": [tell(incident) for incident in healer.incidents()]}


# -- gunicorn's configuration: the healer lives in the workers ---------------------------------------------------------

wsgi_app = "flask_gunicorn:app"
bind = "127.0.0.1:0"
workers = 4
preload_app = True
control_socket_disable = True


def post_worker_init(worker: object) -> None:
    healer.start()


def worker_exit(server: object, worker: object) -> None:
    healer.stop()


# -- the program: runs it, breaks it, and asks each worker -------------------------------------------------------------


@contextlib.contextmanager
def serve(server: Postgres) -> Iterator[str]:
    """gunicorn's address, while it runs."""
    with psycopg.connect(server.dsn) as operator:
        operator.execute("CREATE TABLE orders (number serial)")
    here = pathlib.Path(__file__)
    environment = {**os.environ, "ORDERS_DSN": server.dsn.replace("postgresql:", "postgresql+psycopg:")}
    with tempfile.NamedTemporaryFile("r") as log:
        command = [sys.executable, "-m", "gunicorn", "-c", f"python:{here.stem}", "--log-file", log.name]
        master = subprocess.Popen(command, cwd=here.parent, env=environment)
        try:
            while not (listening := re.search(r"Listening at: (http://\S+)", pathlib.Path(log.name).read_text())):
                if master.poll() is not None:
                    raise ChildProcessError(log.read())
                time.sleep(0.05)
            yield listening[1]
        finally:
            master.terminate()
            master.wait(20)


def ask_all(address: str, path: str, until: Callable[[Any], bool] = bool) -> dict[int, Any]:
    """What each worker answers, once it is as it should be at all of them."""

    def ask(_: int) -> tuple[int, Any]:
        with urllib.request.urlopen(f"{address}/{path}", timeout=20) as page:
            answer = json.load(page)
            return answer["worker"], answer[path]

    answers: dict[int, Any] = {}
    give_up = time.monotonic() + 20
    with ThreadPoolExecutor(2 * workers) as callers:
        while len(answers) < workers or not all(map(until, answers.values())):
            if time.monotonic() > give_up:
                raise TimeoutError(answers)
            answers |= dict(callers.map(ask, range(2 * workers)))
    return answers


def pin(server: Postgres, address: str) -> dict[int, str]:
    """Have each worker connect while the database is read-only. What they answer then, they answer from then on."""
    with psycopg.connect(server.dsn, autocommit=True) as operator:
        operator.execute("ALTER DATABASE postgres SET default_transaction_read_only = on")
    server.terminate_backends()
    answers = ask_all(address, "order", until="ReadOnlySqlTransaction".__eq__)
    with psycopg.connect(server.dsn, autocommit=True) as operator:
        operator.execute("SET default_transaction_read_only = off")
        operator.execute("ALTER DATABASE postgres RESET default_transaction_read_only")
    return answers


def main() -> None:
    with Postgres() as server, serve(server) as address:
        print("an order at each worker:", *ask_all(address, "order", until="taken".__eq__).values())
        print("the database is read-only; an order at each worker:", *pin(server, address).values())
        print("it is as before; an order at each worker:", *ask_all(address, "order", until="taken".__eq__).values())
        stories = ask_all(address, "incidents", until=lambda told: any("closed: healed" in story for story in told))
        healed = len(stories)
        print("workers that have healed their own:", healed)
        print(*next(iter(stories.values())))
    sys.exit(healed != workers)


if __name__ == "__main__":
    main()
