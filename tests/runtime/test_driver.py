"""
What the driver carries out: deadlines, abandoned runs, one action at a time, questions before decisions.
"""

from __future__ import annotations

import math

import pytest

from selfheal import (
    Budget,
    CheckResult,
    ConfigError,
    Escalate,
    Healer,
    HealingPolicy,
    HealthCheck,
    HealthStatus,
    LatencyMonitor,
    RecoveryAction,
    Unhealthy,
    names,
    recovery_action,
    rung,
)
from selfheal.errors import IllegalTransitionError, NotRunningError, UnknownCheckError
from selfheal.runtime.probes import MAX_ABANDONED
from selfheal.testing.clock import Even, VirtualClock
from selfheal.testing.simulator import simulate


def policy(**changes: object) -> HealingPolicy:
    """
    Looks every 5 s, every second when in doubt; nothing is jittered.
    """
    settings = {"interval": 5, "fast_interval": 1, "timeout": 2, "jitter": 0, "fall": 2, "probation": 10}
    return HealingPolicy(**{**settings, **changes})


def named(events, name):
    """
    The events of one name.
    """
    return [event for event in events if event.name == name]


class Switch:
    """
    A probe that is told how things are.
    """

    def __init__(self, clock: VirtualClock, bad_from: float = math.inf, kind: str = "error") -> None:
        self.clock = clock
        self.bad_from = bad_from
        self.kind = kind
        self.runs: list[float] = []

    async def __call__(self) -> None:
        self.runs.append(self.clock.now())
        if self.clock.now() >= self.bad_from:
            raise Unhealthy(self.kind)


async def swallows_cancellation(clock: VirtualClock) -> None:
    """
    Never ends, whatever it is told.
    """
    while True:
        try:
            await clock.sleep(3600)
        except BaseException:
            continue


# --- deadlines -------------------------------------------------------------------------


def test_a_hanging_probe_is_reported_at_its_deadline():
    """
    A probe that swallows cancellation yields `timeout` exactly when its time is up, and `stuck` afterwards.
    """
    clock = VirtualClock()
    story = simulate(
        [HealthCheck(lambda: swallows_cancellation(clock), name="db", policy=policy())], until=20, clock=clock
    )
    told = [(event.at, event.fields["kind"]) for event in named(story.events, names.CHECK_COMPLETED)]

    assert (2.0, "timeout") == told[0]
    assert {"stuck"} == {kind for _, kind in told[1:]}


def test_a_hanging_probe_leaves_one_abandoned_run_however_long_it_lasts():
    """
    Without an action there is never a second run beside an abandoned one.
    """
    clock = VirtualClock()
    story = simulate(
        [HealthCheck(lambda: swallows_cancellation(clock), name="db", policy=policy())], until=5000, clock=clock
    )

    assert 1 == len(named(story.events, names.CHECK_ABANDONED))


def test_each_action_allows_one_fresh_run_and_there_are_never_more_than_four():
    """
    After an action a new path must be provable: one run more, up to the bound.
    """
    clock = VirtualClock()

    @recovery_action
    async def useless(ctx) -> None:
        return None

    check = HealthCheck(
        lambda: swallows_cancellation(clock), name="db", policy=policy(), recovery=rung(useless, attempts=10)
    )
    story = simulate([check], until=2000, clock=clock)
    counts = [event.fields["abandoned"] for event in named(story.events, names.CHECK_ABANDONED)]

    assert list(range(1, MAX_ABANDONED + 1)) == counts
    assert len(story.actions()) > MAX_ABANDONED


def test_an_abandoned_run_that_ends_lets_the_check_run_again():
    """
    A run that outlived its deadline is no evidence when it ends, but it frees its check.
    """
    clock = VirtualClock()
    runs = []

    async def slow_once() -> None:
        runs.append(clock.now())
        if len(runs) == 1:
            try:
                await clock.sleep(7)
            except BaseException:
                await clock.sleep(5)

    story = simulate([HealthCheck(slow_once, name="db", policy=policy())], until=30, clock=clock)

    assert [7.0] == [event.at for event in named(story.events, names.CHECK_ENDED)]
    assert runs[1] == 7.0


