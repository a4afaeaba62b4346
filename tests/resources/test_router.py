"""
Where a router points to, what moves it, and what never does.
"""

from __future__ import annotations

import asyncio
import collections
import itertools
import math
import os
import signal
import threading

from collections.abc import Callable, Mapping
from typing import Any

import anyio
import attrs
import pytest

from hypothesis import given
from hypothesis import strategies as st

from selfheal import (
    ConfigError,
    Escalate,
    Healer,
    HealingPolicy,
    HealingStateMachine,
    HealthCheck,
    SelfHealError,
    Unhealthy,
)
from selfheal.errors import CancelledRecoveryError, IllegalTransitionError
from selfheal.model import Check, CheckResult, Fault, Recover, RecoveryContext
from selfheal.resources import Router, SwitchTo, switch_ladder
from selfheal.resources.router_roles import QUESTIONS
from selfheal.testing import VirtualClock, simulate
from selfheal.testing.simulator import Story


DOWN = Fault("down")


@attrs.define
class Servers:
    """What each server would answer now: 'primary', 'standby', a tuple with a generation, or an error."""

    now: dict[str, Any]
    asked: list[str] = attrs.field(factory=list)

    def role(self, target: str) -> Any:
        self.asked.append(target)
        answer = self.now[target]
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def arole(self, target: str) -> Any:
        if self.now[target] == "hangs":
            self.asked.append(target)
            await anyio.sleep_forever()
        return self.role(target)


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


@pytest.fixture
def servers() -> Servers:
    return Servers({"a": "primary", "b": "standby", "c": OSError("unplugged")})


@pytest.fixture
def router(servers: Servers, clock: VirtualClock) -> Router[str]:
    return made(servers, clock)


def made(servers: Servers, clock: VirtualClock | None, **options: Any) -> Router[str]:
    """A router whose targets are called like themselves."""
    return Router(
        {name: name for name in servers.now}, **{"primary": "a", "role": servers.role, "clock": clock} | options
    )


def fail_over(router: Router[str], servers: Servers, ctx: RecoveryContext) -> None:
    """Lose a, and move to b."""
    servers.now |= {"a": OSError("gone"), "b": "primary"}
    SwitchTo(router).recover(ctx)
    assert "b" == router.current


# -- what it is -----------------------------------------------------------------


def test_a_router_starts_at_its_primary(router: Router[str]) -> None:
    """
    It points to the primary, asks nobody, and shows its targets read-only.
    """
    assert ("a", "a", {"a": "a", "b": "b", "c": "c"}) == (router.current, router.target, dict(router.targets))
    assert {} == router.answers
    with pytest.raises(TypeError):
        router.targets["d"] = "d"  # type: ignore[index]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"targets": {"a": 1}}, "two at least"),
        ({"targets": {}}, "two at least"),
        ({"targets": None}, "must be a mapping"),
        ({"targets": ["a", "b"]}, "must be a mapping"),
        ({"targets": {1: 1, 2: 2}}, "target 1"),
        ({"targets": {"a": 1, "B b": 2}}, "B b"),
        ({"primary": "z"}, "none of its targets"),
        ({"primary": []}, "none of its targets"),
        ({"role": None}, "cannot be called"),
        ({"failback": "never"}, "'auto' or 'manual'"),
        ({"failback": []}, "'auto' or 'manual'"),
        ({"min_dwell": -1}, "0 or more"),
        ({"min_dwell": math.inf}, "finite"),
        ({"min_dwell": math.nan}, "is not a time"),
        ({"min_dwell": "soon"}, "is not a time"),
        ({"role_timeout": 0}, "greater than 0"),
        ({"role_timeout": -1}, "greater than 0"),
        ({"role_timeout": math.nan}, "is not a time"),
        ({"role_timeout": None}, "is not a time"),
        ({"name": "No Name"}, "No Name"),
    ],
)
def test_a_setting_that_cannot_work_is_refused(options: Mapping[str, Any], said: str) -> None:
    """
    The error says which setting, and what would do.
    """
    settings: dict[str, Any] = {"targets": {"a": 1, "b": 2}, "primary": "a", "role": str, **options}
    with pytest.raises(ConfigError, match=said):
        Router(settings.pop("targets"), **settings)


