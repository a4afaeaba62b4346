"""
What can be done about a fault: single actions, and the operators that make trees of them.

A tree is a frozen value; `selfheal.recovery.plan` says what its operators mean, and a runner carries that out.
"""

from __future__ import annotations

import math

from collections.abc import Awaitable, Callable, Collection
from typing import TYPE_CHECKING, ClassVar, cast

import attrs

from selfheal.errors import ConfigError
from selfheal.model.ladder import Blast, Climbable, Ladder, Rung
from selfheal.model.settings import require_name, seconds
from selfheal.recovery.signatures import require_runnable, require_strategies, snake_case


if TYPE_CHECKING:
    import datetime as dt

    from tenacity import RetryCallState

    from selfheal.model.health import Fault
    from selfheal.model.ladder import RecoveryContext


class _SnakeName:
    # Without __set__, so that a class attribute, a field of an attrs class and an assignment in __init__ all win.
    def __get__(self, _action: object, owner: type) -> str:
        return snake_case(owner.__name__)


class RecoveryAction:
    """
    One thing that may heal a resource. Subclass it and write `recover`, sync or async.

    Subclasses may be plain or attrs classes; none needs to call
    ``super().__init__()``. A class that also writes `revert` is *held*: it
    stays applied until it is stepped down.

    Attributes:
        name: A metric label. Default: the class name in snake_case.
        blast: How far it reaches.
        destructive: It destroys data, or work of somebody else. Needs ``Healer(allow_destructive=True)``.
        idempotent: Doing it again after a failure does no harm. `retrying` insists on it.
        safe_after_abandon: It may run while an abandoned action on its resource still does.
        kinds: The fault kinds it is for; `None` means all.
        revert_when: A probe without arguments, or a method: it must be good for the whole probation before the
            action is reverted.

    Examples:
        >>> class RebuildIndex(RecoveryAction):
        ...     blast = Blast.PROCESS
        ...
        ...     def recover(self, ctx: RecoveryContext) -> None:
        ...         ctx.log("rebuilt")
        >>> RebuildIndex().name
        'rebuild_index'

    .. versionadded:: 26.1.0
    """

    blast: ClassVar[Blast] = Blast.RESOURCE
    destructive: ClassVar[bool] = False
    idempotent: ClassVar[bool] = True
    safe_after_abandon: ClassVar[bool] = False
    kinds: ClassVar[Collection[str] | None] = None
    name: str = cast("str", _SnakeName())
    revert_when: Callable[..., object] | None = None  # an ellipsis, so that a method may stand here too

    def recover(self, ctx: RecoveryContext) -> Awaitable[None] | None:
        """
        Heal. To return means that it was done; to raise, that it failed.

        Raises:
            Escalate: Raise it if this cannot help: the next rung is tried at once.
        """
        msg = f"{self} has no recover of its own"
        raise NotImplementedError(msg)

    def revert(self, ctx: RecoveryContext) -> Awaitable[None] | None:
        """
        Take back what `recover` did. Must bear to be called after a `recover` that failed half-way.
        """
        msg = f"{self} has no revert of its own"
        raise NotImplementedError(msg)

    def plan(self) -> str:
        """
        What it would do, for people. Must not change anything.
        """
        return self.name

    def applies(self, fault: Fault) -> bool:
        """
        Whether it is of any use against *fault*. Pure.
        """
        return self.kinds is None or fault.kind in self.kinds

    @property
    def held(self) -> bool:
        """
        Whether it stays applied until it is reverted.
        """
        return getattr(self.revert, "__func__", self.revert) is not RecoveryAction.revert

    def within(self, limit: float | dt.timedelta) -> RecoveryAction:
        """
        The same with a hard deadline of its own.

        Args:
            limit: Seconds, greater than 0. `revert` is not bound by it.

        Raises:
            ConfigError: If *limit* is no such time.
        """
        return Within(self, limit)

    def retrying(
        self,
        *,
        stop: Callable[[RetryCallState], bool],
        wait: Callable[[RetryCallState], float] | None = None,
        retry: Callable[[RetryCallState], bool] | None = None,
    ) -> RecoveryAction:
        """
        The same, tried again when it raises an `Exception`.

        What raised `Escalate`, was cancelled or was abandoned is not tried
        again. The time that the strategies see is the driver's, so virtual
        time covers retries; only tenacity's random waits draw from its own
        generator.

        Args:
            stop: When to give up: one of tenacity's stop strategies.
            wait: How long to wait in between: one of tenacity's. Default: not at all.
            retry: After what to try again: one of tenacity's. Default: after any `Exception`.

        Raises:
            ConfigError: If a strategy is not callable, or the action is not idempotent.
        """
        return Retrying(self, stop, wait, retry)

    def when(self, *, kinds: Collection[str]) -> RecoveryAction:
        """
        The same, against these fault kinds only.

        Raises:
            ConfigError: If *kinds* is empty, a single string, or holds what is no name.
        """
        return When(self, kinds)

    def named(self, name: str) -> RecoveryAction:
        """
        The same under another name.

        Raises:
            ConfigError: If *name* cannot be a metric label.
        """
        return Named(self, name)

    def as_ladder(self) -> Ladder:
        """
        A ladder of one rung: this action, tried once.

        Raises:
            ConfigError: If it cannot be run as it is written.
        """
        return self.as_rung()

    def as_rung(
        self,
        *,
        attempts: int = 1,
        cooldown: float | dt.timedelta = 0.0,
        settle: float | dt.timedelta = 0.0,
        verify_within: float | dt.timedelta | None = None,
    ) -> Ladder:
        """
        A ladder of one rung; the numbers are explained at `selfheal.rung`.

        Raises:
            ConfigError: If a number is out of range, or the action cannot be run as it is written.
        """
        for leaf in leaves(self):
            require_runnable(leaf, RecoveryAction.recover)
        rung = Rung(
            action=self,
            name=require_name(self.name, f"the name of {self} (.named(...) gives another)"),
            attempts=attempts,
            cooldown=cooldown,
            settle=settle,
            verify_within=verify_within,
            applies=self.applies,
            held=self.held,
            revert_when=self.revert_when,
            destructive=self.destructive,
            safe_after_abandon=self.safe_after_abandon,
            blast=self.blast,
        )
        return Ladder((rung,))

    def __rshift__(self, other: Climbable) -> Ladder:
        if isinstance(other, type) or not hasattr(other, "as_ladder"):
            return NotImplemented
        return self.as_ladder() >> other

    def __add__(self, other: RecoveryAction) -> Sequence:
        if not isinstance(cast("object", other), RecoveryAction):
            return NotImplemented  # so that a ladder gets to say where the parentheses belong
        return Sequence((self, other))

    def __str__(self) -> str:
        return str(self.name)  # which may be anything until a ladder is made of it

    def __repr__(self) -> str:
        return str(self)


