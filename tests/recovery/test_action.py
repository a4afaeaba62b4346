"""
What actions and their operators promise, by example.
"""

from __future__ import annotations

import datetime as dt
import functools
import inspect

import attrs
import pytest
import tenacity

from selfheal.errors import ConfigError
from selfheal.model import Blast, Fault, Ladder
from selfheal.recovery import RecoveryAction, Sequence, by_fault, leaves, recovery_action, rung


STALE = Fault("stale")
DOWN = Fault("down")


class Drain(RecoveryAction):
    def recover(self, ctx):
        """Nothing to do here."""


class RebuildHTTPPool2(RecoveryAction):
    blast = Blast.HOST
    destructive = True
    safe_after_abandon = True

    async def recover(self, ctx):
        """Nothing to do here."""

    def plan(self):
        return "replace the pool"


class Divert(RecoveryAction):
    def __init__(self, name="divert"):
        self.name = name

    def recover(self, ctx):
        """Nothing to do here."""

    def revert(self, ctx):
        """Nothing to do here."""


class Degrade(Divert):
    def revert_when(self):
        return True


drain, rebuild, divert = Drain(), RebuildHTTPPool2(), Divert()


@recovery_action
def warm_cache(ctx):
    return ctx


class TestName:
    def test_of_a_class_is_in_snake_case(self):
        """
        An action is named after its class, spelled like a metric label.
        """
        assert ["drain", "rebuild_http_pool2"] == [drain.name, rebuild.name]

    def test_can_be_set_on_the_class_or_the_instance(self):
        """
        A class attribute, an attribute of the instance and a field of an attrs class win over the derived name.
        """

        class OnClass(Drain):
            name = "on-class"

        class Below(OnClass):
            pass

        @attrs.frozen
        class Field(RecoveryAction):
            name: str = "field"

        @attrs.define
        class NoField(RecoveryAction):
            pool: str = ""

        class BelowField(Field):
            pass

        names = [OnClass().name, Below().name, Divert("x").name, Field("y").name, NoField().name, BelowField("z").name]
        assert ["on-class", "on-class", "x", "y", "no_field", "z"] == names

    @pytest.mark.parametrize("name", ["", "Upper", "a b", "9lives", "ä", "x" * 64, 3])
    def test_must_be_a_metric_label(self, name):
        """
        A name that cannot be a label is refused when a ladder is made of the action, and by `named` at once.
        """
        with pytest.raises(ConfigError, match="not usable as a metric label"):
            Divert(name).as_ladder()
        with pytest.raises(ConfigError, match="not usable as a metric label"):
            drain.named(name)

    def test_of_a_tree_tells_its_parts(self):
        """
        Wrappers keep the name of what they wrap, a sequence and a choice join those of their parts.
        """
        tree = drain + warm_cache.within(5)

        assert "drain_then_warm_cache" == tree.name
        assert "drain_then_warm_cache" == tree.when(kinds={"stale"}).retrying(stop=tenacity.stop_never).name
        assert "drain_or_warm_cache" == by_fault({"stale": drain, "down": drain}, default=warm_cache).name
        assert "both" == tree.named("both").name

    def test_too_long_for_a_label_asks_for_another(self):
        """
        A long sequence is not cut to an ambiguous name: the error names the sequence.
        """
        long = functools.reduce(lambda tree, part: tree + part, [warm_cache] * 6)

        with pytest.raises(ConfigError, match=r"the name of warm_cache \+ warm_cache"):
            long.as_ladder()
        assert "short" == long.named("short").as_ladder().rungs[0].name


