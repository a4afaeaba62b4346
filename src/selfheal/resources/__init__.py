"""
What an application owns and can heal: replaceable objects, routes to servers, caches, log and configuration files. No
packages but the standard library.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from selfheal.lazy import lazily


if TYPE_CHECKING:
    from selfheal.resources.cache_actions import BumpEpoch, CacheMode, ClearCache, WarmCache, cache_ladder
    from selfheal.resources.cache_fetching import CacheStatistics, GateMode
    from selfheal.resources.cache_gate import CacheGate
    from selfheal.resources.cache_health import CacheHealth, RedisMemory
    from selfheal.resources.cache_stores import SharedCache
    from selfheal.resources.config_files import ConfigFiles
    from selfheal.resources.config_rollback import RollbackConfig, RollForwardConfig
    from selfheal.resources.process_deadman import DeadMan
    from selfheal.resources.process_executor import ExecutorDelay
    from selfheal.resources.process_exit import ExitForSupervisor
    from selfheal.resources.process_files import DeletedFiles
    from selfheal.resources.process_limits import DiskSpace, MemoryLimit, OpenFiles, ThreadCount
    from selfheal.resources.process_loop import Block, LoopWatchdog
    from selfheal.resources.process_pauses import GcPauses
    from selfheal.resources.process_pressure import PressureStall
    from selfheal.resources.process_stacks import ThreadDump
    from selfheal.resources.process_systemd import SdNotify
    from selfheal.resources.rebuild import Rebuild
    from selfheal.resources.rebuildable import Rebuildable
    from selfheal.resources.router import Router
    from selfheal.resources.router_switch import SwitchTo, switch_ladder


__all__ = [
    "Block",
    "BumpEpoch",
    "CacheGate",
    "CacheHealth",
    "CacheMode",
    "CacheStatistics",
    "ClearCache",
    "ConfigFiles",
    "DeadMan",
    "DeletedFiles",
    "DiskSpace",
    "ExecutorDelay",
    "ExitForSupervisor",
    "GateMode",
    "GcPauses",
    "LoopWatchdog",
    "MemoryLimit",
    "OpenFiles",
    "PressureStall",
    "Rebuild",
    "Rebuildable",
    "RedisMemory",
    "RollForwardConfig",
    "RollbackConfig",
    "Router",
    "SdNotify",
    "SharedCache",
    "SwitchTo",
    "ThreadCount",
    "ThreadDump",
    "WarmCache",
    "cache_ladder",
    "switch_ladder",
]

__getattr__ = lazily(
    __name__,
    {
        "selfheal.resources.config_files": ("ConfigFiles",),
        "selfheal.resources.config_rollback": ("RollForwardConfig", "RollbackConfig"),
        "selfheal.resources.cache_actions": ("BumpEpoch", "CacheMode", "ClearCache", "WarmCache", "cache_ladder"),
        "selfheal.resources.cache_fetching": ("CacheStatistics", "GateMode"),
        "selfheal.resources.cache_gate": ("CacheGate",),
        "selfheal.resources.cache_health": ("CacheHealth", "RedisMemory"),
        "selfheal.resources.cache_stores": ("SharedCache",),
        "selfheal.resources.process_deadman": ("DeadMan",),
        "selfheal.resources.process_executor": ("ExecutorDelay",),
        "selfheal.resources.process_exit": ("ExitForSupervisor",),
        "selfheal.resources.process_files": ("DeletedFiles",),
        "selfheal.resources.process_limits": ("DiskSpace", "MemoryLimit", "OpenFiles", "ThreadCount"),
        "selfheal.resources.process_loop": ("Block", "LoopWatchdog"),
        "selfheal.resources.process_pauses": ("GcPauses",),
        "selfheal.resources.process_pressure": ("PressureStall",),
        "selfheal.resources.process_stacks": ("ThreadDump",),
        "selfheal.resources.process_systemd": ("SdNotify",),
        "selfheal.resources.rebuild": ("Rebuild",),
        "selfheal.resources.rebuildable": ("Rebuildable",),
        "selfheal.resources.router": ("Router",),
        "selfheal.resources.router_switch": ("SwitchTo", "switch_ladder"),
    },
)
