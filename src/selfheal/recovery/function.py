"""
Plain functions as actions, and the two ways to put actions to use: `rung` and `by_fault`.
"""

from __future__ import annotations

import functools

from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast, overload

from selfheal.errors import ConfigError
from selfheal.model.ladder import Blast, Ladder
from selfheal.model.settings import require_name
from selfheal.recovery.action import RecoveryAction, Tree, When
from selfheal.recovery.signatures import is_generator, name_of, takes


if TYPE_CHECKING:
    import datetime as dt

    from selfheal.model.health import Fault
    from selfheal.model.ladder import RecoveryContext

R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)
F = TypeVar("F", bound="Callable[[RecoveryContext], object]")


class FunctionAction(RecoveryAction, Generic[R_co]):
    """
    A function as an action. Calling it calls the function, so that it can be tested like one.

    Two of them are equal only if they are the same object.
    """

    def __init__(
        self,
        function: Callable[[RecoveryContext], R_co],
        *,
        name: str | None = None,
        blast: Blast = Blast.RESOURCE,
        destructive: bool = False,
        idempotent: bool = True,
        safe_after_abandon: bool = False,
        revert_when: Callable[[], object] | None = None,
    ) -> None:
        _require_one_argument(function)
        functools.update_wrapper(cast("Any", self), function, updated=())
        self.function = function
        # The function itself stands where the method would, so that a runner sees whether it is a coroutine function.
        self.__dict__.update(
            recover=function,
            name=name_of(function) if name is None else name,
            blast=Blast(blast),
            destructive=destructive,
            idempotent=idempotent,
            safe_after_abandon=safe_after_abandon,
            revert_when=revert_when,
        )

    def __call__(self, ctx: RecoveryContext) -> R_co:
        """
        Call the function.
        """
        return self.function(ctx)

    def reverting(self, function: F, /) -> F:
        """
        Decorate the function that takes the action back: this makes it held. The function is returned unchanged.

        Raises:
            ConfigError: If there is such a function already, or it does not take the context.
        """
        if self.held:
            msg = f"{self} has a function that reverts it already."
            raise ConfigError(msg)
        _require_one_argument(function)
        self.__dict__["revert"] = function
        return function


@overload
def recovery_action(function: Callable[[RecoveryContext], R], /) -> FunctionAction[R]: ...
@overload
def recovery_action(
    *,
    name: str | None = ...,
    blast: Blast = ...,
    destructive: bool = ...,
    idempotent: bool = ...,
    safe_after_abandon: bool = ...,
    revert_when: Callable[[], object] | None = ...,
) -> Callable[[Callable[[RecoveryContext], R]], FunctionAction[R]]: ...
def recovery_action(
    function: Callable[[RecoveryContext], R] | None = None,
    /,
    **options: Any,
) -> FunctionAction[R] | Callable[[Callable[[RecoveryContext], R]], FunctionAction[R]]:
    """
    Make an action of a sync or async function that takes the `RecoveryContext`.

    To return means that it was done; to raise, that it failed; to raise
    `Escalate`, that it cannot help.

    Args:
        function: The function, if the decorator is used without parentheses.
        name: A metric label. Default: the function's name.
        blast: How far it reaches.
        destructive: It destroys data, or work of somebody else.
        idempotent: Doing it again after a failure does no harm.
        safe_after_abandon: It may run while an abandoned action on its resource still does.
        revert_when: A probe without arguments that must be good for the whole probation before it is reverted.

    Raises:
        ConfigError: If the function does not take exactly the context.

    Examples:
        >>> @recovery_action
        ... def warm_cache(ctx: RecoveryContext) -> None:
        ...     ctx.log("warmed")
        >>> @warm_cache.reverting
        ... def drop_cache(ctx: RecoveryContext) -> None:
        ...     ctx.log("dropped")
        >>> warm_cache, warm_cache.held
        (warm_cache, True)

    .. versionadded:: 26.1.0
    """

    def make(function: Callable[[RecoveryContext], R]) -> FunctionAction[R]:
        return FunctionAction(function, **options)

    return make if function is None else make(function)


def as_action(thing: object) -> RecoveryAction:
    """
    *thing* itself if it is an action, or an action made of it if it is a function that takes the context.

    Raises:
        ConfigError: If it is neither.
    """
    if isinstance(thing, RecoveryAction):
        return thing
    if isinstance(thing, Ladder):
        msg = f"{thing!r} is a ladder; one action is needed here. Write rung(a, ...) >> b, not rung(a >> b, ...)."
        raise ConfigError(msg)
    if isinstance(thing, type):
        msg = f"{thing.__name__} is a class; an action is an instance of it: {thing.__name__}()."
        raise ConfigError(msg)
    return FunctionAction(cast("Callable[[RecoveryContext], object]", thing))


