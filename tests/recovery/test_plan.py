"""
What the operators mean, step by step.
"""

from __future__ import annotations

import math

import pytest
import tenacity

from selfheal.errors import SelfHealError
from selfheal.model import Fault, Outcome, Verdict
from selfheal.recovery import RecoveryAction, by_fault, recovery_action
from selfheal.recovery.paced import Paced, Part
from selfheal.recovery.plan import TRIES_LIMIT, Pause, plan, revert_plan


STALE = Fault("stale")
DONE = Outcome.done()
CANNOT_HELP = Outcome.cannot_help("no use")
ABANDONED = Outcome.abandoned()
CANCELLED = Outcome.cancelled("closing")


def failed(error=None):
    return Outcome.failed(error or OSError("broken"))


class Leaf(RecoveryAction):
    def __init__(self, name):
        self.name = name

    def recover(self, ctx):
        """Nothing to do here."""


class Held(Leaf):
    def revert(self, ctx):
        """Nothing to do here."""


a, b, c = Leaf("a"), Leaf("b"), Leaf("c")
h, g = Held("h"), Held("g")


class World:
    """
    A runner of scripted leaves in virtual time.

    Each leaf takes *took* seconds and ends as the script says: name or ~name
    (its revert) to outcomes, one after the other; done when nothing is left.
    """

    def __init__(self, took=0.0, **script):
        self.time = 0.0
        self.took = took
        self.script = {name: list(outcomes) for name, outcomes in script.items()}
        self.applied = []
        self.log = []

    def now(self):
        return self.time

    def answer(self, step):
        if isinstance(step, Pause):
            assert step.seconds > 0
            self.log.append(step.seconds)
            self.time += step.seconds
            return self.script["pauses"].pop(0) if self.script.get("pauses") else None
        name = f"{'un_' if step.revert else ''}{step.leaf.name}"
        self.log.append(name)
        if self.time + self.took > step.until:
            self.time = step.until
            return ABANDONED
        self.time += self.took
        outcomes = self.script.get(name)
        return outcomes.pop(0) if outcomes else DONE

    def carry_out(self, steps):
        answer = None
        while True:
            try:
                step = steps.send(answer)
            except StopIteration as end:
                return end.value
            answer = self.answer(step)

    def run(self, action, *, fault=STALE, until=math.inf):
        return self.carry_out(plan(action, fault=fault, applied=self.applied, now=self.now, until=until))

    def revert(self, *, until=math.inf):
        return self.carry_out(revert_plan(self.applied, now=self.now, until=until))


class TestLeaf:
    @pytest.mark.parametrize("outcome", [DONE, failed(), CANNOT_HELP, ABANDONED, CANCELLED])
    def test_ends_as_it_ended(self, outcome):
        """
        A single action is run once, and its outcome is the plan's.
        """
        world = World(a=[outcome])

        assert outcome is world.run(a)
        assert ["a"] == world.log

    def test_is_applied_before_it_is_run(self):
        """
        Whatever becomes of a held leaf, it counts as applied from its start, and once only.
        """
        world = World(h=[failed(), ABANDONED])

        world.run(h)
        world.run(h)
        world.run(a)

        assert [h] == world.applied

    def test_is_not_started_when_time_is_up(self):
        """
        Without time left nothing is run and nothing is applied.
        """
        world = World()
        world.time = 5.0

        outcome = world.run(h, until=5.0)

        assert (Verdict.FAILED, "TimeoutError") == (outcome.verdict, outcome.reason)
        assert "time was up before h could start" == str(outcome.error)
        assert ([], []) == (world.log, world.applied)

    def test_that_is_not_for_the_fault_cannot_help(self):
        """
        A plan against a fault that the action is not for ends without a step.
        """
        world = World()

        outcome = world.run(a.when(kinds={"stale"}), fault=Fault("down"))

        assert Outcome.cannot_help("a.when(kinds={'stale'}) is not for down") == outcome
        assert [] == world.log

    def test_needs_an_outcome_as_answer(self):
        """
        A runner that forgets the outcome is told so.
        """
        steps = plan(a, fault=STALE, applied=[], now=lambda: 0.0)
        steps.send(None)

        with pytest.raises(SelfHealError, match="A Run is answered with its Outcome"):
            steps.send(None)


