"""
Packages that load a module when one of its names is first asked for: a program pays for what it names.
"""

from __future__ import annotations

import sys

from collections.abc import Callable, Mapping


def lazily(package: str, homes: Mapping[str, tuple[str, ...]]) -> Callable[[str], object]:
    """
    A module's ``__getattr__``.

    Args:
        package: The module's ``__name__``.
        homes: Which module has which of its names.
    """
    home_of = {name: home for home, names in homes.items() for name in names}

    def getattr_(name: str) -> object:
        home = home_of.get(name)
        if home is None:
            msg = f"module {package!r} has no attribute {name!r}"
            raise AttributeError(msg)
        __import__(home)
        value = getattr(sys.modules[home], name)
        setattr(sys.modules[package], name, value)
        return value

    return getattr_
