"""
Whatever the tree: operators are associative, and plans mean what a slow interpreter says they mean.
"""

from __future__ import annotations

import inspect
import math

import anyio
import hypothesis.strategies as st
import pytest
import tenacity

from hypothesis import given, settings

from selfheal.errors import Escalate
from selfheal.model import Fault, Incident, Outcome, RecoveryContext, Verdict
from selfheal.recovery import RecoveryAction, by_fault, recovery_action
from selfheal.recovery.plan import Pause, plan, revert_plan


KINDS = ("stale", "down", "auth")
FAULTS = [Fault(kind) for kind in KINDS]


class Leaf(RecoveryAction):
    """
    Runs as its scripts say: seconds and verdict of each run, the last one for ever.
    """

    def __init__(self, name, runs, log=None, colour="sync"):
        self.name = name
        self.runs = runs
        self.log = log
        self.colour = colour
        self.calls = 0

    def recover(self, ctx):
        """Tell the log, then end as scripted; in one of three colours."""
        self.log.append((self.name, "recover"))
        if self.colour == "sync":
            return self.end()
        return self.awaited()

    async def awaited(self):
        """The same on the loop."""
        await anyio.lowlevel.checkpoint()
        self.end()

    def end(self):
        """Raise or return, as the next script says."""
        _, verdict = self.runs[min(self.calls, len(self.runs) - 1)]
        self.calls += 1
        if verdict is Verdict.FAILED:
            raise OSError(self.name)
        if verdict is not Verdict.DONE:
            raise Escalate(self.name)


class Held(Leaf):
    """
    The same with a revert that always ends well.
    """

    def revert(self, ctx):
        """Tell the log."""
        self.log.append((self.name, "revert"))


OUTCOMES = {
    Verdict.DONE: Outcome.done(),
    Verdict.FAILED: Outcome.failed(OSError()),
    Verdict.CANNOT_HELP: Outcome.cannot_help(""),
    Verdict.CANCELLED: Outcome.cancelled(""),
}

runs = st.lists(st.tuples(st.integers(0, 9), st.sampled_from(list(OUTCOMES))), min_size=1, max_size=3)
names = (f"leaf{number}" for number in range(10**9))
single = st.builds(lambda held, runs: ("leaf", next(names), held, runs), st.booleans(), runs)


def grow(children):
    """One more level of every operator."""
    return st.one_of(
        st.tuples(st.just("then"), st.lists(children, min_size=2, max_size=3)),
        st.tuples(st.just("within"), children, st.integers(1, 20)),
        st.tuples(st.just("retrying"), children, st.integers(1, 4), st.integers(0, 5), st.integers(1, 40)),
        st.tuples(st.just("by_fault"), children, children),
        st.tuples(st.just("named"), children),
    )


trees = st.recursive(single, grow, max_leaves=8)


def built(tree, make=None):
    """The action that a description stands for."""
    match tree:
        case ("leaf", name, held, script):
            return make(name, held, script) if make else (Held if held else Leaf)(name, script)
        case ("then", parts):
            total = built(parts[0], make)
            for part in parts[1:]:
                total = total + built(part, make)
            return total
        case ("within", part, limit):
            return built(part, make).within(limit)
        case ("retrying", part, tries, wait, delay):
            return built(part, make).retrying(
                stop=tenacity.stop_after_attempt(tries) | tenacity.stop_after_delay(delay),
                wait=tenacity.wait_fixed(wait),
            )
        case ("by_fault", one, other):
            return by_fault({"stale": built(one, make)}, default=built(other, make))
        case ("named", part):
            return built(part, make).named("x")
    raise AssertionError(tree)


