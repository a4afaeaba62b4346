"""
Four processes that write one log while the real logrotate, or we, rotate it. Needs the package logrotate, and its root.
"""

import pathlib
import re
import shutil
import subprocess
import sys

import pytest


ROOT = pathlib.Path(__file__).parents[2]
ROW = re.compile(r"^\| (.+) \| (\d+) \| (\d+) \| (\d+) \| (\d+) \| (\d+) \| [\d.]+ \|$", re.MULTILINE)

pytestmark = pytest.mark.skipif(shutil.which("logrotate") is None, reason="needs logrotate")


def test_of_60000_lines_none_is_lost_by_us_and_many_by_copytruncate():
    """
    Whether each process rotates, or reopens what logrotate has renamed: no line is lost, torn or doubled; copytruncate
    loses some, without an error.
    """
    kinds = ["selfheal", "reopened", "copied"]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.logs", *kinds], cwd=ROOT, capture_output=True, text=True, timeout=100
    )
    rows = [list(map(int, numbers)) for _, *numbers in ROW.findall(done.stdout)]
    assert (0, len(kinds)) == (done.returncode, len(rows)), done.stderr
    *healed, copied = rows
    assert [[0, 0, 0, 0]] * 2 == [row[:4] for row in healed]
    assert min(row[4] for row in rows) > 1  # it was rotated
    assert copied[0] > 0
    assert 0 == copied[3]
