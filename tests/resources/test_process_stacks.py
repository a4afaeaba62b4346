"""
ThreadDump, with real threads and a real loop.
"""

from __future__ import annotations

import asyncio
import os
import stat

import pytest

from selfheal import ConfigError
from selfheal.resources import ThreadDump


async def waits_inside() -> None:
    await asyncio.sleep(30)


async def waits() -> None:
    await waits_inside()


def test_a_dump_shows_threads_and_the_await_chain_of_tasks_of_other_threads_loops(tmp_path, ctx, said):
    """
    A dump made outside the loop shows every thread, and each task with all coroutines that it waits in.
    """
    path = tmp_path / "stacks.txt"

    async def main() -> None:
        task = asyncio.get_running_loop().create_task(waits(), name="a-waiting-task")
        await asyncio.sleep(0)
        await asyncio.to_thread(ThreadDump(path).recover, ctx)
        task.cancel()

    asyncio.run(main())
    text = path.read_text()
    assert "most recent call first" in text
    assert "dump_stacks" in text
    task = text.partition("Task 'a-waiting-task':\n")[2].splitlines()[:3]
    assert ["waits", "waits_inside", "sleep"] == [line.rpartition(" ")[2] for line in task]
    assert [(f"the stacks are in {path}", {})] == said


def test_a_dump_is_for_its_user_alone(tmp_path, ctx):
    """
    The file has mode 0600, also if it was there with another one.
    """
    path = tmp_path / "stacks.txt"
    path.touch()
    path.chmod(0o644)
    ThreadDump(path).recover(ctx)
    assert 0o600 == stat.S_IMODE(path.stat().st_mode)


def test_dumps_are_appended_until_the_file_is_too_long(tmp_path, ctx):
    """
    A second dump follows the first; one that would begin beyond max_bytes begins the file anew.
    """
    path = tmp_path / "stacks.txt"
    ThreadDump(path).recover(ctx)
    ThreadDump(path).recover(ctx)
    assert 2 == path.read_text().count("--- ")
    ThreadDump(path, max_bytes=100).recover(ctx)
    assert 1 == path.read_text().count("--- ")


@pytest.mark.parametrize("obstacle", ["symlink", "fifo", "folder", "missing"])
def test_what_is_no_plain_file_is_not_written_and_stops_no_healing(tmp_path, ctx, said, obstacle):
    """
    A symlink, a FIFO, a folder and a missing folder are left alone; the action says so and does not fail.
    """
    path = tmp_path / "stacks.txt"
    (tmp_path / "precious").write_text("kept")
    if obstacle == "symlink":
        path.symlink_to(tmp_path / "precious")
    elif obstacle == "fifo":
        os.mkfifo(path)
    elif obstacle == "folder":
        path.mkdir()
    else:
        path = tmp_path / "gone" / "stacks.txt"
    ThreadDump(path).recover(ctx)
    assert ["the stacks could not be written"] == [message for message, _ in said]
    assert "kept" == (tmp_path / "precious").read_text()


def test_a_dump_has_its_settings_checked():
    """
    A file that may not have a single byte is refused.
    """
    with pytest.raises(ConfigError, match="max_bytes=0: must be a whole number, 1 or more"):
        ThreadDump("stacks.txt", max_bytes=0)
