"""
Django's own objects, asked for when they are needed, and what a forked child has to forget of them.
"""

from __future__ import annotations

import contextlib

from typing import Any

from selfheal.errors import ConfigError
from selfheal.integrations import require
from selfheal.resources.forks import keep_inherited


def wrapper_of(alias: str) -> Any:
    """
    This thread's connection of *alias*, as Django wraps it; it is not opened.

    Raises:
        MissingExtraError: If Django is not installed (extra ``django``).
        ConfigError: If the project has no such database.
    """
    db = require("django.db", who="selfheal.integrations.django", package="django", extra="django")
    if alias not in db.connections:
        msg = f"{alias!r} is not among DATABASES: {', '.join(sorted(db.connections))}."
        raise ConfigError(msg)
    return db.connections[alias]


def is_pooled(alias: str) -> bool:
    """
    Whether Django keeps a pool for *alias* (``OPTIONS={"pool": …}``).
    """
    return bool(wrapper_of(alias).settings_dict["OPTIONS"].get("pool"))


def by_psycopg(wrapper: Any) -> bool:
    """
    Whether it is a PostgreSQL reached by psycopg 3.
    """
    return getattr(wrapper.Database, "__name__", "") == "psycopg"


def forget_inherited(alias: str) -> None:
    """
    In a forked child: leave the parent's connection and pool alone, and have Django make new ones.
    """
    wrapper = wrapper_of(alias)
    keep_inherited(wrapper.connection)
    wrapper.connection = None
    with contextlib.suppress(AttributeError):  # a backend without pools
        keep_inherited(wrapper._connection_pools.pop(alias, None))