def test_a_cancelled_probe_is_neutral():
    """
    A probe that ends with a cancellation nobody asked for counts neither as good nor as bad.
    """
    import asyncio

    clock = VirtualClock()
    seen = []

    async def probe() -> None:
        raise asyncio.CancelledError

    healer = Healer([HealthCheck(probe, name="db", policy=policy())], clock=clock, phase=0, slack=0)
    healer.on_event(seen.append)

    async def main() -> None:
        async with healer:
            await clock.sleep(30)
            assert healer.status()["db"].status is HealthStatus.UNKNOWN

    clock.run(main)

    assert {"unknown"} == {event.fields["status"] for event in named(seen, names.CHECK_COMPLETED)}
    assert [] == named(seen, names.INCIDENT_OPENED)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_timeouts_inside_a_probe_are_its_own(backend):
    """
    A probe may use timeouts of its own as often as it likes: the leash does not take them for ours.
    """
    import anyio

    clock = VirtualClock()
    rounds = []

    async def probe() -> None:
        for _ in range(5):
            with anyio.move_on_after(0.1):
                await anyio.sleep(10)
        rounds.append(clock.now())

    async def main() -> None:
        async with Healer([HealthCheck(probe, name="db", policy=policy())], clock=clock, phase=0, slack=0) as healer:
            await clock.sleep(12)
            assert healer.status()["db"].status is HealthStatus.HEALTHY

    clock.run(main, backend=backend)

    assert 3 == len(rounds)


# --- actions ---------------------------------------------------------------------------


def test_one_action_at_a_time_on_a_resource_and_others_need_fresh_evidence():
    """
    Two checks of one resource see the same fault: one heals, the other finds the gate busy and then new evidence.
    """
    clock = VirtualClock()
    healed = []

    @recovery_action
    async def repair(ctx) -> None:
        await clock.sleep(10)
        healed.append(clock.now())

    async def probe() -> None:
        if clock.now() >= 7 and not healed:
            raise Unhealthy("stale")

    checks = [
        HealthCheck(probe, name=name, resource="db", policy=policy(), recovery=repair) for name in ("reads", "writes")
    ]
    story = simulate(checks, until=120, clock=clock)

    assert 1 == len(story.actions())
    assert {"healed", "self_resolved"} == {incident.result.value for incident in story.incidents}
    assert ["busy"] == [event.fields["gate"] for event in named(story.events, names.ACTION_BLOCKED)]


def test_an_abandoned_action_keeps_the_resource_busy_until_it_ends():
    """
    An action past its deadline is answered as abandoned at once, and the next rung waits until its code has ended.
    """
    clock = VirtualClock()
    broken = [True]

    class Stubborn(RecoveryAction):
        async def recover(self, ctx) -> None:
            for _ in range(2):
                try:
                    await clock.sleep(40)
                except BaseException:
                    continue

    @recovery_action
    async def works(ctx) -> None:
        broken[0] = False

    async def probe() -> None:
        if broken[0]:
            raise Unhealthy("stale")

    check = HealthCheck(probe, name="db", policy=policy(action_timeout=20), recovery=Stubborn() >> works)
    story = simulate([check], until=200, clock=clock)
    finished = named(story.events, names.ACTION_FINISHED)
    ended = named(story.events, names.ACTION_ENDED)

    assert [(21.0, "abandoned")] == [(event.at, event.fields["outcome"]) for event in finished][:1]
    assert [61.0] == [event.at for event in ended]
    assert "works" == story.actions()[1][1]
    assert story.actions()[1][0] > 61.0
    assert ["healed"] == [incident.result.value for incident in story.incidents]


def test_monitors_forget_when_an_action_has_ended():
    """
    Samples taken before a healing are no evidence after it.
    """
    clock = VirtualClock()
    latency = LatencyMonitor(window_size=2, threshold_ms=100)
    latency.add_sample(500)
    latency.add_sample(500)

    @recovery_action
    async def speed_up(ctx) -> None:
        return None

    check = HealthCheck(name="db", monitors=[latency], policy=policy(), recovery=speed_up)
    story = simulate([check], until=10, clock=clock)

    assert 1 == len(story.actions())
    assert not latency.is_unhealthy()


