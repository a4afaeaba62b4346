"""
What an application owns and can heal: replaceable objects, routes to servers, log and configuration files. No packages
but the standard library.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from selfheal.lazy import lazily


if TYPE_CHECKING:
    from selfheal.resources.config_files import ConfigFiles
    from selfheal.resources.config_rollback import RollbackConfig, RollForwardConfig
    from selfheal.resources.rebuild import Rebuild
    from selfheal.resources.rebuildable import Rebuildable
    from selfheal.resources.router import Router
    from selfheal.resources.router_switch import SwitchTo, switch_ladder


__all__ = [
    "ConfigFiles",
    "Rebuild",
    "Rebuildable",
    "RollForwardConfig",
    "RollbackConfig",
    "Router",
    "SwitchTo",
    "switch_ladder",
]

__getattr__ = lazily(
    __name__,
    {
        "selfheal.resources.config_files": ("ConfigFiles",),
        "selfheal.resources.config_rollback": ("RollForwardConfig", "RollbackConfig"),
        "selfheal.resources.rebuild": ("Rebuild",),
        "selfheal.resources.rebuildable": ("Rebuildable",),
        "selfheal.resources.router": ("Router",),
        "selfheal.resources.router_switch": ("SwitchTo", "switch_ladder"),
    },
)
