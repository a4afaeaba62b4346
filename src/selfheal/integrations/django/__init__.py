"""
Probe and heal the databases of a Django project (extra ``django``).

Nothing of Django is imported before a probe, an action or the middleware is built.
"""

from __future__ import annotations

from selfheal.integrations.django.actions import RenewConnections, SeverHung, database_ladder
from selfheal.integrations.django.epochs import close_stale_connections
from selfheal.integrations.django.middleware import FreshConnectionsMiddleware
from selfheal.integrations.django.pool import DjangoPool
from selfheal.integrations.django.probe import DatabaseHealth


__all__ = [
    "DatabaseHealth",
    "DjangoPool",
    "FreshConnectionsMiddleware",
    "RenewConnections",
    "SeverHung",
    "close_stale_connections",
    "database_ladder",
]
