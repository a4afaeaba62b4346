"""
What tests of a healing need: virtual time, a simulator, faults on demand, real servers.

Everything is loaded when it is first named. The pytest plugin, which comes
with the package, has fixtures and assertions on top: `selfheal.testing.plugin`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING


if TYPE_CHECKING:
    from selfheal.testing.assertions import assert_healed, assert_stepped_down, assert_untouched
    from selfheal.testing.clock import Even, VirtualClock
    from selfheal.testing.faults import FaultProxy, Flaky
    from selfheal.testing.servers import Postgres
    from selfheal.testing.simulator import Story, simulate, states


__all__ = [
    "Even",
    "FaultProxy",
    "Flaky",
    "Postgres",
    "Story",
    "VirtualClock",
    "assert_healed",
    "assert_stepped_down",
    "assert_untouched",
    "simulate",
    "states",
]

_HOME = {
    "Even": "clock",
    "FaultProxy": "faults",
    "Flaky": "faults",
    "Postgres": "servers",
    "Story": "simulator",
    "VirtualClock": "clock",
    "assert_healed": "assertions",
    "assert_stepped_down": "assertions",
    "assert_untouched": "assertions",
    "simulate": "simulator",
    "states": "simulator",
}


def __getattr__(name: str) -> object:
    # The simulator and the servers bring rooms along that a test of a single action does not need.
    room = _HOME.get(name)
    if room is None:
        msg = f"module 'selfheal.testing' has no attribute {name!r}"
        raise AttributeError(msg)
    from importlib import import_module

    value = getattr(import_module(f"selfheal.testing.{room}"), name)
    globals()[name] = value
    return value