class Tree(RecoveryAction):
    """
    Actions joined by an operator: a frozen value whose traits follow from its parts.
    """

    # Written by hand: six attrs classes would cost every program 5 ms at start-up.
    branches: tuple[RecoveryAction, ...]

    def __init__(self, branches: tuple[RecoveryAction, ...], name: str, **fields: object) -> None:
        probes: list[Callable[..., object]] = []
        for branch in branches:
            if branch.revert_when is not None and branch.revert_when not in probes:
                probes.append(branch.revert_when)
        if len(probes) > 1:
            msg = (
                f"{' and '.join(branch.name for branch in branches if branch.revert_when)} each name revert_when, "
                "but a rung is stepped down as one. Put them on rungs of their own, or name one probe that asks both."
            )
            raise ConfigError(msg)
        self.__dict__.update(
            fields,
            branches=branches,
            name=name,
            blast=max(branch.blast for branch in branches),
            destructive=any(branch.destructive for branch in branches),
            idempotent=all(branch.idempotent for branch in branches),
            safe_after_abandon=all(branch.safe_after_abandon for branch in branches),
            revert_when=probes[0] if probes else None,
        )

    def applies(self, fault: Fault) -> bool:
        """
        Whether all of it is of use against *fault*.
        """
        return all(branch.applies(fault) for branch in self.branches)

    def plan(self) -> str:
        """
        What its parts would do.
        """
        return "; then ".join(branch.plan() for branch in self.branches)

    @property
    def held(self) -> bool:
        """
        Whether a part is.
        """
        return any(branch.held for branch in self.branches)

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self.__dict__ == other.__dict__

    def __hash__(self) -> int:
        return hash((type(self), self.branches, self.name))

    def __setattr__(self, name: str, value: object) -> None:
        raise attrs.exceptions.FrozenInstanceError

    def __delattr__(self, name: str) -> None:
        raise attrs.exceptions.FrozenInstanceError


