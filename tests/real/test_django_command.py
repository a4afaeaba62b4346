"""
`manage.py selfheal`, in a project of its own.
"""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys

import pytest

from selfheal import Healer, HealthCheck
from selfheal.export.http import Handler, StatusFile


pytest.importorskip("django")


def managed(folder: pathlib.Path, *arguments: str) -> tuple[int, str, str]:
    """The status, and what was said where."""
    command = [sys.executable, "-W", "ignore", "-m", "django", "selfheal", *arguments]
    environment = {**os.environ, "DJANGO_SETTINGS_MODULE": "shop_settings", "PYTHONPATH": str(folder)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment)
    return done.returncode, done.stdout, done.stderr.strip()


@pytest.mark.at_length
def test_the_command_asks_a_process_of_the_project(tmp_path: pathlib.Path) -> None:
    """
    Where the settings say, or as it is told: 0 and how it is, 1 and why not, 2 for what cannot be asked.
    """
    path = tmp_path / "ready"
    (tmp_path / "shop_settings.py").write_text(
        f'INSTALLED_APPS = ["selfheal.integrations.django"]\nSELFHEAL_TARGET = "file:{path}:600"\n'
    )
    with Healer([HealthCheck(lambda: None, name="db")]) as healer:
        healer.wait_healthy("db", timeout=30)
        with StatusFile(Handler(healer), path, group="readyz"):
            assert (0, "[+]selfheal.healer ok\n[+]db ok\nreadyz check passed\n", "") == managed(tmp_path)
    assert (1, "", f"CommandError: {path} cannot be read: No such file or directory") == managed(tmp_path)
    status, said, why = managed(tmp_path, "ftp://x")
    assert (2, "", True) == (status, said, "cannot be asked" in why)
