"""
Let SQLAlchemy's engines follow a `selfheal.resources.Router` of database URLs::

    router = Router({"a": URL_A, "b": URL_B}, primary="a", role=role)
    engine = create_engine(URL_A)
    recovery = switch_ladder(router, after=follow(engine, router)) >> engine_ladder(engine)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from selfheal.integrations import require
from selfheal.integrations.colours import run
from selfheal.integrations.sqlalchemy.errands import Errand, io_for
from selfheal.integrations.sqlalchemy.listening import listen
from selfheal.integrations.sqlalchemy.probe import EngineHealth
from selfheal.integrations.sqlalchemy.retiring import renew
from selfheal.integrations.standby import PATIENCE, POSTGRES_ROLE, postgres_role


if TYPE_CHECKING:
    from sqlalchemy import URL, Engine
    from sqlalchemy.ext.asyncio import AsyncEngine

    from selfheal.resources import Rebuildable, Router

    Source = Engine | AsyncEngine | Rebuildable[Engine] | Rebuildable[AsyncEngine]


def role(url: str | URL) -> tuple[str, int | None]:
    """
    The role of a PostgreSQL server, asked over a connection of its own: the ``role=`` of a router.

    Args:
        url: A database URL with a sync driver, of that one server.

    Returns:
        ``"primary"`` or ``"standby"``, and the timeline of a primary.

    Raises:
        MissingExtraError: If SQLAlchemy is not installed (extra ``sqlalchemy``).
        Exception: If it does not answer, within some seconds.

    .. versionadded:: 26.1.0
    """
    sqlalchemy = require("sqlalchemy", who=__name__, package="sqlalchemy", extra="sqlalchemy")
    engine = sqlalchemy.create_engine(url, poolclass=sqlalchemy.NullPool, connect_args=_limits(url))
    return run(_asked(engine))


async def arole(url: str | URL) -> tuple[str, int | None]:
    """
    As `role`, with an async driver: the ``role=`` of a router in an async program.
    """
    sqlalchemy = require("sqlalchemy", who=__name__, package="sqlalchemy", extra="sqlalchemy")
    asyncio = require("sqlalchemy.ext.asyncio", who=__name__, package="sqlalchemy", extra="sqlalchemy")
    engine = asyncio.create_async_engine(url, poolclass=sqlalchemy.NullPool, connect_args=_limits(url))
    return await _asked(engine.sync_engine)


def follow(engine: Source, router: Router[Any]) -> Callable[[], object]:
    """
    Let each new connection of *engine* lead to where *router* points to, from now on.

    Whatever the URL of the target says wins over the engine's own; the rest of
    its settings stay. The listener is a ``do_connect``: an engine that was made
    with ``creator=`` does not ask it.

    Args:
        engine: An `Engine`, an `AsyncEngine`, or the `Rebuildable` that makes them; let that build with
            ``router.target``.
        router: Of database URLs.

    Returns:
        The ``after=`` of a switch: the engine gets a new, empty pool at once, and the old one is closed in the
        background. A connection that is in use is closed when it comes back.

    Raises:
        MissingExtraError: If SQLAlchemy is not installed (extra ``sqlalchemy``).

    .. versionadded:: 26.1.0
    """
    url = require("sqlalchemy.engine", who=__name__, package="sqlalchemy", extra="sqlalchemy")
    health: EngineHealth[Any] = EngineHealth(engine)

    def connecting(dialect: Any, _record: Any, args: list[Any], params: dict[str, Any]) -> None:
        args[:], chosen = dialect.create_connect_args(url.make_url(router.target))
        params.update(chosen)

    def lead(led: Engine) -> None:
        listen(led, "do_connect", connecting)

    given: Any = engine
    if not hasattr(given, "rebuild"):
        lead(getattr(given, "sync_engine", given))

    async def leave() -> None:
        async with health.looking() as looked:
            lead(looked.engine)
            renew(looked)

    return leave if health.is_async else lambda: run(leave())


async def _asked(engine: Engine) -> tuple[str, int | None]:
    errand = Errand()

    def ask() -> tuple[str, int | None]:
        with engine.connect() as connection:
            errand.hold(connection.connection.dbapi_connection)
            read_only, walfile = connection.exec_driver_sql(POSTGRES_ROLE).one()
            errand.release()
        return postgres_role(read_only, walfile)

    told: tuple[str, int | None] = await io_for(is_async=engine.dialect.is_async).run(errand, ask, PATIENCE)
    return told


def _limits(url: Any) -> dict[str, Any]:
    """
    The connect arguments that keep a role from being waited for, as the driver calls them.
    """
    from sqlalchemy.engine import make_url

    driver = make_url(url).get_driver_name()
    if driver == "asyncpg":
        return {"timeout": PATIENCE, "command_timeout": PATIENCE}
    return {"timeout" if driver == "pg8000" else "connect_timeout": PATIENCE}