def test_what_an_action_logs_stands_in_its_incident():
    """
    `ctx.log` writes a line into the timeline, with its fields.
    """
    clock = VirtualClock()
    broken = [True]

    @recovery_action
    async def repair(ctx) -> None:
        ctx.log("looking", connections=3)
        broken[0] = False

    async def probe() -> None:
        if broken[0]:
            raise Unhealthy("stale")

    story = simulate([HealthCheck(probe, name="db", policy=policy(), recovery=repair)], until=60, clock=clock)
    lines = [entry for entry in story.incidents[0].timeline if entry.event == names.ACTION_LOGGED]

    assert [("looking", 3)] == [(line.fields["message"], line.fields["connections"]) for line in lines]


def test_escalate_tries_the_next_rung_at_once():
    """
    An action that cannot help leaves the way free without a verification.
    """
    clock = VirtualClock()
    broken = [True]

    @recovery_action
    async def cannot(ctx) -> None:
        raise Escalate("not mine")

    @recovery_action
    async def can(ctx) -> None:
        broken[0] = False

    async def probe() -> None:
        if broken[0]:
            raise Unhealthy("stale")

    story = simulate([HealthCheck(probe, name="db", policy=policy(), recovery=cannot >> can)], until=60, clock=clock)

    assert [(1.0, "cannot"), (1.0, "can")] == story.actions()


def test_a_budget_is_charged_at_the_start_and_refunded_by_a_healing_that_lasted():
    """
    Two actions use up a budget of two, except that a healing which survived its probation gives its action back.
    """
    clock = VirtualClock()
    bad = {7: True, 107: True, 207: True}

    @recovery_action
    async def repair(ctx) -> None:
        for at in [at for at in bad if at <= clock.now()]:
            bad[at] = False

    async def probe() -> None:
        if any(broken and clock.now() >= at for at, broken in bad.items()):
            raise Unhealthy("stale")

    check = HealthCheck(probe, name="db", policy=policy(), recovery=repair, budget=Budget(1, per=1000))
    story = simulate([check], until=300, clock=clock)

    assert ["healed"] * 3 == [incident.result.value for incident in story.incidents]


def test_a_held_rung_waits_for_the_better_state():
    """
    `revert_when` is asked until it has been good for the probation; only then is the rung stepped down.
    """
    clock = VirtualClock()
    diverted = [False]
    asked = []

    class Divert(RecoveryAction):
        async def recover(self, ctx) -> None:
            diverted[0] = True

        async def revert(self, ctx) -> None:
            diverted[0] = False

        def revert_when(self) -> bool:
            asked.append(clock.now())
            return clock.now() >= 100

    async def probe() -> None:
        if clock.now() < 100 and not diverted[0]:
            raise Unhealthy("stale")

    story = simulate([HealthCheck(probe, name="db", policy=policy(), recovery=Divert())], until=300, clock=clock)
    reverts = [event.at for event in named(story.events, names.HELD_REVERTED)]

    assert 1 == len(reverts)
    assert 110 <= reverts[0] <= 120
    assert len(asked) > 5
    assert ["healed"] == [incident.result.value for incident in story.incidents]


# --- dependencies ----------------------------------------------------------------------


def test_only_the_lowest_bad_node_is_healed():
    """
    While the dependency is bad, whatever needs it waits; afterwards it needs fresh evidence.
    """
    clock = VirtualClock()
    down = [False]

    @recovery_action
    async def restart_db(ctx) -> None:
        await clock.sleep(5)
        down[0] = False

    @recovery_action
    async def rebuild_pool(ctx) -> None:
        raise AssertionError("the pool is not to blame")

    async def db() -> None:
        if clock.now() == 10:
            down[0] = True
        if down[0]:
            raise Unhealthy("down")

    async def pool() -> None:
        if down[0]:
            raise Unhealthy("stale")

    checks = [
        HealthCheck(db, name="db", policy=policy(), recovery=restart_db),
        HealthCheck(pool, name="pool", policy=policy(), recovery=rebuild_pool, depends_on=["db"]),
    ]
    story = simulate(checks, until=120, clock=clock)

    assert ["restart_db"] == [action for _, action in story.actions()]
    assert {"dependency"} == {event.fields["gate"] for event in named(story.events, names.ACTION_BLOCKED)}


