"""
What a set of checks must be for one healer to watch it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from selfheal.errors import ConfigError


if TYPE_CHECKING:
    from selfheal.checks import HealthCheck
    from selfheal.model import Budget


def distinct(checks: Iterable[HealthCheck]) -> dict[str, HealthCheck]:
    """
    *checks* by name.

    Raises:
        ConfigError: If a name is taken twice, or one resource gets two budgets.
    """
    named: dict[str, HealthCheck] = {}
    budgets: dict[str, Budget] = {}
    for check in checks:
        if check.name in named:
            msg = f"two checks are called {check.name!r}. Pass name=... to one of them."
            raise ConfigError(msg)
        if check.budget is not None and budgets.setdefault(check.resource, check.budget) != check.budget:
            msg = (
                f"the checks of resource {check.resource!r} give it different budgets, but share one: "
                "set budget= on one of them."
            )
            raise ConfigError(msg)
        named[check.name] = check
    return named


def require_acyclic(checks: Mapping[str, HealthCheck]) -> None:
    """
    Refuse dependencies that are unknown or go round in a circle.

    Raises:
        ConfigError: With the circle.
    """
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        if name in path:
            circle = " -> ".join((*path[path.index(name) :], name))
            msg = f"checks depend on one another in a circle: {circle}. Drop one depends_on."
            raise ConfigError(msg)
        if name in done:
            return
        for other in checks[name].depends_on:
            if other not in checks:
                msg = f"check {name!r} depends on {other!r}, which this healer does not have. Pass that check too."
                raise ConfigError(msg)
            visit(other, (*path, name))
        done.add(name)

    for name in checks:
        visit(name, ())


def require_removable(checks: Mapping[str, HealthCheck], name: str) -> None:
    """
    Refuse to remove what others depend on.

    Raises:
        ConfigError: With their names.
    """
    dependants = [check.name for check in checks.values() if name in check.depends_on]
    if dependants:
        msg = f"{', '.join(dependants)} depend on {name!r}: remove them first."
        raise ConfigError(msg)