class TestLadder:
    def test_escalates_in_order(self):
        """
        `>>` makes a ladder of one rung each, and takes ladders on either side.
        """
        ladder = drain >> rung(rebuild, attempts=2, cooldown=dt.timedelta(seconds=30), settle=1, verify_within=40)
        ladder = ladder >> divert

        assert ["drain", "rebuild_http_pool2", "divert"] == [step.name for step in ladder.rungs]
        assert [drain, rebuild, divert] == [step.action for step in ladder.rungs]
        second = ladder.rungs[1]
        assert (2, 30.0, 1.0, 40.0) == (second.attempts, second.cooldown, second.settle, second.verify_within)

    def test_carries_the_traits_of_its_actions(self):
        """
        A rung knows what its action says about itself.
        """
        plain, mighty, held = (drain >> rebuild >> divert).rungs

        assert (Blast.RESOURCE, False, False, False) == (
            plain.blast,
            plain.destructive,
            plain.safe_after_abandon,
            plain.held,
        )
        assert (Blast.HOST, True, True, False) == (
            mighty.blast,
            mighty.destructive,
            mighty.safe_after_abandon,
            mighty.held,
        )
        assert (True, None) == (held.held, held.revert_when)

    def test_of_one_action_is_that_of_its_rung(self):
        """
        An action stands for a ladder of itself, tried once.
        """
        assert rung(drain) == drain.as_ladder()
        assert 1 == drain.as_ladder().rungs[0].attempts

    def test_prints_the_operators(self):
        """
        A ladder is printed as it is written, with the parentheses it needs.
        """
        ladder = (
            (drain + warm_cache).within(5).retrying(stop=tenacity.stop_after_attempt(3), wait=tenacity.wait_fixed(1))
            >> divert.when(kinds=["stale", "down"]).named("aside") + warm_cache
            >> by_fault({"stale": rebuild + drain}, default=warm_cache).within(0.5)
            >> by_fault({"down": drain})
        )

        assert (
            "(drain + warm_cache).within(5).retrying(stop=stop_after_attempt(...), wait=wait_fixed(...))"
            " >> divert.when(kinds={'down', 'stale'}).named('aside') + warm_cache"
            " >> by_fault({'stale': rebuild_http_pool2 + drain}, default=warm_cache).within(0.5)"
            " >> by_fault({'down': drain})"
        ) == repr(ladder)

    def test_has_no_operators_of_actions(self):
        """
        A deadline, retries and fault kinds belong to actions; a ladder has none of them.
        """
        for operator in ("within", "retrying", "when", "named"):
            assert not hasattr(drain >> rebuild, operator)

    @pytest.mark.parametrize(
        "mix",
        [
            lambda: warm_cache + (drain >> rebuild),
            lambda: (drain >> rebuild) + warm_cache,
            lambda: (drain >> rebuild) + (warm_cache >> divert),
            lambda: (warm_cache + drain) + rung(rebuild),
        ],
    )
    def test_inside_plus_says_where_the_parentheses_belong(self, mix):
        """
        A ladder cannot be a part of one rung, and the error shows how to write it.
        """
        with pytest.raises(TypeError, match=r"puts a ladder into one rung.*write \(a \+ b\) >> c"):
            mix()

    @pytest.mark.parametrize("other", [3, None, "drain", len, Drain])
    def test_takes_actions_only(self, other):
        """
        What is no action cannot stand beside an operator: not a number, a function or a class.
        """
        with pytest.raises(TypeError, match="unsupported operand"):
            drain >> other
        with pytest.raises(TypeError, match="unsupported operand"):
            drain + other

    def test_refuses_what_is_not_one_action(self):
        """
        `rung` takes one action: a ladder, a class and a value are refused with what to write instead.
        """
        with pytest.raises(ConfigError, match=r"drain >> divert is a ladder; one action is needed here"):
            rung(drain >> divert)
        with pytest.raises(ConfigError, match=r"Drain is a class; an action is an instance of it: Drain\(\)"):
            rung(Drain)
        with pytest.raises(ConfigError, match="3 is not a function"):
            rung(3)
        with pytest.raises(ConfigError, match="attempts=0"):
            rung(drain, attempts=0)


class TestSequence:
    def test_is_flat(self):
        """
        A sequence of sequences is one sequence.
        """
        assert (drain + warm_cache) + divert == drain + (warm_cache + divert)
        assert (drain, warm_cache, divert) == (drain + (warm_cache + divert)).branches

    def test_has_the_traits_of_its_parts(self):
        """
        It is held or destructive if a part is, reaches as far as the furthest, and is safe only if all parts are.
        """
        tree = (rebuild.within(3) + divert).named("both")

        assert (True, True, Blast.HOST, False) == (tree.held, tree.destructive, tree.blast, tree.safe_after_abandon)
        assert (rebuild + rebuild).safe_after_abandon
        assert not (rebuild + drain).held

    def test_applies_where_all_parts_do(self):
        """
        A part that is not for a fault keeps the whole rung from it.
        """
        tree = drain + warm_cache.when(kinds={"stale"})

        assert [True, False] == [tree.applies(STALE), tree.applies(DOWN)]

    def test_has_one_probe_to_be_reverted_on(self):
        """
        One part may name the better state; with two of them it would be unclear what to wait for.
        """
        degrade = Degrade("degrade")

        assert degrade.revert_when == (degrade + divert + degrade).revert_when
        with pytest.raises(ConfigError, match="degrade and other each name revert_when"):
            degrade + Degrade("other")


