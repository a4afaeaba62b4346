"""
Many threads at once: those that ask the healer, those that it uses, and those that cannot be had.
"""

from __future__ import annotations

import asyncio
import statistics
import threading
import time

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import anyio
import pytest

from selfheal import Healer, HealingPolicy, HealthCheck, HealthStatus, RecoveryAction, Unhealthy, names, recovery_action
from selfheal.errors import ConfigError, IllegalTransitionError, NotRunningError, UnknownCheckError


FAST = HealingPolicy(interval=0.2, fast_interval=0.1, timeout=0.3, verify_within=5, jitter=0, fall=2, probation=0.5)

#: Seconds that a busy machine may add to anything.
SLOW = 1.0


def enter(host: str, healer: Healer, inside: Callable[[], None]) -> None:
    """Run *inside* in a thread of its own kind while *healer* runs."""

    async def main() -> None:
        async with healer:
            await asyncio.to_thread(inside)

    if host == "asyncio":
        asyncio.run(main())
    else:
        with healer:
            inside()


@pytest.mark.parametrize("host", ["thread", "asyncio"])
def test_eight_threads_may_ask_for_anything_at_once(host: str) -> None:
    """
    Healing, pausing, adding, removing and asking from eight threads while it runs: no other error than those promised.
    """
    wrong: list[BaseException] = []
    over = threading.Event()

    @recovery_action
    def mend(ctx) -> None:
        return None

    healer = Healer(
        [HealthCheck(lambda: None, name=f"c{n}", policy=FAST, recovery=mend) for n in range(4)],
        phase=0,
        max_concurrent=2,
    )

    def look(turn: int) -> None:
        for status in healer.status().values():
            assert (status.status is HealthStatus.HEALTHY) <= (status.fault is None)
        healer.incidents()

    wishes: list[Callable[[int], object]] = [
        lambda turn: healer.heal(f"c{turn % 4}"),
        lambda turn: healer.pause("meddling", ttl=0.01),
        lambda turn: healer.resume(resource=f"c{turn % 4}"),
        lambda turn: healer.add(HealthCheck(lambda: None, name=f"t{turn % 8}", policy=FAST, depends_on=["c0"])),
        lambda turn: healer.remove(f"t{turn % 8}"),
        lambda turn: str(healer.explain(f"c{turn % 4}")),
        lambda turn: healer.check_now(f"c{turn % 4}"),
        look,
    ]

    def meddle(me: int) -> int:
        turn = 0
        while not over.is_set():
            turn += 1
            try:
                wishes[(turn + me) % 8](turn // 8)
            except (IllegalTransitionError, UnknownCheckError):
                continue
            except ConfigError as exc:  # another thread has added it
                assert "two checks are called" in str(exc)
            except BaseException as exc:
                wrong.append(exc)
        return turn

    def storm() -> None:
        with ThreadPoolExecutor(8) as pool:
            threads = [pool.submit(meddle, me) for me in range(8)]
            time.sleep(1)
            over.set()
        assert min(thread.result() for thread in threads) > 20

    enter(host, healer, storm)

    assert [] == wrong
    assert 0 == healer.step_errors
    assert {check.name for check in healer.checks} == set(healer.status())


@pytest.mark.parametrize("host", ["thread", "asyncio"])
def test_calls_that_race_with_the_end_are_answered_at_once(host: str) -> None:
    """
    A call while the healer stops is done or refused; none waits for a loop that is gone.
    """
    wrong: list[BaseException] = []
    slowest = [0.0]

    def call(healer: Healer, go: threading.Event) -> None:
        go.wait()
        for _ in range(200):
            asked = time.monotonic()
            try:
                healer.check_now("db")
                healer.wait_healthy("db", timeout=0)
            except NotRunningError:
                slowest[0] = max(slowest[0], time.monotonic() - asked)
                return
            except BaseException as exc:
                wrong.append(exc)
                return
            slowest[0] = max(slowest[0], time.monotonic() - asked)

    for _ in range(10):
        healer = Healer([HealthCheck(lambda: None, name="db", policy=FAST)], phase=0, grace=1)
        go = threading.Event()
        callers = [threading.Thread(target=call, args=(healer, go)) for _ in range(8)]
        for caller in callers:
            caller.start()

        async def main(healer: Healer = healer, go: threading.Event = go) -> None:
            async with healer:
                go.set()
                await anyio.sleep(0.01)

        if host == "thread":
            with healer:
                go.set()
                time.sleep(0.01)
        else:
            asyncio.run(main())
        for caller in callers:
            caller.join(5)
            assert not caller.is_alive()

    assert [] == wrong
    assert slowest[0] <= SLOW


def test_whoever_waits_for_health_in_another_thread_is_woken_by_the_end() -> None:
    """
    `wait_healthy` without a timeout ends with an error when the healer stops.
    """
    errors: list[Exception] = []
    healer = Healer([HealthCheck(lambda: False, name="db", policy=FAST)], phase=0)

    def wait() -> None:
        try:
            healer.wait_healthy("db")
        except Exception as exc:
            errors.append(exc)

    with healer:
        waiter = threading.Thread(target=wait)
        waiter.start()
        time.sleep(0.2)
    waiter.join(2)

    assert [NotRunningError] == [type(error) for error in errors]


def test_health_can_be_awaited_in_another_loop() -> None:
    """
    An async program may await the health of a healer that runs in a thread of its own.
    """
    good = threading.Event()
    with Healer([HealthCheck(good.is_set, name="db", policy=FAST)], phase=0) as healer:

        async def main() -> None:
            assert not await healer.await_healthy("db", timeout=0.3)
            good.set()
            assert await healer.await_healthy("db", timeout=5)

        asyncio.run(main())


def test_an_action_that_never_got_a_thread_frees_its_resource() -> None:
    """
    Given up while it waited in line for a thread, an action is not said to be running for ever.
    """
    release = threading.Event()
    events = []
    policy = HealingPolicy(
        interval=0.2, fast_interval=0.1, timeout=60, verify_within=200, jitter=0, fall=1, action_timeout=0.3
    )
    hog = HealthCheck(lambda: release.wait(60), name="hog", policy=policy)

    class Mend(RecoveryAction):
        def recover(self, ctx) -> None:
            return None

    async def broken() -> None:
        raise Unhealthy("stale")

    healer = Healer(
        [hog, HealthCheck(broken, name="db", policy=policy, recovery=Mend())], phase=0, max_threads=1, grace=0.3
    )
    healer.on_event(events.append)
    with healer:
        time.sleep(1)
        running = healer.explain("db").running
        release.set()

    assert running is None
    assert [names.ACTION_FINISHED, names.ACTION_ENDED] == [
        event.name for event in events if event.name in {names.ACTION_FINISHED, names.ACTION_ENDED}
    ][:2]


def test_a_machine_without_threads_is_nobodys_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    When no thread can be had, a sync probe shows UNKNOWN and nothing is healed for it; with threads it runs again.
    """
    events = []
    healer = Healer([HealthCheck(lambda: None, name="db", policy=FAST)], phase=0)
    healer.on_event(events.append, events=[names.CHECK_COMPLETED, names.INCIDENT_OPENED])
    start = threading.Thread.start

    def refuse(thread: threading.Thread) -> None:
        if thread.name.startswith("selfheal-"):
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refuse)
    with healer:
        time.sleep(0.7)
        status = healer.status()["db"]
        monkeypatch.undo()
        assert healer.wait_healthy("db", timeout=5)

    assert (HealthStatus.UNKNOWN, "probe_error") == (status.status, status.fault.kind)
    assert [] == [event for event in events if event.name == names.INCIDENT_OPENED]


def test_deadlines_are_kept_while_all_threads_are_busy() -> None:
    """
    With 32 hanging probes and busy threads beside them, the median deadline is reported within 50 ms.
    """
    over = threading.Event()
    events = []
    checks = [HealthCheck(lambda: over.wait(30), name=f"c{n}", policy=FAST) for n in range(32)]
    healer = Healer(checks, slack=0)
    healer.on_event(events.append, events=[names.CHECK_COMPLETED])
    with healer:
        time.sleep(2)
        over.set()
    late = [event.fields["duration"] - 0.3 for event in events if event.fields["kind"] == "timeout"]

    assert 32 == len(late)
    assert statistics.median(late) <= 0.05
