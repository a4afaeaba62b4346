"""
Leaves: one third-party library each, imported when a probe or an action is built, never before.
"""

from __future__ import annotations

import importlib

from typing import Any

from selfheal.errors import MissingExtraError


def missing_extra(who: str, *, package: str, extra: str) -> MissingExtraError:
    """
    The error that says which package is missing, and the command that installs it.
    """
    return MissingExtraError(
        f"{who} needs the package '{package}'. Install it with: pip install 'selfheal-core[{extra}]'"
    )


def require(module: str, *, who: str, package: str, extra: str) -> Any:
    """
    Import *module*, or say honestly what is missing.

    Args:
        module: Dotted name of the module.
        who: Who needs it, for the message.
        package: What brings it, as the package index calls it.
        extra: The extra of *selfheal-core* that pulls it in.

    Returns:
        The module.

    Raises:
        MissingExtraError: If it is not installed. A package that is installed
            but broken raises its own error: it is not missing.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as exc:
        if exc.name is None or exc.name.partition(".")[0] != module.partition(".")[0]:
            raise  # something *inside* that package is missing
        raise missing_extra(who, package=package, extra=extra) from exc
