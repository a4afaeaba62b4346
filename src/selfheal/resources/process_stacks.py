"""
What every thread and every asyncio task is doing right now, into a bounded file of this user alone.
"""

from __future__ import annotations

import os
import stat
import sys

from collections.abc import Iterator
from types import FrameType
from typing import TYPE_CHECKING, Any, Final

import attrs

from selfheal.errors import ConfigError
from selfheal.model.settings import at_least_one
from selfheal.recovery import RecoveryAction


if TYPE_CHECKING:
    import asyncio

    from selfheal.model.ladder import RecoveryContext

# faulthandler shows 100 frames of 100 threads at most, some 80 bytes each: the largest dump just fits.
MAX_BYTES: Final = 2**20

_MAX_AWAITS: Final = 100


@attrs.frozen(repr=False)
class ThreadDump(RecoveryAction):
    """
    Write the stacks of all threads and asyncio tasks to a file. It is evidence and heals nothing.

    Put it before what destroys the evidence, in the same rung: ``ThreadDump(path) + Rebuild(pool)``. If it cannot
    write, it says so in the record and lets the healing go on.

    Dumps are appended. Before one would begin beyond *max_bytes*, the file is emptied.

    Args:
        path: The file, made with mode 0600. A symlink or anything but a plain file is not written to.
        max_bytes: How long the file may be. The threads of one dump may exceed it, by 1 MiB at most.
        name: Of the action: a metric label.

    Raises:
        ConfigError: If *max_bytes* is not a whole number of 1 or more.

    .. versionadded:: 26.1.0
    """

    safe_after_abandon = True

    path: str = attrs.field(converter=os.fspath)
    max_bytes: int = attrs.field(default=MAX_BYTES, kw_only=True, validator=at_least_one)
    name: str = attrs.field(default="thread_dump", kw_only=True)

    def recover(self, ctx: RecoveryContext) -> None:
        """
        Write.
        """
        try:
            dump_stacks(self.path, max_bytes=self.max_bytes)
        except (OSError, ConfigError, RuntimeError) as exc:  # the latter: a loop's tasks would not hold still
            ctx.log("the stacks could not be written", error_type=type(exc).__name__)
        else:
            ctx.log(f"the stacks are in {self.path}")

    def plan(self) -> str:
        """
        What it would do.
        """
        return f"write the stacks of all threads and tasks to {self.path}"


def dump_stacks(path: str, *, max_bytes: int = MAX_BYTES, heading: str = "") -> None:
    """
    Append the stacks of all threads, and of the tasks of every asyncio loop that runs, to a file.

    Raises:
        OSError: If it cannot be written.
        ConfigError: If it is not a plain file.
        RuntimeError: If the tasks of a loop could not be read from here.
    """
    import datetime as dt
    import faulthandler

    fd = open_dump(path, max_bytes=max_bytes)
    try:
        now = dt.datetime.now(dt.UTC).isoformat(timespec="milliseconds")
        os.write(fd, f"--- {now}, process {os.getpid()} {heading}\n".encode())
        faulthandler.dump_traceback(fd, all_threads=True)
        left = max_bytes - os.fstat(fd).st_size
        for line in _task_lines():
            data = f"{line}\n".encode(errors="backslashreplace")
            left -= len(data)
            if left < 0:
                break
            os.write(fd, data)
    finally:
        os.close(fd)


def open_dump(path: str, *, max_bytes: int = MAX_BYTES) -> int:
    """
    The descriptor of a file that stacks are appended to; it is emptied first if it is longer than *max_bytes*.

    Raises:
        OSError: If it cannot be opened, or is a symlink.
        ConfigError: If it is not a plain file.
    """
    # Stacks name files and functions: nobody else's business. Without O_NONBLOCK a FIFO would be waited for.
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    for flag in ("O_NOFOLLOW", "O_NONBLOCK", "O_CLOEXEC"):
        flags |= getattr(os, flag, 0)
    fd = os.open(path, flags, 0o600)
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            msg = f"{path} is not a plain file: stacks are not written to it. Give the path of a file of its own."
            raise ConfigError(msg)
        if hasattr(os, "fchmod"):
            os.fchmod(fd, 0o600)
        if status.st_size >= max_bytes:
            os.ftruncate(fd, 0)
    except BaseException:
        os.close(fd)
        raise
    return fd


def frames_of_threads() -> dict[int, FrameType]:
    """
    The innermost frame of every thread, by the thread's identifier.
    """
    frames: dict[int, FrameType] = getattr(sys, "_current_frames")()  # noqa: B009 - there is no public door to it
    return frames


def _task_lines() -> Iterator[str]:
    if "asyncio" not in sys.modules:
        return
    import asyncio

    for loop in _running_loops():
        for task in asyncio.all_tasks(loop):
            yield f"Task {task.get_name()!r}:"
            yield from _awaits(task)


def _running_loops() -> list[asyncio.AbstractEventLoop]:
    """The loops that run in any thread: they are found on the stacks, since asyncio tells each thread its own only."""
    from asyncio import AbstractEventLoop, BaseEventLoop, Runner

    # A loop written in C, as uvloop, leaves no frame; its runner does.
    codes = {BaseEventLoop.run_forever.__code__, Runner.run.__code__}
    loops: list[AbstractEventLoop] = []
    for innermost in frames_of_threads().values():
        frame: FrameType | None = innermost
        while frame is not None:
            if frame.f_code in codes:
                owner: object = frame.f_locals.get("self")
                loop = owner.get_loop() if isinstance(owner, Runner) else owner
                if isinstance(loop, AbstractEventLoop) and loop not in loops:
                    loops.append(loop)
            frame = frame.f_back
    return loops


def _awaits(task: asyncio.Task[Any]) -> Iterator[str]:
    """Where it waits, the outermost coroutine first, as their authors wrote it."""
    awaited: Any = task.get_coro()
    for _ in range(_MAX_AWAITS):
        for kind, then in (("cr", "cr_await"), ("gi", "gi_yieldfrom"), ("ag", "ag_await")):
            frame: FrameType | None = getattr(awaited, f"{kind}_frame", None)
            if frame is not None:
                yield f'  File "{frame.f_code.co_filename}", line {frame.f_lineno} in {frame.f_code.co_name}'
                awaited = getattr(awaited, then)
                break
        else:
            return
