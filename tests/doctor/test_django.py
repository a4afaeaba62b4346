"""
The doctor, on the databases of a Django project.
"""

from __future__ import annotations

import json
import pathlib
import subprocess
import sys
import textwrap

from typing import Any

import pytest


for library in ("django", "psycopg", "psycopg_pool"):
    pytest.importorskip(library)

POSTGRESQL = {"ENGINE": "django.db.backends.postgresql", "NAME": "shop", "HOST": "db"}
LIMITS = {
    "connect_timeout": 3,
    "tcp_user_timeout": 5000,
    "keepalives": 1,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
}
UNLIMITED = {"SH154", "SH155", "SH156"}
POOL = {"timeout": 5, "reconnect_timeout": 30}


def database(*, without: str = "", pool: Any = None, **settings: Any) -> dict[str, Any]:
    """One in order, but for what is told."""
    options = {name: value for name, value in LIMITS.items() if name != without}
    return {**POSTGRESQL, "OPTIONS": options if pool is None else {**options, "pool": pool}, **settings}


#: What stands in DATABASES, and what is found there.
CASES: dict[str, tuple[dict[str, Any], set[str]]] = {
    "default": (database(), set()),
    "bare": (POSTGRESQL, UNLIMITED),
    "kept": (database(CONN_MAX_AGE=600), {"SH151"}),
    "kept_for_ever": (database(CONN_MAX_AGE=None), {"SH151"}),
    "kept_and_looked_at": (database(CONN_MAX_AGE=600, CONN_HEALTH_CHECKS=True), set()),
    "pooled": (database(pool=True), {"SH152", "SH153"}),
    "pooled_long": (database(pool={**POOL, "timeout": 60}), {"SH152"}),
    "pooled_back_off": (database(pool={"timeout": 5}), {"SH153"}),
    "pooled_well": (database(pool=POOL), set()),
    "connects": (database(without="connect_timeout"), {"SH154"}),
    "sends": (database(without="tcp_user_timeout"), {"SH155"}),
    "awaits": (database(without="keepalives_idle"), {"SH156"}),
    "socket": ({**POSTGRESQL, "HOST": "", "OPTIONS": {"connect_timeout": 3}}, set()),
    "service": ({**POSTGRESQL, "HOST": "", "OPTIONS": {"service": "shop"}}, UNLIMITED),
    "sqlite": ({"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:", "CONN_MAX_AGE": 5}, {"SH151"}),
}

APPLICATION = f"""
    from django.conf import settings
    settings.configure(MIDDLEWARE=["FRESH"], DATABASES={ {alias: told for alias, (told, _) in CASES.items()} | {"unwatched": POSTGRESQL}!r})

    from selfheal import Healer, HealthCheck
    from selfheal.integrations.django import DatabaseHealth, DjangoPool, RenewConnections
    from selfheal.integrations.psycopg import DrainPool

    def check(alias):
        if alias == "default":
            return HealthCheck(DatabaseHealth(timeout=0.5), name=alias, timeout=1)
        if alias.startswith("pooled"):
            return HealthCheck(print, name=alias, recovery=DrainPool(DjangoPool(alias)))
        return HealthCheck(print, name=alias, recovery=RenewConnections(alias))

    healer = Healer([check(alias) for alias in settings.DATABASES if alias != "unwatched"])
"""


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What is told about the project, in a process of its own, for Django's settings are the process's."""
    return told(tmp_path_factory.mktemp("project"), "selfheal.integrations.django.FreshConnectionsMiddleware")


def told(folder: pathlib.Path, middleware: str) -> dict[str, Any]:
    """The report about the project with this one in its MIDDLEWARE."""
    (folder / "project.py").write_text(textwrap.dedent(APPLICATION).replace("FRESH", middleware))
    command = [sys.executable, "-m", "selfheal", "doctor", "--json", "project:healer"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert (1, "") == (done.returncode, done.stderr)
    report: dict[str, Any] = json.loads(done.stdout)
    return report


@pytest.mark.parametrize("alias", CASES)
def test_settings_that_hide_a_fault_are_found(report: dict[str, Any], alias: str) -> None:
    """
    Each defect of a database is found under its alias, and nothing in one that is in order.
    """
    subject = f"DATABASES['{alias}']"

    assert CASES[alias][1] == {found["code"] for found in report["findings"] if found["subject"] == subject}
    assert subject in report["looked_at"]


def test_databases_that_no_check_is_for_are_left_alone(report: dict[str, Any]) -> None:
    """
    The doctor looks at what the healer watches.
    """
    assert "DATABASES['unwatched']" not in report["looked_at"]


def test_connections_that_nobody_renews_are_found(report: dict[str, Any], tmp_path: pathlib.Path) -> None:
    """
    RenewConnections without its middleware is found for each database that it is for, and for no other.
    """
    without = told(tmp_path, "django.middleware.common.CommonMiddleware")
    renewed = {f"DATABASES['{alias}']" for alias in CASES if alias != "default" and not alias.startswith("pooled")}

    assert renewed == {found["subject"] for found in without["findings"] if found["code"] == "SH157"}
    assert "SH157" not in {found["code"] for found in report["findings"]}
