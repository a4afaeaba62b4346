"""
The pytest plugin. It comes with the package, and pytest loads it by itself.

It adds two fixtures, `virtual_clock` and `healing_story`; the assertions that
go with them are in `selfheal.testing`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

import pytest


if TYPE_CHECKING:
    from selfheal.checks import HealthCheck
    from selfheal.testing import Story, VirtualClock


class HealingStory(Protocol):
    """
    `selfheal.testing.simulate` on the test's own `virtual_clock`: what the fixture `healing_story` gives.
    """

    def __call__(self, *checks: HealthCheck | Callable[[], object], until: float, **options: Any) -> Story:
        """
        Run a healer over *checks* until a virtual time.

        Args:
            checks: As for `selfheal.Healer`.
            until: Virtual seconds at which it ends.
            options: Further ones of `selfheal.testing.simulate`.
        """
        ...


@pytest.fixture
def virtual_clock() -> VirtualClock:
    """
    A `selfheal.testing.VirtualClock` that stands at 0.
    """
    from selfheal.testing import VirtualClock

    return VirtualClock()


@pytest.fixture
def healing_story(virtual_clock: VirtualClock) -> HealingStory:
    """
    Simulate the healing of checks in virtual time: ``story = healing_story(check, until=600)``.
    """
    from selfheal.testing import simulate

    def tell(*checks: HealthCheck | Callable[[], object], until: float, **options: Any) -> Story:
        return simulate(checks, until=until, clock=virtual_clock, **options)

    return tell
