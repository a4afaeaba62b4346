"""
Rungs in order of cost: numbers and pure questions. What a rung *does* is opaque here.
"""

from __future__ import annotations

import enum

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Protocol

import attrs

from selfheal.errors import CancelledRecoveryError, ConfigError
from selfheal.model.settings import at_least_one, not_negative, optional_seconds, positive, require, seconds


if TYPE_CHECKING:
    from selfheal.model.health import Fault
    from selfheal.model.records import Field, Incident


class Blast(enum.IntEnum):
    """
    How far an action reaches.
    """

    RESOURCE = 1
    PROCESS = 2
    HOST = 3
    FLEET = 4


def applies_to_all(_fault: Fault, /) -> bool:
    """
    The rung of an action without `when`.
    """
    return True


@attrs.frozen(kw_only=True)
class Rung:
    """
    One step of a ladder: an action and how to use it.

    Args:
        action: What is run; only the runner looks into it.
        name: Of the action: a metric label.
        attempts: Tries in one incident.
        cooldown: Seconds from the end of one run to the start of the next, doubling with each, jittered.
        settle: Seconds to leave the resource alone after the action before judging it.
        verify_within: Overrides the policy's.
        applies: Whether it is of any use against a fault. Pure.
        held: It stays applied until it is reverted.
        revert_when: A probe of the better state that must be good before it is reverted, or `None`.
        destructive: It destroys data, or work of somebody else.
        safe_after_abandon: It may run while an abandoned action still does.
        blast: How far it reaches.

    Raises:
        ConfigError: If a number is out of range.
    """

    action: object = attrs.field(repr=False)
    name: str
    attempts: int = 1
    cooldown: float = attrs.field(default=0.0, converter=seconds)
    settle: float = attrs.field(default=0.0, converter=seconds)
    verify_within: float | None = attrs.field(default=None, converter=optional_seconds)
    applies: Callable[[Fault], bool] = attrs.field(default=applies_to_all, repr=False)
    held: bool = False
    revert_when: Callable[[], object] | None = attrs.field(default=None, repr=False)
    destructive: bool = False
    safe_after_abandon: bool = False
    blast: Blast = Blast.RESOURCE

    def __attrs_post_init__(self) -> None:
        require(self, at_least_one, "attempts")
        require(self, not_negative, "cooldown", "settle")
        require(self, positive, "verify_within")


class Climbable(Protocol):
    """
    Whatever can stand in a ladder: an action, or a ladder.
    """

    def as_ladder(self) -> Ladder:
        """
        The rungs it stands for.
        """
        ...


@attrs.frozen
class Ladder:
    """
    Rungs in order of cost, the cheapest first. Made by ``a >> b`` and `selfheal.rung`.

    Raises:
        ConfigError: If two rungs have the same name.
    """

    rungs: tuple[Rung, ...] = ()

    def __attrs_post_init__(self) -> None:
        names = [rung.name for rung in self.rungs]
        for name in names:
            if names.count(name) > 1:
                msg = (
                    f"two rungs are called {name!r}: records could not tell them apart. "
                    "Give one of the actions name=..., or use rung(action, attempts=...) to try one action again."
                )
                raise ConfigError(msg)

    def as_ladder(self) -> Ladder:
        """
        Itself.
        """
        return self

    def __rshift__(self, other: Climbable) -> Ladder:
        if not hasattr(other, "as_ladder"):
            return NotImplemented
        return Ladder((*self.rungs, *other.as_ladder().rungs))

    def __add__(self, other: object) -> Ladder:
        msg = (
            f"({self!r}) + {other!r} puts a ladder into one rung. '+' is for actions and binds tighter "
            "than '>>': write (a + b) >> c, not a + (b >> c)."
        )
        raise TypeError(msg)

    def __radd__(self, other: object) -> Ladder:
        msg = (
            f"{other!r} + ({self!r}) puts a ladder into one rung. '+' is for actions and binds tighter "
            "than '>>': write (a + b) >> c, not a + (b >> c)."
        )
        raise TypeError(msg)

    def __repr__(self) -> str:
        return " >> ".join(str(rung.action) for rung in self.rungs) or "Ladder()"


@attrs.frozen(kw_only=True)
class RecoveryContext:
    """
    What an action gets to know.

    Args:
        incident: The incident so far. Read-only.
        fault: The latest fault.
        rung: Index of the rung in the ladder.
        attempt: 1 for the first try of this rung in this incident.
        fence: Grows with every lease; pass it on to whatever can refuse an older one. `None` without a lease.
        deadline: Monotonic seconds at which the action's time is up.
        clock: Tells monotonic seconds.
        stopped: Tells why the action has to stop, or `None`.
        note: Takes what `log` is given.
    """

    incident: Incident
    fault: Fault
    rung: int
    attempt: int
    fence: int | None = None
    deadline: float = attrs.field(repr=False)
    clock: Callable[[], float] = attrs.field(repr=False)
    stopped: Callable[[], str | None] = attrs.field(repr=False)
    note: Callable[[str, Mapping[str, Field]], None] = attrs.field(repr=False)

    def remaining(self) -> float:
        """
        Seconds left until the deadline, at least 0.
        """
        return max(0.0, self.deadline - self.clock())

    def check(self) -> None:
        """
        Go on only if it is still wanted: call it between the parts of a long action.

        Raises:
            CancelledRecoveryError: If the action was cancelled, its lease is lost or its time is up.
        """
        reason = self.stopped()
        if reason is None and self.clock() >= self.deadline:
            reason = "time is up"
        if reason is not None:
            msg = f"stop here: {reason}"
            raise CancelledRecoveryError(msg)

    def log(self, message: str, **fields: Field) -> None:
        """
        Write a line into the incident's timeline.
        """
        self.note(message, fields)
