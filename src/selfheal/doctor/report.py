"""
What was found, for people and for programs.
"""

from __future__ import annotations

import itertools
import json

from collections.abc import Iterator

import selfheal

from selfheal.doctor.audit import Audit
from selfheal.doctor.catalogue import RULES
from selfheal.doctor.findings import Severity


def as_text(audit: Audit) -> str:
    """
    Grouped by what has the problem.
    """
    return "\n".join(_lines(audit))


def as_json(audit: Audit) -> str:
    """
    One object. Its fields are not renamed or taken away.
    """
    findings = [
        {
            "code": found.code,
            "severity": found.severity.name.lower(),
            "subject": found.subject,
            "kind": found.kind,
            "problem": found.problem,
            "why": found.why,
            "fix": found.fix,
        }
        for found in audit.findings
    ]
    told = {
        "selfheal": selfheal.__version__,
        "findings": findings,
        "looked_at": list(audit.looked_at),
        "unbuilt": [found.name for found in audit.unbuilt],
        "hidden": [{"subject": found.name, "problem": found.hidden} for found in audit.hidden],
    }
    return json.dumps(told, indent=2)


def rules_as_table() -> str:
    """
    All rules, as a Markdown table.
    """
    rows = [
        f"| {rule.code} | {rule.severity.name.lower()} | {rule.looks_at.name} | {rule.title} | {rule.why} |"
        for rule in RULES
    ]
    return "\n".join(("| code | severity | looks at | finds | why it matters |", "|---|---|---|---|---|", *rows))


def _lines(audit: Audit) -> Iterator[str]:
    for (subject, kind), group in itertools.groupby(audit.findings, key=lambda found: (found.subject, found.kind)):
        yield f"{subject} ({kind})"
        for found in group:
            yield f"  {found.code} {found.severity.name.lower():<7}  {found.problem}"
            yield f"      why: {found.why}"
            yield f"      fix: {found.fix}"
        yield ""
    for other in audit.unbuilt:
        yield f"not looked at: what {other.name} makes, for it has made nothing yet (--build makes it)"
    for other in audit.hidden:
        yield f"not looked at: all of {other.name}, for {other.hidden}"
    yield _summary(audit)


def _summary(audit: Audit) -> str:
    counts = [
        f"{number} {severity.name.lower()}{'s' if number > 1 and severity is not Severity.INFO else ''}"
        for severity in sorted(Severity, reverse=True)
        if (number := sum(found.severity is severity for found in audit.findings))
    ]
    return f"{', '.join(counts) or 'nothing found'} in {len(audit.looked_at)} objects"