def test_answers_are_told_without_the_text_of_errors(router: Router[str]) -> None:
    """
    Each target's answer is a word or the type of an error, for addresses do not belong into logs.
    """
    assert "a: writable, b: read-only, c: no answer (OSError)" == router.told(router.ask())


@pytest.mark.parametrize(
    "said",
    ["master", True, None, [], {}, 10, b"primary", ("primary",), ("primary", 1, 2), (["primary"], 1)]
    + [("primary", generation) for generation in ("1", 1.5, math.nan, -1, True)],
)
def test_a_role_that_is_none_is_no_answer(said: object, servers: Servers, router: Router[str]) -> None:
    """
    Whatever is neither 'primary' nor 'standby' makes a target useless, never writable.
    """
    servers.now["b"] = said
    answer = router.ask()["b"]
    assert (False, ConfigError) == (answer.writable, type(answer.error))


class Bomb(BaseException):
    """What is no Exception."""


@pytest.mark.parametrize("is_virtual", [True, False])
@pytest.mark.parametrize("error", [Bomb, SystemExit, KeyboardInterrupt, GeneratorExit])
def test_what_is_no_exception_reaches_whoever_asks(
    servers: Servers, clock: VirtualClock, error: type[BaseException], is_virtual: bool
) -> None:
    """
    A role that wants to end the program is heard at once, not as a target that is late.
    """

    def role(target: str) -> str:
        if target == "a":
            raise error
        return "primary"

    router = made(servers, clock if is_virtual else None, role=role, role_timeout=5)
    for ask in (router.ask, router.settle):
        with pytest.raises(error):
            ask()
    assert {"a": 0, "b": 0, "c": 0} == router._roles._unanswered


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_what_is_no_exception_reaches_whoever_awaits(backend: Any, servers: Servers, clock: VirtualClock) -> None:
    """
    On either loop it is raised where the question was asked, and harms no other task.
    """

    async def role(target: str) -> str:
        if target == "a":
            raise Bomb
        return "primary"

    router = made(servers, clock, role=role, role_timeout=5)

    async def main() -> None:
        with pytest.raises(Bomb):
            await router.aask()
        assert 0 == clock.now()

    clock.run(main, backend=backend)
    assert {"a": 0, "b": 0, "c": 0} == router._roles._unanswered


def test_a_role_that_cancels_itself_is_no_answer(servers: Servers, clock: VirtualClock) -> None:
    """
    A cancellation that nobody asked for is a target that is of no use, known at once.
    """

    async def role(target: str) -> str:
        if target == "a":
            raise asyncio.CancelledError
        return "primary"

    router = made(servers, clock, role=role, role_timeout=5)

    async def main() -> None:
        answers = await router.aask()
        assert "a: no answer (TimeoutError), b: writable, c: writable" == router.told(answers)
        assert 0 == clock.now()

    clock.run(main, backend="asyncio")


@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
@pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform does not fork")
def test_a_forked_child_goes_on_where_its_parent_was(
    router: Router[str], servers: Servers, ctx: RecoveryContext
) -> None:
    """
    A child points where its parent did, and can switch even if a lock was held at the fork.
    """
    fail_over(router, servers, ctx)
    with router._lock, router._roles._lock:
        pid = os.fork()
        if not pid:
            signal.alarm(10)
            try:
                router.ask()
                os._exit(0 if router.current == "b" else 1)
            finally:
                os._exit(2)
    assert 0 == os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


# -- asking ---------------------------------------------------------------------


def test_a_hung_target_keeps_nobody_from_being_asked(servers: Servers) -> None:
    """
    The others answer while one hangs, and the whole question is over when its time is.
    """
    hang = threading.Event()
    router = made(
        servers,
        None,
        role=lambda target: hang.wait() and "" if target == "a" else servers.role(target),
        role_timeout=0.05,
    )
    try:
        assert "a: no answer (TimeoutError), b: read-only, c: no answer (OSError)" == router.told(router.ask())
    finally:
        hang.set()


