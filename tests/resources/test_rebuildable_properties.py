"""
Rebuildable against a simple model, its plans driven step by step, so that everything may happen in between.
"""

import threading

from collections.abc import Callable
from typing import Any

import hypothesis.strategies as st

from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from selfheal import Rebuildable
from selfheal.errors import IllegalTransitionError, RebuildError
from selfheal.resources.steps import Wait


class Thing:
    """Numbered, and closed once."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.closings = 0


def in_a_thread(call: Callable[[], Any]) -> Any:
    """A plan knows by its thread who builds: what this returns was done by somebody else."""
    answer: list[Any] = []

    def run() -> None:
        try:
            answer.append((call(), None))
        except BaseException as exc:
            answer.append((None, exc))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(10)
    result, error = answer[0]
    if error is not None:
        raise error
    return result


class Replacing(RuleBasedStateMachine):
    """The model: which thing is in service, and how many leases each has."""

    def __init__(self) -> None:
        super().__init__()
        self.made: list[Thing] = []
        self.things: Rebuildable[Thing] = Rebuildable(
            self.make, verify=self.verify, close=self.close_thing, name="things", grace=600, close_deadline=600
        )
        self.live: Thing | None = None
        self.leases: list[tuple[Any, Thing]] = []
        self.retiring: set[Thing] = set()
        self.pilot: tuple[Any, Any] | None = None  # a plan, and what it waits for
        self.built: Thing | None = None  # what the pilot has made so far
        self.waiting: list[Any] = []
        self.is_closed = False

    def make(self) -> Thing:
        self.made.append(Thing(len(self.made) + 1))
        return self.made[-1]

    def verify(self, thing: Thing) -> None:
        assert thing is self.made[-1]

    def close_thing(self, thing: Thing) -> None:
        thing.closings += 1

    def leased(self, thing: Thing) -> int:
        return sum(leased is thing for _, leased in self.leases)

    def settle(self) -> None:
        """Whatever has no leases and is being retired goes at once."""
        generations = {old.value: old for old in self.things._retirement.under_way}
        for thing in {thing for thing in self.retiring if not self.leased(thing)}:
            if thing in generations:
                assert generations[thing].gone.wait(5)
            self.retiring.remove(thing)

    # -- using it --

    @precondition(lambda self: not self.is_closed and (self.live or not self.pilot))
    @rule()
    def use(self) -> None:
        lease = self.things.use()
        thing = lease.__enter__()
        self.live = self.live or self.made[-1]
        assert thing is self.live
        self.leases.append((lease, thing))

    @precondition(lambda self: self.is_closed)
    @rule()
    def use_when_closed(self) -> None:
        try:
            self.things.use().__enter__()
        except IllegalTransitionError:
            return
        raise AssertionError("a closed one was used")

    @precondition(lambda self: self.leases)
    @rule(data=st.data())
    def give_back(self, data: st.DataObject) -> None:
        lease, _ = self.leases.pop(data.draw(st.integers(0, len(self.leases) - 1)))
        lease.__exit__()
        self.settle()

    # -- replacing it --

    @rule()
    def rebuild(self) -> None:
        plan = self.things._succession.plan()
        if self.is_closed:
            try:
                next(plan)
            except IllegalTransitionError:
                return
            raise AssertionError("a closed one was rebuilt")
        if self.pilot is None:
            self.steer(plan, in_a_thread(lambda: next(plan)))
        else:
            assert isinstance(next(plan), Wait)
            self.waiting.append(plan)

    def steer(self, plan: Any, step: Any) -> None:
        assert isinstance(step, Wait) == bool(self.retiring)
        self.pilot, self.built = (plan, step), None

    @precondition(lambda self: self.pilot)
    @rule()
    def pilot_goes_on(self) -> None:
        assert self.pilot is not None
        plan, step = self.pilot
        try:
            if isinstance(step, Wait):
                self.pilot = (plan, plan.send(not self.retiring))
                return
            answer = step()
            self.pilot = (plan, plan.send(answer))
            self.built = answer
        except RebuildError:
            assert self.retiring
            self.landed(None, RebuildError)
        except IllegalTransitionError:
            assert self.is_closed
            self.dropped()
            self.landed(None, IllegalTransitionError)
        except StopIteration as end:
            assert end.value is self.built
            if self.live:
                self.retiring.add(self.live)
            self.live = self.built
            self.landed(self.live, None)

    @precondition(lambda self: self.pilot)
    @rule(error=st.sampled_from([OSError, KeyboardInterrupt]))
    def pilot_fails(self, error: type[BaseException]) -> None:
        assert self.pilot is not None
        plan, _ = self.pilot
        try:
            plan.throw(error())
        except (RebuildError, KeyboardInterrupt) as exc:
            assert isinstance(exc, KeyboardInterrupt) == (error is KeyboardInterrupt)
        self.dropped()
        self.landed(None, RebuildError if error is OSError else None)

    def dropped(self) -> None:
        if self.built:
            self.retiring.add(self.built)

    def landed(self, thing: Thing | None, error: type[Exception] | None) -> None:
        self.settle()
        self.pilot, self.built, waiting, self.waiting = None, None, self.waiting, []
        for plan in waiting:
            try:
                # The first may take over; the rest must not be taken for it, whose thread's number is free again.
                step = plan.send(True) if self.pilot else in_a_thread(lambda plan=plan: plan.send(True))
            except StopIteration as end:
                assert end.value is thing
            except (RebuildError, IllegalTransitionError) as exc:
                assert isinstance(exc, error or IllegalTransitionError)
                assert error or self.is_closed
            else:
                assert thing is error is None
                if self.pilot is None:  # it takes over
                    self.steer(plan, step)
                else:
                    self.waiting.append(plan)

    @rule()
    def close(self) -> None:
        for step in self.things._succession.plan_close():
            assert isinstance(step, Wait)
        self.is_closed = True
        if self.live:
            self.retiring.add(self.live)
        self.live = None
        self.settle()

    # -- what always holds --

    @invariant()
    def the_numbers_agree(self) -> None:
        assert (0 if self.live is None else self.live.number) == self.things.generation
        assert {thing.number for thing in self.retiring | {self.live} if thing} == set(self.things.generations)
        assert len(self.leases) == self.things.statistics().leases

    @invariant()
    def at_most_two_are_alive(self) -> None:
        alive = [thing for thing in self.made if not thing.closings]
        assert len(alive) <= 2

    @invariant()
    def what_is_in_use_is_open_and_what_is_gone_was_closed_once(self) -> None:
        for thing in self.made:
            is_alive = thing in (self.live, self.built) or thing in self.retiring
            assert (0 if is_alive else 1) == thing.closings

    def teardown(self) -> None:
        while self.leases:
            lease, _ = self.leases.pop()
            lease.__exit__()
        self.settle()
        while self.pilot:
            self.pilot_goes_on()
        self.things.close()
        assert all(thing.closings == 1 for thing in self.made)


TestReplacing = Replacing.TestCase
TestReplacing.__doc__ = "However uses, rebuilds, failures, cancellations and closing interleave, the model is followed."
TestReplacing.settings = settings(settings.default, stateful_step_count=40)
