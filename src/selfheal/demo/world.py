"""
The world around both applications: a primary, a standby, the address of the database, and the five faults.
"""

from __future__ import annotations

import contextlib
import math
import tempfile
import threading
import time

from collections.abc import Callable, Generator
from pathlib import Path
from typing import TYPE_CHECKING, Final, LiteralString, Self, TypeAlias

import attrs
import psycopg

from selfheal.demo.application import TABLE, WITH, WITHOUT, Application
from selfheal.demo.meter import Score
from selfheal.errors import SelfHealError
from selfheal.testing.servers import Postgres


if TYPE_CHECKING:
    from selfheal.model import Event

#: Breaks something at once, and yields the seconds after which it goes on; `HOLD`: when both have been judged.
Script: TypeAlias = Generator[float, None, None]

HOLD: Final = math.inf

# psycopg_pool tries again 15 s after the loss, give or take 1.5 s. Back after 15 s, a server would meet that try in one run
# and miss it in the next; after 17 s it has always missed it.
OUTAGE: Final = 17.0

#: Seconds in which a server whose old processes are frozen answers a newcomer, or does not at all.
_LOOK_WITHIN: Final = 3.0


class World:
    """
    Two servers and two applications, in temporary folders, on loopback. All of it is gone when it is left.

    Args:
        listener: Is told what selfheal does.
        say: Is told what happens besides.
        port: Where the application that is healed can be watched, from this machine.
    """

    def __init__(
        self, listener: Callable[[Event], object], say: Callable[[str], object], *, port: int | None = None
    ) -> None:
        self.say = say
        self._port = port
        #: Seconds from the end of the primary until it accepted connections again.
        self.outage = 0.0
        self._listener = listener
        self._undo = contextlib.ExitStack()

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as undo:
            folder = Path(
                undo.enter_context(tempfile.TemporaryDirectory(prefix="selfheal-demo-", ignore_cleanup_errors=True))
            )
            self.primary = undo.enter_context(Postgres())
            self.execute(TABLE)
            # It looks for its primary every 5 s by default: too long for what comes right after an outage.
            quick = {"wal_retrieve_retry_interval": "200ms"}
            self.standby = undo.enter_context(Postgres.standby_of(self.primary, settings=quick))
            self.healed = undo.enter_context(
                self._application(WITH, folder / "with", listener=self._listener, port=self._port)
            )
            self.twin = undo.enter_context(self._application(WITHOUT, folder / "without"))
            self._undo = undo.pop_all()
        return self

    def __exit__(self, *_exc: object) -> None:
        # Frozen or mute servers would keep the applications from leaving.
        self.primary.thaw_backends()
        self._undo.close()

    def _application(
        self, name: str, folder: Path, *, listener: Callable[[Event], object] | None = None, port: int | None = None
    ) -> Application:
        folder.mkdir()
        return Application(name, self.address, folder, listener=listener, port=port)

    @property
    def applications(self) -> tuple[Application, Application]:
        """
        With selfheal, and without.
        """
        return self.healed, self.twin

    def address(self) -> str:
        """
        Where the primary is, for whoever makes a new connection: what a DNS name or a virtual address tells.
        """
        return self.primary.dsn

    def execute(self, statement: LiteralString, *, timeout: int = 5) -> object:
        """
        Run one statement on the primary over a connection of its own.

        Returns:
            The first value of its answer, or `None`.
        """
        options = f"-c statement_timeout={timeout}s"
        with psycopg.connect(self.address(), autocommit=True, connect_timeout=timeout, options=options) as connection:
            cursor = connection.execute(statement)
            row = cursor.fetchone() if cursor.description else None
        return None if row is None else row[0]

    def fail_over(self) -> None:
        """
        Fence the primary, promote the standby, move the address. Open connections stay where they are.
        """
        old, new = self.primary, self.standby
        self.execute("ALTER SYSTEM SET default_transaction_read_only = on")
        self.execute("SELECT pg_reload_conf()")
        caught_up = "SELECT count(*) > 0 FROM pg_stat_replication WHERE replay_lsn >= pg_current_wal_lsn()"
        give_up = time.monotonic() + 3
        while not self.execute(caught_up) and time.monotonic() < give_up:
            time.sleep(0.05)
        new.promote()
        self.primary, self.standby = new, old

    def freeze_backends(self) -> None:
        """
        Freeze all that serve somebody now, so that new connections still work.

        Raises:
            SelfHealError: If that cannot be had.
        """
        # One that is stopped in the very moment in which it holds an internal lock would stop newcomers as well: a
        # worse fault than the one that is to be shown. It takes some luck.
        for _ in range(10):
            self.primary.freeze_backends()
            if self._serves_newcomers():
                return
            self.primary.thaw_backends()
            time.sleep(0.5)
        msg = "the server processes could not be frozen so that new connections still work."
        raise SelfHealError(msg)

    def _serves_newcomers(self) -> bool:
        # Asked from a thread of its own: whoever waits for such a lock hears neither a timeout nor a cancel.
        served = threading.Event()

        def look() -> None:
            with contextlib.suppress(psycopg.Error):
                self.execute("INSERT INTO orders (item) VALUES ('a look from outside')", timeout=1)
                served.set()

        threading.Thread(target=look, daemon=True).start()
        return served.wait(_LOOK_WITHIN)


