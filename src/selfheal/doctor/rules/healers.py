"""
Healers: what cannot work for their checks together.
"""

from __future__ import annotations

import functools
import inspect
import types

from collections import defaultdict
from typing import Any, Final

from selfheal.doctor import peek
from selfheal.doctor.findings import Rule, Severity, Sign, Signs, rule
from selfheal.doctor.kinds import HEALER, POOLED_HEALTH, REBUILDABLE, client_kind
from selfheal.doctor.rules.checks import longest, too_narrow
from selfheal.doctor.subjects import Patient


@rule(
    "SH801",
    Severity.WARNING,
    HEALER,
    "destructive rungs without permission",
    why="They are passed over as used up, so the ladder ends sooner than it reads.",
)
def forbidden(patient: Patient) -> Signs:
    """Destructive rungs are not allowed."""
    if patient.settings.allow_destructive:
        return
    for watched in patient.checks:
        for rung in watched.check.recovery.rungs:
            if rung.destructive:
                yield Sign(
                    f"{rung.name} of {watched.check.name} is destructive, which this healer does not allow",
                    f"Pass Healer(allow_destructive=True), or take {rung.name} out of the ladder.",
                )


@rule(
    "SH802",
    Severity.WARNING,
    HEALER,
    "fewer threads than probes",
    why="When a few of them hang, the others wait for a thread, and what they watch is not seen.",
)
def few_threads(patient: Patient) -> Signs:
    """There are fewer threads than probes."""
    probes = [watched.check.probe for watched in patient.checks]
    sync = sum(not _is_async(probe) for probe in probes if probe is not None)
    if patient.settings.max_threads < sync:
        yield Sign(
            f"max_threads is {patient.settings.max_threads}, and {sync} probes need one each",
            f"Set max_threads={2 * sync} or more: actions need some as well.",
        )


def _is_async(probe: Any) -> bool:
    """
    Whether calling it gives a coroutine, as far as one can see without asking it.
    """
    if POOLED_HEALTH.has(probe):
        return bool(probe.is_async)
    if not peek.is_a(probe, types.FunctionType, types.MethodType, functools.partial):
        probe = peek.of_class(probe, "__call__")
    return inspect.iscoroutinefunction(probe)


@rule(
    "SH803",
    Severity.ERROR,
    HEALER,
    "one client, two resources",
    why="Checks of one resource take turns; these would heal the same client at the same time, each undoing the other's work.",
)
def two_healers_of_one(patient: Patient) -> Signs:
    """Two resources heal the same client."""
    owners: defaultdict[int, dict[str, str]] = defaultdict(dict)
    kept: dict[int, str] = {}
    for watched in patient.checks:
        for found in watched.healing:
            # What a Rebuildable has made is its own affair.
            is_client = client_kind(found.thing) is not None and found.owner is None
            if is_client or REBUILDABLE.has(found.thing):
                owners[id(found.thing)].setdefault(watched.check.resource, watched.check.name)
                kept.setdefault(id(found.thing), peek.kind_of(found.thing))
    for key, by_resource in owners.items():
        if len(by_resource) > 1:
            resource = next(iter(by_resource))
            yield Sign(
                f"{' and '.join(by_resource.values())} heal the same {kept[key]}, as different resources",
                f"Pass resource={resource!r} to each of them.",
            )


@rule(
    "SH804",
    Severity.WARNING,
    HEALER,
    "a budget that keeps a ladder waiting",
    why="The dearer rungs, which may be those that help, come when the outage is long noticed by everybody.",
)
def starved(patient: Patient) -> Signs:
    """The process has less budget than one ladder needs."""
    for watched in patient.checks:
        check = watched.check
        rungs = longest(check.recovery.rungs, check.kinds)
        problem = too_narrow(patient.settings.budget, rungs)
        if problem:
            yield Sign(f"{problem} in {check.name}", f"Pass Healer(budget=...) with a limit of {2 * rungs} or more.")


@rule(
    "SH805",
    Severity.INFO,
    HEALER,
    "held changes without a journal",
    why="A change that is applied when the process dies stays applied, and the next process knows nothing of it.",
)
def forgets_held(patient: Patient) -> Signs:
    """Held changes are forgotten with the process."""
    held = [
        f"{rung.name} of {watched.check.name}"
        for watched in patient.checks
        for rung in watched.check.recovery.rungs
        if rung.held
    ]
    if held and not patient.has_journal:
        yield Sign(f"{', '.join(held)}: held, and there is no journal", "Pass Healer(journal='selfheal.db').")


RULES: Final[tuple[Rule, ...]] = (forbidden, few_threads, two_healers_of_one, starved, forgets_held)
