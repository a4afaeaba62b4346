"""
Probe and heal *psycopg_pool*'s pools, sync and async (extra ``psycopg``).

Nothing of psycopg is imported before a probe or an action is built.
"""

from __future__ import annotations

from selfheal.integrations.psycopg.actions import CheckPool, DrainPool, KickPool, RebuildPool, SeverHung, pool_ladder
from selfheal.integrations.psycopg.probe import PoolHealth
from selfheal.integrations.psycopg.registry import ConnectionRegistry, Session


__all__ = [
    "CheckPool",
    "ConnectionRegistry",
    "DrainPool",
    "KickPool",
    "PoolHealth",
    "RebuildPool",
    "Session",
    "SeverHung",
    "pool_ladder",
]