class TestTree:
    def test_is_a_frozen_value(self):
        """
        Equal trees are equal and hash alike; nothing about them can be changed.
        """
        tree = (drain + divert).within(5)

        assert tree == (drain + divert).within(5)
        assert hash(tree) == hash((drain + divert).within(dt.timedelta(seconds=5)))
        assert tree != (drain + divert).within(6)
        assert tree != (drain + divert).named(tree.name)
        assert tree != drain
        with pytest.raises(attrs.exceptions.FrozenInstanceError):
            tree.limit = 3
        with pytest.raises(attrs.exceptions.FrozenInstanceError):
            del tree.name

    def test_is_not_run_by_itself(self):
        """
        Only single actions are run; a tree says so when it is asked to.
        """
        with pytest.raises(NotImplementedError, match=r"drain \+ divert has no recover of its own"):
            (drain + divert).recover(None)
        with pytest.raises(NotImplementedError, match="drain has no revert of its own"):
            drain.revert(None)

    def test_knows_its_leaves(self):
        """
        The single actions come from left to right.
        """
        tree = by_fault({"stale": drain + rebuild.within(1)}, default=divert).named("x")

        assert (drain, rebuild, divert) == leaves(tree)

    def test_says_what_it_would_do(self):
        """
        The plan of a tree is made of those of its parts.
        """
        tree = drain + by_fault({"stale": rebuild.within(3), "down": drain}, default=divert)

        assert "drain; then stale: replace the pool; down: drain; else: divert" == tree.plan()
        assert "stale: replace the pool" == by_fault({"stale": rebuild}).plan()

    @pytest.mark.parametrize("limit", [0, -1, float("inf")])
    def test_needs_a_real_deadline(self, limit):
        """
        A deadline is finite and in the future.
        """
        with pytest.raises(ConfigError, match=r"within\(.*\): the deadline must be a finite number"):
            drain.within(limit)

    @pytest.mark.parametrize("limit", [float("nan"), "5", None, True])
    def test_needs_a_time_as_deadline(self, limit):
        """
        What is no time is refused as such.
        """
        with pytest.raises(ConfigError, match="is not a time"):
            drain.within(limit)

    @pytest.mark.parametrize("kinds", ["stale", set(), ()])
    def test_needs_a_set_of_kinds(self, kinds):
        """
        A single string is not taken for its letters, and no kinds at all would never apply.
        """
        with pytest.raises(ConfigError, match="give a set of fault kinds"):
            drain.when(kinds=kinds)

    def test_needs_kinds_that_are_names(self):
        """
        A fault kind is a metric label.
        """
        with pytest.raises(ConfigError, match="fault kind 'Read Only'"):
            drain.when(kinds={"Read Only"})
        with pytest.raises(ConfigError, match="fault kind 'Read Only'"):
            by_fault({"Read Only": drain})


class TestRetrying:
    @pytest.mark.parametrize("given", [{"stop": 3}, {"stop": None}, {"wait": 1}, {"retry": OSError("x")}])
    def test_takes_strategies_only(self, given):
        """
        Numbers are not strategies, and without a stop strategy it would have no end.
        """
        with pytest.raises(ConfigError, match=r"must be one of tenacity's .* strategies"):
            drain.retrying(**{"stop": tenacity.stop_after_attempt(3)} | given)

    def test_takes_plain_functions(self):
        """
        Any callable is a strategy, as in tenacity, and is printed by its name.
        """

        def soon(state):
            return 1.0

        tree = drain.retrying(stop=tenacity.stop_never, wait=soon, retry=tenacity.retry_if_exception_type(OSError))

        assert "drain.retrying(stop=_stop_never(...), wait=soon, retry=retry_if_exception_type(...))" == repr(tree)

    def test_refuses_what_is_not_idempotent(self):
        """
        Nobody repeats blindly what may have been done half-way, not even as a part of something.
        """
        once = recovery_action(idempotent=False)(lambda ctx: None)
        once = once.named("once")

        with pytest.raises(ConfigError, match=r"is not idempotent.*Use rung\(action, attempts=\.\.\.\)"):
            (drain + once).retrying(stop=tenacity.stop_never)
        assert 3 == rung(once, attempts=3).rungs[0].attempts