def test_questions_without_an_answer_are_bounded(servers: Servers, eventually: Callable[..., bool]) -> None:
    """
    A target that never answers holds a few threads at most, and is asked again when they have ended.
    """
    hang, running = threading.Event(), []

    def role(target: str) -> str:
        if target == "a":
            running.append(target)
            hang.wait()
        return "primary"

    router = made(servers, None, role=role, role_timeout=0.01)
    try:
        for _ in range(QUESTIONS + 3):
            router.ask()
        assert QUESTIONS == len(running)
        assert "earlier questions" in str(router.answers["a"].error)
    finally:
        hang.set()
    assert eventually(lambda: router.ask()["a"].writable)


def test_questions_are_bounded_however_many_ask(servers: Servers) -> None:
    """
    Callers that ask at the same moment hold no more threads together than one after the other.
    """
    hang, together, running = threading.Event(), threading.Barrier(20), []

    def role(target: str) -> str:
        running.append(target)
        hang.wait()
        return "primary"

    router = made(servers, None, role=role, role_timeout=0.1)

    def ask() -> None:
        together.wait()
        for _ in range(3):
            router.ask()

    callers = [threading.Thread(target=ask) for _ in range(together.parties)]
    try:
        for caller in callers:
            caller.start()
        for caller in callers:
            caller.join()
        assert dict.fromkeys("abc", QUESTIONS) == dict(collections.Counter(running))
    finally:
        hang.set()


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_an_async_target_that_hangs_keeps_nobody_waiting(backend: Any, servers: Servers, clock: VirtualClock) -> None:
    """
    On either loop the answers are there when the time for one is over, and what hung is cancelled.
    """
    servers.now["a"] = "hangs"
    router = made(servers, clock, role=servers.arole, role_timeout=2)

    async def main() -> None:
        answers = await router.aask()
        assert "a: no answer (TimeoutError), b: read-only, c: no answer (OSError)" == router.told(answers)
        assert 2 == clock.now()
        await clock.sleep(1)
        assert {"a": 0, "b": 0, "c": 0} == router._roles._unanswered

    clock.run(main, backend=backend)


def test_an_async_role_is_asked_with_await(servers: Servers, clock: VirtualClock) -> None:
    """
    A sync question to an async role says what to call instead.
    """
    router = made(servers, clock, role=servers.arole)
    with pytest.raises(IllegalTransitionError, match="aask"):
        router.ask()
    with pytest.raises(IllegalTransitionError, match="asettle"):
        router.settle()


# -- the start of a program -------------------------------------------------------


@pytest.mark.parametrize(
    ("now", "at"),
    [
        ({"a": "primary", "b": "standby"}, "a"),
        ({"a": "primary", "b": "primary"}, "a"),
        ({"a": ("primary", 1), "b": ("primary", 2)}, "b"),
        ({"a": ("primary", 2), "b": ("primary", 2)}, "a"),
        ({"a": "standby", "b": "primary"}, "b"),
        ({"a": OSError(), "b": "primary"}, "b"),
        ({"a": OSError(), "b": "standby"}, "a"),
    ],
)
def test_a_program_settles_where_it_can_write(now: dict[str, Any], at: str, clock: VirtualClock) -> None:
    """
    A new process goes to the writable target of the newest generation, the primary among equals.
    """
    servers = Servers(now)
    router = made(servers, clock)
    assert (at, at, None) == (router.settle(), router.current, router.closed_until)
    arouter = made(servers, clock, role=servers.arole)
    assert at == clock.run(arouter.asettle)


def test_settling_is_for_the_start(router: Router[str], servers: Servers, ctx: RecoveryContext) -> None:
    """
    After a switch it is refused, and changes nothing.
    """
    fail_over(router, servers, ctx)
    servers.now["a"] = "primary"
    with pytest.raises(IllegalTransitionError, match="start of a program"):
        router.settle()
    assert "b" == router.current


