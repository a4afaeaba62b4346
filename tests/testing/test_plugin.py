"""
The pytest plugin and its assertions, as a project that uses them sees them.
"""

from __future__ import annotations

import subprocess
import sys

from typing import Any

import pytest

from selfheal import HealingPolicy, HealthCheck, RecoveryAction, RecoveryContext, Unhealthy
from selfheal.testing import (
    Story,
    VirtualClock,
    assert_healed,
    assert_stepped_down,
    assert_untouched,
    plugin,
    simulate,
)


pytest_plugins = ["pytester"]

POLICY = HealingPolicy(interval=5, timeout=1, fall=2, jitter=0, probation=30)


def story_of(*, kind: str = "stale", until: float = 300, takes: float = 2, helps: bool = True) -> Story:
    """A resource that breaks at 10 s, and a diversion that is stepped down once all is well."""
    clock = VirtualClock()
    diverted: list[bool] = []

    def probe() -> None:
        if clock.now() >= 10 and not (diverted and helps):
            raise Unhealthy(kind)

    class Divert(RecoveryAction):
        kinds = frozenset({"stale"})

        def recover(self, ctx: RecoveryContext) -> None:
            clock.pass_time(takes)
            diverted.append(True)

        def revert(self, ctx: RecoveryContext) -> None:
            pass

    check = HealthCheck(probe, name="db", policy=POLICY, recovery=Divert())
    return simulate([check, HealthCheck(lambda: None, name="other")], until=until, clock=clock)


def test_fixtures_and_assertions_work_in_a_project_of_ones_own(pytester: pytest.Pytester) -> None:
    """
    A test file needs no configuration: the fixtures are there, and the story runs on the test's own clock.
    """
    pytester.makepyfile(
        """
        from selfheal import HealthCheck, Unhealthy, recovery_action
        from selfheal.testing import assert_healed

        def test_ladder(virtual_clock, healing_story):
            healed = []

            @recovery_action
            def renew(ctx):
                virtual_clock.pass_time(3)
                healed.append(True)

            def db():
                if virtual_clock.now() > 60 and not healed:
                    raise Unhealthy("stale")

            story = healing_story(HealthCheck(db, recovery=renew), until=600)
            assert_healed(story, "db", within=10, by="renew")
            assert virtual_clock.now() == 600

        def test_clock(virtual_clock):
            assert virtual_clock.now() == 0
        """
    )
    pytester.runpytest("-p", "no:randomly", "-W", "error").assert_outcomes(passed=2)


def test_fixtures_are_described(pytester: pytest.Pytester) -> None:
    """
    `pytest --fixtures` says what they are for.
    """
    shown = pytester.runpytest("--fixtures", "-p", "no:randomly")
    shown.stdout.re_match_lines(
        [r"virtual_clock -- .*", r".*stands at 0\.", r"healing_story -- .*", r".*virtual time.*"]
    )


def test_pytest_pays_next_to_nothing_for_the_plugin() -> None:
    """
    To load it loads none of the rooms that its fixtures need.
    """
    program = (
        "import sys, pytest; before = set(sys.modules); import selfheal.testing.plugin; "
        "print(*sorted(name for name in set(sys.modules) - before if name.startswith('selfheal')))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert {"selfheal", "selfheal.lazy", "selfheal.testing", "selfheal.testing.plugin"} >= set(done.stdout.split())
    assert "selfheal.testing.plugin" == plugin.__name__


def test_a_healed_story_passes() -> None:
    """
    The last incident is given back; the diversion that healed it was stepped down; the other check was left alone.
    """
    story = story_of()
    (incident,) = story.incidents
    assert incident is assert_healed(story, "db") is assert_healed(story, "db", within=4, by="divert")
    assert_stepped_down(story, "db")
    assert_untouched(story, "other")


@pytest.mark.parametrize(
    ("story", "options", "said"),
    [
        (story_of(until=9), {}, "'db' had nothing to heal until 9 s: no fault was confirmed"),
        (story_of(until=30), {}, "'db' is still being healed at 30 s; its probation counts as well"),
        (story_of(helps=False), {}, "'db' is still being healed at 300 s"),
        (story_of(), {"within": 3}, "'db' was healed in 4 s, not within 3 s"),
        (story_of(), {"by": "restart"}, "'db' was healed by divert, not by restart"),
        (story_of(takes=30, until=500), {"within": 4}, "not within 4 s"),
    ],
)
def test_a_story_that_went_otherwise_fails_and_is_told(story: Story, options: dict[str, Any], said: str) -> None:
    """
    Each failure says in its first line what was not so, and tells the incidents below it.
    """
    with pytest.raises(AssertionError) as failure:
        assert_healed(story, "db", **options)
    first, *rest = str(failure.value).splitlines()
    assert said in first
    assert bool(story.incidents or story.still_open) == any("fault confirmed: stale" in line for line in rest)


def test_health_that_came_back_by_itself_is_no_healing() -> None:
    """
    Where no action of ours has helped, the assertion fails and says how it ended.
    """
    clock = VirtualClock()

    def probe() -> None:
        if 10 <= clock.now() < 20:
            raise Unhealthy("stale")

    story = simulate([HealthCheck(probe, name="db", policy=POLICY)], until=300, clock=clock)
    with pytest.raises(AssertionError, match="'db' was not healed: exhausted"):
        assert_healed(story, "db")
    assert_untouched(story, "db")
    with pytest.raises(AssertionError, match="nothing was held for 'db'"):
        assert_stepped_down(story, "db")


def test_an_action_too_many_is_found() -> None:
    """
    `assert_untouched` names the first action and its time; `assert_stepped_down` what is still in force.
    """
    story = story_of(until=20)
    with pytest.raises(AssertionError, match="'db' was to be left alone, but divert began at 11 s"):
        assert_untouched(story, "db")
    with pytest.raises(AssertionError, match="divert of 'db' is still in force at 20 s"):
        assert_stepped_down(story, "db")


@pytest.mark.parametrize("claim", [assert_healed, assert_untouched, assert_stepped_down])
def test_a_mistyped_name_is_no_proof(claim: object) -> None:
    """
    A check that is not in the story fails the assertion and names those that are.
    """
    assert callable(claim)
    with pytest.raises(AssertionError, match=r"no check is called 'bd'\. There are: db, other\."):
        claim(story_of(), "bd")
