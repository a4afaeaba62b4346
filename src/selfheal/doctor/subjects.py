"""
What rules are asked about, found from a healer and the modules around it.
"""

from __future__ import annotations

import types

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import attrs

from selfheal.doctor import peek
from selfheal.doctor.caches import caches, is_cached
from selfheal.doctor.databases import databases
from selfheal.doctor.kinds import CACHE, CHECK, DJANGO, HEALER, IMPORTED, LOG_FILE, REBUILDABLE, Kind, client_kind
from selfheal.doctor.logs import log_files
from selfheal.doctor.walk import Found, reached


if TYPE_CHECKING:
    from selfheal.checks import HealthCheck
    from selfheal.healer import Healer
    from selfheal.runtime.engine import Engine
    from selfheal.runtime.settings import Settings


@attrs.frozen
class Watched:
    """
    A check, and what its probe and its recovery use.

    Args:
        check: The check.
        probing: What the probe reaches.
        healing: What the recovery reaches.
        is_needed: Whether another check depends on it.
    """

    check: HealthCheck
    probing: tuple[Found, ...]
    healing: tuple[Found, ...]
    is_needed: bool


@attrs.frozen
class Patient:
    """
    A healer, and what it watches.
    """

    healer: Healer
    checks: tuple[Watched, ...]

    @property
    def engine(self) -> Engine:
        """
        What runs it.
        """
        engine: Engine = vars(self.healer)["_engine"]  # there is no other need to show it
        return engine

    @property
    def has_journal(self) -> bool:
        """
        Whether something outlives the process.
        """
        return vars(self.engine)["_journal"] is not None

    @property
    def settings(self) -> Settings:
        """
        What it was told.
        """
        return self.engine.settings


@attrs.frozen
class Subject:
    """
    One thing to ask rules about.

    Args:
        kind: Of which rules.
        thing: What they get.
        name: How the application calls it.
        what: What it is, for people.
    """

    kind: Kind
    thing: Any
    name: str
    what: str


def patient(healer: Healer) -> Patient:
    """
    What there is to know about a healer without calling anything.
    """
    needed = {name for check in healer.checks for name in check.depends_on}
    return Patient(
        healer,
        tuple(
            Watched(
                check,
                probing=reached(check.probe, f"the probe of {check.name}"),
                healing=reached(check.recovery, f"the recovery of {check.name}"),
                is_needed=check.name in needed,
            )
            for check in healer.checks
        ),
    )


def objects_of(module: object, name: str) -> dict[str, Any]:
    """
    What stands in a module by a name of its own, as ``module:name``. Functions and classes only use it, but for those
    functions that have a cache.
    """
    return {
        f"{name}:{variable}": value
        for variable, value in list(peek.stored(module))
        if not variable.startswith("__")
        and (is_cached(value) or not peek.is_a(value, types.ModuleType, types.FunctionType, type))
    }


def gather(
    patient: Patient, name: str, others: Mapping[str, Any], *, imported: bool
) -> tuple[tuple[Subject, ...], tuple[Found, ...], tuple[Found, ...]]:
    """
    Everything to ask rules about, each thing once, under the shortest name that the application has for it.

    Args:
        patient: The healer. Beside it and what it uses, the log files of the process are asked about.
        name: Its name.
        others: Objects beside it, by name.
        imported: They are as the import has left them.

    Returns:
        The subjects; the `Rebuildable` objects that have made nothing yet, about which nothing can be said; and what was
        not looked into, or not all of it.
    """
    found = [other for name, thing in others.items() for other in reached(thing, name)]
    found += [other for watched in patient.checks for other in (*watched.probing, *watched.healing)]
    named = _by_shortest_name(found)
    asked = (HEALER, IMPORTED) if imported else (HEALER,)
    subjects = [Subject(kind, patient, name, HEALER.name) for kind in asked]
    subjects += [Subject(CHECK, watched, watched.check.name, CHECK.name) for watched in patient.checks]
    for other in named:
        kind = client_kind(other.thing)
        if kind is not None:
            # A Rebuildable makes a new object in each child, so a fork cannot hurt its present one.
            asked = (kind, IMPORTED) if imported and other.owner is None else (kind,)
            subjects += [Subject(each, other.thing, other.name, kind.name) for each in asked]
    subjects += [Subject(DJANGO, each, f"DATABASES[{each.alias!r}]", DJANGO.name) for each in databases(named)]
    subjects += [Subject(CACHE, cache, cache.name, CACHE.name) for cache in caches(named)]
    asked = (LOG_FILE, IMPORTED) if imported else (LOG_FILE,)
    subjects += [Subject(kind, file, file.path, LOG_FILE.name) for file in log_files() for kind in asked]
    unbuilt = [other for other in named if REBUILDABLE.has(other.thing) and other.thing.generation == 0]
    return tuple(subjects), tuple(unbuilt), _by_shortest_name(other for other in found if other.hidden)


def _by_shortest_name(found: Iterable[Found]) -> tuple[Found, ...]:
    best: dict[int, Found] = {}
    for other in found:
        # Who has it inside a Rebuildable as well as bare has it bare only for a moment.
        kept = best.get(id(other.thing))
        if kept is None or (_rank(other) < _rank(kept)):
            best[id(other.thing)] = other
    return tuple(best.values())


def _rank(found: Found) -> tuple[bool, bool, int, str]:
    # With a colon it is a name of the application's, else one of ours for the way to it.
    return (found.owner is None, ":" not in found.name, len(found.name), found.name)