@pytest.mark.parametrize(
    ("edges", "text"),
    [
        ({"a": ["b"], "b": ["a"]}, "circle"),
        ({"a": ["nowhere"]}, "does not have"),
    ],
)
def test_dependencies_must_make_sense(edges, text):
    """
    A circle, or a check that is not there, is an error of configuration.
    """
    checks = [HealthCheck(lambda: None, name=name, depends_on=depends_on) for name, depends_on in edges.items()]

    with pytest.raises(ConfigError, match=text):
        Healer(checks)


# --- by hand ---------------------------------------------------------------------------


def test_pause_stops_actions_but_not_checks_and_resume_wants_fresh_evidence():
    """
    Nothing is done during a pause, checks go on, and explain says who is to blame.
    """
    clock = VirtualClock()
    switch = Switch(clock, bad_from=0)

    @recovery_action
    async def repair(ctx) -> None:
        switch.bad_from = math.inf

    healer = Healer(
        [HealthCheck(switch, name="db", policy=policy(), recovery=repair)], clock=clock, phase=0, slack=0, random=Even()
    )
    seen = []
    healer.on_event(seen.append)

    async def main() -> None:
        async with healer:
            healer.pause("deploying", ttl=100)
            await clock.sleep(50)
            assert [] == named(seen, names.ACTION_STARTED)
            assert len(switch.runs) > 10
            assert "paused: deploying" in str(healer.explain("db"))
            healer.resume()
            assert await healer.await_healthy("db", timeout=20)

    clock.run(main)

    assert 1 == len(named(seen, names.ACTION_STARTED))


def test_a_pause_ends_by_itself():
    """
    After its time to live a pause is over without anybody's help.
    """
    clock = VirtualClock()
    switch = Switch(clock, bad_from=0)

    @recovery_action
    async def repair(ctx) -> None:
        switch.bad_from = math.inf

    healer = Healer(
        [HealthCheck(switch, name="db", policy=policy(), recovery=repair)], clock=clock, phase=0, slack=0, random=Even()
    )

    async def main() -> None:
        async with healer:
            healer.pause("a minute", resource="db", ttl=60)
            assert not await healer.await_healthy("db", timeout=59)
            assert await healer.await_healthy("db", timeout=10)

    clock.run(main)


@pytest.mark.parametrize("how", ["variable", "file"])
def test_the_environment_can_pause_everything(how, monkeypatch, tmp_path):
    """
    SELFHEAL_PAUSED and SELFHEAL_PAUSE_FILE stop all actions, with a reason.
    """
    if how == "variable":
        monkeypatch.setenv("SELFHEAL_PAUSED", "maintenance")
    else:
        (tmp_path / "pause").write_text("maintenance")
        monkeypatch.setenv("SELFHEAL_PAUSE_FILE", str(tmp_path / "pause"))
    clock = VirtualClock()

    @recovery_action
    async def repair(ctx) -> None:
        raise AssertionError

    check = HealthCheck(Switch(clock, bad_from=0), name="db", policy=policy(), recovery=repair)
    story = simulate([check], until=60, clock=clock)

    assert [] == story.actions()
    assert {"paused"} == {event.fields["gate"] for event in named(story.events, names.ACTION_BLOCKED)}


def test_heal_starts_an_incident_by_hand():
    """
    `heal` returns the incident at once, refuses while it is being healed, and the ladder runs.
    """
    clock = VirtualClock()
    ran = []

    @recovery_action
    async def repair(ctx) -> None:
        ran.append(clock.now())
        await clock.sleep(3)

    healer = Healer(
        [HealthCheck(Switch(clock), name="db", policy=policy(), recovery=repair)],
        clock=clock,
        phase=0,
        slack=0,
        random=Even(),
    )

    async def main() -> None:
        async with healer:
            await clock.sleep(12)
            incident = healer.heal("db")
            assert (1, None, "db") == (incident.number, incident.ended, incident.check)
            with pytest.raises(IllegalTransitionError):
                healer.heal("db")
            assert await healer.await_healthy("db", timeout=30)

    clock.run(main)

    assert [12.0] == ran


