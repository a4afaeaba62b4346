"""
Probe and heal SQLAlchemy's engines, sync and async (extra ``sqlalchemy``).

Nothing of SQLAlchemy is imported before a probe or an action is built.
"""

from __future__ import annotations

from selfheal.integrations.sqlalchemy.actions import (
    DisposeEngine,
    RebuildEngine,
    RotateEngine,
    SeverHung,
    engine_ladder,
)
from selfheal.integrations.sqlalchemy.disconnects import treat_as_disconnect
from selfheal.integrations.sqlalchemy.leases import EngineLeases, Lease
from selfheal.integrations.sqlalchemy.probe import EngineHealth


__all__ = [
    "DisposeEngine",
    "EngineHealth",
    "EngineLeases",
    "Lease",
    "RebuildEngine",
    "RotateEngine",
    "SeverHung",
    "engine_ladder",
    "treat_as_disconnect",
]
