"""
What the front door was told, checked.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import attrs

from selfheal.errors import ConfigError
from selfheal.model import Budget
from selfheal.model.settings import at_least_one, not_negative, optional_seconds, require, seconds


if TYPE_CHECKING:
    import random as random_module


#: What `selfheal.Healer` allows the whole process unless it is told otherwise.
DEFAULT_BUDGET: Final = Budget(10, per=600)


def _one_of(*choices: str) -> Callable[[object, attrs.Attribute[str], str], None]:
    def validate(_inst: object, attribute: attrs.Attribute[str], value: str) -> None:
        if value not in choices:
            msg = f"{attribute.name}={value!r}: must be one of {', '.join(map(repr, choices))}."
            raise ConfigError(msg)

    return validate


def _uniform(random: random_module.Random | None) -> Callable[[], float]:
    if random is None:
        from random import Random

        random = Random()  # noqa: S311 - spreads load, guards nothing
    return random.random


@attrs.frozen(kw_only=True)
class Settings:
    """
    How one healer works. The arguments are explained at `selfheal.Healer`.

    Raises:
        ConfigError: If one of them cannot work.
    """

    mode: str = attrs.field(validator=_one_of("enforce", "observe"))
    allow_destructive: Any
    budget: Any
    max_concurrent: int
    max_threads: int
    grace: float = attrs.field(converter=seconds)
    phase: float | None = attrs.field(converter=optional_seconds)
    slack: float | None = attrs.field(converter=optional_seconds)
    after_fork: str = attrs.field(validator=_one_of("warn", "start"))
    uniform: Callable[[], float] = attrs.field(alias="random", converter=_uniform, repr=False)

    def __attrs_post_init__(self) -> None:
        if not isinstance(self.budget, Budget):
            msg = f"budget={self.budget!r}: write Budget(10, per=600), for at most 10 actions in 600 s."
            raise ConfigError(msg)
        if self.allow_destructive not in (True, False):
            msg = f"allow_destructive={self.allow_destructive!r}: must be True or False."
            raise ConfigError(msg)
        require(self, at_least_one, "max_concurrent", "max_threads")
        require(self, not_negative, "grace", "phase", "slack")