class Slow:
    """
    The meaning of trees, told without generators, actions or tenacity.
    """

    def __init__(self, kind, until):
        self.kind = kind
        self.until = until
        self.time = 0
        self.log = []
        self.applied = []
        self.calls = {}

    def run(self, tree, until):
        match tree:
            case ("leaf", name, held, script):
                return self.leaf(name, held, script, until)
            case ("then", parts):
                return self.then(parts, until)
            case ("within", part, limit):
                return self.run(part, min(until, self.time + limit))
            case ("retrying", *how):
                return self.retrying(*how, until)
            case ("by_fault", one, other):
                return self.run(one if self.kind == "stale" else other, until)
            case ("named", part):
                return self.run(part, until)
        raise AssertionError(tree)

    def then(self, parts, until):
        before = len(self.applied)
        for part in parts:
            verdict = self.run(part, until)
            if verdict in (Verdict.ABANDONED, Verdict.CANCELLED):
                return verdict
            if verdict is not Verdict.DONE:
                while len(self.applied) > before and self.time < self.until:
                    self.log.append((self.time, self.applied.pop(), True))
                return verdict
        return Verdict.DONE

    def retrying(self, part, tries, wait, delay, until):
        began = self.time
        for attempt in range(1, tries + 1):
            verdict = self.run(part, until)
            late = wait > 0 and self.time + wait >= until
            if verdict is not Verdict.FAILED or attempt == tries or self.time - began >= delay or late:
                return verdict
            self.time += wait
        raise AssertionError

    def leaf(self, name, held, script, until):
        if self.time >= until:
            return Verdict.FAILED
        if held and name not in self.applied:
            self.applied.append(name)
        self.log.append((self.time, name, False))
        call = self.calls[name] = self.calls.get(name, -1) + 1
        seconds, verdict = script[min(call, len(script) - 1)]
        if self.time + seconds > until:
            self.time = until
            return Verdict.ABANDONED
        self.time += seconds
        return verdict


class Virtual:
    """
    A runner in virtual time that follows the scripts without calling the leaves.
    """

    def __init__(self):
        self.time = 0
        self.log = []
        self.applied = []

    def now(self):
        return self.time

    def run(self, steps):
        answer = None
        while True:
            try:
                step = steps.send(answer)
            except StopIteration as end:
                return end.value.verdict
            answer = self.answer(step)

    def answer(self, step):
        if isinstance(step, Pause):
            self.time += step.seconds
            return None
        self.log.append((self.time, step.leaf.name, step.revert))
        if step.revert:
            return Outcome.done()
        leaf = step.leaf
        seconds, verdict = leaf.runs[min(leaf.calls, len(leaf.runs) - 1)]
        leaf.calls += 1
        if self.time + seconds > step.until:
            self.time = step.until
            return Outcome.abandoned()
        self.time += seconds
        return OUTCOMES[verdict]


@given(tree=trees, fault=st.sampled_from(FAULTS), until=st.one_of(st.just(math.inf), st.integers(1, 60)))
def test_a_plan_means_what_the_slow_interpreter_says(tree, fault, until):
    """
    Steps, times, outcome and what stays applied are those of a plain recursive reading of the tree.
    """
    slow = Slow(fault.kind, until)
    verdict = slow.run(tree, until)
    world = Virtual()
    steps = plan(built(tree), fault=fault, applied=world.applied, now=world.now, until=until)

    assert verdict == world.run(steps)
    assert slow.log == world.log
    assert slow.time == world.time
    assert slow.applied == [leaf.name for leaf in world.applied]


@given(tree=trees, fault=st.sampled_from(FAULTS))
def test_whatever_was_applied_can_be_taken_back(tree, fault):
    """
    After the reverts nothing is applied, and each was reverted once, last applied first.
    """
    world = Virtual()
    world.run(plan(built(tree), fault=fault, applied=world.applied, now=world.now))
    applied = [leaf.name for leaf in world.applied]
    world.log.clear()

    assert Verdict.DONE == world.run(revert_plan(world.applied, now=world.now))
    assert [] == world.applied
    assert applied[::-1] == [name for _, name, _ in world.log]


