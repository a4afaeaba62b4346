"""
How a process is, through a file, for whoever has no port to ask.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import subprocess
import sys
import time

from collections.abc import Callable
from typing import Any

import pytest

from selfheal import ConfigError
from selfheal.errors import IllegalTransitionError
from selfheal.export.http import Handler, StatusFile
from selfheal.export.http.asking import Said, ask


def becomes(target: str, claim: Callable[[Said], bool]) -> Said:
    """What is said as soon as that is as claimed, or after a time in which it should have been."""
    deadline = time.monotonic() + 30
    while not claim(said := ask(target)) and time.monotonic() < deadline:
        time.sleep(0.05)
    return said


def test_the_file_says_what_the_endpoint_says(service: Any, tmp_path: pathlib.Path) -> None:
    """
    It follows a fault and its end, only its user can read it, nothing lies beside it, and it goes with its process.
    """
    path = tmp_path / "ready"
    handler = Handler(service.healer, warn_status=429)  # which is for others
    with StatusFile(handler, path, group="readyz", interval=0.1):
        assert Said(well=True, text="[+]selfheal.healer ok\n[+]db ok\nreadyz check passed") == ask(f"file:{path}")
        assert [path] == list(tmp_path.iterdir())
        assert 0o600 == path.stat().st_mode & 0o777
        service.down = True
        said = becomes(f"file:{path}", lambda said: not said.well)
        assert Said(well=False, text="[+]selfheal.healer ok\n[-]db failed: stale\nreadyz check failed") == said
        service.down = False
        assert becomes(f"file:{path}", lambda said: said.well).well
    assert [] == list(tmp_path.iterdir())
    assert Said(well=False, text=f"{path} cannot be read: No such file or directory") == ask(f"file:{path}")


def test_a_file_that_cannot_be_written_is_named_at_once(service: Any, tmp_path: pathlib.Path) -> None:
    """
    A folder that is missing, an interval that is none, and a second start.
    """
    with pytest.raises(ConfigError, match=r"cannot be written: .*Make its folder"):
        StatusFile(Handler(service.healer), tmp_path / "missing" / "live").start()
    with pytest.raises(ConfigError, match="more than 0 seconds"):
        StatusFile(Handler(service.healer), tmp_path / "live", interval=0)
    with (
        StatusFile(Handler(service.healer), tmp_path / "live") as file,
        pytest.raises(IllegalTransitionError, match="already"),
    ):
        file.start()


def test_one_that_cannot_be_written_for_a_while_is_written_again(service: Any, tmp_path: pathlib.Path) -> None:
    """
    What is in its way, as a folder of its name, is met again and again until it is gone.
    """
    path = tmp_path / "live"
    with StatusFile(Handler(service.healer), path, interval=0.05):
        while not path.is_dir():  # it may be written just between the two
            path.unlink(missing_ok=True)
            with contextlib.suppress(FileExistsError):
                path.mkdir()
        time.sleep(0.2)
        path.rmdir()
        assert becomes(f"file:{path}", lambda said: said.well).well


def test_one_that_cannot_be_put_in_place_leaves_nothing_beside_it(service: Any, tmp_path: pathlib.Path) -> None:
    """
    As where a folder has its name.
    """
    path = tmp_path / "live"
    path.mkdir()
    with pytest.raises(ConfigError, match="cannot be written"):
        StatusFile(Handler(service.healer), path).start()
    assert [path] == list(tmp_path.iterdir())


def aged(path: pathlib.Path, text: str, age: float) -> str:
    path.write_text(text)
    os.utime(path, times=(time.time() - age,) * 2)
    return f"file:{path}"


def test_a_file_is_believed_for_a_while(tmp_path: pathlib.Path) -> None:
    """
    For 15 seconds, or as long as is asked for; one from the future is not.
    """
    path = tmp_path / "live"
    assert ask(aged(path, "ok\n", 10)).well
    assert Said(well=False, text=f"{path} was last written 20 s ago: nobody lives there any more") == ask(
        aged(path, "ok\n", 20)
    )
    assert ask(aged(path, "ok\n", 20) + ":60").well
    assert not ask(aged(path, "ok\n", 5) + ":2").well
    assert not ask(aged(path, "ok\n", -3600)).well
    assert ask(aged(tmp_path / "a:b", "ok\n", 0)).well


@pytest.mark.parametrize("text", ["", "fail\n[-]db failed\n", "ok", "okay\n", "\nok\n"])
def test_only_ok_is_well(tmp_path: pathlib.Path, text: str) -> None:
    """
    An empty file is not, nor anything else that does not begin with that word.
    """
    assert (text == "ok") == ask(aged(tmp_path / "live", text, 0)).well


def test_what_is_no_file_is_no_sign_of_life(tmp_path: pathlib.Path) -> None:
    """
    A folder, and a pipe, which nobody waits for.
    """
    assert not ask(f"file:{tmp_path}").well
    os.mkfifo(tmp_path / "pipe")
    assert not ask(f"file:{tmp_path / 'pipe'}").well


def test_the_command_line_reads_it(tmp_path: pathlib.Path) -> None:
    """
    0 and why, or 1.
    """

    def checked(target: str) -> tuple[int, str]:
        command = [sys.executable, "-W", "ignore", "-m", "selfheal", "check", target]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        return done.returncode, done.stdout

    assert (0, "[+]db ok\n") == checked(aged(tmp_path / "live", "ok\n[+]db ok\n", 0))
    assert 1 == checked(f"file:{tmp_path / 'nothing'}")[0]
