"""
Hard deadlines, closing and forks, in real time.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import statistics
import subprocess
import sys
import textwrap
import threading
import time

import anyio
import pytest
import trio

from selfheal import Healer, HealingPolicy, HealthCheck, RecoveryAction, Unhealthy, names, recovery_action


FAST = HealingPolicy(interval=0.2, fast_interval=0.1, timeout=0.3, verify_within=5, jitter=0, fall=2, probation=0.5)

#: Milliseconds by which a deadline may be reported late, on top of the lateness of a bare timer in the same run.
LATE_MS = 50


def completed(events, check):
    """
    What the runs of *check* have shown, in order.
    """
    return [event for event in events if event.name == names.CHECK_COMPLETED and event.check == check]


def hang() -> None:
    """
    A sync probe that never answers.
    """
    threading.Event().wait()


async def swallow_on_asyncio() -> None:
    """
    An async probe that never answers and cannot be cancelled.
    """
    while True:
        try:
            await asyncio.sleep(3600)
        except BaseException:
            continue


async def swallow_on_trio() -> None:
    """
    The same for trio.
    """
    while True:
        try:
            await trio.sleep(3600)
        except BaseException:
            continue


def timer_lateness(rounds: int = 10) -> float:
    """
    Worst lateness in seconds of a bare timer in a thread, right now on this machine.
    """
    late = []
    for _ in range(rounds):
        started = time.monotonic()
        threading.Event().wait(0.02)
        late.append(time.monotonic() - started - 0.02)
    return max(late)


def assert_on_time(events, check: str, bare: float) -> None:
    first = completed(events, check)[0]
    late = first.fields["duration"] - FAST.timeout

    assert "timeout" == first.fields["kind"]
    assert late >= 0
    assert late <= LATE_MS / 1000 + bare


def test_a_hung_sync_probe_is_reported_on_time_and_stops_nothing():
    """
    A probe in `time.sleep` for ever is reported at its deadline, leaves one abandoned run, and the others go on.
    """
    events = []
    runs = []
    healer = Healer(
        [
            HealthCheck(hang, name="hang", policy=FAST),
            HealthCheck(swallow_on_asyncio, name="swallow", policy=FAST),
            HealthCheck(lambda: runs.append(1), name="fine", policy=FAST),
        ],
        phase=0,
        slack=0,
        grace=0.5,
    )
    healer.on_event(events.append)
    with healer:
        time.sleep(1.5)
        bare = timer_lateness()
        abandoned = {name: status.abandoned for name, status in healer.status().items()}
        leaving = time.monotonic()
    left = time.monotonic() - leaving

    assert {"hang": 1, "swallow": 1, "fine": 0} == abandoned
    assert_on_time(events, "hang", bare)
    assert_on_time(events, "swallow", bare)
    assert len(runs) >= 6
    assert left <= 0.5 + bare


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_an_async_probe_that_swallows_cancellation_is_left_behind(backend):
    """
    `async with` leaves within the grace, and so does the event loop, whatever the coroutine does.
    """
    events = []
    swallow = swallow_on_trio if backend == "trio" else swallow_on_asyncio
    healer = Healer(
        [HealthCheck(swallow, name="swallow", policy=FAST), HealthCheck(hang, name="hang", policy=FAST)],
        phase=0,
        slack=0,
        grace=0.5,
    )
    healer.on_event(events.append)
    inside = []

    async def main() -> None:
        async with healer:
            await anyio.sleep(1)
            inside.append(time.monotonic())

    if backend == "trio":
        trio.run(main)
    else:
        asyncio.run(main())
    left = time.monotonic() - inside[0]
    bare = timer_lateness()

    assert_on_time(events, "swallow", bare)
    assert_on_time(events, "hang", bare)
    assert left <= 0.5 + LATE_MS / 1000 + bare


def test_the_process_of_a_sync_program_exits_within_a_second():
    """
    Neither a hung thread nor a coroutine that swallows GeneratorExit keeps the interpreter from exiting.
    """
    program = textwrap.dedent(
        """
        import asyncio, threading, time
        from selfheal import Healer, HealingPolicy, HealthCheck

        async def swallow():
            while True:
                try:
                    await asyncio.sleep(3600)
                except BaseException:
                    pass

        policy = HealingPolicy(interval=0.2, fast_interval=0.1, timeout=0.2, verify_within=5)
        checks = [HealthCheck(threading.Event().wait, name="hang", policy=policy),
                  HealthCheck(swallow, name="swallow", policy=policy)]
        with Healer(checks, phase=0, grace=0.3):
            time.sleep(0.6)
        print(time.monotonic(), flush=True)
        """
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=True)
    exited = time.monotonic() - float(done.stdout)

    assert exited <= 1


def test_threads_tell_the_same_story_by_order():
    """
    Sync probes and actions in real threads go through the same states in the same order.
    """
    events = []
    broken = threading.Event()

    def probe() -> None:
        if broken.is_set():
            raise Unhealthy("stale")

    class Restart(RecoveryAction):
        def recover(self, ctx) -> None:
            raise RuntimeError("no")

    class Divert(RecoveryAction):
        def recover(self, ctx) -> None:
            broken.clear()

        def revert(self, ctx) -> None:
            return None

    healer = Healer([HealthCheck(probe, name="db", policy=FAST, recovery=Restart() >> Divert())], phase=0, slack=0)
    healer.on_event(events.append)
    closed = threading.Event()
    healer.on_event(lambda event: closed.set(), events=[names.INCIDENT_CLOSED])
    with healer:
        assert healer.wait_healthy("db", timeout=5)
        broken.set()
        assert closed.wait(20)

    assert ["detecting", "recovering", "verifying", "restored", "idle"] == [
        event.fields["to_state"] for event in events if event.name == names.STATE_CHANGED
    ]
    assert [("restart", False), ("divert", False), ("divert", True)] == [
        (event.fields["action"], event.fields["revert"]) for event in events if event.name == names.ACTION_STARTED
    ]
    assert ["healed"] == [incident.result.value for incident in healer.incidents()]


def test_with_no_free_thread_a_due_check_waits_and_keeps_its_full_time():
    """
    Checks in line for a thread are reported as delayed, not as timed out.
    """
    events = []
    policy = HealingPolicy(interval=0.5, fast_interval=0.5, timeout=0.4, verify_within=5, jitter=0)
    checks = [HealthCheck(lambda: time.sleep(0.2), name=f"slow{n}", policy=policy) for n in range(4)]
    healer = Healer(checks, phase=0, slack=0, max_threads=1)
    healer.on_event(events.append)
    with healer:
        time.sleep(1.5)

    assert {"healthy"} == {event.fields["status"] for event in events if event.name == names.CHECK_COMPLETED}
    assert any(event.name == names.CHECK_DELAYED for event in events)


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
def test_an_exception_that_is_not_ours_is_raised_where_the_healer_was_entered(kind):
    """
    KeyboardInterrupt and SystemExit of a probe are recorded, stop no other check, and come out at the `with`.
    """
    events = []
    ran = []

    def probe() -> None:
        raise kind("from the probe")

    def enter() -> None:
        healer = Healer(
            [
                HealthCheck(probe, name="rude", policy=FAST),
                HealthCheck(lambda: ran.append(1), name="fine", policy=FAST),
            ],
            phase=0,
        )
        healer.on_event(events.append)
        with healer:
            time.sleep(0.7)

    with pytest.raises(kind, match="from the probe"):
        enter()

    assert "probe_error" == completed(events, "rude")[0].fields["kind"]
    assert len(ran) >= 3


def test_a_running_action_gets_the_grace_and_is_named():
    """
    Leaving while an action hangs takes the grace and no longer; the incident ends as aborted, the action is named.
    """
    events = []
    started = threading.Event()

    @recovery_action
    def hangs(ctx) -> None:
        started.set()
        threading.Event().wait()

    def probe() -> None:
        raise Unhealthy("stale")

    healer = Healer([HealthCheck(probe, name="db", policy=FAST, recovery=hangs)], phase=0, grace=0.5)
    healer.on_event(events.append)
    with healer:
        assert started.wait(5)
        leaving = time.monotonic()
    left = time.monotonic() - leaving

    assert left <= 0.5 + timer_lateness()
    assert ["hangs"] == [event.fields["running"] for event in events if event.name == names.HEALER_STOPPED]
    assert ["aborted"] == [incident.result.value for incident in healer.incidents()]


def test_held_changes_are_stepped_down_on_request():
    """
    `stop(revert=True)` takes back what is applied before it leaves; by default it stays and is named.
    """
    for revert in (True, False):
        applied = threading.Event()
        events = []

        class Divert(RecoveryAction):
            def recover(self, ctx, applied=applied) -> None:
                applied.set()

            def revert(self, ctx, applied=applied) -> None:
                applied.clear()

        def probe(applied=applied) -> None:
            if not applied.is_set():
                raise Unhealthy("stale")

        policy = HealingPolicy(interval=0.2, fast_interval=0.1, timeout=0.3, fall=2, probation=60)
        healer = Healer([HealthCheck(probe, name="db", policy=policy, recovery=Divert())], phase=0)
        healer.on_event(events.append)
        healer.start()
        assert applied.wait(5)
        assert healer.wait_healthy("db", timeout=5)
        healer.stop(revert=revert)

        assert applied.is_set() is not revert
        assert ["" if revert else "db/divert"] == [
            event.fields["held"] for event in events if event.name == names.HEALER_STOPPED
        ]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform does not fork")
@pytest.mark.parametrize("after_fork", ["warn", "start"])
def test_a_forked_child_begins_anew(after_fork):
    """
    A child has no running healer and says so, or starts its own when asked to; the parent is not disturbed.
    """
    program = textwrap.dedent(
        f"""
        import os, sys, time, warnings
        from selfheal import Healer, HealthCheck, HealingPolicy
        policy = HealingPolicy(interval=0.2, fast_interval=0.1, timeout=0.3, verify_within=5)
        runs = []
        healer = Healer([HealthCheck(lambda: runs.append(os.getpid()), name="db", policy=policy)],
                        phase=0, after_fork="{after_fork}")
        with healer, warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            time.sleep(0.5)
            pid = os.fork()
            if pid == 0:
                del runs[:]
                time.sleep(0.7)
                print("child", len(runs) > 1, any("forked" in str(w.message) for w in caught), flush=True)
                if "{after_fork}" == "start":
                    healer.stop()
                os._exit(0)
            os.waitpid(pid, 0)
            before = len(runs)
            time.sleep(0.5)
            print("parent", len(runs) > before, flush=True)
        """
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", program],
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    starts = after_fork == "start"

    assert [f"child {starts} {not starts}", "parent True"] == done.stdout.splitlines()


def test_the_second_life_of_a_healer_is_like_the_first():
    """
    A healer that was left can be entered again, in a thread or in a loop.
    """
    runs = []
    healer = Healer([HealthCheck(lambda: runs.append(1), name="db", policy=FAST)], phase=0)

    async def main() -> None:
        async with healer:
            assert await healer.await_healthy("db", timeout=5)

    for _ in range(2):
        with healer:
            assert healer.wait_healthy("db", timeout=5)
    asyncio.run(main())
    trio.run(main)

    assert len(runs) >= 4


def test_a_slow_listener_holds_nothing_up():
    """
    A listener that hangs makes the healer drop events, not miss checks.
    """
    runs = []
    release = threading.Event()
    healer = Healer([HealthCheck(lambda: runs.append(time.monotonic()), name="db", policy=FAST)], phase=0, slack=0)
    healer.on_event(lambda event: release.wait(5))
    with healer:
        time.sleep(1)
        release.set()
    gaps = [later - earlier for earlier, later in itertools.pairwise(runs)]

    assert statistics.median(gaps) < 0.3