@attrs.frozen(kw_only=True)
class Fault:
    """
    One way to break both applications at once.

    Args:
        title: A few words.
        text: What happens.
        check: Which check of selfheal should see it.
        script: Breaks the world, and sets it right again.
        limit: Seconds after which whoever is not healed is given up.
        writes_only: Only requests that write tell whether it is healed.
        remark: What one has to know about the two scores, with selfheal and without.
    """

    title: str
    text: str
    check: str
    script: Callable[[World], Script]
    limit: float
    writes_only: bool = False
    remark: Callable[[World, Score, Score], str] = attrs.field(default=lambda _world, _healed, _twin: "")


def _terminate(world: World) -> Script:
    world.primary.terminate_backends()
    yield HOLD


def _outage(seconds: float) -> Callable[[World], Script]:
    def script(world: World) -> Script:
        began = time.monotonic()
        world.primary.kill()
        yield seconds
        world.primary.start()
        world.outage = time.monotonic() - began
        world.say(f"PostgreSQL accepts connections again, {world.outage:.2f} s after it went down")
        yield HOLD

    return script


def _failover(world: World) -> Script:
    world.fail_over()
    world.say("the standby is the primary now, and the address leads to it")
    yield HOLD
    world.standby.stop()


def _freeze(world: World) -> Script:
    world.freeze_backends()
    yield HOLD
    world.primary.thaw_backends()
    world.say("the frozen server processes are thawed")


def _flood(world: World) -> Script:
    floods = [threading.Thread(target=application.flood_log) for application in world.applications]
    for flood in floods:
        flood.start()
    for flood in floods:
        flood.join()
    yield HOLD


def _why_nobody_is_better(_world: World, healed: Score, twin: Score) -> str:
    if healed.healed is None or twin.healed is None:
        return ""
    return "psycopg_pool replaces dead connections by itself, at the price of a failed request for each of them."


def _after_the_outage(world: World, healed: Score, twin: Score) -> str:
    waits = [
        "still not" if score.healed is None else f"{max(0.0, score.healed - world.outage):.1f} s later"
        for score in (healed, twin)
    ]
    return (
        f"The server accepted connections again after {world.outage:.1f} s. With selfheal the application worked "
        f"{waits[0]}, without {waits[1]}: psycopg_pool tries again 1, 3, 7, 15 and 31 s after the loss, give or take a "
        "tenth, whenever the server returns."
    )


def five_faults(*, outage: float = OUTAGE, limit: float = 15.0) -> tuple[Fault, ...]:
    """
    The five faults, in the order in which they make a story.

    Args:
        outage: Seconds that the server is down.
        limit: Seconds that each of the others is watched.
    """
    return (
        Fault(
            title="all backends terminated",
            text="Every server process that serves a client is told to end, as pg_terminate_backend does.",
            check="orders_db",
            script=_terminate,
            limit=limit,
            remark=_why_nobody_is_better,
        ),
        Fault(
            title=f"server down for {outage:g} s",
            text="PostgreSQL is killed, and started again later. Nobody can help meanwhile; what counts comes after.",
            check="orders_db",
            script=_outage(outage),
            # The pool doubles its pauses, so the next try is never further away than the outage was long.
            limit=2.2 * outage + 4,
            remark=_after_the_outage,
        ),
        Fault(
            title="failover, pool pinned to the read-only node",
            text="The old primary becomes read-only, the standby is promoted, the address moves. "
            "Open connections stay where they are: reads work there, writes fail.",
            check="orders_db",
            script=_failover,
            limit=limit,
            writes_only=True,
        ),
        Fault(
            title="backends frozen, new connections work",
            text="Every server process that serves a client is stopped (SIGSTOP): no answer, no error, no end.",
            check="orders_db",
            script=_freeze,
            limit=limit,
        ),
        Fault(
            title="log file over its disk budget",
            text="A loop gone wild fills the log until its disk budget is used up. No request gets its line written.",
            check="app_log",
            script=_flood,
            limit=limit,
        ),
    )
