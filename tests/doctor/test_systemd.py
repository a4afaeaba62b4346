"""
The rules about systemd's watchdog, asked in the environment that systemd makes for a service.
"""

import os
import pathlib
import subprocess
import sys

import pytest

from selfheal import Healer
from selfheal.doctor import audit
from selfheal.resources import SdNotify


HERE = pathlib.Path(__file__).parent / "applications"
OWN = str(os.getpid())
SERVICE = {"NOTIFY_SOCKET": "/run/systemd/notify", "WATCHDOG_USEC": "30000000", "WATCHDOG_PID": OWN}


def found(monkeypatch, environ, *, signs) -> list[str]:
    """The rules that find something in a healer with or without an SdNotify check, in that environment."""
    for name in SERVICE:
        monkeypatch.delenv(name, raising=False)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    healer = Healer([SdNotify().check()] if signs else [])
    return [found.code for found in audit(healer).findings if found.code in {"SH806", "SH807"}]


def test_a_watchdog_without_signs_of_life_is_found(monkeypatch):
    """
    Under a watchdog a healer needs the check that gives the signs; with it nothing is found.
    """
    assert ["SH806"] == found(monkeypatch, SERVICE, signs=False)
    assert [] == found(monkeypatch, SERVICE, signs=True)


@pytest.mark.parametrize("other", [{}, {"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}])
def test_signs_of_life_that_nobody_wants_are_found(monkeypatch, other):
    """
    In a service without a watchdog, or with one that is meant for another process, the check would give no signs.
    """
    environ = {"NOTIFY_SOCKET": SERVICE["NOTIFY_SOCKET"], **other}
    assert ["SH807"] == found(monkeypatch, environ, signs=True)
    assert [] == found(monkeypatch, environ, signs=False)


@pytest.mark.parametrize("signs", [True, False])
def test_without_systemd_nothing_is_said_of_it(monkeypatch, signs):
    """
    In a terminal there is no watchdog, and an SdNotify check is no mistake.
    """
    assert [] == found(monkeypatch, {}, signs=signs)


@pytest.mark.parametrize(("application", "codes"), [("planted:healer", {"SH806"}), ("clean:make_healer", set())])
def test_the_applications_in_a_service(application, codes):
    """
    As a service with a watchdog the planted application has the defect, and the clean one gives its signs of life.
    """
    for library in ("psycopg_pool", "sqlalchemy", "asyncpg", "redis", "httpx", "httpx2", "aiohttp", "cachetools"):
        pytest.importorskip(library)
    environ = {key: value for key, value in os.environ.items() if key != "WATCHDOG_PID"}
    environ |= {"NOTIFY_SOCKET": "/run/systemd/notify", "WATCHDOG_USEC": "30000000"}
    command = [sys.executable, "-m", "selfheal", "doctor", application]
    done = subprocess.run(command, cwd=HERE, env=environ, capture_output=True, text=True, check=False)
    assert codes == {code for code in ("SH806", "SH807") if f"{code} " in done.stdout}, done.stderr
