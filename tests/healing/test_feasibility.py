"""
Settings that could never do what they promise are refused where they are put together.
"""

from __future__ import annotations

import pytest

from selfheal.errors import ConfigError
from selfheal.healing import require_feasible
from selfheal.healing.feasibility import require_closable
from selfheal.model import Budget, HealingPolicy, Ladder


def test_the_defaults_are_feasible(rung):
    """
    The default policy, a ladder without cooldowns and 10 actions per 10 minutes go together.
    """
    require_feasible(HealingPolicy(), Ladder((rung("a"), rung("b"))), Budget(10, per=600), what="db")


def test_a_budget_that_could_never_close_is_refused(rung):
    """
    When so many actions never fit into the window the message names what, and the numbers.
    """
    ladder = Ladder((rung("a", cooldown=60, settle=10),))
    policy = HealingPolicy(fall=3, fast_interval=1, verify_within=60)
    require_feasible(policy, ladder, Budget(5, per=360), what="db")
    with pytest.raises(ConfigError, match=r"Budget\(5, per=359\) could never close for db: .* 72 s apart"):
        require_feasible(policy, ladder, Budget(5, per=359), what="db")


def test_the_rung_with_the_least_to_wait_for_decides(rung):
    """
    One rung without cooldown is enough to close the budget.
    """
    ladder = Ladder((rung("a", cooldown=600), rung("b")))
    require_feasible(HealingPolicy(), ladder, Budget(10, per=60), what="db")


def test_no_rungs_and_no_budget_are_feasible(rung):
    """
    Who spends nothing, or is not limited, has nothing to be refused.
    """
    policy = HealingPolicy(fall=5, fast_interval=10, verify_within=60)
    require_feasible(policy, Ladder(), Budget(10, per=1), what="db")
    require_feasible(policy, Ladder((rung("a"),)), None, what="db")


def test_a_verification_that_cannot_succeed_is_refused(rung):
    """
    A rung that settles for longer than it may take to be verified is refused by its name, with or without a budget.
    """
    for budget in (None, Budget(10, per=600)):
        with pytest.raises(ConfigError, match="rung 'slow': verify_within=30"):
            require_feasible(HealingPolicy(), Ladder((rung("a"), rung("slow", settle=60))), budget, what="db")


def test_a_budget_of_several_checks_is_judged_by_all_of_them(rung):
    """
    What one check alone could never use up, two of them can; checks without a ladder add nothing.
    """
    slow = (HealingPolicy(fall=1), Ladder((rung("a", cooldown=60),)))
    idle = (HealingPolicy(), Ladder())
    require_closable(Budget(20, per=600), [slow, slow, idle], what="the process")
    require_closable(Budget(20, per=600), [idle], what="the process")
    with pytest.raises(ConfigError, match=r"Budget\(20, per=600\) could never close for the process: .* 60 s apart"):
        require_closable(Budget(20, per=600), [slow, idle], what="the process")
    fast = (HealingPolicy(fall=1), Ladder((rung("a"),)))
    require_closable(Budget(20, per=1), [slow, fast], what="the process")
