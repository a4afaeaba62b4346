"""
`python -m selfheal doctor`: a look at a healer, its checks and their clients, for settings that hide faults.

Nothing is called, opened or changed: what is read is what the objects hold.
"""

from __future__ import annotations

import functools
import sys

from collections.abc import Sequence
from typing import Final

from selfheal.doctor import stdout
from selfheal.doctor.audit import Audit, audit
from selfheal.doctor.building import built
from selfheal.doctor.catalogue import RULES
from selfheal.doctor.findings import Finding, Rule, Severity
from selfheal.doctor.report import as_json, as_text, rules_as_table
from selfheal.doctor.subjects import objects_of
from selfheal.doctor.targets import find, healer_of
from selfheal.errors import ConfigError


__all__ = ["RULES", "Audit", "Finding", "Rule", "Severity", "audit", "main"]

#: As compilers do: 0 clean, 1 found something, 2 could not look.
_CLEAN: Final = 0
_FOUND: Final = 1
_BLIND: Final = 2


def main(
    target: str | None,
    *,
    also: Sequence[str] = (),
    ignore: Sequence[str] = (),
    fail_on: str = "warning",
    build: bool = False,
    json: bool = False,
    rules: bool = False,
) -> int:
    """
    Look, and print what was found.

    Args:
        target: ``module:attribute``: a healer, or a function that makes one.
        also: More objects to look at, spelled likewise.
        ignore: Codes of rules to leave out.
        fail_on: The severity from which on findings make the status 1.
        build: Make what every `Rebuildable` makes, and close it afterwards.
        json: Print JSON.
        rules: Only list the rules.

    Returns:
        The exit status: 0 if nothing as bad as *fail_on* was found, 1 if so, 2 if there was nothing to look at.
    """
    if rules:
        print(rules_as_table())
        return _CLEAN
    try:
        with stdout.kept_clean():  # what an application prints must not stand in the middle of the report
            done = _look(target, also, ignore, build=build)
    except ConfigError as exc:
        print(f"python -m selfheal doctor: {exc}", file=sys.stderr)
        return _BLIND
    print(as_json(done) if json else as_text(done))
    worst = max((found.severity for found in done.findings), default=None)
    return _FOUND if worst is not None and worst >= Severity[fail_on.upper()] else _CLEAN


def _look(target: str | None, also: Sequence[str], ignore: Sequence[str], *, build: bool) -> Audit:
    unknown = sorted(set(ignore) - {rule.code for rule in RULES})
    if target is None or unknown:
        msg = f"no rule is called {', '.join(unknown)}" if unknown else "name a healer: module:healer"
        raise ConfigError(msg)
    found, more = find(target), [find(spelled) for spelled in also]
    healer = healer_of(found)
    others = {
        name: thing
        for each in (found, *more)
        for name, thing in objects_of(each.module, each.name.partition(":")[0]).items()
    }
    others.update((each.name, each.thing) for each in more)
    look = functools.partial(audit, healer, name=found.name, others=others, ignore=ignore, imported=True)
    with built(look().unbuilt if build else ()):
        return look()