class TestSequence:
    def test_runs_from_left_to_right(self):
        """
        All parts are run if all end well.
        """
        world = World()

        assert DONE == world.run(a + h.named("x") + (b + c).within(5))
        assert ["a", "h", "b", "c"] == world.log
        assert [h] == world.applied

    @pytest.mark.parametrize("outcome", [failed(), CANNOT_HELP])
    def test_stops_and_takes_back_what_it_applied(self, outcome):
        """
        The first failure ends it; what was applied is reverted, last first, and the outcome is the failure's.
        """
        world = World(b=[outcome])

        assert outcome is world.run(h + a + g + b + c)
        assert ["h", "a", "g", "b", "un_g", "un_h"] == world.log
        assert [] == world.applied

    def test_takes_back_the_part_that_failed(self):
        """
        A held part that failed may be half applied, so it is reverted too.
        """
        world = World(h=[failed()])

        world.run(h + a)

        assert ["h", "un_h"] == world.log

    @pytest.mark.parametrize("outcome", [ABANDONED, CANCELLED])
    def test_takes_nothing_back_from_what_still_runs_or_was_stopped(self, outcome):
        """
        A revert would meet the running action, or hold up the closing; what is applied stays known.
        """
        world = World(b=[outcome])

        assert outcome is world.run(h + b + c)
        assert ["h", "b"] == world.log
        assert [h] == world.applied

    def test_leaves_alone_what_others_applied(self):
        """
        Only what this run has applied is taken back.
        """
        world = World(b=[failed()])
        world.applied = [g]

        world.run(h + b)
        world.script["b"] = [failed()]
        world.run(g + b)

        assert ["h", "b", "un_h", "g", "b"] == world.log
        assert [g] == world.applied

    def test_leaves_applied_what_cannot_be_taken_back(self):
        """
        The first revert that fails ends the tidying up, and the outcome stays the failure's.
        """
        first = failed()
        world = World(b=[first], un_g=[failed()])

        assert first is world.run(h + g + b)
        assert ["h", "g", "b", "un_g"] == world.log
        assert [h, g] == world.applied

    @pytest.mark.parametrize("outcome", [ABANDONED, CANCELLED])
    def test_tells_that_a_revert_still_runs_or_was_stopped(self, outcome):
        """
        What the runner has to know most is the outcome: something still runs, or it was told to stop.
        """
        world = World(b=[failed()], un_h=[outcome])

        assert outcome is world.run(h + b)
        assert [h] == world.applied

    def test_tidies_up_part_by_part(self):
        """
        A failing sequence inside a retry takes back its own part before it is tried again.
        """
        world = World(b=[failed()])

        assert DONE == world.run(h + (g + b).retrying(stop=tenacity.stop_after_attempt(2)))
        assert ["h", "g", "b", "un_g", "g", "b"] == world.log
        assert [h, g] == world.applied


class TestWithin:
    def test_is_a_hard_deadline(self):
        """
        The smallest of all deadlines around a leaf is its own.
        """
        steps = plan(a.within(7).within(5), fault=STALE, applied=[], now=lambda: 100.0, until=200.0)
        assert 105.0 == steps.send(None).until
        steps = plan(a.within(5).within(7), fault=STALE, applied=[], now=lambda: 100.0, until=103.0)
        assert 103.0 == steps.send(None).until

    def test_spans_all_of_its_part(self):
        """
        The parts of a sequence share the time of the deadline around them; each try has its own inside of one.
        """
        world = World(took=3.0)
        assert ABANDONED == world.run((a + b + c).within(7))
        assert (["a", "b", "c"], 7.0) == (world.log, world.time)

        world = World(took=3.0, a=[failed(), DONE])
        assert DONE == world.run(a.within(4).retrying(stop=tenacity.stop_after_attempt(2)))
        assert 6.0 == world.time

    def test_is_over_when_the_next_part_would_start(self):
        """
        A part that would start at the deadline is not started; the tidying up has the whole action's time.
        """
        world = World(took=3.0)

        outcome = world.run((h + b).within(3), until=10.0)

        assert "time was up before b could start" == str(outcome.error)
        assert (["h", "un_h"], 6.0) == (world.log, world.time)

    def test_leaves_applied_what_there_is_no_time_to_take_back(self):
        """
        Without any time left the reverts are left for later.
        """
        world = World(took=3.0)

        outcome = world.run(h + b, until=3.0)

        assert "time was up before b could start" == str(outcome.error)
        assert (["h"], [h]) == (world.log, world.applied)


