"""
Probe and heal *redis-py*'s clients, sync and asyncio, of Redis and Valkey (extra ``redis``).

Nothing of redis-py is imported before a probe or an action is built. Clients of
a cluster or of Sentinel, and its ``MultiDBClient``, follow their servers by
themselves: use those where you can.
"""

from __future__ import annotations

from selfheal.integrations.redis.actions import RebuildClient, SeverHung, SoftDrain, redis_ladder
from selfheal.integrations.redis.probe import RedisHealth


__all__ = ["RebuildClient", "RedisHealth", "SeverHung", "SoftDrain", "redis_ladder"]
