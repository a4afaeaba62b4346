"""
Probe and heal the databases of a Django project, and answer for its health (extra ``django``).

Nothing of Django is imported before a probe, an action or the middleware is built.
"""

from __future__ import annotations

from selfheal.integrations.django.actions import RenewConnections, SeverHung, database_ladder
from selfheal.integrations.django.epochs import close_stale_connections
from selfheal.integrations.django.middleware import FreshConnectionsMiddleware
from selfheal.integrations.django.pool import DjangoPool
from selfheal.integrations.django.probe import DatabaseHealth
from selfheal.integrations.django.view import health_view


__all__ = [
    "DatabaseHealth",
    "DjangoPool",
    "FreshConnectionsMiddleware",
    "RenewConnections",
    "SeverHung",
    "close_stale_connections",
    "database_ladder",
    "health_view",
]