def rung(
    action: RecoveryAction | Callable[[RecoveryContext], Awaitable[object] | object],
    *,
    attempts: int = 1,
    cooldown: float | dt.timedelta = 0.0,
    settle: float | dt.timedelta = 0.0,
    verify_within: float | dt.timedelta | None = None,
) -> Ladder:
    """
    A ladder of one rung: an action, or a function that takes the context, and how to use it.

    All times are in seconds and accept a `timedelta`.

    Args:
        action: What to do.
        attempts: Tries in one incident, 1 or more. The resource is checked before each of them.
        cooldown: From the end of one run to the start of the next, doubling with each, jittered.
        settle: To leave the resource alone after the action before judging it.
        verify_within: Overrides the policy's.

    Raises:
        ConfigError: If a number is out of range, or *action* cannot be run.

    .. versionadded:: 26.1.0
    """
    return as_action(action).as_rung(attempts=attempts, cooldown=cooldown, settle=settle, verify_within=verify_within)


def by_fault(
    cases: Mapping[str, RecoveryAction],
    *,
    default: RecoveryAction | None = None,
) -> RecoveryAction:
    """
    One action that looks at the fault's kind first, so that the numbers of the rungs stay as they are.

    Args:
        cases: Fault kinds and what to do about them.
        default: What to do about all others. Without it, the rung does not apply to them.

    Raises:
        ConfigError: If *cases* is empty, a kind is no name, or what should be an action is none.

    .. versionadded:: 26.1.0
    """
    actions = {kind: as_action(action) for kind, action in cases.items()}
    return ByFault(actions, None if default is None else as_action(default))


class ByFault(Tree):
    """
    ``by_fault({"stale": a}, default=b)``: one action that looks at the fault first.
    """

    cases: Mapping[str, RecoveryAction]
    default: RecoveryAction | None

    def __init__(self, cases: Mapping[str, RecoveryAction], default: RecoveryAction | None) -> None:
        if not cases:
            msg = "by_fault({}): give at least one fault kind with its action."
            raise ConfigError(msg)
        for kind in cases:
            require_name(kind, "fault kind")
        branches = (*cases.values(), *(() if default is None else (default,)))
        names = dict.fromkeys(branch.name for branch in branches)
        super().__init__(branches, "_or_".join(names), cases=dict(cases), default=default)

    def chosen(self, fault: Fault) -> RecoveryAction | None:
        """
        The action against *fault*, or `None`.
        """
        return self.cases.get(fault.kind, self.default)

    def applies(self, fault: Fault) -> bool:
        """
        Whether there is an action against *fault*, and it applies.
        """
        action = self.chosen(fault)
        return action is not None and action.applies(fault)

    def plan(self) -> str:
        """
        What it would do, fault by fault.
        """
        lines = [f"{kind}: {action.plan()}" for kind, action in self.cases.items()]
        return "; ".join([*lines, f"else: {self.default.plan()}"] if self.default else lines)

    def __str__(self) -> str:
        cases = ", ".join(f"{kind!r}: {action}" for kind, action in self.cases.items())
        return f"by_fault({{{cases}}}{f', default={self.default}' if self.default else ''})"


def kinds_named_by(action: object) -> frozenset[str]:
    """
    The fault kinds that a tree names anywhere: in ``when``, in `by_fault`, or in a class.
    """
    if isinstance(action, ByFault):
        own: Iterable[str] = action.cases
    elif isinstance(action, When):
        own = action.only
    else:
        own = (action.kinds or ()) if isinstance(action, RecoveryAction) else ()
    branches = action.branches if isinstance(action, Tree) else ()
    return frozenset(own).union(*map(kinds_named_by, branches))


def _require_one_argument(function: object) -> None:
    if isinstance(function, RecoveryAction) or not callable(function):
        what = "an action already" if isinstance(function, RecoveryAction) else "not a function"
        msg = f"{function!r} is {what}. @recovery_action takes a function: def warm_cache(ctx)."
        raise ConfigError(msg)
    name = name_of(function)
    if not takes(function, 1):
        msg = f"{name}() must take one argument, the RecoveryContext: def {name}(ctx)."
        raise ConfigError(msg)
    if is_generator(function):
        msg = f"{name}() is a generator: calling it would do nothing. Take the yield out of it."
        raise ConfigError(msg)