class TestRetrying:
    def test_tries_until_it_works(self):
        """
        Failures are tried again after the waits, and the last outcome counts.
        """
        world = World(took=1.0, a=[failed(), failed()])
        tree = a.retrying(stop=tenacity.stop_after_attempt(5), wait=tenacity.wait_exponential(multiplier=2))

        assert DONE == world.run(tree)
        assert ["a", 2.0, "a", 4.0, "a"] == world.log

    def test_gives_up_with_the_last_failure(self):
        """
        When the strategy says stop, the last failure is the outcome, as it was raised.
        """
        last = failed(KeyError("last"))
        world = World(a=[failed(), last])

        assert last is world.run(a.retrying(stop=tenacity.stop_after_attempt(2)))

    @pytest.mark.parametrize(
        "outcome",
        [CANNOT_HELP, ABANDONED, CANCELLED, Outcome.failed(KeyboardInterrupt()), Outcome.failed(SystemExit())],
    )
    def test_tries_only_exceptions_again(self, outcome):
        """
        What cannot help, still runs, was cancelled or is no `Exception` is not tried again.
        """
        world = World(a=[outcome])

        assert outcome is world.run(a.retrying(stop=tenacity.stop_never))
        assert ["a"] == world.log

    def test_tries_only_the_wanted_exceptions_again(self):
        """
        The retry strategy chooses; TryAgain is always wanted, as in tenacity.
        """
        other = failed(KeyError("x"))
        world = World(a=[failed(), failed(tenacity.TryAgain()), other])
        tree = a.retrying(stop=tenacity.stop_never, retry=tenacity.retry_if_exception_type(OSError))

        assert other is world.run(tree)
        assert ["a", "a", "a"] == world.log

    def test_knows_only_the_time_of_the_plan(self):
        """
        Strategies that stop after a delay see virtual time, pauses and runs alike.
        """
        world = World(took=2.0, a=[failed() for _ in range(99)])
        world.time = 1e9

        world.run(a.retrying(stop=tenacity.stop_after_delay(10), wait=tenacity.wait_fixed(3)))

        assert ["a", 3.0, "a", 3.0, "a"] == world.log

    def test_shows_strategies_what_tenacity_shows_them(self):
        """
        A strategy of one's own finds attempt, outcome, delay and time slept where tenacity has them.
        """
        seen = []

        def stop(state):
            error = state.outcome.exception()
            seen.append((state.attempt_number, str(error), state.seconds_since_start, state.idle_for))
            return state.attempt_number == 2

        world = World(took=1.0, a=[failed(OSError("one")), failed(OSError("two"))])
        world.run(a.retrying(stop=stop, wait=tenacity.wait_fixed(5)))

        assert [(1, "one", 1.0, 0.0), (2, "two", 7.0, 5.0)] == seen

    def test_does_not_wait_for_nothing(self):
        """
        A wait that would end at the deadline or after it is not begun: nothing could be run then.
        """
        world = World(a=[failed() for _ in range(9)])
        first = world.script["a"][1]

        tree = a.retrying(stop=tenacity.stop_never, wait=tenacity.wait_fixed(2))
        assert first is world.run(tree.within(4))
        assert ["a", 2.0, "a"] == world.log

    def test_can_be_stopped_in_a_wait(self):
        """
        A pause may be answered with the outcome that ends the plan.
        """
        world = World(a=[failed()], pauses=[CANCELLED])

        assert CANCELLED == world.run(h + a.retrying(stop=tenacity.stop_never, wait=tenacity.wait_fixed(2)))
        assert (["h", "a", 2.0], [h]) == (world.log, world.applied)

    @pytest.mark.parametrize("wait", [0.0, -1.0, math.nan])
    def test_ends_even_if_nothing_stops_it(self, wait):
        """
        Without a pause and an end there is still a bound.
        """
        world = World(a=[failed() for _ in range(TRIES_LIMIT + 1)])

        world.run(a.retrying(stop=tenacity.stop_never, wait=lambda state: wait))

        assert ["a"] * TRIES_LIMIT == world.log

    def test_starts_anew_in_every_run(self):
        """
        The tree keeps nothing of a run.
        """
        tree = a.retrying(stop=tenacity.stop_after_attempt(2))

        for _ in range(2):
            world = World(a=[failed(), failed(), DONE])
            assert not world.run(tree).ok
            assert ["a", "a"] == world.log

    def test_lets_the_error_of_a_strategy_out(self):
        """
        A strategy that raises is a mistake that the runner gets to see; what is applied stays known.
        """

        def stop(state):
            raise ZeroDivisionError

        world = World(a=[failed()])
        with pytest.raises(ZeroDivisionError):
            world.run(h + a.retrying(stop=stop))
        assert [h] == world.applied


