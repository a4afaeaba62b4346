"""
`SwitchTo`: the held action that moves a `Router` to another target, and back.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import Any, ClassVar, TypeVar

import attrs

from selfheal.errors import ConfigError, Escalate, IllegalTransitionError, SelfHealError
from selfheal.model.ladder import Ladder, RecoveryContext
from selfheal.recovery import RecoveryAction
from selfheal.resources.router import SWITCH_KINDS, Router
from selfheal.resources.steps import Plan, adrive, drive, is_async


R = TypeVar("R")


def _functions(given: Callable[[], object] | Iterable[Callable[[], object]]) -> tuple[Callable[[], object], ...]:
    functions = (given,) if callable(given) else tuple(given)
    for function in functions:
        if not callable(function):
            msg = f"after={function!r} cannot be called. Give functions without arguments, such as pool.drain."
            raise ConfigError(msg)
    return functions


@attrs.frozen(repr=False)
class SwitchTo(RecoveryAction):
    """
    Use another target, which answers and can be written to; go back to the primary when that is well again.

    Against ``down`` and ``read_only``. It never promotes a server: that is for whoever runs them. Every target is
    asked for its role at the moment of the switch, and the first in order that can be written to is taken. It is
    passed over as long as the dwell after the last switch lasts, and as long as the last look of
    `Router.watching` has found no target to go to: it waits, and is not used up.

    It is *held*. Going back to the primary is its revert: once the primary has answered and could be written to for
    the whole probation, and does so at that very moment, and the dwell is over, and somebody has allowed it if the
    router's failback is "manual".

    It moves the clients of this process only, so its blast is that of a resource; to set the same route twice is to
    set it once, so it is idempotent.

    Args:
        router: What is moved.
        after: What makes clients follow: one function or several without arguments, sync or async, such as
            ``pool.drain``. All of them are called, in order, after each move. If one raises, the router has moved
            all the same and the others are called; the action then fails and says which.
        name: Of the action: a metric label.

    .. versionadded:: 26.1.0
    """

    kinds: ClassVar = SWITCH_KINDS

    router: Router[Any]
    after: tuple[Callable[[], object], ...] = attrs.field(default=(), converter=_functions, kw_only=True)
    name: str = attrs.field(default="switch_to", kw_only=True)

    def applies(self, fault: Any) -> bool:
        """
        Whether *fault* is one of its kinds, and a switch is possible for all that is known.
        """
        return super().applies(fault) and self.router.could_switch

    def recover(self, ctx: RecoveryContext) -> Awaitable[None] | None:
        """
        Switch.

        Raises:
            Escalate: If the dwell is not over, the present target can be written to, or no other one can; the reason
                says what each has answered. Nothing has changed then.
            SelfHealError: If clients could not be made to follow. The router has moved then.
        """
        return self._carry_out(self._switch(ctx))

    def revert(self, ctx: RecoveryContext) -> Awaitable[None] | None:
        """
        Go back to the primary. If it is in use already, as in a process that has just started, nothing is to be done.

        Raises:
            SelfHealError: If it cannot be written to right now, the dwell is not over, or nobody has allowed it;
                nothing has changed then. Or if clients could not be made to follow: the router has moved then.
        """
        return self._carry_out(self._fail_back(ctx))

    def revert_when(self) -> Awaitable[bool] | bool:
        """
        Whether the primary is in use, or answers, can be written to and may be gone back to.
        """
        return self._carry_out(self._primary_is_well())

    def plan(self) -> str:
        """
        What it would do.
        """
        router = self.router
        others = ", ".join(name for name in router.targets if name != router.current)
        return f"route {router.name} from {router.current} to the first of {others} that answers and can be written to"

    def _carry_out(self, plan: Plan[R]) -> Awaitable[R] | R:
        return adrive(plan) if self.router.is_async or any(map(is_async, self.after)) else drive(plan)

    def _switch(self, ctx: RecoveryContext) -> Plan[None]:
        router, source = self.router, self.router.current
        answers = yield from router.asking()
        ctx.check()
        chosen = router.better(answers)
        if chosen is None:
            msg = f"there is nothing better than {source}: {router.told(answers)}"
            raise Escalate(msg)
        try:
            router.route(chosen)
        except IllegalTransitionError as exc:
            raise Escalate(str(exc)) from exc
        yield from self._moved(ctx, source)

    def _primary_is_well(self) -> Plan[bool]:
        router = self.router
        if router.current == router.primary:
            return True
        if not router.may_fail_back:
            return False
        # The present one as well: it tells the generation that the primary must not be older than.
        answers = yield from router.asking(router.current, router.primary)
        return router.is_usable(router.primary, answers)

    def _fail_back(self, ctx: RecoveryContext) -> Plan[None]:
        router, source = self.router, self.router.current
        if source == router.primary:
            ctx.log(f"{router.name} is at {source} already")
            return
        if router.closed_until is None and not router.may_fail_back:
            msg = f"{router.name} stays at {source} until allow_failback() is called"
            raise SelfHealError(msg)
        answers = yield from router.asking(source, router.primary)
        ctx.check()
        if not router.is_usable(router.primary, answers):
            msg = f"{router.name} stays at {source}: {router.told(answers)}"
            raise SelfHealError(msg)
        router.route(router.primary)
        yield from self._moved(ctx, source)

    def _moved(self, ctx: RecoveryContext, source: str) -> Plan[None]:
        router = self.router
        ctx.log(f"{router.name} has moved from {source} to {router.current}", source=source, target=router.current)
        errors: list[Exception] = []
        for follow in self.after:
            try:
                yield follow
            except Exception as exc:  # noqa: BLE001 - the other clients have to follow all the same
                errors.append(exc)
        if errors:
            types = ", ".join(type(error).__name__ for error in errors)
            msg = (
                f"{router.name} is at {router.current}, but {len(errors)} of {len(self.after)} did not follow: {types}"
            )
            raise SelfHealError(msg) from errors[0]


def switch_ladder(router: Router[Any], *, after: Callable[[], object] | Iterable[Callable[[], object]] = ()) -> Ladder:
    """
    As many switches as there are targets: if the second one fails while the first is still away, it goes on from there.

    A held rung is applied once in an incident, so each further move needs a rung of its own: ``switch_to``,
    ``switch_to_2`` and so on. Put whatever else heals the clients after it: ``switch_ladder(router) >> pool_ladder(pool)``.

    Args:
        router: What is moved.
        after: As for `SwitchTo`.

    .. versionadded:: 26.1.0
    """
    after = _functions(after)
    ladder = SwitchTo(router, after=after).as_ladder()
    for number in range(2, len(router.targets) + 1):
        ladder = ladder >> SwitchTo(router, after=after, name=f"switch_to_{number}")
    return ladder
