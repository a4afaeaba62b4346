"""
Validators of the settings that resources have in common.
"""

from __future__ import annotations

from typing import Any

import attrs

from selfheal.errors import ConfigError


def zero_or_more(_inst: object, attribute: attrs.Attribute[Any], value: object) -> None:
    """
    Validate a whole number of 0 or more; `None` passes.

    Raises:
        ConfigError: If *value* is not one.
    """
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        msg = f"{attribute.name}={value!r}: must be a whole number, 0 or more."
        raise ConfigError(msg)


def positive_share(_inst: object, attribute: attrs.Attribute[Any], value: float) -> None:
    """
    Validate a share of what there is: a number above 0, and 1 at most.

    Raises:
        ConfigError: If *value* is not.
    """
    if not 0 < value <= 1:
        msg = f"{attribute.name}={value!r}: must be above 0, and 1 at most; 0.9 means 90 %."
        raise ConfigError(msg)
