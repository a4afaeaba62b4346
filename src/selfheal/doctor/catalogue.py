"""
All rules, by code.
"""

from __future__ import annotations

from typing import Final

from selfheal.doctor.findings import Rule
from selfheal.doctor.rules import (
    asyncpg,
    caches,
    checks,
    django,
    healers,
    http,
    imports,
    logs,
    probes,
    psycopg,
    redis,
    sqlalchemy,
)


RULES: Final[tuple[Rule, ...]] = (
    *psycopg.RULES,
    *django.RULES,
    *sqlalchemy.RULES,
    *asyncpg.RULES,
    *redis.RULES,
    *http.RULES,
    *logs.RULES,
    *caches.RULES,
    *probes.RULES,
    *checks.RULES,
    *healers.RULES,
    *imports.RULES,
)
