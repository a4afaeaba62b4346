"""
Checks: ladders that cannot work, or work too well.
"""

from __future__ import annotations

import math

from collections.abc import Iterable
from typing import Final, cast

from selfheal.doctor.findings import Rule, Severity, Sign, Signs, rule
from selfheal.doctor.kinds import CHECK, SIGN_OF_LIFE
from selfheal.doctor.subjects import Watched
from selfheal.model import Blast, Budget, Rung
from selfheal.recovery import RecoveryAction
from selfheal.recovery.function import kinds_named_by


#: Seconds that a ladder may have to wait for its budget before the dearer rungs come too late.
_WAIT_MAX: Final = 60.0

#: Actions an hour beyond which a resource is not healed but kept busy. The healer's own default allows just as many.
_HOURLY_MAX: Final = 60.0


def longest(rungs: Iterable[Rung], kinds: Iterable[str]) -> int:
    """
    How many rungs there are for the fault that has most of them.
    """
    named = [kinds_named_by(cast("RecoveryAction", rung.action)) for rung in rungs]
    return max(sum(not only or kind in only for only in named) for kind in kinds)


def too_narrow(budget: Budget, rungs: int) -> str:
    """
    What is wrong if a ladder of so many rungs has to wait for its budget; else nothing.
    """
    waits = (math.ceil(rungs / budget.limit) - 1) * budget.per
    if waits <= _WAIT_MAX:
        return ""
    return f"Budget({budget.limit}, per={budget.per:g}) keeps the last of {rungs} rungs waiting for {waits:g} s"


@rule(
    "SH701",
    Severity.INFO,
    CHECK,
    "a check that nothing heals",
    why="Its faults are seen and told, and then stay: the check is exhausted as soon as one is confirmed.",
)
def nothing_heals(watched: Watched) -> Signs:
    """It has no recovery."""
    if watched.check.recovery.rungs or watched.is_needed or watched.check.self_doubt:
        return
    if not any(SIGN_OF_LIFE.has(found.thing) for found in watched.probing):
        yield Sign("it has no recovery", "Pass recovery=, or name it in depends_on= of those checks that wait for it.")


@rule(
    "SH702",
    Severity.WARNING,
    CHECK,
    "no room to prove a healing",
    why="One late or bad answer after a good action refutes it, and the next, dearer rung is tried for nothing.",
)
def no_room(watched: Watched) -> Signs:
    """One bad answer refutes a healing."""
    policy = watched.check.policy
    for rung in watched.check.recovery.rungs:
        within = policy.verify_within if rung.verify_within is None else rung.verify_within
        # What is needed at least is insisted on when the check is built; this is room for one answer more.
        roomy = policy.rise * policy.fast_interval + 2 * policy.timeout
        if within < roomy:
            yield Sign(
                f"{rung.name} has {within:g} s to prove itself, and {policy.rise} good answers and one late one take {roomy:g} s",
                f"Set verify_within={roomy:g} or more.",
            )


@rule(
    "SH703",
    Severity.WARNING,
    CHECK,
    "a budget that keeps the ladder waiting",
    why="The dearer rungs, which may be those that help, come when the outage is long noticed by everybody.",
)
def starved(watched: Watched) -> Signs:
    """Its budget is too narrow."""
    check = watched.check
    rungs = longest(check.recovery.rungs, check.kinds)
    problem = too_narrow(check.budget, rungs) if check.budget is not None else ""
    if problem:
        yield Sign(problem, f"Set its limit to {rungs} or more.")


@rule(
    "SH704",
    Severity.WARNING,
    CHECK,
    "rungs that are never reached",
    why="After max_actions an incident is exhausted, whatever is left of the ladder.",
)
def never_reached(watched: Watched) -> Signs:
    """max_actions ends before the ladder."""
    check = watched.check
    rungs = longest(check.recovery.rungs, check.kinds)
    if check.policy.max_actions < rungs:
        yield Sign(
            f"max_actions is {check.policy.max_actions}, and the ladder has {rungs} rungs for one fault",
            f"Set max_actions={2 * rungs} or more.",
        )


@rule(
    "SH705",
    Severity.WARNING,
    CHECK,
    "a budget that stops nothing",
    why="An action that does not help for long is done again and again, and hides the fault that makes it necessary.",
)
def unbounded(watched: Watched) -> Signs:
    """Its budget allows too much."""
    budget = watched.check.budget
    if budget is not None and budget.limit > 1 and 3600 * budget.limit / budget.per > _HOURLY_MAX:
        yield Sign(
            f"Budget({budget.limit}, per={budget.per:g}) allows {3600 * budget.limit / budget.per:g} actions an hour",
            f"Set per={60 * budget.limit} or more.",
        )


@rule(
    "SH706",
    Severity.ERROR,
    CHECK,
    "a shared resource, and an action on whole processes",
    why="Every replica sees the same fault of what they share, and all of them restart at once: the fleet is down.",
)
def fleet_down(watched: Watched) -> Signs:
    """All replicas would restart at once."""
    if watched.check.shared:
        for rung in watched.check.recovery.rungs:
            if rung.blast >= Blast.PROCESS:
                yield Sign(
                    f"{rung.name} reaches as far as the {rung.blast.name.lower()}, and shared=True",
                    f"Take {rung.name} out of this ladder, or watch what only this process owns by a check of its own.",
                )


@rule(
    "SH707",
    Severity.INFO,
    CHECK,
    "a held action that does not know when it may go",
    why="It is taken back after the probation to see whether that is well; while the fault lasts, users feel each try.",
)
def blind_revert(watched: Watched) -> Signs:
    """Nothing tells when to revert."""
    for rung in watched.check.recovery.rungs:
        if rung.held and rung.revert_when is None:
            yield Sign(
                f"{rung.name} has a revert and no revert_when",
                "Give it revert_when=, a probe of the state that it goes back to.",
            )


RULES: Final[tuple[Rule, ...]] = (
    nothing_heals,
    no_room,
    starved,
    never_reached,
    unbounded,
    fleet_down,
    blind_revert,
)
