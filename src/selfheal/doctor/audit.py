"""
The audit: every rule, asked about everything of its kind.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

import attrs

from selfheal.doctor.catalogue import RULES
from selfheal.doctor.findings import Finding
from selfheal.doctor.subjects import gather, patient
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
    """

    findings: tuple[Finding, ...]
    looked_at: tuple[str, ...]
    unbuilt: tuple[Found, ...]


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
    subjects, unbuilt = gather(patient(healer), name, others or {}, imported=imported)
    findings = [
        Finding(
            code=rule.code,
            severity=rule.severity,
            subject=subject.name,
            kind=subject.what,
            problem=sign.problem,
            why=rule.why,
            fix=sign.fix,
        )
        for subject in subjects
        for rule in RULES
        if rule.looks_at == subject.kind and rule.code not in ignore
        for sign in rule.signs(subject.thing)
    ]
    return Audit(
        findings=tuple(sorted(findings, key=lambda found: (found.subject, -found.severity, found.code))),
        looked_at=tuple(dict.fromkeys(subject.name for subject in subjects)),
        unbuilt=unbuilt,
    )
