"""
Probes of what slows a process down or fills its disk: deleted files, collections of garbage, executors without a thread.
"""

from __future__ import annotations

import asyncio
import gc
import os
import sys
import threading

from concurrent.futures import ThreadPoolExecutor

import anyio.to_thread
import pytest
import trio

from selfheal import ConfigError, HealthStatus, Unhealthy
from selfheal.errors import IllegalTransitionError
from selfheal.resources import DeletedFiles, ExecutorDelay, GcPauses


linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


@linux
def test_a_deleted_file_that_is_open_takes_room_until_it_is_closed(tmp_path):
    """
    Its bytes on the disk count once, whoever holds it; a file with a name, a hole and a pipe do not count.
    """
    before = DeletedFiles()().data
    path = tmp_path / "app.log"
    with open(path, "wb", buffering=0) as file, open(path, "rb") as again, open(tmp_path / "kept", "wb") as kept:
        file.write(os.urandom(2**20))
        file.truncate(2**40)  # a hole
        os.fsync(file.fileno())
        kept.write(b"x" * 2**20)
        assert before == DeletedFiles()().data
        path.unlink()
        found = DeletedFiles()().data
        size = 512 * os.fstat(file.fileno()).st_blocks
        assert size >= 2**20
        assert (1, size) == (found["files"] - before["files"], found["bytes"] - before["bytes"])
        total = found["bytes"]
        with pytest.raises(
            Unhealthy, match=rf"full: \d+ deleted files are open and take {total} bytes, {total - 1} are"
        ):
            DeletedFiles(total - 1)()
        with pytest.raises(Unhealthy, match=rf"the largest was {path}, with \d+$"):
            DeletedFiles(total - 1)()
        assert not again.closed
    assert before == DeletedFiles()().data


@linux
def test_files_in_memory_take_no_disk():
    """
    What memfd_create makes has no name either, and is left out.
    """
    before = DeletedFiles()().data
    fd = os.memfd_create("selfheal")
    try:
        os.write(fd, b"x" * 2**20)
        assert before == DeletedFiles()().data
    finally:
        os.close(fd)


def test_a_collection_that_is_too_long_is_told_once():
    """
    The longest collection since the last look degrades the process if it is longer than allowed; the next look is clean.
    """
    with GcPauses(1e-9) as pauses:
        pauses()
        gc.collect()
        result = pauses()
        assert (HealthStatus.DEGRADED, "slow") == (result.status, result.fault.kind)
        assert 0 < result.data["longest"] <= result.data["paused"]
        assert "s, 1e-09 s are allowed" in result.fault.message
        gc.disable()
        try:
            pauses()
            assert (HealthStatus.HEALTHY, {"longest": 0.0, "paused": 0.0}) == ((clean := pauses()).status, clean.data)
        finally:
            gc.enable()


def test_a_short_collection_is_healthy():
    """
    Collections within what is allowed are counted, and well.
    """
    with GcPauses(1000) as pauses:
        gc.collect()
        result = pauses()
    assert HealthStatus.HEALTHY is result.status
    assert 0 < result.data["paused"] < 1000


def test_the_collector_is_let_go_of():
    """
    Outside of its `with` it is not called, knows nothing, and may be entered again, but not twice at a time.
    """
    pauses, before = GcPauses(), list(gc.callbacks)
    assert HealthStatus.UNKNOWN is pauses().status
    for _ in range(2):
        with pauses:
            assert len(before) + 1 == len(gc.callbacks)
            with pytest.raises(IllegalTransitionError, match="is entered already"):
                pauses.__enter__()
        assert before == gc.callbacks
    assert HealthStatus.UNKNOWN is pauses().status


@pytest.fixture
def busy():
    """An executor of one thread, and what lets that go on."""
    go_on = threading.Event()
    with ThreadPoolExecutor(1) as executor:
        try:
            yield executor, go_on
        finally:
            go_on.set()


def test_an_executor_without_a_free_thread_is_exhausted(busy):
    """
    While its only thread is taken the probe says so, and leaves nothing behind in the queue.
    """
    executor, go_on = busy
    probe = ExecutorDelay(executor, max_delay=0.05)
    taken = executor.submit(go_on.wait)
    with pytest.raises(Unhealthy, match=r"exhausted: a call has waited for a free thread for 0\.05 s"):
        probe()
    last = executor.submit(lambda: executor._work_queue.qsize())
    go_on.set()
    assert taken.result()
    assert 0 == last.result()
    assert 0 <= ExecutorDelay(executor, max_delay=10)().data["delay"] < 10


def test_an_executor_that_is_shut_down_is_an_error():
    """
    What cannot run anything any more raises what the executor says.
    """
    executor = ThreadPoolExecutor(1)
    executor.shutdown()
    with pytest.raises(RuntimeError, match="after shutdown"):
        ExecutorDelay(executor)()


def test_asyncios_default_executor_is_asked_on_its_loop(busy):
    """
    `asyncio.to_thread` is measured with the executor of the running loop.
    """
    executor, go_on = busy

    async def main():
        asyncio.get_running_loop().set_default_executor(executor)
        assert (await ExecutorDelay(asyncio.to_thread, max_delay=10)()).data["delay"] < 10
        taken = executor.submit(go_on.wait)
        with pytest.raises(Unhealthy, match="exhausted"):
            await ExecutorDelay(asyncio.to_thread, max_delay=0.05)()
        go_on.set()
        assert await asyncio.wrap_future(taken)

    asyncio.run(main())


@pytest.mark.parametrize(
    ("backend", "runs"), [("asyncio", anyio.to_thread), ("trio", anyio.to_thread), ("trio", trio.to_thread)]
)
def test_a_limit_of_threads_that_is_used_up_is_exhausted(backend, runs):
    """
    anyio's and trio's threads, which have a limit for each loop, are measured on both loops.
    """
    go_on = threading.Event()

    async def main():
        limiter = (
            anyio.to_thread.current_default_thread_limiter()
            if runs is anyio.to_thread
            else trio.to_thread.current_default_thread_limiter()
        )
        limiter.total_tokens = 1
        assert (await ExecutorDelay(runs.run_sync, max_delay=10)()).data["delay"] < 10
        async with anyio.create_task_group() as group:
            group.start_soon(runs.run_sync, go_on.wait)
            while not limiter.borrowed_tokens:
                await anyio.sleep(0)
            try:
                with pytest.raises(Unhealthy, match="exhausted"):
                    await ExecutorDelay(runs.run_sync, max_delay=0.05)()
            finally:
                go_on.set()

    anyio.run(main, backend=backend)


@pytest.mark.parametrize(
    "make",
    [
        lambda: DeletedFiles(0),
        lambda: GcPauses(0),
        lambda: GcPauses(float("inf")),
        lambda: ExecutorDelay("executor"),
        lambda: ExecutorDelay(asyncio.to_thread, max_delay=0),
    ],
)
def test_settings_that_cannot_work_are_refused(make):
    """
    Limits are greater than 0, and what runs calls is an executor or a function.
    """
    with pytest.raises(ConfigError):
        make()