def test_observe_looks_and_does_nothing():
    """
    In the mode "observe" incidents are recorded and no action runs.
    """
    clock = VirtualClock()

    @recovery_action
    async def repair(ctx) -> None:
        raise AssertionError

    check = HealthCheck(Switch(clock, bad_from=0), name="db", policy=policy(), recovery=repair)
    story = simulate([check], until=60, clock=clock, mode="observe")

    assert [] == story.actions()
    assert 1 == len(named(story.events, names.INCIDENT_OPENED))


def test_check_now_does_not_wait_for_the_due_time():
    """
    A check can be asked for between two due times.
    """
    clock = VirtualClock()
    switch = Switch(clock)
    healer = Healer([HealthCheck(switch, name="db", policy=policy())], clock=clock, phase=0, slack=0, random=Even())

    async def main() -> None:
        async with healer:
            await clock.sleep(7)
            healer.check_now("db")
            await clock.sleep(1)

    clock.run(main)

    assert [0.0, 5.0, 7.0] == switch.runs


def test_checks_come_and_go_while_it_runs():
    """
    A check can be added and removed at any time; what others depend on cannot be removed.
    """
    clock = VirtualClock()
    first, second = Switch(clock), Switch(clock)
    healer = Healer([HealthCheck(first, name="db", policy=policy())], clock=clock, phase=0, slack=0, random=Even())

    async def main() -> None:
        async with healer:
            await clock.sleep(6)
            healer.add(HealthCheck(second, name="pool", policy=policy(), depends_on=["db"]))
            await clock.sleep(1)
            with pytest.raises(ConfigError, match="depend on 'db'"):
                healer.remove("db")
            healer.remove("pool")
            healer.remove("db")
            await clock.sleep(30)
            assert {} == dict(healer.status())

    clock.run(main)

    assert ([0.0, 5.0], [6.0]) == (first.runs, second.runs)


def test_questions_about_nothing_are_clear_errors():
    """
    An unknown name, a healer that does not run, a pause without a reason: each says what to do.
    """
    healer = Healer([HealthCheck(lambda: None, name="db")])

    with pytest.raises(UnknownCheckError, match="There are: db"):
        healer.explain("nope")
    with pytest.raises(NotRunningError, match="Enter it first"):
        healer.heal("db")
    with pytest.raises(ConfigError, match="needs a reason"):
        healer.pause("")
    with pytest.raises(ConfigError, match="one of"):
        Healer([], mode="shadow")
    with pytest.raises(ConfigError, match="two checks are called"):
        Healer([HealthCheck(lambda: None, name="db"), HealthCheck(lambda: None, name="db")])


# --- listeners -------------------------------------------------------------------------


def test_a_raising_listener_changes_nothing_and_is_counted():
    """
    Others hear everything, and learn that one of them has failed.
    """
    clock = VirtualClock()
    healer = Healer([HealthCheck(Switch(clock), name="db", policy=policy())], clock=clock, phase=0, slack=0)
    heard = []

    def bad(event) -> None:
        raise ValueError("no")

    healer.on_event(bad)
    healer.on_event(heard.append)

    async def main() -> None:
        async with healer:
            await clock.sleep(20)

    clock.run(main)

    assert len(named(heard, names.CHECK_COMPLETED)) > 3
    assert healer.listener_errors == len([event for event in heard if event.name != names.LISTENER_FAILED])
    assert {"ValueError"} == {event.fields["error_type"] for event in named(heard, names.LISTENER_FAILED)}


