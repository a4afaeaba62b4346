"""
Held changes as a journal knows them: whose they are, and how far they have come.
"""

from __future__ import annotations

import enum

from typing import NamedTuple


class HeldPhase(enum.Enum):
    """
    How far a held change has come. All but REVERTED are open: somebody has to take it back, or to look.
    """

    #: Written before `recover` is called: it may be in force.
    INTENT = "intent"
    #: Written when `recover` has ended, well or not: it is in force, perhaps half-way.
    APPLIED = "applied"
    #: Written before `revert` is called: it may be in force still.
    REVERTING = "reverting"
    #: It is not in force.
    REVERTED = "reverted"
    #: Left in INTENT by a process that died, and not to be done twice: a case for a person.
    UNKNOWN = "unknown"


class HeldKey(NamedTuple):
    """
    Which change: the same in every process, as long as its ladder is the same.

    Args:
        check: The check's name.
        rung: The rung's name.
        leaf: The name of the single action in it.
        position: 0 for the first held action of that name in the rung.
    """

    check: str
    rung: str
    leaf: str
    position: int


class HeldChange(NamedTuple):
    """
    One held change in a journal.

    Args:
        number: Its number in the journal.
        key: Which change.
        phase: How far it has come.
        at: Seconds since 1970 when it came there.
        host: Where the process runs, or ran, that answers for it.
        pid: Its number there.
    """

    number: int
    key: HeldKey
    phase: HeldPhase
    at: float
    host: str
    pid: int
