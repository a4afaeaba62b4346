"""
The process itself, in real time: a blocked loop, a hung engine, the way out.
"""

from __future__ import annotations

import asyncio
import gc
import os
import re
import subprocess
import sys
import textwrap
import threading
import time

import anyio.to_thread
import pytest
import trio

from selfheal import ConfigError, Healer, HealthCheck, HealthStatus, recovery_action
from selfheal.errors import IllegalTransitionError, NotRunningError
from selfheal.resources import Block, DeadMan, ExecutorDelay, GcPauses, LoopWatchdog


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


def program(text: str, *arguments: str, **options: object) -> subprocess.Popen[str]:
    """A program of its own, which may end as it likes."""
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(text), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


HOLDS_THE_GIL = """
    import sys, threading
    from selfheal import Healer
    from selfheal.resources import DeadMan

    def beat():
        while True:
            threading.Event().wait(0.02)
            print("beat", flush=True)

    def compute():
        print("begins", flush=True)
        sum(range(4 * 10**9))  # at least 10 s, in C, with the interpreter's lock
        print("ends", flush=True)

    with Healer():
        pass  # what is loaded now takes no time later
    with DeadMan(1.5, file=sys.argv[1]) as dead_man, Healer([dead_man.check()], phase=0):
        threading.Event().wait(0.5)
        threading.Thread(target=beat, daemon=True).start()
        compute()
"""


def test_a_process_whose_interpreter_is_held_by_c_code_ends_on_time_with_its_stacks(tmp_path):
    """
    DeadMan lets a turning healer live, and ends the process with code 1 in the midst of a C call that lets nobody run.
    """
    dump = tmp_path / "stacks.txt"
    with program(HOLDS_THE_GIL, str(dump)) as process:
        try:
            out, err = process.communicate(timeout=60)
        finally:
            process.kill()
    assert 1 == process.returncode, err
    _, begins, rest = out.partition("begins\n")
    assert begins
    assert "ends" not in rest
    assert rest.count("beat") < 10  # of the seventy or so in 1.5 s, those that were under way
    assert "in compute" in dump.read_text()


BLOCKS = """
import asyncio, sys, time
import trio
from selfheal import Healer, HealthCheck
from selfheal.resources import LoopWatchdog

def opened(event):
    print(event.fields["kind"], healer.status()["loop"].fault.message, sep=": ", flush=True)

def load_the_report():
    time.sleep(5)

async def main():
    with watchdog:
        await loop.sleep(0.1)
        load_the_report()

loop = {"asyncio": asyncio, "trio": trio}[sys.argv[1]]
watchdog = LoopWatchdog()
healer = Healer([HealthCheck(watchdog, name="loop", interval=0.3, timeout=0.3)], phase=0)
healer.on_event(opened, events=["selfheal.incident.opened"])
with healer:
    loop.run(main) if loop is trio else loop.run(main())
"""


@pytest.mark.at_length
def test_a_loop_that_is_blocked_for_five_seconds_is_an_incident_that_names_the_line(tmp_path):
    """
    While an asyncio and a trio application are blocked, a healer beside the loop says where, before the block is over.
    """
    path = tmp_path / "report.py"
    path.write_text(BLOCKS)
    line = BLOCKS.splitlines().index("    time.sleep(5)") + 1
    guilty = re.compile(
        rf"stuck: the loop has not turned for (\d\.\d) s: {re.escape(str(path))}:{line} in load_the_report\n"
    )
    with (
        subprocess.Popen([sys.executable, path, "asyncio"], stdout=subprocess.PIPE, text=True) as on_asyncio,
        subprocess.Popen([sys.executable, path, "trio"], stdout=subprocess.PIPE, text=True) as on_trio,
    ):
        said = [process.communicate(timeout=60)[0] for process in (on_asyncio, on_trio)]
    for text in said:
        assert (found := guilty.fullmatch(text)), text
        assert 1 <= float(found[1]) < 5


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_an_application_without_a_free_thread_is_healed_on_its_own_loop(backend):
    """
    A healer inside the loop sees that the loop's threads are all taken, and that its action has made room.
    """
    go_on, verified = threading.Event(), threading.Event()
    kinds = []

    @recovery_action
    async def allow_more_threads(ctx):
        kinds.append(ctx.fault.kind)
        anyio.to_thread.current_default_thread_limiter().total_tokens += 1

    check = HealthCheck(
        ExecutorDelay(anyio.to_thread.run_sync, max_delay=0.5),
        name="threads",
        interval=0.2,
        timeout=5,
        recovery=allow_more_threads,
    )

    async def main() -> None:
        anyio.to_thread.current_default_thread_limiter().total_tokens = 2
        healer = Healer([check], phase=0)
        healer.on_event(lambda _event: verified.set(), events=["selfheal.healing.verified"])
        async with healer, anyio.create_task_group() as group:
            for _ in range(2):
                group.start_soon(anyio.to_thread.run_sync, go_on.wait)
            try:
                with anyio.fail_after(60):
                    while not verified.is_set():
                        await anyio.sleep(0.02)
            finally:
                go_on.set()

    anyio.run(main, backend=backend)
    assert {"exhausted"} == set(kinds)


