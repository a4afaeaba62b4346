"""
The kinds of things that rules look at, told by their types. No library is imported for it: what is not loaded has no
objects.
"""

from __future__ import annotations

import sys

from typing import Any, Final

import attrs

from selfheal.doctor import peek


@attrs.frozen
class Kind:
    """
    A kind of thing.

    Args:
        name: For people.
        types: Where its types are: ``module:name``.
    """

    name: str
    types: tuple[str, ...]

    def has(self, thing: object) -> bool:
        """
        Whether *thing* is one.
        """
        return peek.is_a(thing, *loaded(*self.types))


def loaded(*types: str) -> tuple[type, ...]:
    """
    Those of the types, given as ``module:name``, whose modules are loaded.
    """
    found: list[type] = []
    for spelled in types:
        module, _, name = spelled.partition(":")
        there: Any = getattr(sys.modules.get(module), name, None)
        if peek.is_a(there, type):
            found.append(there)
    return tuple(found)


PSYCOPG_POOL: Final = Kind("psycopg pool", ("psycopg_pool:ConnectionPool", "psycopg_pool:AsyncConnectionPool"))
ENGINE: Final = Kind("SQLAlchemy engine", ("sqlalchemy.engine:Engine",))
ASYNCPG_POOL: Final = Kind("asyncpg pool", ("asyncpg.pool:Pool",))
REDIS_POOL: Final = Kind("redis pool", ("redis:ConnectionPool", "redis.asyncio:ConnectionPool"))
HTTPX_CLIENT: Final = Kind("HTTP client", ("httpx:Client", "httpx:AsyncClient", "httpx2:Client", "httpx2:AsyncClient"))
AIOHTTP_SESSION: Final = Kind("aiohttp session", ("aiohttp:ClientSession",))

#: What may be told about by a rule of its own library.
CLIENTS: Final = (PSYCOPG_POOL, ENGINE, ASYNCPG_POOL, REDIS_POOL, HTTPX_CLIENT, AIOHTTP_SESSION)

POOLED_HEALTH: Final = Kind("ready-made probe", ("selfheal.integrations.pooled:PooledHealth",))
REBUILDABLE: Final = Kind("Rebuildable", ("selfheal.resources.rebuildable:Rebuildable",))

CACHE_GATE: Final = Kind("cache gate", ("selfheal.resources.cache_gate:CacheGate",))
CACHE_PROBE: Final = Kind("probe of a cache", ("selfheal.resources.cache_health:CacheHealth",))
CACHED_FUNCTION: Final = Kind("cached function", ("functools:_lru_cache_wrapper",))
#: Threads that use one of these at the same time break it.
FRAGILE_CACHE: Final = Kind("cachetools cache", ("cachetools:Cache",))
SD_NOTIFY: Final = Kind("SdNotify", ("selfheal.resources.process_systemd:SdNotify",))
#: Whose checks are there to be run: they are healthy while somebody runs them.
SIGN_OF_LIFE: Final = Kind("sign of life", (*SD_NOTIFY.types, "selfheal.resources.process_deadman:DeadMan"))

RENEWING: Final = Kind("RenewConnections", ("selfheal.integrations.django.actions:RenewConnections",))
#: What is made for a database of a Django project, and knows its alias.
DJANGO_PART: Final = Kind(
    "part for Django",
    (
        *RENEWING.types,
        "selfheal.integrations.django.actions:SeverHung",
        "selfheal.integrations.django.pool:DjangoPool",
        "selfheal.integrations.django.probe:DatabaseHealth",
    ),
)

_OURS: Final = Kind("part of a healer", ("selfheal.healer:Healer", "selfheal.checks:HealthCheck"))

HEALER: Final = Kind("healer", ())
CHECK: Final = Kind("check", ())
#: A database of a Django project.
DJANGO: Final = Kind("Django database", ())
#: What holds the values of a cache, and who uses it.
CACHE: Final = Kind("cache", ())
#: A file that logging handlers of the process write.
LOG_FILE: Final = Kind("log file", ())
#: A healer, log file, or client outside of any Rebuildable, as the import of the application has left it.
IMPORTED: Final = Kind("imported object", ())


def client_kind(thing: object) -> Kind | None:
    """
    Which kind of client *thing* is; `None`: none.
    """
    return next((kind for kind in CLIENTS if kind.has(thing)), None)


def is_end(thing: object) -> bool:
    """
    Whether its inside is nobody's business: a client's, or that of a healer or check, which would lead everywhere.
    """
    return client_kind(thing) is not None or _OURS.has(thing)
