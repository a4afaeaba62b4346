"""
Every way out: cancelled, interrupted, twice, never, from a loop that hears nothing; in real time.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import textwrap
import threading
import time
import warnings

import anyio
import pytest
import trio

from selfheal import Healer, HealingPolicy, HealthCheck, Unhealthy, names, recovery_action
from selfheal.errors import ConfigError, IllegalTransitionError, NotRunningError


FAST = HealingPolicy(interval=0.2, fast_interval=0.1, timeout=0.3, verify_within=5, jitter=0, fall=2, probation=0.5)

#: Seconds that a busy machine may add to anything.
SLOW = 1.0

#: Stops of four threads at once: before one waited for the other, nearly every second round went wrong.
ROUNDS = 20


def run(backend: str, main) -> None:
    """Run *main* as applications do."""
    if backend == "trio":
        trio.run(main)
    else:
        asyncio.run(main())


async def swallow() -> None:
    """Never answers and cannot be cancelled, on any loop."""
    while True:
        try:
            await anyio.sleep(3600)
        except BaseException:
            continue


@recovery_action
async def stubborn(ctx) -> None:
    """Never ends."""
    await swallow()


def broken() -> None:
    """The probe of something broken."""
    raise Unhealthy("stale")


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize("inside", ["waiting for health", "sleeping", "at the door"])
def test_a_cancelled_application_leaves_within_the_grace(backend: str, inside: str) -> None:
    """
    Cancelled wherever it is, with a probe and an action that hear nothing, it leaves in time and nothing goes on.
    """
    healer = Healer(
        [
            HealthCheck(swallow, name="swallow", policy=FAST),
            HealthCheck(broken, name="db", policy=FAST, recovery=stubborn),
        ],
        phase=0,
        grace=0.5,
    )

    async def live() -> None:
        async with healer:
            if inside == "waiting for health":
                await healer.await_healthy("db")
            elif inside == "sleeping":
                await anyio.sleep(60)

    async def main() -> None:
        with anyio.move_on_after(0.8 if inside != "at the door" else 0.01):
            await live()

    started = time.monotonic()
    run(backend, main)

    assert time.monotonic() - started <= 0.8 + 0.5 + SLOW
    with pytest.raises(NotRunningError):
        healer.check_now("db")


@pytest.mark.parametrize("host", ["thread", "asyncio"])
@pytest.mark.parametrize(("takes", "ended"), [(0.3, True), (8.0, False)])
def test_a_probe_in_a_thread_ends_before_its_application_closes_what_it_uses(
    host: str, takes: float, ended: bool
) -> None:
    """
    Whoever leaves waits for a probe that is in time, for a second at most: a client that is closed under it is used on.
    """
    begun, over, proceed = threading.Event(), threading.Event(), threading.Event()

    def probe() -> None:
        begun.set()
        proceed.wait(takes)
        over.set()

    healer = Healer([HealthCheck(probe, name="db", policy=HealingPolicy(timeout=10, jitter=0))], phase=0)

    async def live() -> None:
        async with healer:
            await asyncio.to_thread(begun.wait, 5)

    started = time.monotonic()
    if host == "thread":
        with healer:
            assert begun.wait(5)
    else:
        asyncio.run(live())
    assert (ended, True) == (over.is_set(), time.monotonic() - started < 1 + SLOW)
    proceed.set()


def test_a_second_cancellation_cuts_the_way_out_short() -> None:
    """
    asyncio's own cancellation goes through every shield: then nothing is waited for any more, and nothing is left.
    """
    healer = Healer([HealthCheck(broken, name="db", policy=FAST, recovery=stubborn)], phase=0, grace=60)
    started = threading.Event()
    healer.on_event(lambda event: started.set(), events=[names.ACTION_STARTED])

    async def live() -> None:
        async with healer:
            await asyncio.to_thread(started.wait, 5)

    async def main() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(2):
                await live()

    begun = time.monotonic()
    asyncio.run(main())

    assert time.monotonic() - begun <= 2 + SLOW
    with healer:  # and it can be entered again
        assert {"db"} == set(healer.status())


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_loop_that_ends_takes_its_healer_along(backend: str) -> None:
    """
    Never left, the healer keeps no loop from ending, says at once that it does not run, and can be entered again.
    """
    runs = []

    async def slow() -> None:
        runs.append(1)
        await anyio.sleep(0.25)

    healer = Healer(
        [HealthCheck(slow, name="slow", policy=FAST), HealthCheck(lambda: None, name="sync", policy=FAST)], phase=0
    )

    async def main() -> None:
        await healer.astart()
        await anyio.sleep(0.5)

    started = time.monotonic()
    run(backend, main)
    assert time.monotonic() - started <= 0.5 + SLOW

    asked = time.monotonic()
    with pytest.raises(NotRunningError):
        healer.heal("slow")
    assert "does not run" in str(healer.explain("slow"))
    healer.pause("a look")
    assert time.monotonic() - asked <= SLOW

    before = len(runs)
    with healer:
        assert healer.paused
        assert healer.wait_healthy("slow", timeout=5)
    assert len(runs) > before


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize("after", [0.1, 0.6])
def test_a_loop_ends_though_nobody_left_and_nothing_listens(backend: str, after: float) -> None:
    """
    Even a healer that is never left lets a loop end whose probe swallows every cancellation, before its deadline or
    after it.
    """
    healer = Healer([HealthCheck(swallow, name="swallow", policy=FAST)], phase=0)

    async def main() -> None:
        await healer.astart()
        await anyio.sleep(after)

    started = time.monotonic()
    run(backend, main)

    assert time.monotonic() - started <= after + SLOW


def test_a_probe_that_blocks_the_healers_loop_is_left_behind() -> None:
    """
    An async probe that blocks holds up the healer, never the program's way out: it warns, and a second life is fine.
    """
    release = threading.Event()
    entered = threading.Event()

    async def blocks() -> None:
        entered.set()
        release.wait(30)

    healer = Healer([HealthCheck(blocks, name="db", policy=FAST)], phase=0, grace=0.3)
    healer.start()
    assert entered.wait(5)
    leaving = time.monotonic()
    with pytest.warns(RuntimeWarning, match="something blocks its loop"):
        healer.stop()
    left = time.monotonic() - leaving
    release.set()
    with healer:
        assert healer.wait_healthy("db", timeout=5)

    assert left <= 0.3 + 1.0 + SLOW


def test_a_listener_that_hangs_keeps_nobody_from_leaving() -> None:
    """
    What a slow listener has not heard by the end of the grace it hears later, or never.
    """
    release = threading.Event()
    healer = Healer([HealthCheck(lambda: None, name="db", policy=FAST)], phase=0, grace=0.3)
    healer.on_event(lambda event: release.wait(30))
    with healer:
        assert healer.wait_healthy("db", timeout=5)
        leaving = time.monotonic()
    left = time.monotonic() - leaving
    release.set()

    assert left <= 0.3 + SLOW / 2


def test_two_may_stop_it_at_once() -> None:
    """
    Whoever stops a healer that is being stopped waits for the same end.
    """
    healer = Healer([HealthCheck(lambda: None, name="db", policy=FAST)], phase=0, grace=30)
    stopped = []
    healer.on_event(stopped.append, events=[names.HEALER_STOPPED])
    switch_interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)  # so that they overtake one another at every line
    try:
        for _ in range(ROUNDS):
            healer.start()
            threads = [threading.Thread(target=healer.stop) for _ in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(5)
            assert not any(thread.is_alive() for thread in threads)
    finally:
        sys.setswitchinterval(switch_interval)

    async def main() -> None:
        await healer.astart()
        async with anyio.create_task_group() as stops:
            for _ in range(4):
                stops.start_soon(healer.astop)

    asyncio.run(main())

    assert ROUNDS + 1 == len(stopped)


def test_a_healer_that_cannot_start_leaves_nothing_behind() -> None:
    """
    A start that fails is an error, ends its thread, and can be tried again.
    """
    healer = Healer([HealthCheck(lambda: None, name="db", policy=FAST)], registry=object())
    for _ in range(2):
        with pytest.raises(ConfigError, match="registry"):
            healer.start()

    async def main() -> None:
        with pytest.raises(ConfigError, match="registry"):
            await healer.astart()

    asyncio.run(main())

    assert "selfheal" not in {thread.name for thread in threading.enumerate()}


def test_the_wrong_door_is_an_error_not_a_deadlock() -> None:
    """
    `stop` on the healer's own loop, and `astop` of one that runs in a thread, say which call is right.
    """
    errors = []

    async def probe() -> None:
        try:
            healer.stop()
        except IllegalTransitionError as exc:
            errors.append(str(exc))

    healer = Healer([HealthCheck(probe, name="db", policy=FAST)], phase=0)
    with healer:
        assert healer.wait_healthy("db", timeout=5)
        with pytest.raises(IllegalTransitionError, match=r"healer\.stop"):
            asyncio.run(healer.astop())

    assert "another thread" in errors[0]


@pytest.mark.parametrize("where", ["body", "exit", "atexit"])
def test_a_program_that_is_interrupted_or_just_ends_exits_at_once(where: str) -> None:
    """
    Ctrl-C in the `with`, a second one on the way out, or an end without any `stop`: the process exits within a second.
    """
    program = textwrap.dedent(
        f"""
        import os, signal, threading, time
        from selfheal import Healer, HealingPolicy, HealthCheck, recovery_action, names

        policy = HealingPolicy(interval=0.2, fast_interval=0.1, timeout=0.2, verify_within=5, fall=1)
        acting = threading.Event()

        @recovery_action
        def hangs(ctx):
            acting.set()
            threading.Event().wait()

        healer = Healer([HealthCheck(threading.Event().wait, name="hang", policy=policy),
                         HealthCheck(lambda: False, name="db", policy=policy, recovery=hangs)], phase=0, grace=30)
        where = "{where}"
        if where == "atexit":
            healer.start()
            acting.wait(5)
            print(time.monotonic(), flush=True)
        else:
            try:
                with healer:
                    acting.wait(5)
                    if where == "exit":
                        threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()
                    else:
                        threading.Timer(0.8, os.kill, (os.getpid(), signal.SIGINT)).start()
                        os.kill(os.getpid(), signal.SIGINT)
                        time.sleep(5)
            except KeyboardInterrupt:
                print(time.monotonic(), flush=True)
        """
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=True)
    exited = time.monotonic() - float(done.stdout)

    assert exited <= 1 + SLOW
    assert "" == done.stderr


def test_nothing_is_left_in_the_loop() -> None:
    """
    After the way out no task of the healer is left, though neither probe nor action has honoured its cancellation.
    """
    healer = Healer(
        [
            HealthCheck(swallow, name="swallow", policy=FAST),
            HealthCheck(broken, name="db", policy=FAST, recovery=stubborn),
        ],
        phase=0,
        grace=0.3,
    )

    async def main() -> None:
        async with healer:
            await anyio.sleep(1)
            healer.remove("swallow")
        await anyio.sleep(0.05)
        assert 1 == len(asyncio.all_tasks())

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        asyncio.run(main())


def test_what_leaves_the_block_already_goes_first() -> None:
    """
    An exception of the block's own is not replaced by one that a probe has left behind.
    """

    def rude() -> None:
        raise SystemExit(4)

    def enter() -> None:
        with Healer([HealthCheck(rude, name="rude", policy=FAST)], phase=0):
            time.sleep(0.3)
            raise ValueError("of the block's own")

    with pytest.raises(ValueError, match="of the block's own"):
        enter()
