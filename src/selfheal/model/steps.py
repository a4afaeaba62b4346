"""
What the state machine asks for, what is answered, and why something was not done.
"""

from __future__ import annotations

import enum

import attrs


class HealingState(enum.Enum):
    """
    Where the healing of one check stands.
    """

    IDLE = "idle"
    DETECTING = "detecting"
    RECOVERING = "recovering"
    VERIFYING = "verifying"
    RESTORED = "restored"
    EXHAUSTED = "exhausted"


class Gate(enum.Enum):
    """
    A named reason why nothing is done now, in the order in which gates are asked.
    """

    PAUSED = "paused"
    BUSY = "busy"
    SELF_DOUBT = "self_doubt"
    DEPENDENCY = "dependency"
    STORM = "storm"
    FLAPPING = "flapping"
    COOLDOWN = "cooldown"
    PRECONDITION = "precondition"
    BUDGET = "budget"
    SHADOW = "shadow"
    LEASE = "lease"


# Steps are made on every turn of every check: slots without `frozen` cost a third to build. Treat them as values.


@attrs.define
class Wait:
    """
    Nothing to do before *until* (monotonic seconds), which is always later than ``now``.
    """

    until: float


@attrs.define
class Check:
    """
    Run the check now; answer with ``checked``.
    """


@attrs.define
class Recover:
    """
    Run a rung's action; answer with ``recovered`` or ``blocked``.

    Args:
        rung: Index in the ladder, 0 the lowest.
        attempt: 1 for the first try of this rung in this incident.
    """

    rung: int
    attempt: int


@attrs.define
class Revert:
    """
    Step a held rung down; answer with ``reverted`` or ``blocked``.
    """

    rung: int


class Verdict(enum.Enum):
    """
    How an action ended.
    """

    DONE = "done"
    FAILED = "failed"
    CANNOT_HELP = "cannot_help"
    ABANDONED = "abandoned"
    CANCELLED = "cancelled"


@attrs.frozen
class Outcome:
    """
    How an action ended, and why.

    Args:
        verdict: One of five.
        error: The exception, if it failed with one.
        reason: For people.
    """

    verdict: Verdict
    error: BaseException | None = attrs.field(default=None, kw_only=True, eq=False)
    reason: str = attrs.field(default="", kw_only=True)

    @property
    def ok(self) -> bool:
        """
        Whether the action ended well. Whether it *helped* is for the verification to say.
        """
        return self.verdict is Verdict.DONE

    @classmethod
    def done(cls) -> Outcome:
        """
        It ended well.
        """
        return cls(Verdict.DONE)

    @classmethod
    def failed(cls, error: BaseException) -> Outcome:
        """
        It raised.
        """
        return cls(Verdict.FAILED, error=error, reason=type(error).__name__)

    @classmethod
    def cannot_help(cls, reason: str) -> Outcome:
        """
        It knows that it cannot help: try the next rung at once.
        """
        return cls(Verdict.CANNOT_HELP, reason=reason)

    @classmethod
    def abandoned(cls) -> Outcome:
        """
        Its deadline is over and it still runs.
        """
        return cls(Verdict.ABANDONED, reason="deadline over, still running")

    @classmethod
    def cancelled(cls, reason: str) -> Outcome:
        """
        It was stopped from outside: charged to nobody.
        """
        return cls(Verdict.CANCELLED, reason=reason)