class Sequence(Tree):
    """
    ``a + b``: one after the other, up to the first failure, which takes back what was applied.
    """

    def __init__(self, parts: tuple[RecoveryAction, ...]) -> None:
        flat = tuple(leaf for part in parts for leaf in (part.branches if isinstance(part, Sequence) else (part,)))
        super().__init__(flat, "_then_".join(part.name for part in flat))

    def __str__(self) -> str:
        return " + ".join(str(part) for part in self.branches)


class Within(Tree):
    """
    ``a.within(5)``: a hard deadline.
    """

    limit: float

    def __init__(self, part: RecoveryAction, limit: float | dt.timedelta) -> None:
        limit = seconds(limit)
        if not 0 < limit < math.inf:
            msg = f"within({limit:g}): the deadline must be a finite number of seconds, greater than 0."
            raise ConfigError(msg)
        super().__init__((part,), part.name, limit=limit)

    def __str__(self) -> str:
        return f"{_operand(self.branches[0])}.within({self.limit:g})"


class Retrying(Tree):
    """
    ``a.retrying(stop=...)``: again and again, as tenacity's strategies decide.
    """

    stop: Callable[[RetryCallState], bool]
    wait: Callable[[RetryCallState], float] | None
    retry: Callable[[RetryCallState], bool] | None

    def __init__(
        self,
        part: RecoveryAction,
        stop: Callable[[RetryCallState], bool],
        wait: Callable[[RetryCallState], float] | None,
        retry: Callable[[RetryCallState], bool] | None,
    ) -> None:
        strategies = {"stop": stop, "wait": wait, "retry": retry}
        require_strategies(strategies)
        if not part.idempotent:
            msg = (
                f"{part} is not idempotent: after a failure nobody knows how far it got, so it is not retried "
                "blindly. Use rung(action, attempts=...): the resource is checked before each attempt."
            )
            raise ConfigError(msg)
        super().__init__((part,), part.name, **strategies)

    def __str__(self) -> str:
        strategies = {"stop": self.stop, "wait": self.wait, "retry": self.retry}
        shown = ", ".join(f"{key}={_strategy(value)}" for key, value in strategies.items() if value is not None)
        return f"{_operand(self.branches[0])}.retrying({shown})"


class When(Tree):
    """
    ``a.when(kinds={"stale"})``: against these faults only.
    """

    only: frozenset[str]

    def __init__(self, part: RecoveryAction, kinds: Collection[str]) -> None:
        if isinstance(kinds, str) or not kinds:
            msg = f"when(kinds={kinds!r}): give a set of fault kinds, such as {{'stale'}}."
            raise ConfigError(msg)
        super().__init__((part,), part.name, only=frozenset(require_name(kind, "fault kind") for kind in kinds))

    def applies(self, fault: Fault) -> bool:
        """
        Whether *fault* is one of its kinds, and its part applies.
        """
        return fault.kind in self.only and super().applies(fault)

    def __str__(self) -> str:
        kinds = ", ".join(repr(kind) for kind in sorted(self.only))
        return f"{_operand(self.branches[0])}.when(kinds={{{kinds}}})"


class Named(Tree):
    """
    ``a.named("x")``: a name of its own.
    """

    def __init__(self, part: RecoveryAction, name: str) -> None:
        super().__init__((part,), require_name(name))

    def __str__(self) -> str:
        return f"{_operand(self.branches[0])}.named({self.name!r})"


def leaves(action: RecoveryAction) -> tuple[RecoveryAction, ...]:
    """
    The single actions of a tree, from left to right.
    """
    if isinstance(action, Tree):
        return tuple(leaf for branch in action.branches for leaf in leaves(branch))
    return (action,)


def _operand(action: RecoveryAction) -> str:
    return f"({action})" if isinstance(action, Sequence) else str(action)


def _strategy(strategy: object) -> str:
    # tenacity's strategies have no repr of their own, and an address would differ from run to run.
    return getattr(strategy, "__name__", None) or f"{type(strategy).__name__}(...)"
