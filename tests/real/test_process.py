"""
The process itself, in real time: a blocked loop, a hung engine, the way out.
"""

from __future__ import annotations

import asyncio
import threading

import pytest
import trio

from selfheal import ConfigError, HealthStatus
from selfheal.errors import IllegalTransitionError
from selfheal.resources import Block, LoopWatchdog


def block_the_loop(seen: threading.Event) -> None:
    seen.wait(10)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_blocked_loop_is_stuck_and_its_guilty_line_is_named(tmp_path, backend):
    """
    While the loop is blocked the probe says stuck, with the application's line; afterwards slow, once; then healthy.
    """
    dump = tmp_path / "stacks.txt"
    blocks: list[Block] = []
    during = []
    seen = threading.Event()

    def noticed(block: Block) -> None:
        blocks.append(block)
        during.append(watchdog())
        seen.set()

    watchdog = LoopWatchdog(0.2, on_block=noticed, dump=dump)

    async def main() -> None:
        sleep = trio.sleep if backend == "trio" else asyncio.sleep
        with watchdog:
            await sleep(0.1)
            assert HealthStatus.HEALTHY is watchdog().status
            block_the_loop(seen)
            while (result := watchdog()).status is HealthStatus.UNHEALTHY:
                await sleep(0.01)
            during.append(result)
            during.append(watchdog())

    if backend == "trio":
        trio.run(main)
    else:
        asyncio.run(main())
    (block,) = blocks
    assert (__file__, "block_the_loop") == (block.file, block.function)
    assert block_the_loop.__code__.co_firstlineno + 1 == block.line
    stuck, slow, healthy = during
    assert (HealthStatus.UNHEALTHY, "stuck", str(block)) == (stuck.status, stuck.fault.kind, stuck.fault.message)
    assert (HealthStatus.DEGRADED, "slow") == (slow.status, slow.fault.kind)
    assert HealthStatus.HEALTHY is healthy.status
    assert 1 == dump.read_text().count("--- ")
    assert str(block) in dump.read_text()


def test_a_callback_that_raises_does_not_end_the_watching(tmp_path):
    """
    What on_block raises is told by the probe's data, and the next block is noticed as well.
    """
    calls: list[Block] = []
    seen = threading.Semaphore(0)

    def fails(block: Block) -> None:
        calls.append(block)
        seen.release()
        raise LookupError

    async def main() -> None:
        with LoopWatchdog(0.1, on_block=fails) as watchdog:
            for _ in range(2):
                assert seen.acquire(timeout=10)
                while watchdog().status is HealthStatus.UNHEALTHY:
                    await asyncio.sleep(0.01)
            assert watchdog().data["problem"].startswith("LookupError at the loop has not turned for 0.1 s: ")

    asyncio.run(main())
    assert 2 == len(calls)


def test_a_watchdog_that_watches_nothing_knows_nothing():
    """
    Before it is entered, and after its loop has ended, the answer is UNKNOWN; it is entered once.
    """
    watchdog = LoopWatchdog(0.05)
    assert HealthStatus.UNKNOWN is watchdog().status

    async def main() -> None:
        with watchdog:
            await asyncio.sleep(0)
        with pytest.raises(IllegalTransitionError, match="was entered before"):
            watchdog.__enter__()

    asyncio.run(main())
    for _ in range(500):
        if watchdog().status is not HealthStatus.UNKNOWN:
            threading.Event().wait(0.01)
    assert HealthStatus.UNKNOWN is watchdog().status


def test_a_watchdog_needs_a_running_loop():
    """
    Outside a loop there is nothing to watch, and it says so at once.
    """
    with pytest.raises(RuntimeError), LoopWatchdog():
        pass


@pytest.mark.parametrize("limit", [0, -1, float("inf")])
def test_a_limit_that_never_ends_or_is_no_time_is_refused(limit):
    """
    A limit is a finite number of seconds, greater than 0.
    """
    with pytest.raises(ConfigError, match="must be a finite number of seconds"):
        LoopWatchdog(limit)