@given(st.lists(single, min_size=3, max_size=3))
def test_operators_are_associative_and_flat(parts):
    """
    Parentheses change nothing within `+`, and nothing within `>>`.
    """
    a, b, c = (built(part) for part in parts)

    assert (a + b) + c == a + (b + c)
    assert hash((a + b) + c) == hash(a + (b + c))
    assert (a, b, c) == (a + (b + c)).branches
    assert (a >> b) >> c == a >> (b >> c)
    assert [a, b, c] == [rung.action for rung in (a >> (b >> c)).rungs]


@given(tree=trees)
def test_a_tree_is_printed_as_it_is_built(tree):
    """
    What a tree prints, read as Python, is the tree again.
    """
    leaves = {}

    def make(name, held, script):
        return leaves.setdefault(name, (Held if held else Leaf)(name, script))

    action = built(tree, make)
    words = {"stop_any": lambda _: tenacity.stop_any(), "wait_fixed": lambda _: tenacity.wait_fixed(1)}
    again = eval(str(action), {"by_fault": by_fault, **words, **leaves})  # the text is our own

    assert type(action) is type(again)
    assert str(action) == str(again)


CTX = RecoveryContext(
    incident=Incident(number=1, trigger=FAULTS[0], began=0.0, opened=0.0),
    fault=FAULTS[0],
    rung=0,
    attempt=1,
    deadline=math.inf,
    clock=lambda: 0.0,
    stopped=lambda: None,
    note=lambda message, fields: None,
)


def call(step):
    """What a runner calls."""
    return step.leaf.revert(CTX) if step.revert else step.leaf.recover(CTX)


def told(exc):
    """What a runner makes of an exception."""
    return Outcome.cannot_help(exc.reason) if isinstance(exc, Escalate) else Outcome.failed(exc)


def carried_out(steps):
    """A whole runner for threads: coroutines are run to their end one by one."""
    answer = None
    while True:
        try:
            step = steps.send(answer)
        except StopIteration as end:
            return end.value
        answer = None
        if isinstance(step, Pause):
            continue
        try:
            result = call(step)
            if inspect.isawaitable(result):
                anyio.run(lambda result=result: result)
            answer = Outcome.done()
        except Exception as exc:
            answer = told(exc)


async def acarried_out(steps):
    """A whole runner for the event loop."""
    answer = None
    while True:
        try:
            step = steps.send(answer)
        except StopIteration as end:
            return end.value
        answer = None
        if isinstance(step, Pause):
            await anyio.lowlevel.checkpoint()
            continue
        try:
            result = call(step)
            if inspect.isawaitable(result):
                await result
            answer = Outcome.done()
        except Exception as exc:
            answer = told(exc)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@settings(max_examples=50)  # each starts an event loop
@given(tree=trees, colours=st.randoms(use_true_random=False), fault=st.sampled_from(FAULTS))
def test_both_drivers_agree(backend, tree, colours, fault):
    """
    Threads and event loop run the same leaves and reach the same verdict, whatever colour each leaf is.
    """
    drawn = {}

    def run(runner):
        log, applied = [], []

        def make(name, held, script):
            colour = drawn.setdefault(name, colours.choice(["sync", "async"]))
            return (Held if held else Leaf)(name, script, log, colour)

        outcome = runner(plan(built(tree, make), fault=fault, applied=applied, now=lambda: 0.0))
        return outcome.verdict, [leaf.name for leaf in applied], log

    assert run(carried_out) == run(lambda steps: anyio.run(acarried_out, steps, backend=backend))


def test_decorated_functions_take_part_in_both_drivers():
    """
    Sync and async functions are leaves like others.
    """
    log = []

    @recovery_action
    def one(ctx):
        log.append("one")

    @recovery_action
    async def two(ctx):
        log.append("two")

    for run in (carried_out, lambda steps: anyio.run(acarried_out, steps)):
        assert run(plan(one + two, fault=FAULTS[0], applied=[], now=lambda: 0.0)).ok
    assert ["one", "two", "one", "two"] == log
