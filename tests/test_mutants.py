"""
The mutants of `nox -s mutants`, which takes too long to be run with every change.
"""

from __future__ import annotations

import pathlib
import shutil
import subprocess

import pytest


HERE = pathlib.Path(__file__).parent


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_every_mutant_still_applies() -> None:
    """
    A change of what they break is noticed at once: no diff is left behind.
    """
    stale = [
        diff.name
        for diff in sorted(HERE.glob("mutants/*.diff"))
        if subprocess.run(["git", "apply", "--check", diff], cwd=HERE.parent, capture_output=True).returncode
    ]
    assert [] == stale
