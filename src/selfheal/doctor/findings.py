"""
What a rule is, and what it finds. Values only.
"""

from __future__ import annotations

import enum

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import attrs

from selfheal.doctor.kinds import Kind


class Severity(enum.IntEnum):
    """
    How bad it is.
    """

    #: It is worth knowing.
    INFO = 1
    #: A fault will be hidden, or last longer than it has to.
    WARNING = 2
    #: The healing itself does harm, or cannot happen.
    ERROR = 3


@attrs.frozen(kw_only=True)
class Finding:
    """
    Something that should be mended.

    Args:
        code: Of the rule.
        severity: How bad it is.
        subject: What has it, as the application calls it.
        kind: What that is.
        problem: What is wrong with it.
        why: Why it matters.
        fix: What to change.
    """

    code: str
    severity: Severity
    subject: str
    kind: str
    problem: str
    why: str
    fix: str


class Sign(NamedTuple):
    """
    What a rule sees in one thing: what is wrong, and what mends it.
    """

    problem: str
    fix: str


Signs = Iterator[Sign]


@attrs.frozen(kw_only=True)
class Rule:
    """
    One question to one kind of thing.

    Args:
        code: Stable, unique.
        severity: Of what it finds.
        looks_at: The kind of thing.
        title: What it is about.
        why: Why that matters, in one sentence.
        signs: What it sees. Asks nobody and changes nothing.
    """

    code: str
    severity: Severity
    looks_at: Kind
    title: str
    why: str
    signs: Callable[[Any], Signs] = attrs.field(repr=False)


def rule(
    code: str, severity: Severity, looks_at: Kind, title: str, *, why: str
) -> Callable[[Callable[[Any], Signs]], Rule]:
    """
    Make a rule of the function that sees its signs.
    """

    def make(signs: Callable[[Any], Signs]) -> Rule:
        return Rule(code=code, severity=severity, looks_at=looks_at, title=title, why=why, signs=signs)

    return make