def test_a_full_collection_of_many_objects_is_a_pause():
    """
    A collection over a third of a million dicts is told with its length, which nothing else could use.
    """
    kept = [{"self": None} for _ in range(300_000)]
    for each in kept:
        each["self"] = each
    with GcPauses(0.01) as pauses:
        pauses()
        began = time.perf_counter()
        gc.collect()
        took = time.perf_counter() - began
        result = pauses()
    assert (HealthStatus.DEGRADED, "slow") == (result.status, result.fault.kind)
    assert 0.01 < result.data["longest"] <= took
    del kept


HEALTHY = """
    import asyncio, os, sys, threading
    from selfheal import Healer
    from selfheal.resources import DeadMan

    async def main():
        async with Healer([dead_man.check()], phase=0):
            await asyncio.sleep(2.2)

    with Healer():
        pass  # what is loaded now takes no time later
    with DeadMan(2.0) as dead_man:
        asyncio.run(main())
        child = os.fork()
        if not child:
            sys.exit(7)  # the ordinary way
        _, status = os.waitpid(child, 0)
    print(os.waitstatus_to_exitcode(status))
"""


def test_a_healthy_process_is_left_alone_and_its_forked_child_can_end():
    """
    DeadMan does not fire while the healer turns, and a child that was forked meanwhile does not hang at its end.
    """
    with program(HEALTHY) as process:
        out, err = process.communicate(timeout=30)
    assert (0, "7\n") == (process.returncode, out), err
    assert "Timeout" not in err


def test_there_is_one_dead_man_in_a_process():
    """
    A second one is refused, and one that is not entered gives no signs of life.
    """
    with DeadMan(60) as first:
        with pytest.raises(IllegalTransitionError, match="in this process already"), DeadMan(60):
            pass
        assert asyncio.run(first.check().probe()) is None
    with pytest.raises(NotRunningError, match="is not armed"):
        asyncio.run(first.check().probe())


@pytest.mark.parametrize("timeout", [0, float("inf"), float("nan")])
def test_a_dead_man_needs_a_time(timeout):
    """
    The timeout is a number of seconds that comes to an end.
    """
    with pytest.raises(ConfigError):
        DeadMan(timeout)


EXITS = """
    import logging, logging.handlers, os, sys, threading
    from selfheal import Healer, HealthCheck, Unhealthy
    from selfheal.resources import ExitForSupervisor

    path, hangs = sys.argv[1:]
    logging.basicConfig()
    handler = logging.handlers.MemoryHandler(10_000, flushLevel=100, target=logging.FileHandler(path))
    logging.getLogger("app").addHandler(handler)
    logging.getLogger("app").warning("the last words")

    class Hanging(logging.Handler):
        def flush(self):
            threading.Event().wait()

    if hangs == "hangs":
        logging.getLogger("app").addHandler(Hanging())

    def probe():
        raise Unhealthy("stuck", fatal=True)

    check = HealthCheck(probe, name="app", recovery=ExitForSupervisor(grace=0.5), interval=0.1, timeout=0.5)
    acted, healer = threading.Event(), Healer([check], allow_destructive=True, phase=0)
    healer.on_event(lambda event: acted.set(), events=["selfheal.action.finished"])
    with healer:
        print(acted.wait(20), flush=True)
    os._exit(0)
"""


@pytest.mark.parametrize("hangs", ["hangs", "flushes"])
def test_a_supervised_process_ends_with_its_code_and_its_last_words(tmp_path, hangs):
    """
    With a supervisor the process ends with code 75; what was buffered is in the log, and a hung handler stops nothing.
    """
    path = tmp_path / "app.log"
    with program(EXITS, str(path), hangs, env={**unsupervised(), "SUPERVISOR_ENABLED": "1"}) as process:
        _, err = process.communicate(timeout=30)
    assert 75 == process.returncode, err
    assert "exiting with code 75 for supervisord: stuck" in err
    if hangs == "flushes":
        assert "the last words\n" == path.read_text()


def test_a_process_that_nobody_would_start_again_lives_on(tmp_path):
    """
    Without a supervisor the action cannot help, and the process stays.
    """
    with program(EXITS, str(tmp_path / "app.log"), "flushes", env=unsupervised()) as process:
        out, err = process.communicate(timeout=30)
    assert (0, "True\n") == (process.returncode, out), err
    assert "exiting" not in err


def unsupervised() -> dict[str, str]:
    """This environment, without the words of supervisors."""
    words = ("INVOCATION_ID", "NOTIFY_SOCKET", "SUPERVISOR_ENABLED", "KUBERNETES_SERVICE_HOST", "SYSTEMD_EXEC_PID")
    return {key: value for key, value in os.environ.items() if key not in words}
