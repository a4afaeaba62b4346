"""
What tests of a healing need: virtual time, a simulator, faults on demand, real servers.

Everything is loaded when it is first named. The pytest plugin, which comes
with the package, has fixtures and assertions on top: `selfheal.testing.plugin`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from selfheal.lazy import lazily


if TYPE_CHECKING:
    from selfheal.testing.assertions import assert_healed, assert_stepped_down, assert_untouched
    from selfheal.testing.clock import Even, VirtualClock
    from selfheal.testing.faults import FaultProxy
    from selfheal.testing.flaky import Flaky
    from selfheal.testing.servers import Postgres
    from selfheal.testing.simulator import Story, simulate, states
    from selfheal.testing.valkey import Valkey


__all__ = [
    "Even",
    "FaultProxy",
    "Flaky",
    "Postgres",
    "Story",
    "Valkey",
    "VirtualClock",
    "assert_healed",
    "assert_stepped_down",
    "assert_untouched",
    "simulate",
    "states",
]

__getattr__ = lazily(  # the simulator and the servers bring along what a test of a single action does not need
    __name__,
    {
        "selfheal.testing.assertions": ("assert_healed", "assert_stepped_down", "assert_untouched"),
        "selfheal.testing.clock": ("Even", "VirtualClock"),
        "selfheal.testing.faults": ("FaultProxy",),
        "selfheal.testing.flaky": ("Flaky",),
        "selfheal.testing.servers": ("Postgres",),
        "selfheal.testing.simulator": ("Story", "simulate", "states"),
        "selfheal.testing.valkey": ("Valkey",),
    },
)