class TestByFault:
    def test_runs_the_action_for_the_fault(self):
        """
        The kind chooses, also deep in a tree.
        """
        tree = (by_fault({"stale": a + b, "down": h}, default=c).named("x") + a).within(9)
        runs = {}
        for kind in ("stale", "down", "auth"):
            world = World()
            world.run(tree, fault=Fault(kind))
            runs[kind] = world.log

        assert {"stale": ["a", "b", "a"], "down": ["h", "a"], "auth": ["c", "a"]} == runs


class TestRevert:
    def test_goes_backwards_leaf_by_leaf(self):
        """
        Last applied, first reverted; what was reverted leaves the list.
        """
        world = World()
        world.run(h + a + g)
        world.log.clear()

        assert DONE == world.revert()
        assert (["un_g", "un_h"], []) == (world.log, world.applied)

    def test_of_nothing_is_done(self):
        """
        There is nothing to wait for.
        """
        world = World()

        assert DONE == world.revert()
        assert [] == world.log

    @pytest.mark.parametrize("outcome", [failed(), CANNOT_HELP, ABANDONED, CANCELLED])
    def test_stops_at_the_first_that_fails(self, outcome):
        """
        The order is kept: what lies below waits until what lies above it is gone.
        """
        world = World(un_g=[outcome])
        world.applied = [h, g]

        assert outcome is world.revert()
        assert (["un_g"], [h, g]) == (world.log, world.applied)

    def test_has_a_deadline(self):
        """
        A revert that would start at the deadline is not started.
        """
        world = World(took=2.0)
        world.applied = [h, g]

        outcome = world.revert(until=2.0)

        assert "time was up before h could start" == str(outcome.error)
        assert (["un_g"], [h]) == (world.log, world.applied)

    def test_of_a_function_is_its_second_function(self):
        """
        A decorated function is applied and reverted like any other leaf.
        """
        held = recovery_action(lambda ctx: None)
        held.reverting(lambda ctx: None)
        world = World()

        world.run(held)

        assert [held] == world.applied


class Parts(Part):
    """Two more parts after the first one, 3 seconds apart."""

    def __init__(self):
        self.name = "part"
        self.pauses = [None, 3.0, 3.0]

    @property
    def pause(self):
        """Until the next part."""
        return self.pauses.pop()


class InParts(Paced):
    def parts(self):
        """A new run."""
        return Parts()


class TestPaced:
    def test_is_carried_out_in_parts_with_pauses_in_between(self):
        """
        Each part is a run of its own, and so is each time that the whole is tried again.
        """
        world = World(part=[DONE, DONE, failed()])
        assert DONE == world.run(InParts().retrying(stop=tenacity.stop_after_attempt(2)))
        assert ["part", 3.0, "part", 3.0, "part"] * 2 == world.log

    def test_ends_with_a_part_that_fails_and_with_its_time(self):
        """
        After a failure there are no more parts; when there is no time for another pause, what was done is done.
        """
        world = World(part=[DONE, CANNOT_HELP])
        assert CANNOT_HELP is world.run(InParts())
        assert DONE == World().run(InParts(), until=4.0)

    def test_can_be_stopped_in_a_pause(self):
        """
        A runner may end it between two parts.
        """
        assert CANCELLED is World(pauses=[CANCELLED]).run(InParts())