# -- switching --------------------------------------------------------------------


def test_the_first_writable_target_is_taken(
    router: Router[str], servers: Servers, ctx: RecoveryContext, said: list[Any]
) -> None:
    """
    The order of the targets is the order of preference, and the move is logged with both names.
    """
    servers.now |= {"a": OSError(), "b": "standby", "c": "primary"}
    SwitchTo(router).recover(ctx)
    assert "c" == router.target
    assert [("router has moved from a to c", {"source": "a", "target": "c"})] == said


@pytest.mark.parametrize("b", ["standby", OSError("dead"), "nonsense"])
def test_it_never_switches_to_what_cannot_be_written_to(
    b: Any, router: Router[str], servers: Servers, ctx: RecoveryContext
) -> None:
    """
    A standby, a dead server and one that talks nonsense are all refused; the reason says what each has answered.
    """
    servers.now |= {"a": OSError(), "b": b}
    with pytest.raises(Escalate, match=r"nothing better than a: a: no answer \(OSError\), b: .*, c: no answer"):
        SwitchTo(router).recover(ctx)
    assert ("a", None) == (router.current, router.closed_until)


def test_it_stays_where_one_can_write(router: Router[str], servers: Servers, ctx: RecoveryContext) -> None:
    """
    If the present target answers and can be written to, something else is broken, and no switch would heal it.
    """
    servers.now["b"] = "primary"
    with pytest.raises(Escalate, match="nothing better than a: a: writable"):
        SwitchTo(router).recover(ctx)
    assert not SwitchTo(router).applies(DOWN)


def test_the_dwell_keeps_it_where_it_is(
    router: Router[str], servers: Servers, clock: VirtualClock, ctx: RecoveryContext
) -> None:
    """
    Within the dwell a switch neither applies nor happens, and the reason says how long it lasts; then it does.
    """
    fail_over(router, servers, ctx)
    servers.now |= {"a": "primary", "b": OSError()}
    clock.move_to(59.9)
    router.ask()
    assert (60.0, False) == (router.closed_until, SwitchTo(router).applies(DOWN))
    with pytest.raises(Escalate, match=r"stays at b for another 0\.1 s"):
        SwitchTo(router).recover(ctx)
    assert "b" == router.current
    clock.move_to(60)
    assert (None, True) == (router.closed_until, SwitchTo(router).applies(DOWN))
    SwitchTo(router).recover(ctx)
    assert "a" == router.current


def test_what_was_answered_long_ago_is_not_held_against_a_target(
    router: Router[str], servers: Servers, clock: VirtualClock, ctx: RecoveryContext
) -> None:
    """
    A switch that nothing fresh is known about applies, and asks: also when no probe looks at the targets.
    """
    router.ask()
    servers.now |= {"a": OSError(), "b": "primary"}
    clock.move_to(20)
    assert not SwitchTo(router).applies(DOWN)
    clock.move_to(40)
    assert SwitchTo(router).applies(DOWN)
    SwitchTo(router).recover(ctx)
    assert "b" == router.current


def test_what_a_promotion_has_left_behind_is_never_switched_to(
    router: Router[str], servers: Servers, clock: VirtualClock, ctx: RecoveryContext
) -> None:
    """
    An old primary that comes back writable, with an older generation, is neither failed over nor failed back to.
    """
    servers.now |= {"a": OSError(), "b": ("primary", 2)}
    action = SwitchTo(router)
    action.recover(ctx)
    clock.move_to(100)
    servers.now["a"] = ("primary", 1)
    assert action.revert_when() is False
    with pytest.raises(SelfHealError, match="left behind by a promotion"):
        action.revert(ctx)
    servers.now["b"] = OSError()
    with pytest.raises(Escalate, match="left behind"):
        action.recover(ctx)
    servers.now["a"] = ("primary", 3)
    assert action.revert_when() is True


