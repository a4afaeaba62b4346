"""
While a check of the process itself is bad, nothing else is believed to be.
"""

from __future__ import annotations

import attrs
import pytest

from selfheal import CheckResult, Healer, HealingPolicy, HealthCheck, HealthStatus, Unhealthy, names, recovery_action
from selfheal.runtime.watch import CheckStatus
from selfheal.testing import VirtualClock, simulate


POLICY = HealingPolicy(interval=5, fast_interval=1, timeout=2, jitter=0, fall=2, rise=2, probation=30)


class Process:
    """
    Runs out of something from 10 to *until*; what *harmed* says fails with it, and from *broken* on by itself.
    """

    def __init__(self, until: float, *, harmed: tuple[float, float], broken: float = 10_000) -> None:
        self.clock = VirtualClock()
        self.until = until
        self.harmed = harmed
        self.broken = broken
        self.healed: list[float] = []

    def open_files(self) -> None:
        if 10 <= self.clock.now() < self.until:
            raise Unhealthy("exhausted", "all descriptors are open")

    def db(self) -> None:
        since, until = self.harmed
        if since <= self.clock.now() < until or self.broken <= self.clock.now():
            raise Unhealthy("down", "too many open files")

    def checks(self, *, self_doubt: bool = True) -> list[HealthCheck]:
        @recovery_action
        def rebuild(ctx) -> None:
            self.healed.append(self.clock.now())
            self.broken = 10_000

        return [
            HealthCheck(self.db, name="db", policy=POLICY, recovery=rebuild),
            HealthCheck(self.open_files, name="open_files", policy=POLICY, self_doubt=self_doubt),
        ]


def test_a_fault_of_the_process_is_no_fault_of_the_pool():
    """
    What fails because the process has run out of something is not healed; without the doubt it would be.
    """
    doubting, sure = (Process(100, harmed=(10, 100)) for _ in range(2))
    story = simulate(doubting.checks(), until=300, clock=doubting.clock)
    simulate(sure.checks(self_doubt=False), until=300, clock=sure.clock)
    assert [] == doubting.healed
    assert [] != sure.healed
    assert {"open_files"} == {incident.check for incident in story.incidents}


def test_before_the_first_action_the_process_is_looked_at_anew():
    """
    A last look at the process that was good is asked again before an action: evidence from after it may be spoilt.
    """
    process = Process(12.5, harmed=(10, 13))
    checks = process.checks()
    slow = attrs.evolve(POLICY, interval=20)  # its next look would be at 20
    checks[1] = attrs.evolve(checks[1], policy=slow)
    story = simulate(checks, until=200, clock=process.clock)
    assert [] == process.healed
    assert {"self_doubt"} == {event.fields["gate"] for event in story.events if event.name == names.ACTION_BLOCKED}


def test_bad_results_in_doubt_count_as_unknown():
    """
    They open no incident, and keep what they saw with the reason why it does not count.
    """
    process = Process(10_000, harmed=(20, 60))

    async def main() -> tuple[CheckStatus, CheckStatus]:
        async with Healer(process.checks(), clock=process.clock) as healer:
            await process.clock.sleep(40)
            in_doubt = healer.status()["db"]
            await process.clock.sleep(40)
            return in_doubt, healer.status()["db"]

    in_doubt, after = process.clock.run(main)
    reason = "too many open files (while open_files is not well, which may be the cause)"
    assert in_doubt.last is not None
    assert in_doubt.last.fault is not None
    assert (HealthStatus.UNKNOWN, "down", reason) == (
        in_doubt.last.status,
        in_doubt.last.fault.kind,
        in_doubt.last.fault.message,
    )
    assert HealthStatus.HEALTHY is after.status


def test_what_is_still_broken_when_the_doubt_is_over_is_healed():
    """
    After the process is well again a fault has to be confirmed anew, and then it is healed.
    """
    process = Process(100, harmed=(10, 100), broken=90)
    simulate(process.checks(), until=300, clock=process.clock)
    # Rise is two looks of a second each, and so is fall.
    assert 1 == len(process.healed)
    assert 101 < process.healed[0] < 110


@pytest.mark.parametrize("fall", [2, 20])
def test_what_was_seen_before_the_doubt_counts_no_more_after_it(fall):
    """
    Evidence from before and after a doubt does not add up, though the doubt was never more than a suspicion.
    """
    process = Process(13.5, harmed=(8, 16.5))
    db, open_files = process.checks()
    patient = attrs.evolve(POLICY, interval=1, fall=3)
    doubt = attrs.evolve(POLICY, fall=fall, fall_window=fall + 2)
    checks = [attrs.evolve(db, policy=patient), attrs.evolve(open_files, policy=doubt)]
    # Bad at 8 and 9; the doubt lasts from 10 to 15; bad again at 15 and 16, and three of five would be a fault.
    simulate(checks, until=100, clock=process.clock)
    assert [] == process.healed


def test_the_check_of_the_process_is_healed_itself():
    """
    Doubt keeps nobody from healing what it is about, not even beside another doubt.
    """
    process = Process(10_000, harmed=(0, 0))
    freed: list[float] = []

    @recovery_action
    def drop_idle(ctx) -> None:
        freed.append(process.clock.now())
        process.until = 0

    checks = [
        HealthCheck(process.open_files, name="open_files", policy=POLICY, recovery=drop_idle, self_doubt=True),
        HealthCheck(lambda: False, name="memory", policy=POLICY, self_doubt=True),
    ]
    story = simulate(checks, until=100, clock=process.clock)
    assert 1 == len(freed)
    assert {"healed"} == {incident.result.value for incident in story.incidents if incident.check == "open_files"}


@pytest.mark.parametrize("status", [HealthStatus.HEALTHY, HealthStatus.UNKNOWN])
def test_only_bad_results_are_doubted(status):
    """
    What works although the process is not well does work, and what is not known stays as it was said.
    """
    process = Process(10_000, harmed=(0, 0))
    checks = [HealthCheck(lambda: CheckResult(status), name="db", policy=POLICY), process.checks()[1]]

    async def main() -> CheckStatus:
        async with Healer(checks, clock=process.clock) as healer:
            await process.clock.sleep(40)
            return healer.status()["db"]

    last = process.clock.run(main).last
    assert last is not None
    assert (status, None) == (last.status, last.fault)


def test_a_removed_check_is_doubted_no_more():
    """
    Once the check of the process is removed from the healer, what fails is healed.
    """
    process = Process(10_000, harmed=(20, 10_000))

    async def main() -> None:
        async with Healer(process.checks(), clock=process.clock) as healer:
            await process.clock.sleep(60)
            assert [] == process.healed
            healer.remove("open_files")
            await process.clock.sleep(20)

    process.clock.run(main)
    assert [] != process.healed


def test_by_hand_it_is_healed_all_the_same():
    """
    Whoever heals by hand has looked, and is not kept from it by a doubt.
    """
    process = Process(10_000, harmed=(0, 0))

    async def main() -> None:
        async with Healer(process.checks(), clock=process.clock) as healer:
            await process.clock.sleep(40)
            healer.heal("db")
            await process.clock.sleep(5)

    process.clock.run(main)
    assert 1 == len(process.healed)
