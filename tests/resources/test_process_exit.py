"""
ExitForSupervisor, as far as it can be tried without ending the tests.
"""

from __future__ import annotations

import os

import pytest

from selfheal import ConfigError, Escalate
from selfheal.resources import ExitForSupervisor
from selfheal.resources.process_exit import supervisor


OWN = str(os.getpid())


@pytest.mark.parametrize(
    ("environ", "found"),
    [
        ({}, None),
        ({"INVOCATION_ID": "f00"}, "systemd"),
        ({"NOTIFY_SOCKET": "/run/systemd/notify"}, "systemd"),
        ({"INVOCATION_ID": "f00", "SYSTEMD_EXEC_PID": OWN}, "systemd"),
        ({"INVOCATION_ID": "f00", "SYSTEMD_EXEC_PID": "1"}, None),
        ({"SUPERVISOR_ENABLED": "1"}, "supervisord"),
        ({"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, "Kubernetes"),
        ({"SERVER_SOFTWARE": "gunicorn/25"}, None),
    ],
)
def test_a_supervisor_is_found_by_what_it_leaves_in_the_environment(environ, found):
    """
    Each supervisor is known by its variables, unless they are meant for another process.
    """
    assert found == supervisor(environ)


def test_without_a_supervisor_it_escalates(monkeypatch, ctx):
    """
    Nobody would start the process again, so it does not end it.
    """
    for word in ("INVOCATION_ID", "NOTIFY_SOCKET", "SUPERVISOR_ENABLED", "KUBERNETES_SERVICE_HOST"):
        monkeypatch.delenv(word, raising=False)
    with pytest.raises(Escalate, match="no supervisor is found"):
        ExitForSupervisor().recover(ctx)
    assert "exit with code 75, for a supervisor, of which none is found" == ExitForSupervisor().plan()


def test_it_is_destructive_and_not_retried():
    """
    It needs a permission, and nothing repeats it blindly.
    """
    rung = ExitForSupervisor().as_ladder().rungs[0]
    assert (True, "exit_for_supervisor") == (rung.destructive, rung.name)
    with pytest.raises(ConfigError, match="not idempotent"):
        ExitForSupervisor().retrying(stop=lambda _state: True)


@pytest.mark.parametrize("settings", [{"code": 0}, {"code": 3}, {"code": 256}, {"code": True}, {"grace": -1}])
def test_settings_that_a_supervisor_would_misread_are_refused(settings):
    """
    Codes for success and those that stop all of gunicorn are refused, and so is a grace in the past.
    """
    with pytest.raises(ConfigError):
        ExitForSupervisor(**settings)