class TestApplies:
    def test_to_all_faults_unless_restricted(self):
        """
        Kinds come from the class or from `when`; both have to agree.
        """

        class ForStale(Drain):
            kinds = frozenset({"stale"})

        assert drain.applies(DOWN)
        assert [True, False] == [ForStale().applies(fault) for fault in (STALE, DOWN)]
        both = ForStale().when(kinds={"down", "stale"})
        assert [True, False] == [both.applies(fault) for fault in (STALE, DOWN)]

    def test_by_fault_where_there_is_an_action(self):
        """
        Without a match and a default the rung does not apply; the default takes all the rest.
        """
        choice = by_fault({"stale": drain})

        assert [True, False] == [choice.applies(fault) for fault in (STALE, DOWN)]
        assert by_fault({"stale": drain}, default=divert).applies(DOWN)
        assert not by_fault({"stale": drain}, default=divert.when(kinds={"auth"})).applies(DOWN)
        assert not choice.as_ladder().rungs[0].applies(DOWN)

    def test_by_fault_takes_actions(self):
        """
        It needs at least one case, and its cases are actions.
        """
        with pytest.raises(ConfigError, match="give at least one fault kind"):
            by_fault({})
        with pytest.raises(ConfigError, match="is a ladder; one action is needed here"):
            by_fault({"stale": drain >> divert})
        with pytest.raises(ConfigError, match="Drain is a class"):
            by_fault({"stale": drain}, default=Drain)


class TestRunnable:
    """
    What could only fail at night fails when the ladder is built.
    """

    def test_needs_a_recover(self):
        """
        An action that does nothing is refused.
        """

        class Empty(RecoveryAction):
            pass

        with pytest.raises(ConfigError, match=r"Empty does not say what it does: write def recover\(self, ctx\)"):
            drain >> Empty()

    def test_needs_methods_that_take_the_context(self):
        """
        A method with other parameters is refused by name, also deep inside a tree.
        """

        class NoContext(RecoveryAction):
            def recover(self):
                """Nothing to do here."""

        class RevertsNoContext(Drain):
            def revert(self, ctx, more):
                """Nothing to do here."""

        with pytest.raises(ConfigError, match=r"NoContext\.recover must take one argument"):
            rung((drain + NoContext()).within(3))
        with pytest.raises(ConfigError, match=r"RevertsNoContext\.revert must take one argument"):
            RevertsNoContext().as_ladder()

    def test_needs_something_to_revert_for_a_probe(self):
        """
        `revert_when` without `revert` is a mistake.
        """

        class Odd(Drain):
            def revert_when(self):
                return True

        with pytest.raises(ConfigError, match="odd names revert_when but has nothing to revert"):
            Odd().as_ladder()

    def test_needs_a_probe_without_arguments(self):
        """
        The probe is called with nothing.
        """

        class Greedy(Divert):
            def revert_when(self, ctx):
                return True

        with pytest.raises(ConfigError, match="revert_when of greedy must be a probe without arguments"):
            Greedy("greedy").as_ladder()

    def test_needs_kinds_that_are_no_string(self):
        """
        `kinds = "stale"` would match by letters.
        """

        class Letters(Drain):
            kinds = "stale"

        with pytest.raises(ConfigError, match=r"Letters\.kinds='stale': give a set"):
            Letters().as_ladder()

    def test_takes_builtins_that_do_not_tell_their_signature(self):
        """
        A function written in C that hides its parameters is given the benefit of the doubt.
        """
        with pytest.raises(ValueError, match="no signature"):
            inspect.signature(int)

        class Opaque(Divert):
            revert_when = int

        assert int is Opaque("opaque").as_ladder().rungs[0].revert_when


class TestHeld:
    def test_is_who_writes_a_revert(self):
        """
        A class, a subclass of it, and an instance with a revert of its own are held.
        """
        own = Drain()
        own.revert = lambda ctx: None

        assert [False, True, True, True] == [drain.held, divert.held, Degrade("x").held, own.held]
        assert isinstance(drain + divert, Sequence)
        assert Ladder() != divert.as_ladder()
