"""
Converters and validators that turn generous arguments into strict settings.

They know what a valid number is; what it is *for* is written where it is used.
"""

from __future__ import annotations

import math
import re

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

from selfheal.errors import ConfigError


if TYPE_CHECKING:
    import datetime as dt

#: Names end up in metric labels, log fields and URLs.
NAME_PATTERN: Final = r"[a-z][a-z0-9_-]{0,62}"


class Named(Protocol):
    """
    What a validator has to know of an attribute: an `attrs.Attribute` will do.
    """

    @property
    def name(self) -> str:
        """
        As its class spells it.
        """
        ...


class _Name(NamedTuple):
    name: str


def require(inst: object, validator: Callable[[object, Named, Any], None], *names: str) -> None:
    """
    Validate some attributes of an instance that has just been made.

    To call this from ``__attrs_post_init__`` costs a program at import less
    than half of what a validator on each attribute does.

    Raises:
        ConfigError: As the validator.
    """
    for name in names:
        validator(inst, _Name(name), getattr(inst, name))


def seconds(value: float | dt.timedelta) -> float:
    """
    Seconds as `float`, from a number or a `timedelta`.

    Raises:
        ConfigError: If *value* is neither, or is NaN.
    """
    number: object = value
    if not isinstance(value, int | float):  # whoever has a timedelta has paid for datetime
        total_seconds = getattr(value, "total_seconds", None)
        number = None if total_seconds is None else total_seconds()
    if isinstance(number, bool) or not isinstance(number, int | float) or math.isnan(number):
        msg = f"{value!r} is not a time. Give seconds as a number, or a timedelta."
        raise ConfigError(msg)
    return float(number)


def optional_seconds(value: float | dt.timedelta | None) -> float | None:
    """
    As `seconds`, and `None` stays `None`.

    Raises:
        ConfigError: If *value* is no time.
    """
    return None if value is None else seconds(value)


def positive(_inst: object, attribute: Named, value: float | None) -> None:
    """
    Validate a number greater than 0; `None` passes.

    Raises:
        ConfigError: If *value* is not finite or not greater than 0.
    """
    if value is not None and not 0 < value < math.inf:
        msg = f"{attribute.name}={value}: must be a finite number greater than 0."
        raise ConfigError(msg)


def not_negative(_inst: object, attribute: Named, value: float | None) -> None:
    """
    Validate a number of 0 or more; `None` passes.

    Raises:
        ConfigError: If *value* is not finite or is negative.
    """
    if value is not None and not 0 <= value < math.inf:
        msg = f"{attribute.name}={value}: must be a finite number, 0 or more."
        raise ConfigError(msg)


def share(_inst: object, attribute: Named, value: Any) -> None:
    """
    Validate a share: a number of at least 0 and less than 1.

    Raises:
        ConfigError: If *value* is not.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1:
        msg = f"{attribute.name}={value!r}: must be at least 0 and less than 1; 0.1 means 10 %."
        raise ConfigError(msg)


def at_least_one(_inst: object, attribute: Named, value: Any) -> None:
    """
    Validate a whole number of 1 or more; `None` passes.

    Raises:
        ConfigError: If *value* is not one.
    """
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        msg = f"{attribute.name}={value!r}: must be a whole number, 1 or more."
        raise ConfigError(msg)


def require_name(name: object, what: str = "name") -> str:
    """
    *name*, if it can be a metric label.

    Raises:
        ConfigError: If it does not match ``[a-z][a-z0-9_-]{0,62}``.
    """
    if not isinstance(name, str) or re.fullmatch(NAME_PATTERN, name) is None:
        msg = (
            f"{what} {name!r} is not usable as a metric label: use lower-case letters, digits, "
            "'_' and '-', beginning with a letter, 63 at most. Pass name=... to choose another."
        )
        raise ConfigError(msg)
    return name