def test_a_cancelled_switch_does_not_move(router: Router[str], servers: Servers, ctx: RecoveryContext) -> None:
    """
    An action whose time was up while it asked changes nothing any more.
    """
    servers.now |= {"a": OSError(), "b": "primary"}
    with pytest.raises(CancelledRecoveryError):
        SwitchTo(router).recover(attrs.evolve(ctx, stopped=lambda: "the deadline is over"))
    assert "a" == router.current


def test_every_client_follows_though_one_does_not(router: Router[str], servers: Servers, ctx: RecoveryContext) -> None:
    """
    If a function of `after` raises, the router has moved, the others are called, and the error says so.
    """
    followed: list[str] = []

    def breaks() -> None:
        raise OSError("it hangs on")

    servers.now |= {"a": OSError(), "b": "primary"}
    action = SwitchTo(router, after=[breaks, lambda: followed.append(router.target)])
    with pytest.raises(SelfHealError, match="is at b, but 1 of 2 did not follow: OSError") as caught:
        action.recover(ctx)
    assert (["b"], "b", OSError) == (followed, router.current, type(caught.value.__cause__))


def test_clients_of_either_colour_follow(servers: Servers, clock: VirtualClock, ctx: RecoveryContext) -> None:
    """
    With an async role or an async function the action is awaited, and calls sync and async functions alike.
    """
    followed: list[str] = []

    async def afollow() -> None:
        followed.append("async")

    async def main(router: Router[str]) -> None:
        action = SwitchTo(router, after=[afollow, lambda: followed.append("sync")])
        doing = action.recover(ctx)
        assert doing is not None
        await doing

    servers.now |= {"a": OSError(), "b": "primary"}
    for role in (servers.role, servers.arole):
        router = made(servers, clock, role=role)
        clock.run(main, router)
        assert "b" == router.current
    assert ["async", "sync"] * 2 == followed


def test_what_cannot_be_called_cannot_follow(router: Router[str]) -> None:
    """
    The error says what belongs there.
    """
    with pytest.raises(ConfigError, match=r"such as pool\.drain"):
        SwitchTo(router, after=["drain"])  # type: ignore[list-item]


# -- failing back -----------------------------------------------------------------


@pytest.mark.parametrize("a", ["standby", OSError("dead")])
def test_it_never_fails_back_to_what_is_not_healthy(
    a: Any, router: Router[str], servers: Servers, clock: VirtualClock, ctx: RecoveryContext
) -> None:
    """
    The primary is asked again at the moment of failing back; if it cannot be written to, nothing changes.
    """
    fail_over(router, servers, ctx)
    clock.move_to(60)
    servers.now["a"] = a
    assert SwitchTo(router).revert_when() is False
    with pytest.raises(SelfHealError, match="stays at b: b: writable, a: "):
        SwitchTo(router).revert(ctx)
    assert "b" == router.current


def test_failing_back_respects_the_dwell(
    router: Router[str], servers: Servers, clock: VirtualClock, ctx: RecoveryContext
) -> None:
    """
    A primary that is back at once is gone back to when the dwell is over, not before.
    """
    fail_over(router, servers, ctx)
    servers.now["a"] = "primary"
    clock.move_to(59)
    assert SwitchTo(router).revert_when() is False
    with pytest.raises(IllegalTransitionError, match="for another 1"):
        SwitchTo(router).revert(ctx)
    clock.move_to(60)
    assert SwitchTo(router).revert_when() is True
    SwitchTo(router).revert(ctx)
    assert "a" == router.current


def test_a_manual_failback_waits_for_permission(servers: Servers, clock: VirtualClock, ctx: RecoveryContext) -> None:
    """
    Nothing goes back before `allow_failback`, which holds for one way back only.
    """
    router = made(servers, clock, failback="manual", min_dwell=0)
    action = SwitchTo(router)
    for _ in range(2):
        fail_over(router, servers, ctx)
        servers.now["a"] = "primary"
        assert action.revert_when() is False
        with pytest.raises(SelfHealError, match="until allow_failback"):
            action.revert(ctx)
        router.allow_failback()
        assert action.revert_when() is True
        action.revert(ctx)
        assert "a" == router.current
    router.allow_failback()  # at the primary it says nothing
    fail_over(router, servers, ctx)
    servers.now["a"] = "primary"
    assert action.revert_when() is False


