"""
What an application passes in and what must not raise, and does: it is told, and every other check goes on.
"""

from __future__ import annotations

import math

from collections.abc import Callable

import pytest

from selfheal import Healer, HealingPolicy, HealthCheck, HealthStatus, RecoveryAction, names, rung
from selfheal.model import Event, Fault
from selfheal.testing import Even, VirtualClock, simulate


POLICY = HealingPolicy(interval=5, fast_interval=1, timeout=2, jitter=0, fall=2, probation=10)


class Broken:
    """A monitor that raises whatever it is asked."""

    def assess(self, *, now: float) -> None:
        raise ValueError("assess")

    def forget(self) -> None:
        raise ValueError("forget")


class Nonsense(Broken):
    """A monitor that gives a word instead of an assessment."""

    def assess(self, *, now: float) -> str:
        return "fine"


class Picky(RecoveryAction):
    """An action that raises when it is asked what it is for."""

    def applies(self, fault: Fault) -> bool:
        raise ValueError("applies")

    def recover(self, ctx) -> None:
        raise AssertionError("it does not apply")


class Useless(RecoveryAction):
    """An action that changes nothing."""

    def recover(self, ctx) -> None:
        return None


class Shapeless:
    """An answer that can be compared with nothing, as arrays and query expressions are."""

    __hash__ = None

    def __eq__(self, other: object) -> bool:
        raise ValueError("ambiguous")


def bad() -> bool:
    """The probe of something broken."""
    return False


CHECKS: dict[str, Callable[[], HealthCheck]] = {
    "a monitor that raises": lambda: HealthCheck(lambda: None, name="odd", policy=POLICY, monitors=[Broken()]),
    "nothing but a monitor that raises": lambda: HealthCheck(name="odd", policy=POLICY, monitors=[Broken()]),
    "a monitor that gives nonsense": lambda: HealthCheck(
        lambda: None, name="odd", policy=POLICY, monitors=[Nonsense()]
    ),
    "a monitor that does not forget": lambda: HealthCheck(
        bad, name="odd", policy=POLICY, monitors=[Broken()], recovery=rung(Useless(), attempts=3)
    ),
    "a predicate that raises": lambda: HealthCheck(bad, name="odd", policy=POLICY, recovery=Picky()),
    "an answer that cannot be compared": lambda: HealthCheck(lambda: Shapeless(), name="odd", policy=POLICY),
}


def run_on(backend: str, check: HealthCheck, clock: VirtualClock) -> tuple[Healer, list[Event]]:
    """A minute of *check* beside a good one."""
    events: list[Event] = []
    if backend == "simulation":
        story = simulate([check, HealthCheck(lambda: None, name="fine", policy=POLICY)], until=60, clock=clock)
        return Healer(), list(story.events)
    fine = HealthCheck(lambda: None, name="fine", policy=POLICY)
    healer = Healer([check, fine], clock=clock, phase=0, slack=0, random=Even())
    healer.on_event(events.append)
    if backend == "thread":
        with healer:
            clock.advance(60)
        return healer, events

    async def main() -> None:
        async with healer:
            await clock.sleep(60)

    clock.run(main, backend=backend)
    return healer, events


@pytest.mark.parametrize("backend", ["asyncio", "trio", "thread", "simulation"])
@pytest.mark.parametrize("part", CHECKS)
def test_whatever_raises_no_check_stops(part: str, backend: str) -> None:
    """
    Whatever part of a check raises, on whatever loop, it and the others run on as often as they should.
    """
    _, events = run_on(backend, CHECKS[part](), VirtualClock())
    runs = [event.check for event in events if event.name == names.CHECK_COMPLETED and event.at < 60]

    assert 12 == runs.count("fine")
    assert runs.count("odd") >= 12


@pytest.mark.parametrize("part", [part for part in CHECKS if "compared" not in part])
def test_what_raises_where_it_must_not_is_told_and_counted(part: str) -> None:
    """
    Each such exception is an event with the check, the step and the exception, and is counted.
    """
    healer, events = run_on("asyncio", CHECKS[part](), VirtualClock())
    told = [event for event in events if event.name == names.STEP_FAILED]

    assert len(told) == healer.step_errors > 0
    assert {"odd"} == {event.check for event in told}
    assert {"ValueError", "TypeError"} >= {event.fields["error_type"] for event in told}
    assert all(event.error is not None for event in told)


def test_a_monitor_that_raises_makes_unknown_what_was_good_and_hides_nothing_bad() -> None:
    """
    Without its monitor a good check is UNKNOWN, kind `probe_error`; a bad one stays bad.
    """
    checks = [
        HealthCheck(lambda: None, name="good", policy=POLICY, monitors=[Broken()]),
        HealthCheck(bad, name="bad", policy=POLICY, monitors=[Broken()]),
    ]
    story = simulate(checks, until=20)
    last = {event.check: event.fields for event in story.events if event.name == names.CHECK_COMPLETED}

    assert ("unknown", "probe_error") == (last["good"]["status"], last["good"]["kind"])
    assert ("unhealthy", "error") == (last["bad"]["status"], last["bad"]["kind"])


def test_numbers_are_not_truth() -> None:
    """
    A probe that answers 1 is as much a mistake without monitors as with them.
    """
    story = simulate([HealthCheck(lambda: 1, name="db", policy=POLICY)], until=3)

    assert ["probe_error"] == [event.fields["kind"] for event in story.events if event.name == names.CHECK_COMPLETED]


def test_something_of_ours_that_breaks_stops_one_turn_of_one_check() -> None:
    """
    Even random numbers that cannot be drawn only cost the check that wanted one an interval, each time.
    """

    class Dice(Even):
        """Refuses to be thrown, now and then."""

        thrown = 0

        def random(self) -> float:
            self.thrown += 1
            if self.thrown % 3 == 0:
                raise ArithmeticError("no dice")
            return super().random()

    clock, events = VirtualClock(), []
    policy = HealingPolicy(interval=5, fast_interval=1, timeout=2, jitter=0.1, fall=2)
    checks = [HealthCheck(lambda: None, name=name, policy=policy) for name in ("a", "b")]
    healer = Healer(checks, clock=clock, phase=0, slack=0, random=Dice())
    healer.on_event(events.append)

    async def main() -> None:
        async with healer:
            await clock.sleep(100)
            assert {HealthStatus.HEALTHY} == {status.status for status in healer.status().values()}

    clock.run(main, backend="trio")
    runs = [event.check for event in events if event.name == names.CHECK_COMPLETED]

    assert healer.step_errors > 5
    assert math.isclose(runs.count("a"), runs.count("b"), abs_tol=4)
    assert runs.count("a") > 10


def test_an_action_whose_code_cannot_be_found_has_failed() -> None:
    """
    An action that raises when it is looked at ends as failed, and the resource is free for the next rung.
    """

    class Hollow(RecoveryAction):
        """Loses its code once it has been accepted."""

        lost = False

        def __getattribute__(self, name: str):
            if name == "recover" and Hollow.lost:
                raise RuntimeError("gone")
            return super().__getattribute__(name)

        def recover(self, ctx) -> None:
            return None

    healed = []

    class Mend(RecoveryAction):
        """Heals."""

        def recover(self, ctx) -> None:
            healed.append(1)

    check = HealthCheck(lambda: bool(healed), name="db", policy=POLICY, recovery=Hollow() >> Mend())
    Hollow.lost = True
    story = simulate([check], until=60)

    assert [(1.0, "hollow"), (1.0, "mend")] == story.actions()
    assert ["healed"] == [incident.result.value for incident in story.incidents]
