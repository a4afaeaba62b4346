"""
What decorated functions promise, by example.
"""

from __future__ import annotations

import functools
import inspect

import pytest

from selfheal.errors import ConfigError
from selfheal.model import Blast
from selfheal.recovery import FunctionAction, as_action, recovery_action, rung


@recovery_action
def warm_cache(ctx):
    """Warm it."""
    return ["warmed", ctx]


@recovery_action(name="fetch", blast=Blast.FLEET, destructive=True, idempotent=False, safe_after_abandon=True)
async def fetch_all(ctx):
    """Fetch it."""


class TestDecorator:
    def test_makes_an_action_that_can_still_be_called(self):
        """
        The function is an action now, is called like before, and keeps its documentation and signature.
        """
        assert isinstance(warm_cache, FunctionAction)
        assert ["warmed", 3] == warm_cache(3)
        assert ["warmed", 3] == warm_cache.recover(3)
        assert ("Warm it.", "warm_cache", "(ctx)") == (
            warm_cache.__doc__,
            warm_cache.__name__,
            str(inspect.signature(warm_cache)),
        )

    def test_takes_options(self):
        """
        With parentheses the traits are set.
        """
        step = fetch_all.as_ladder().rungs[0]

        assert ("fetch", Blast.FLEET, True, True) == (step.name, step.blast, step.destructive, step.safe_after_abandon)
        assert not fetch_all.idempotent
        assert "warm_cache" == recovery_action()(warm_cache.function).name

    def test_shows_its_colour(self):
        """
        A runner sees whether the function is a coroutine function.
        """
        assert inspect.iscoroutinefunction(fetch_all.recover)
        assert not inspect.iscoroutinefunction(warm_cache.recover)

    def test_is_equal_to_itself_only(self):
        """
        Two actions of one function are two actions.
        """
        assert warm_cache == warm_cache
        assert recovery_action(warm_cache.function) != recovery_action(warm_cache.function)

    @pytest.mark.parametrize(
        ("function", "what"),
        [
            (lambda: None, r"lambda.*must take one argument, the RecoveryContext"),
            (lambda self, ctx: None, "must take one argument"),
            (lambda *, ctx: None, "must take one argument"),
            ("warm", "'warm' is not a function"),
            (warm_cache, "warm_cache is an action already"),
        ],
    )
    def test_refuses_what_cannot_be_called_with_the_context(self, function, what):
        """
        The error says what is wrong and how to write it.
        """
        with pytest.raises(ConfigError, match=what):
            recovery_action(function)

    def test_refuses_generators(self):
        """
        Calling a generator function runs nothing, so it would heal nothing.
        """

        def lazy(ctx):
            yield

        async def lazier(ctx):
            yield

        for function in (lazy, lazier):
            with pytest.raises(ConfigError, match="is a generator: calling it would do nothing"):
                recovery_action(function)

    def test_refuses_a_blast_that_is_none(self):
        """
        What is no `Blast` is refused at once.
        """
        with pytest.raises(ValueError, match="9 is not a valid Blast"):
            recovery_action(blast=9)(lambda ctx: None)


class TestReverting:
    def test_makes_it_held(self):
        """
        The second function takes the action back; it stays a function.
        """

        @recovery_action(revert_when=lambda: True)
        def divert(ctx):
            return "there"

        tree = divert.within(3)
        assert not divert.held

        @divert.reverting
        def back(ctx):
            return "back"

        assert divert.held
        assert tree.held
        assert ("back", "back") == (back(None), divert.revert(None))
        assert divert.as_ladder().rungs[0].held

    def test_happens_once(self):
        """
        A second revert would silently replace the first.
        """
        divert = recovery_action(lambda ctx: None)
        divert.reverting(lambda ctx: None)

        with pytest.raises(ConfigError, match="has a function that reverts it already"):
            divert.reverting(lambda ctx: None)

    def test_needs_the_context_too(self):
        """
        A refused revert changes nothing.
        """
        divert = recovery_action(lambda ctx: None)

        with pytest.raises(ConfigError, match="must take one argument"):
            divert.reverting(lambda: None)
        assert not divert.held

    def test_is_needed_for_a_probe(self):
        """
        `revert_when` alone has nothing to wait with.
        """
        with pytest.raises(ConfigError, match="divert names revert_when but has nothing to revert"):
            recovery_action(name="divert", revert_when=lambda: True)(lambda ctx: None).as_ladder()


class TestPlainFunction:
    def test_is_taken_by_rung(self):
        """
        A function needs no decorator to stand on a rung, and lends it its name.
        """

        def restartWorker(ctx):  # noqa: N802
            """Nothing to do here."""

        assert "restart_worker" == rung(restartWorker).rungs[0].name
        bound = functools.partial(functools.partial(lambda ctx, depth: None, depth=3))
        assert "deep" == recovery_action(name="deep")(bound).name

    def test_can_be_any_callable(self):
        """
        Bound methods and objects with __call__ will do.
        """

        class Restart:
            def __call__(self, ctx):
                """Nothing to do here."""

            def soft(self, ctx):
                """Nothing to do here."""

        assert ["restart", "soft"] == [as_action(Restart()).name, as_action(Restart().soft).name]
        assert warm_cache is as_action(warm_cache)

    def test_without_a_name_asks_for_one(self):
        """
        A lambda has no name that could be a label.
        """
        with pytest.raises(ConfigError, match="'<lambda>'"):
            rung(lambda ctx: None)