def test_a_switch_of_another_process_is_reverted_by_doing_nothing(
    router: Router[str], servers: Servers, ctx: RecoveryContext
) -> None:
    """
    In a new process the route has died with the old one: at the primary the better state is there, and revert asks nobody.
    """
    action = SwitchTo(router)
    assert action.revert_when() is True
    action.revert(ctx)
    assert ("a", []) == (router.current, servers.asked)


def test_a_new_process_that_adopts_a_switch_can_switch(
    router: Router[str], servers: Servers, clock: VirtualClock, ctx: RecoveryContext
) -> None:
    """
    The rung that an earlier process has left applied is taken; if the primary is still dead, the next one moves.
    """
    machine = HealingStateMachine(HealingPolicy(interval=5, timeout=1, fall=2), switch_ladder(router))
    machine.adopt([0], now=0.0)
    servers.now |= {"a": OSError(), "b": "primary"}
    for now in (0.0, 1.0):
        clock.move_to(now)
        machine.check_now(now=now)
        assert Check() == machine.tick(now=now)
        machine.checked(CheckResult.unhealthy("down", started_at=now), now=now)
    assert Recover(1, 1) == machine.tick(now=1.0)


def test_its_traits() -> None:
    """
    It is held, harmless to repeat, and reaches no further than this process's clients.
    """
    router = Router({"a": 1, "b": 2}, primary="a", role=lambda _: "primary", name="orders_db")
    action = SwitchTo(router)
    assert (True, True, False, "RESOURCE") == (action.held, action.idempotent, action.destructive, action.blast.name)
    assert "route orders_db from a to the first of b that answers and can be written to" == action.plan()
    assert (True, True, False) == tuple(action.applies(Fault(kind)) for kind in ("down", "read_only", "stale"))
    assert ["switch_to", "switch_to_2"] == [rung.name for rung in switch_ladder(router).rungs]


# -- a second look ----------------------------------------------------------------


def test_the_targets_are_asked_when_a_switch_could_help(router: Router[str], servers: Servers) -> None:
    """
    The probe's answers pass through unchanged; only `down` and `read_only` have the targets asked. The present one is
    asked once while it is well.
    """
    answers: list[Any] = [None, Unhealthy("stale"), CheckResult.unhealthy("down"), Unhealthy("read_only")]

    def probe() -> Any:
        answer = answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    watched = router.watching(probe)
    for asked in (1, 1, 4, 7):
        try:
            assert answers[0] is watched()
        except Unhealthy as exc:
            assert answers[0] is exc
        assert asked == len(servers.asked)
        answers.pop(0)
    assert "probe" == HealthCheck(watched).name


@pytest.mark.parametrize("fault", [Unhealthy("down"), CheckResult.unhealthy("down"), None])
def test_an_async_probe_is_watched_too(fault: Any, servers: Servers, clock: VirtualClock) -> None:
    """
    With a role of either colour, whether the probe is an async function or only returns what is to be awaited.
    """

    async def probe() -> Any:
        if isinstance(fault, Exception):
            raise fault
        return fault

    async def main(watched: Any) -> None:
        try:
            assert fault is await watched()
        except Unhealthy as exc:
            assert fault is exc

    clock.run(main, made(servers, clock, role=servers.arole).watching(probe))
    clock.run(main, made(servers, clock).watching(probe))
    clock.run(main, made(servers, clock).watching(lambda: probe()))
    assert (3 if fault is None else 9) == len(servers.asked)


def test_among_those_that_could_take_over_the_newest_does() -> None:
    """
    A server that was left behind by a second promotion is not switched to, though it comes first.
    """
    told = {"a": ("primary", 1), "b": ("primary", 2), "c": ("primary", 3)}
    router = Router({name: name for name in told}, primary="a", role=told.__getitem__)
    told["a"] = ("standby", 1)
    assert "c" == router.better(router.ask())


