"""
Probe and heal *asyncpg*'s pools (extra ``asyncpg``).

Nothing of asyncpg is imported before a probe or an action is built.
"""

from __future__ import annotations

from selfheal.integrations.asyncpg.actions import ExpireConnections, RebuildPool, Retarget, TerminateHung, pool_ladder
from selfheal.integrations.asyncpg.probe import PoolHealth
from selfheal.integrations.asyncpg.registry import Session, holders


__all__ = [
    "ExpireConnections",
    "PoolHealth",
    "RebuildPool",
    "Retarget",
    "Session",
    "TerminateHung",
    "holders",
    "pool_ladder",
]
