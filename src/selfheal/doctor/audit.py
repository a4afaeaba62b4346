"""
The audit: every rule, asked about everything of its kind.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

import attrs

from selfheal.doctor import peek
from selfheal.doctor.catalogue import RULES
from selfheal.doctor.findings import Finding, Rule, Severity, Sign
from selfheal.doctor.subjects import Subject, gather, patient
from selfheal.doctor.walk import Found


if TYPE_CHECKING:
    from selfheal.healer import Healer


@attrs.frozen(kw_only=True)
class Audit:
    """
    What was found.

    Args:
        findings: By subject, the worst first.
        looked_at: What was looked at, by name.
        unbuilt: `Rebuildable` objects that have made nothing yet, about which nothing can be said.
        hidden: What was not looked into, or not all of it: ``.name`` and why, ``.hidden``.
    """

    findings: tuple[Finding, ...]
    looked_at: tuple[str, ...]
    unbuilt: tuple[Found, ...]
    hidden: tuple[Found, ...]


def audit(
    healer: Healer,
    *,
    name: str = "healer",
    others: Mapping[str, Any] | None = None,
    ignore: Collection[str] = (),
    imported: bool = False,
) -> Audit:
    """
    Look at a healer, its checks and the clients that they and *others* use. Nothing is called, opened or changed.

    Args:
        healer: Whether it runs or not.
        name: How it is called in the findings.
        others: More objects to look at, by name: clients, or what holds them.
        ignore: Codes of rules to leave out.
        imported: The application was only imported so far: what is open would be handed on to forked workers.

    .. versionadded:: 26.1.0
    """
    subjects, unbuilt, hidden = gather(patient(healer), name, others or {}, imported=imported)
    findings = [
        finding
        for subject in subjects
        for rule in RULES
        if rule.looks_at == subject.kind and rule.code not in ignore
        for finding in _look(rule, subject)
    ]
    return Audit(
        findings=tuple(sorted(findings, key=lambda found: (found.subject, -found.severity, found.code))),
        looked_at=tuple(dict.fromkeys(subject.name for subject in subjects)),
        unbuilt=unbuilt,
        hidden=hidden,
    )


def _look(rule: Rule, subject: Subject) -> list[Finding]:
    """
    What one rule finds in one subject. A library that has changed inside must not hide what the other rules find.
    """
    severity = rule.severity
    try:
        signs = list(rule.signs(subject.thing))
    except KeyboardInterrupt:
        raise
    except BaseException as exc:  # noqa: BLE001 - whatever a strange object raises
        problem = f"it cannot be told whether this holds here: looking raised {peek.kind_of(exc)}"
        signs, severity = [Sign(problem, f"Look yourself, or pass --ignore {rule.code}.")], Severity.INFO
    return [
        Finding(
            code=rule.code,
            severity=severity,
            subject=subject.name,
            kind=subject.what,
            problem=sign.problem,
            why=rule.why,
            fix=sign.fix,
        )
        for sign in signs
    ]
