"""
What is asked before something is done, and how long for: better states, dependencies, parts of an action.
"""

from __future__ import annotations

import pytest
import tenacity

from selfheal import Healer, HealingPolicy, HealthCheck, RecoveryAction, Unhealthy, names, recovery_action, rung
from selfheal.model import Event
from selfheal.runtime.probes import MAX_ABANDONED
from selfheal.testing import Even, VirtualClock, simulate


POLICY = HealingPolicy(interval=5, fast_interval=1, timeout=2, jitter=0, fall=2, probation=30, action_timeout=20)


class Divert(RecoveryAction):
    """Goes to another place while the usual one is down, as `down` says."""

    def __init__(self, clock: VirtualClock, *down: tuple[float, float], name: str = "divert") -> None:
        self.clock = clock
        self.down = down
        self.name = name
        self.applied = False
        self.asked: list[float] = []

    def is_down(self) -> bool:
        return any(since <= self.clock.now() < until for since, until in self.down)

    def probe(self) -> bool:
        return self.applied or not self.is_down()

    def recover(self, ctx) -> None:
        self.applied = True

    def revert(self, ctx) -> None:
        self.applied = False

    def revert_when(self) -> bool:
        self.asked.append(self.clock.now())
        return not self.is_down()


def times(events, name: str) -> list[float]:
    """When events of one name have happened."""
    return [event.at for event in events if event.name == name]


def test_each_diversion_waits_for_a_better_state_of_its_own() -> None:
    """
    What was good before the second diversion does not step it down: each waits for its own probation.
    """
    clock = VirtualClock()
    divert = Divert(clock, (10, 100), (300, 500))
    check = HealthCheck(divert.probe, name="db", policy=POLICY, recovery=divert)
    story = simulate([check], until=800, clock=clock)
    first, second = times(story.events, names.HELD_REVERTED)

    assert 130 <= first <= 140
    assert 530 <= second <= 540


