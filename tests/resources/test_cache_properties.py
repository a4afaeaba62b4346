"""
CacheGate against a slow oracle, its plans driven step by step, so that everything may happen in between.

Every step of a caller has a beginning and an end. What a read or a load has
seen at its beginning arrives at its end, however much later that is.
"""

from __future__ import annotations

from typing import Any

import attrs
import hypothesis.strategies as st

from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from selfheal.resources import CacheGate, GateMode, SharedCache
from selfheal.resources.steps import Wait
from selfheal.testing import VirtualClock


KEYS = st.sampled_from("ab")
POISON = "poison"


class Stopped(BaseException):
    """A cancellation."""


class FailedError(Exception):
    """What a load or a cache raises."""


@attrs.define(eq=False)
class Caller:
    """One get under way: its plan, the step it is at, and what that step has seen."""

    key: str
    plan: Any
    dropped: int  # how often the key had been dropped when it asked
    epoch: int  # that was known when it asked
    step: Any = None
    seen: Any = None
    has_begun: bool = False


class Gate(RuleBasedStateMachine):
    """The model: which loads are under way, and what every value was loaded in."""

    @initialize(shared=st.booleans(), sample=st.sampled_from([0, 1]))
    def make(self, shared: bool, sample: int) -> None:
        self.data: dict[Any, Any] = {}
        self.clock = VirtualClock()
        cache: Any = self.data
        if shared:
            cache = SharedCache(
                get=self.data.get, set=self.data.__setitem__, delete=lambda key: self.data.pop(key, None)
            )
        self.sample = sample
        self.gate: CacheGate[str, Any] = CacheGate(
            cache,
            self.load,
            validator=lambda _key, value: value != POISON,
            sample=sample,
            epoch_every=0,
            clock=self.clock,
        )
        self.callers: list[Caller] = []
        self.loading: list[str] = []
        self.drops = {"a": 0, "b": 0}
        self.is_failing = False

    def load(self, key: str) -> Any:
        assert key not in self.loading, f"two loads of {key} at a time"
        self.loading.append(key)
        if self.is_failing:
            raise FailedError
        return f"{self.gate.epoch}/{self.drops[key]}"

    # -- callers --

    @rule(key=KEYS)
    def ask(self, key: str) -> None:
        caller = Caller(key, None, self.drops[key], self.gate.epoch or 0)
        fetching = self.gate._fetching
        verify = fetching.draw()
        caller.plan = fetching.getting(key, caller, verify=verify)
        self.callers.append(caller)
        self.go_on(caller, lambda: next(caller.plan))

    @precondition(lambda self: any(not caller.has_begun for caller in self.callers))
    @rule(data=st.data())
    def a_step_begins(self, data: st.DataObject) -> None:
        caller = data.draw(st.sampled_from([caller for caller in self.callers if not caller.has_begun]))
        self.begin(caller)

    @precondition(lambda self: any(caller.has_begun for caller in self.callers))
    @rule(data=st.data())
    def a_step_ends(self, data: st.DataObject) -> None:
        self.end(data.draw(st.sampled_from([caller for caller in self.callers if caller.has_begun])))

    @precondition(lambda self: self.callers)
    @rule(data=st.data())
    def a_caller_is_cancelled(self, data: st.DataObject) -> None:
        caller = data.draw(st.sampled_from(self.callers))
        self.landed(caller)
        caller.has_begun = False
        self.go_on(caller, lambda: caller.plan.throw(Stopped()))

    def begin(self, caller: Caller) -> None:
        if isinstance(caller.step, Wait):
            if caller.step.signal.wait(0):
                self.go_on(caller, lambda: caller.plan.send(True))
            return
        caller.has_begun = True
        try:
            caller.seen = caller.step()
        except FailedError as exc:
            caller.seen = exc

    def end(self, caller: Caller) -> None:
        seen = caller.seen
        self.landed(caller)
        caller.has_begun = False
        if isinstance(seen, Exception):
            self.go_on(caller, lambda: caller.plan.throw(seen))
        else:
            self.go_on(caller, lambda: caller.plan.send(seen))

    def landed(self, caller: Caller) -> None:
        if caller.has_begun and getattr(caller.step, "func", None) == self.load:
            self.loading.remove(caller.key)

    def go_on(self, caller: Caller, resume: Any) -> None:
        try:
            caller.step = resume()
        except StopIteration as end:
            self.judge(caller, end.value)
        except (FailedError, Stopped):
            self.callers.remove(caller)

    def judge(self, caller: Caller, value: Any) -> None:
        self.callers.remove(caller)
        if value == POISON:
            assert not self.sample, "poison was given although everything is validated"
            return
        epoch, drops = value.split("/")
        assert int(epoch if epoch != "None" else 0) >= caller.epoch, "a value from before its epoch was given"
        assert int(drops) >= caller.dropped, "a value from before its key was dropped was given"

    # -- what happens meanwhile --

    @rule()
    def bump(self) -> None:
        self.gate.bump()

    @rule(mode=st.sampled_from(GateMode))
    def change_mode(self, mode: GateMode) -> None:
        self.gate.mode = mode

    @rule(key=KEYS)
    def drop(self, key: str) -> None:
        self.drops[key] += 1
        self.gate.drop(key)

    @rule()
    def the_cache_is_emptied(self) -> None:
        epoch = self.data.get("cache:epoch")
        self.data.clear()
        if epoch is not None:
            self.data["cache:epoch"] = epoch

    @rule(key=KEYS)
    def poison(self, key: str) -> None:
        stamped = f"cache:{self.gate.epoch}:{key}" if self.gate.is_shared else (self.gate.epoch, key)
        self.data[stamped] = POISON

    @rule()
    def loads_fail_or_succeed(self) -> None:
        self.is_failing = not self.is_failing

    @rule()
    def others_begin_an_epoch(self) -> None:
        if self.gate.is_shared and self.gate.epoch is not None:
            self.data["cache:epoch"] = str(self.gate.epoch + 1)

    # -- what always holds --

    @invariant()
    def one_load_a_key(self) -> None:
        assert len(self.loading) == len(set(self.loading))

    def teardown(self) -> None:
        """Nobody is left waiting, whatever has happened."""
        for _ in range(1000):
            if not getattr(self, "callers", None):
                return
            for caller in tuple(self.callers):
                (self.end if caller.has_begun else self.begin)(caller)
        raise AssertionError(f"{len(self.callers)} callers wait for ever")


TestGate = Gate.TestCase
TestGate.settings = settings(stateful_step_count=40)
TestGate.__doc__ = "No value of an older epoch is given, no key is loaded twice at a time, and nobody waits for ever."
