"""
What an application owns and can heal: replaceable objects, routes to servers, log files. Standard library only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from selfheal.lazy import lazily


if TYPE_CHECKING:
    from selfheal.resources.rebuild import Rebuild
    from selfheal.resources.rebuildable import Rebuildable
    from selfheal.resources.router import Router
    from selfheal.resources.router_switch import SwitchTo, switch_ladder


__all__ = ["Rebuild", "Rebuildable", "Router", "SwitchTo", "switch_ladder"]

__getattr__ = lazily(
    __name__,
    {
        "selfheal.resources.rebuild": ("Rebuild",),
        "selfheal.resources.rebuildable": ("Rebuildable",),
        "selfheal.resources.router": ("Router",),
        "selfheal.resources.router_switch": ("SwitchTo", "switch_ladder"),
    },
)