def test_two_rungs_wait_for_two_better_states() -> None:
    """
    When two diversions are in force, the answer about one says nothing about the other.
    """
    clock = VirtualClock()
    near, far = Divert(clock, (10, 400), name="near"), Divert(clock, (10, 100), name="far")
    went_far: list[float] = []
    far.recover = lambda ctx: went_far.append(clock.now())
    check = HealthCheck(lambda: bool(went_far) or clock.now() < 10, name="db", policy=POLICY, recovery=near >> far)
    story = simulate([check], until=800, clock=clock)
    reverted = [(event.fields["action"], event.at // 50) for event in story.events if event.name == names.HELD_REVERTED]

    assert [("far", 130 // 50), ("near", 430 // 50)] == reverted


def test_a_better_state_that_nobody_has_looked_at_for_long_is_looked_at_anew() -> None:
    """
    Answers from before a pause do not step anything down when it ends.
    """
    clock = VirtualClock()
    divert = Divert(clock, (10, 60), (110, 900))
    healer = Healer(
        [HealthCheck(divert.probe, name="db", policy=POLICY, recovery=divert)], clock=clock, phase=0, slack=0,
        random=Even(),
    )  # fmt: skip
    reverted: list[Event] = []
    healer.on_event(reverted.append, events=[names.HELD_REVERTED])

    async def main() -> None:
        async with healer:
            await clock.sleep(80)
            healer.pause("a look", ttl=500)
            await clock.sleep(600)
            assert [] == reverted
            assert "revert_when" in str(healer.explain("db"))
            await clock.sleep(400)

    clock.run(main)

    assert 930 <= reverted[0].at <= 940


@pytest.mark.parametrize("colour", ["stubborn", "awaitable"])
def test_a_question_is_never_asked_twice_at_once(colour: str) -> None:
    """
    A `revert_when` that outlives its time is a no, and is not run again beside itself; one may hand out a coroutine.
    """
    clock = VirtualClock()
    running = [0, 0]

    async def ask() -> bool:
        running[0] += 1
        running[1] = max(running)
        until = clock.now() + (50 if colour == "stubborn" else 1)
        while clock.now() < until:
            try:
                await clock.sleep(until - clock.now())
            except BaseException:
                continue
        running[0] -= 1
        return True

    class Diverted(Divert):
        def revert_when(self):
            return ask()

    divert = Diverted(clock, (10, 20))
    check = HealthCheck(divert.probe, name="db", policy=POLICY, recovery=divert)
    story = simulate([check], until=500, clock=clock)

    assert 1 == running[1]
    assert (0 if colour == "stubborn" else 1) == len(times(story.events, names.HELD_REVERTED))


def test_a_dependency_that_is_being_healed_closes_the_gate_at_once() -> None:
    """
    Whoever depends on something that is being healed learns so without waiting for the end of that action.
    """
    clock = VirtualClock()
    down = [True]

    @recovery_action
    async def long_repair(ctx) -> None:
        await clock.sleep(15)
        down[0] = False

    @recovery_action
    async def rebuild(ctx) -> None:
        raise AssertionError("the pool is not to blame")

    checks = [
        HealthCheck(lambda: not down[0], name="db", policy=POLICY, recovery=long_repair),
        HealthCheck(
            lambda: clock.now() < 8 or not down[0], name="a", policy=POLICY, recovery=rebuild, depends_on=["db"]
        ),
        HealthCheck(
            lambda: clock.now() < 8 or not down[0], name="b", policy=POLICY, recovery=rebuild, depends_on=["db"]
        ),
    ]
    story = simulate(checks, until=100, clock=clock)
    blocked = {
        (event.at, event.check) for event in story.events
        if event.name == names.ACTION_BLOCKED and event.fields["gate"] == "dependency"
    }  # fmt: skip

    assert {(11.0, "a"), (11.0, "b")} <= blocked
    assert ["long_repair"] == [action for _, action in story.actions()]
    assert [] == list(story.still_open)


def test_the_parts_of_an_action_have_their_deadlines_and_pauses() -> None:
    """
    A wait between two tries, and the deadline of the second part, come when they should, though no check is due.
    """
    clock = VirtualClock()
    tries: list[float] = []

    @recovery_action
    async def moody(ctx) -> None:
        tries.append(clock.now())
        if len(tries) < 3:
            raise RuntimeError("not yet")

    @recovery_action
    async def hangs(ctx) -> None:
        await clock.sleep(1000)

    action = moody.retrying(stop=tenacity.stop_after_attempt(5), wait=tenacity.wait_fixed(4)) + hangs.within(3)
    story = simulate([HealthCheck(lambda: False, name="db", policy=POLICY, recovery=action)], until=60, clock=clock)
    ends = [(event.at, event.fields["outcome"]) for event in story.events if event.name == names.ACTION_FINISHED]

    assert [1.0, 5.0, 9.0] == tries
    assert [(12.0, "abandoned")] == ends[:1]


@pytest.mark.parametrize("colour", ["returns", "awaitable", "cleans up", "at its deadline"])
def test_every_way_to_end_an_action_frees_its_resource(colour: str) -> None:
    """
    A slow clean-up, an awaitable, an end at the very deadline: afterwards nothing is said to be running.
    """
    clock = VirtualClock()
    good = [False]

    async def work(seconds: float) -> None:
        try:
            await clock.sleep(seconds)
        except BaseException:
            await clock.sleep(7)
            raise
        good[0] = True

    class Act(RecoveryAction):
        def recover(self, ctx):
            if colour == "returns":
                good[0] = True
                return None
            return work({"awaitable": 3, "cleans up": 30, "at its deadline": POLICY.action_timeout}[colour])

    @recovery_action
    async def second(ctx) -> None:
        good[0] = True

    check = HealthCheck(lambda: good[0], name="db", policy=POLICY, recovery=Act() >> second)
    story = simulate([check], until=200, clock=clock)

    assert ["healed"] == [incident.result.value for incident in story.incidents]
    assert ([28.0] if colour == "cleans up" else []) == times(story.events, names.ACTION_ENDED)


def test_actions_that_are_safe_beside_abandoned_ones_have_a_bound_too() -> None:
    """
    However often one is tried, no more than four actions of a resource are left behind at once.
    """
    clock = VirtualClock()
    running = [0]

    class Hangs(RecoveryAction):
        safe_after_abandon = True

        async def recover(self, ctx) -> None:
            running[0] += 1
            while True:
                try:
                    await clock.sleep(1000)
                except BaseException:
                    continue

    def probe() -> None:
        raise Unhealthy("stale")

    check = HealthCheck(probe, name="db", policy=POLICY, recovery=rung(Hangs(), attempts=19))
    story = simulate([check], until=2000, clock=clock)

    assert MAX_ABANDONED == running[0] == len(story.actions())


def test_the_status_says_where_a_healing_stands() -> None:
    """
    Since when it is in its state, the rung that was tried last, the action that runs, and what a step waits for.
    """
    clock = VirtualClock()
    well: list[bool] = []

    @recovery_action
    async def kick(ctx) -> None:
        await clock.sleep(3)

    @recovery_action
    def rebuild(ctx) -> None:
        well.append(True)

    check = HealthCheck(lambda: bool(well), name="db", policy=POLICY, recovery=rung(kick) >> rung(rebuild))
    seen = []

    async def main() -> None:
        async with Healer([check], clock=clock, phase=0, slack=0) as healer:
            await clock.sleep(2)  # bad at 0 and 1, and kick runs until 4
            seen.append(healer.status()["db"])
            healer.pause("night", ttl=20)
            await clock.sleep(15)
            seen.append(healer.status()["db"])
            await clock.sleep(20)
            seen.append(healer.status()["db"])
            await clock.sleep(60)
            seen.append(healer.status()["db"])
            assert {"unhealthy", "healthy"} == {past.status.value for past in healer.results("db")}

    clock.run(main)
    assert [(1.0, "kick", "kick"), (5.0, "kick", None), (23.0, "rebuild", None), (53.0, None, None)] == [
        (status.since, status.rung, status.running) for status in seen
    ]
    assert [None, "db: not healed: paused: night, next in 6.0 s", None, None] == [
        None if status.waits is None else str(status.waits) for status in seen
    ]
