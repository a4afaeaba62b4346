"""
Healers: what cannot work for their checks together.
"""

from __future__ import annotations

import functools
import inspect
import os
import types

from collections import defaultdict
from typing import Any, Final

from selfheal.doctor import peek
from selfheal.doctor.findings import Rule, Severity, Sign, Signs, rule
from selfheal.doctor.kinds import HEALER, POOLED_HEALTH, REBUILDABLE, SD_NOTIFY, client_kind
from selfheal.doctor.rules.checks import longest, too_narrow
from selfheal.doctor.subjects import Patient
from selfheal.resources.process_systemd import SdNotify


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


def _signs_of_life(patient: Patient) -> list[SdNotify]:
    return [found.thing for each in patient.checks for found in each.probing if SD_NOTIFY.has(found.thing)]


@rule(
    "SH806",
    Severity.WARNING,
    HEALER,
    "a watchdog of systemd that hears nothing of the healer",
    why="If nobody gives it signs of life, a healthy service is restarted again and again; if somebody else does, one whose "
    "engine hangs never is.",
)
def unwatched(patient: Patient) -> Signs:
    """systemd's watchdog does not watch it."""
    wanted = SdNotify().watchdog
    if wanted is not None and not _signs_of_life(patient):
        yield Sign(
            f"systemd wants a sign of life every {wanted:g} s, and no check gives it",
            "Add SdNotify().check() to its checks, and let nobody else send WATCHDOG=1.",
        )


@rule(
    "SH807",
    Severity.WARNING,
    HEALER,
    "signs of life that systemd does not want",
    why="They are not sent, so a service whose engine hangs is never restarted.",
)
def signs_unwanted(patient: Patient) -> Signs:
    """Nobody asks for its signs of life."""
    signs = _signs_of_life(patient)
    # Without systemd, as on the machine of a developer, there is nobody to want them.
    if signs and "NOTIFY_SOCKET" in os.environ and all(each.watchdog is None for each in signs):
        yield Sign(
            "it has an SdNotify check, and systemd asks for no signs of life",
            "Set WatchdogSec= in the unit. If it is set, this is not the unit's main process, whose it has to be.",
        )


RULES: Final[tuple[Rule, ...]] = (
    forbidden,
    few_threads,
    two_healers_of_one,
    starved,
    forgets_held,
    unwatched,
    signs_unwanted,
)
