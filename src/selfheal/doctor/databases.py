"""
The databases of a Django project that a healer watches or heals, as the project's settings have them.
"""

from __future__ import annotations

import sys

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from selfheal.doctor import peek
from selfheal.doctor.kinds import DJANGO_PART, RENEWING
from selfheal.doctor.walk import Found


class Database(NamedTuple):
    """
    One of them.

    Attributes:
        alias: As in ``DATABASES``.
        settings: What stands there, with Django's defaults.
        renewed: Whether an action wants threads to renew their connections of it.
        middleware: Of the project.
    """

    alias: str
    settings: Mapping[str, Any]
    renewed: bool
    middleware: tuple[str, ...]

    @property
    def options(self) -> Mapping[str, Any]:
        """
        What is for the driver, and for the pool.
        """
        return self.settings.get("OPTIONS") or {}

    @property
    def pool(self) -> Mapping[str, Any] | None:
        """
        What Django's own pool is told; `None`: there is none.
        """
        told: Any = self.options.get("pool")
        if not told:
            return None
        return {} if told is True else told

    @property
    def is_postgresql(self) -> bool:
        """
        Whether it is reached by libpq.
        """
        return str(self.settings.get("ENGINE")).rpartition(".")[2] in {"postgresql", "postgis"}


def databases(found: Iterable[Found]) -> tuple[Database, ...]:
    """
    Those that the parts of a healer among *found* are for, each once.
    """
    renewed: dict[str, bool] = {}
    for each in found:
        if DJANGO_PART.has(each.thing):
            held = dict(peek.stored(each.thing))
            alias: str = held.get("alias") or held["_alias"]
            renewed[alias] = renewed.get(alias, False) or RENEWING.has(each.thing)
    if not renewed:
        return ()
    # Whoever has made such a part has had Django read its settings.
    known = _of("django.db", "connections").get("settings", {})
    project = dict(peek.stored(_of("django.conf", "settings").get("_wrapped")))
    middleware = tuple(project.get("MIDDLEWARE") or ())
    return tuple(Database(alias, known[alias], renewed[alias], middleware) for alias in renewed if alias in known)


def _of(module: str, name: str) -> dict[str, Any]:
    return dict(peek.stored(vars(sys.modules[module])[name]))
