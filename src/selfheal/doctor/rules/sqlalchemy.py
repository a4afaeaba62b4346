"""
SQLAlchemy's engines: what their drivers need, and what their pool believes.
"""

from __future__ import annotations

import types

from collections.abc import Callable, Mapping
from typing import Any, Final, cast

from selfheal.doctor.findings import Rule, Severity, Sign, Signs, rule
from selfheal.doctor.kinds import ENGINE
from selfheal.doctor.rules import libpq


_PLACE: Final = "create_engine's connect_args="
_LIBPQ: Final = frozenset({"psycopg", "psycopg2"})

#: What limits connecting, and waiting for an answer, for drivers other than libpq's. PyMySQL connects for 10 s at most.
_CONNECTING: Final = {"asyncpg": "timeout", "aiomysql": "connect_timeout", "mysqldb": "connect_timeout"}
_ANSWERING: Final = {"asyncpg": "command_timeout", "pymysql": "read_timeout", "mysqldb": "read_timeout"}


def told(engine: Any) -> Mapping[str, object] | None:
    """
    What its driver is told when it connects; `None`: nobody knows, for the application connects by itself.
    """
    creator: Any = getattr(engine.pool, "_creator", None)
    if not isinstance(creator, types.FunctionType) or "cparams" not in creator.__code__.co_freevars:
        return None
    cells = creator.__closure__ or ()
    return cast("Mapping[str, object]", cells[creator.__code__.co_freevars.index("cparams")].cell_contents)


def _libpq(look: Callable[[Mapping[str, object], str], Signs]) -> Callable[[Any], Signs]:
    def signs(engine: Any) -> Signs:
        settings = told(engine)
        if settings is not None and engine.dialect.driver in _LIBPQ:
            yield from look(settings, _PLACE)

    return signs


def _limited(engine: Any, names: Mapping[str, str], what: str, fix: str) -> Signs:
    settings, name = told(engine), names.get(engine.dialect.driver)
    if settings is not None and name is not None and not settings.get(name):
        yield Sign(f"{what} has no time limit: there is no {name}", f"Add {name}={fix} to {_PLACE}.")


@rule("SH201", Severity.WARNING, ENGINE, "connecting without a time limit", why=libpq.WHY_CONNECT)
def no_connect_timeout(engine: Any) -> Signs:
    """It connects without a limit."""
    yield from _libpq(libpq.no_connect_timeout)(engine)
    yield from _limited(engine, _CONNECTING, "connecting", "3")


no_user_timeout = rule("SH202", Severity.WARNING, ENGINE, "no tcp_user_timeout", why=libpq.WHY_UNSENT)(
    _libpq(libpq.no_user_timeout)
)

slow_keepalives = rule("SH203", Severity.WARNING, ENGINE, "no quick keepalives", why=libpq.WHY_ANSWER)(
    _libpq(libpq.slow_keepalives)
)


@rule(
    "SH204",
    Severity.WARNING,
    ENGINE,
    "waiting for an answer without a time limit",
    why="A query on a connection whose other side is gone hangs for ever, and keeps its place in the pool.",
)
def no_answer_timeout(engine: Any) -> Signs:
    """It waits without a limit."""
    yield from _limited(engine, _ANSWERING, "waiting for an answer", "10")


@rule(
    "SH205",
    Severity.WARNING,
    ENGINE,
    "connections that are kept for ever",
    why="After a failover they stay pinned to the demoted server: it answers, so they are kept, and every write fails.",
)
def kept_for_ever(engine: Any) -> Signs:
    """Nothing makes it let go of a demoted server."""
    recycle = getattr(engine.pool, "_recycle", 0)
    judges = getattr(engine.dialect.dispatch, "handle_error", ())
    # The other pools keep nothing.
    keeps = hasattr(engine.pool, "checkedin")
    if engine.dialect.name == "postgresql" and keeps and recycle == -1 and not list(judges):
        yield Sign(
            "pool_recycle is -1, and no error of the server counts as a disconnect",
            "Call selfheal.integrations.sqlalchemy.treat_as_disconnect(engine); or set pool_recycle=300.",
        )


@rule(
    "SH206",
    Severity.INFO,
    ENGINE,
    "pool_pre_ping without limits below it",
    why="The ping itself waits for an answer, so on a half-open connection it hangs like any other query.",
)
def unbounded_ping(engine: Any) -> Signs:
    """The ping may hang."""
    bare = [*no_user_timeout.signs(engine), *slow_keepalives.signs(engine), *no_answer_timeout.signs(engine)]
    if getattr(engine.pool, "_pre_ping", False) and bare:
        yield Sign("pool_pre_ping asks over connections that may hang", " ".join(sign.fix for sign in bare))


RULES: Final[tuple[Rule, ...]] = (
    no_connect_timeout,
    no_user_timeout,
    slow_keepalives,
    no_answer_timeout,
    kept_for_ever,
    unbounded_ping,
)
