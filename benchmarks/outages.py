"""
``python -m benchmarks.outages``: how long applications are down, with and without selfheal; writes OUTAGES.md.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import importlib.metadata
import logging
import os
import pathlib
import platform
import sys
import time

from collections.abc import Callable

import attrs
import psycopg

from benchmarks.applications import HUNG_AFTER, LEAK_AFTER, ON_POSTGRESQL, ON_VALKEY, POLICY, Application
from selfheal.testing import FaultProxy, Postgres, Valkey


RESULTS = pathlib.Path(__file__).with_name("OUTAGES.md")
OUTAGE = 20.0

#: Seconds after which nothing is waited for any more.
PATIENCE = 30.0

#: Seconds within which a fault has to be seen, and within which it has to be healed once that is possible.
DETECTED_WITHIN = POLICY.fall * (POLICY.fast_interval or 1.0) + POLICY.interval + POLICY.timeout
HEALED_WITHIN = 3.0

#: Seconds for which a fault cannot be told from what is none.
HIDDEN_FOR = {"hung sockets": HUNG_AFTER, "leaked connections": LEAK_AFTER}

SETTINGS = {"max_connections": 300}

PREAMBLE = """# Outages

Written by `python -m benchmarks.outages`. Each application has two workers that write something every 50 ms through a
pool of four connections, by its driver's defaults but for a bounded wait for a connection. All of them run at once,
against the same server, through the same proxy. **down for**: seconds from the moment at which a fresh connection was
good again until every worker had been served. **seen after**: seconds from the fault to the incident. A leak is one after
3 s of silence, a call hangs after 1 s; the healing of these is counted from there.
"""


class PostgresPair:
    """
    A primary and its standby, and the proxy that leads to one of them.
    """

    def __init__(self, stack: contextlib.ExitStack) -> None:
        self.first = stack.enter_context(Postgres(settings=SETTINGS))
        with psycopg.connect(self.first.dsn, autocommit=True) as connection:
            connection.execute("CREATE TABLE orders (x int)")
        self.second = stack.enter_context(Postgres.standby_of(self.first, settings=SETTINGS))
        self.proxy = stack.enter_context(FaultProxy(self.first.port))
        self.url = self.first.dsn.replace(str(self.first.port), str(self.proxy.port))

    def stop(self) -> None:
        """
        End the server, its connections with it.
        """
        self.first.stop("immediate")

    def start(self) -> None:
        """
        Begin again.
        """
        self.first.start()

    def fail_over(self) -> None:
        """
        The standby is promoted, and the address moves to it; the old primary can only be read.
        """
        self.second.promote()
        with psycopg.connect(self.first.dsn, autocommit=True) as connection:
            connection.execute("ALTER SYSTEM SET default_transaction_read_only = on")
            connection.execute("SELECT pg_reload_conf()")
        self.proxy.retarget(self.second.port)


class ValkeyPair:
    """
    A master and its replica, and the proxy that leads to one of them.
    """

    def __init__(self, stack: contextlib.ExitStack) -> None:
        self.first = stack.enter_context(Valkey())
        self.second = stack.enter_context(Valkey.replica_of(self.first))
        self.proxy = stack.enter_context(FaultProxy(self.first.port))
        self.url = self.first.url.replace(str(self.first.port), str(self.proxy.port))

    def stop(self) -> None:
        """
        End the server, its connections with it.
        """
        self.first.stop()

    def start(self) -> None:
        """
        Begin again.
        """
        self.first.start()

    def fail_over(self) -> None:
        """
        The replica is promoted, and the address moves to it; the old master follows it.
        """
        self.second.promote()
        self.first.demote(self.second)
        self.proxy.retarget(self.second.port)


Pair = PostgresPair | ValkeyPair
#: Does the damage; gives the seconds (monotonic) at which it began and at which it could be healed.
Fault = Callable[[Pair, list[Application]], tuple[float, float]]


def outage(pair: Pair, applications: list[Application]) -> tuple[float, float]:
    """
    The server is away for 20 s.
    """
    began = time.monotonic()
    pair.stop()
    time.sleep(OUTAGE)
    pair.start()
    return began, time.monotonic()


def pinned(pair: Pair, applications: list[Application]) -> tuple[float, float]:
    """
    The address moves to a promoted standby; the old server stays readable.
    """
    began = time.monotonic()
    pair.fail_over()
    time.sleep(0.3)  # writes that were under way are over
    return began, time.monotonic()


def hung(pair: Pair, applications: list[Application]) -> tuple[float, float]:
    """
    All packets are swallowed for a second; connections that have lost some stay mute.
    """
    began = time.monotonic()
    pair.proxy.blackhole()
    time.sleep(1.0)
    pair.proxy.heal()
    return began, began + max(1.0, HUNG_AFTER)


def leaked(pair: Pair, applications: list[Application]) -> tuple[float, float]:
    """
    Somebody takes all connections and never gives them back; after 3 s of silence that counts as a leak.
    """
    began = time.monotonic()
    for application in applications:
        application.order("leak")
    return began, began + LEAK_AFTER


def exhausted(pair: Pair, applications: list[Application]) -> tuple[float, float]:
    """
    All connections are busy for 5 s: overload, against which nothing is done.
    """
    began = time.monotonic()
    for application in applications:
        application.order("hog")
    time.sleep(5)
    return began, time.monotonic()


FAULTS: dict[str, Fault] = {
    "20 s outage": outage,
    "pinned to a standby": pinned,
    "hung sockets": hung,
    "leaked connections": leaked,
    "exhausted by work": exhausted,
}


@attrs.frozen
class Row:
    """
    What a fault has done to one kind of application.
    """

    fault: str
    name: str
    seen: float | None
    healed: float | None
    unhealed: float | None
    actions: tuple[str, ...]

    def __str__(self) -> str:
        cells = [self.fault, self.name, _seconds(self.seen), _seconds(self.healed), _seconds(self.unhealed)]
        return "| " + " | ".join([*cells, ", ".join(dict.fromkeys(self.actions)) or "none"]) + " |"

    @property
    def met(self) -> bool:
        """
        Whether it was seen and healed in time. What nothing is done against need not be seen.
        """
        if self.healed is None or self.healed > HEALED_WITHIN:
            return False
        return (
            self.fault == "exhausted by work"
            or not self.actions
            or (self.seen or 0.0) <= DETECTED_WITHIN + HIDDEN_FOR.get(self.fault, 0.0)
        )


def _seconds(value: float | None) -> str:
    return f"> {PATIENCE:g}" if value is None else f"{max(0.0, value):.1f}"


def measure(fault: str, kinds: list[type[Application]], make: Callable[[contextlib.ExitStack], Pair]) -> list[Row]:
    """
    Let *fault* happen to two applications of each kind.
    """
    with contextlib.ExitStack() as stack:
        pair = make(stack)
        pairs = [
            (stack.enter_context(kind(pair.url, healed=True)), stack.enter_context(kind(pair.url, healed=False)))
            for kind in kinds
        ]
        everybody = [application for both in pairs for application in both]
        time.sleep(2)
        began, healable = FAULTS[fault](pair, everybody)
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until and any(one.up_since(healable) is None for one in everybody):
            time.sleep(0.05)
        return [
            Row(
                fault,
                healed.name,
                min(healed.opened, default=began) - began if healed.opened else None,
                healed.up_since(healable),
                unhealed.up_since(healable),
                tuple(healed.actions),
            )
            for healed, unhealed in pairs
        ]


def main(chosen: list[str]) -> int:
    """
    Measure and print; all of it is kept. 1 if something was not seen or healed in time.
    """
    logging.disable()  # drivers have much to say about servers that are away
    rows = []
    for fault in chosen or FAULTS:
        print(fault, "...", file=sys.stderr)
        rows += measure(fault, ON_POSTGRESQL, PostgresPair)
        if fault != "exhausted by work":  # a command that takes seconds blocks the whole server
            rows += measure(fault, ON_VALKEY, ValkeyPair)
    drivers = ", ".join(
        f"{name} {importlib.metadata.version(name)}"
        for name in ("psycopg", "psycopg-pool", "SQLAlchemy", "asyncpg", "redis")
    )
    machine = f"{platform.system()}, {os.cpu_count()} cores, Python {platform.python_version()}; {drivers}"
    head = "| fault | driver | seen after, s | down for, s | down for without selfheal, s | actions |\n|---|---|---:|---:|---:|---|"
    text = f"{PREAMBLE}\n{machine}; {dt.datetime.now(dt.UTC):%Y-%m-%d}.\n\n{head}\n" + "\n".join(map(str, rows)) + "\n"
    print(text)
    if not chosen:
        RESULTS.write_text(text)
    missed = [row for row in rows if not row.met]
    for row in missed:
        print(f"too late: {row}", file=sys.stderr)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