def test_a_probe_that_answers_nonsense_is_reported_and_never_healed():
    """
    Nonsense, a NaN and a mistake in the probe are `probe_error`, and no other check suffers.
    """
    clock = VirtualClock()
    healthy = Switch(clock)

    @recovery_action
    async def repair(ctx) -> None:
        raise AssertionError

    checks = [
        HealthCheck(lambda: 42, name="nonsense", policy=policy(), recovery=repair),
        HealthCheck(lambda: undefined, name="mistake", policy=policy(), recovery=repair),  # noqa: F821
        HealthCheck(
            lambda: CheckResult(HealthStatus.HEALTHY, started_at=math.nan, duration=math.nan),
            name="nan",
            policy=policy(),
            recovery=repair,
        ),
        HealthCheck(healthy, name="fine", policy=policy()),
    ]
    story = simulate(checks, until=60, clock=clock)
    kinds = {event.check: event.fields["kind"] for event in named(story.events, names.CHECK_COMPLETED)}

    assert {"nonsense": "probe_error", "mistake": "probe_error", "nan": None, "fine": None} == kinds
    assert {"nonsense": None, "mistake": "NameError"} == {
        event.check: event.fields["error_type"] for event in named(story.events, names.CHECK_BROKEN)
    }
    assert 2 == len(named(story.events, names.CHECK_BROKEN))
    assert [] == story.actions()
    assert 13 == len(healthy.runs)


def test_a_two_hour_outage_ends_healed():
    """
    While the other side is down no rung applies and nothing is used up; when it is back, the first action heals.
    """
    clock = VirtualClock()
    kicked = []

    @recovery_action
    async def kick(ctx) -> None:
        kicked.append(clock.now())

    async def pool() -> None:
        if 10 <= clock.now() < 7210:
            raise Unhealthy("down")
        if clock.now() >= 7210 and not kicked:
            raise Unhealthy("backoff")

    check = HealthCheck(pool, name="db", policy=policy(), recovery=kick.when(kinds={"stale", "backoff"}))
    story = simulate([check], until=7400, clock=clock)

    assert [7210.0] == kicked
    assert ["healed"] == [incident.result.value for incident in story.incidents]


def test_a_deadline_served_late_gives_the_answer_a_second_chance():
    """
    If it is us who are late (a stopped process, a blocked loop), a run is not called timed out at once.
    """
    clock = VirtualClock()
    seen = []

    async def probe() -> None:
        await clock.sleep(1)

    async def main() -> None:
        healer = Healer([HealthCheck(probe, name="db", policy=policy(fall=1))], clock=clock, phase=0, slack=0)
        healer.on_event(seen.append, events=[names.CHECK_COMPLETED])
        async with healer:
            await clock.sleep(0.5)
            clock.pass_time(60)  # nothing on this loop runs for a minute
            await clock.sleep(2)

    clock.run(main)

    assert {"healthy"} == {event.fields["status"] for event in seen}


def test_a_filed_incident_holds_no_exception():
    """
    An exception holds the frames it came through, with all their locals: what is filed keeps its text alone.
    """
    clock = VirtualClock()
    broken = [True]

    @recovery_action
    async def repair(ctx) -> None:
        broken[0] = False

    async def probe() -> None:
        if broken[0]:
            raise OSError("no route")

    story = simulate([HealthCheck(probe, name="db", policy=policy(), recovery=repair)], until=60, clock=clock)
    (incident,) = story.incidents

    assert ("error", None) == (incident.trigger.kind, incident.trigger.error)
    assert "no route" in incident.trigger.message


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: Healer(HealthCheck(lambda: None, name="db")), "give a list"),
        (lambda: Healer([], budget=5), "write Budget"),
        (lambda: Healer([], allow_destructive="no"), "True or False"),
        (lambda: HealthCheck(lambda: None, name="db", budget=5), "write Budget"),
        (
            lambda: HealthCheck(
                lambda: None, name="db", recovery=recovery_action(lambda ctx: None, name="a").when(kinds={"stael"})
            ),
            "names stael",
        ),
    ],
)
def test_slips_are_told_at_the_front_door(make, text):
    """
    What is easily got wrong is an error of configuration that says what to write instead.
    """
    with pytest.raises(ConfigError, match=text):
        make()