def test_what_the_present_server_told_while_it_was_well_tells_who_was_left_behind() -> None:
    """
    A crashed primary that comes back with old data, writable, is not switched to when its successor fails.
    """
    told: dict[str, Any] = {"a": ("primary", 2), "b": ("primary", 1)}

    def role(target: str) -> Any:
        if told[target] is None:
            raise ConnectionRefusedError
        return told[target]

    router = Router({name: name for name in told}, primary="a", role=role)
    router.watching(lambda: None)()
    told["a"] = None
    assert router.better(router.ask()) is None


def test_an_async_role_needs_an_async_probe(servers: Servers, clock: VirtualClock) -> None:
    """
    A sync probe runs in a thread, where no loop is there to ask on: that is said at once.
    """
    with pytest.raises(ConfigError, match="of one kind"):
        made(servers, clock, role=servers.arole).watching(lambda: None)


# -- the whole story --------------------------------------------------------------


POLICY = HealingPolicy(interval=5, timeout=1, jitter=0)

#: When, from then on, each server answers what.
Script = Mapping[str, list[tuple[float, Any]]]


def story(script: Script, *, until: float, **options: Any) -> tuple[Story, Router[str]]:
    """A healer over servers that follow *script*."""
    clock = VirtualClock()

    def role(target: str) -> Any:
        answer = at(script, target, clock.now())
        if answer == "dead":
            raise ConnectionRefusedError
        return answer

    router: Router[str] = Router({name: name for name in script}, primary="a", role=role, clock=clock, **options)

    def probe() -> None:
        if kind(at(script, router.target, clock.now())) != "primary":
            raise Unhealthy("down")

    check = HealthCheck(router.watching(probe), name="db", interval=5, timeout=1, recovery=switch_ladder(router))
    return simulate([check], until=until, clock=clock), router


def at(script: Script, target: str, now: float) -> Any:
    """What a server answers."""
    return [answer for since, answer in script[target] if since <= now][-1]


def kind(answer: Any) -> str:
    """An answer without its generation."""
    return answer[0] if isinstance(answer, tuple) else answer


def moves(told: Story) -> list[tuple[float, str, str]]:
    """When it moved from where to where."""
    return [
        (event.at, event.fields["source"], event.fields["target"])  # type: ignore[misc]
        for event in told.events
        if event.name == "selfheal.action.logged" and "source" in event.fields
    ]


def test_a_fail_over_waits_for_the_promotion_and_goes_back_when_all_is_well() -> None:
    """
    The standby is promoted 8 s after the primary died and used at the next look; the way back takes a probation.
    """
    told, _ = story(
        {"a": [(0, "primary"), (60, "dead"), (300, "primary")], "b": [(0, "standby"), (68, "primary")]}, until=500
    )
    assert [(68, "a", "b"), (364, "b", "a")] == moves(told)
    assert ["healed"] == [incident.result.value for incident in told.incidents]


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_the_story_is_the_same_on_a_loop(backend: Any) -> None:
    """
    With an async role, an async probe and an async function after each move, on either loop.
    """
    script: Script = {"a": [(0, "primary"), (60, "dead"), (300, "primary")], "b": [(0, "standby"), (68, "primary")]}
    clock = VirtualClock()
    followed: list[tuple[float, str]] = []

    async def role(target: str) -> str:
        answer: str = at(script, target, clock.now())
        if answer == "dead":
            raise ConnectionRefusedError
        return answer

    router = Router({"a": "a", "b": "b"}, primary="a", role=role, clock=clock)

    async def probe() -> None:
        if at(script, router.target, clock.now()) != "primary":
            raise Unhealthy("down")

    async def follow() -> None:
        followed.append((clock.now(), router.target))

    async def main() -> None:
        ladder = switch_ladder(router, after=follow)
        check = HealthCheck(router.watching(probe), name="db", policy=POLICY, recovery=ladder)
        async with Healer([check], clock=clock, phase=0, slack=0):
            await clock.sleep(500)

    clock.run(main, backend=backend)
    assert [(68, "b"), (364, "a")] == followed


def test_a_promotion_is_waited_for_over_an_hour() -> None:
    """
    A standby that nobody promotes for an hour uses nothing up: it is switched to when somebody does.
    """
    told, _ = story({"a": [(0, "primary"), (60, "dead")], "b": [(0, "standby"), (4000, "primary")]}, until=4100)
    assert [(4000, "a", "b")] == moves(told)


def test_a_second_loss_is_switched_on_from() -> None:
    """
    If the second target dies while the first is still away, the third is used, and so is the way back from there.
    """
    script = {
        "a": [(0, "primary"), (60, "dead"), (1000, "primary")],
        "b": [(0, "primary"), (200, "dead")],
        "c": [(0, "primary")],
    }
    told, _ = story(script, until=2000)
    assert [("a", "b"), ("b", "c"), ("c", "a")] == [move[1:] for move in moves(told)]


def test_no_ping_pong_between_two_that_fail_in_turn() -> None:
    """
    However often two servers take turns in failing, moves are a dwell apart.
    """
    turns = [(10.0 * number, "dead" if number % 2 else "primary") for number in range(60)]
    other = [(since, "primary" if answer == "dead" else "dead") for since, answer in turns]
    told, _ = story({"a": turns, "b": other}, until=600, min_dwell=90)
    times = [move[0] for move in moves(told)]
    assert len(times) > 1
    assert all(later - earlier >= 90 for earlier, later in itertools.pairwise(times))


PLAIN = ["primary", "primary", "standby", "dead"]


@st.composite
def scripts(draw: st.DrawFn, answers: list[Any]) -> Script:
    """Three servers that come and go. The primary is looked at each 5 s: whatever lasts for 16 s is seen."""
    spans = st.lists(st.tuples(st.integers(16, 150), st.sampled_from(answers)), min_size=1, max_size=8)
    script: dict[str, list[tuple[float, Any]]] = {}
    for name in "abc":
        now, script[name] = 0.0, []
        for span, answer in draw(spans):
            script[name].append((now, answer))
            now += span
    return script


@given(
    script=scripts([*PLAIN, ("primary", 1), ("primary", 2), ("primary", 3)]),
    dwell=st.sampled_from([0, 20, 60]),
    failback=st.sampled_from(["auto", "manual"]),
)
def test_no_move_is_a_bad_one(script: Script, dwell: float, failback: Any) -> None:
    """
    Whatever the servers do, each move leads to a writable one of no older generation, a dwell after the last, and
    back to the primary by itself only after a whole probation of it.
    """
    told, router = story(script, until=800, min_dwell=dwell, failback=failback)
    reverts = {event.at for event in told.events if event.name == "selfheal.action.started" and event.fields["revert"]}
    last, newest, present = -math.inf, 0, "a"
    for now, source, target in moves(told):
        answer = at(script, target, now)
        generation = answer[1] if isinstance(answer, tuple) else None
        assert (present, "primary") == (source, kind(answer))
        assert source != target
        assert now - last >= dwell
        assert generation is None or generation >= newest
        if now in reverts:
            assert ("auto", "a") == (failback, target)
            assert all(kind(at(script, "a", now - back / 2)) == "primary" for back in range(120))
        else:
            assert kind(at(script, source, now)) != "primary"
        last, present, newest = now, target, generation or 0
    assert present == router.current


@given(script=scripts(PLAIN))
def test_where_there_is_a_way_out_it_is_taken(script: Script) -> None:
    """
    If the primary is away for a while and another server could be written to all that time, it has been switched to.
    """
    told, _ = story(script, until=400)
    away = [since for since, answer in script["a"] if kind(answer) != "primary"]
    if not away or away[0] > 380:
        return
    since = away[0]
    outage = [since + back / 2 for back in range(26)]  # 13 s: an interval to see it, two looks to confirm, one to spare
    lasts = all(kind(at(script, "a", now)) != "primary" for now in outage)
    if lasts and any(all(kind(at(script, name, now)) == "primary" for now in outage) for name in "bc"):
        assert since <= moves(told)[0][0] <= since + 13
