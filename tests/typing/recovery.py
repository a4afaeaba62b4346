"""
Actions and ladders as an editor sees them. Never run: mypy and pyright check it.
"""

from __future__ import annotations

import datetime as dt

from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, assert_type

import attrs
import tenacity

from selfheal.model import Blast, Fault, Ladder, Outcome, RecoveryContext
from selfheal.recovery import FunctionAction, RecoveryAction, Sequence, by_fault, recovery_action, rung
from selfheal.recovery.plan import Pause, Plan, Run, plan, revert_plan


class Plain(RecoveryAction):
    """
    A sync action with traits.
    """

    blast = Blast.HOST
    destructive = True
    idempotent = False
    safe_after_abandon = True
    kinds = frozenset({"stale"})
    name = "plain"

    def recover(self, ctx: RecoveryContext) -> None:
        """Sync."""

    def plan(self) -> str:
        """Text."""
        return "what it would do"


class Held(RecoveryAction):
    """
    An async action that is taken back, with a probe as a method and an __init__ of its own.
    """

    def __init__(self, name: str) -> None:
        self.name = name

    async def recover(self, ctx: RecoveryContext) -> None:
        """Async."""

    async def revert(self, ctx: RecoveryContext) -> None:
        """Async too."""

    def revert_when(self) -> bool:
        """A probe of the better state."""
        return True


@attrs.frozen
class Configured(RecoveryAction):
    """
    An attrs class.
    """

    pool: str
    limit: float = 1.0

    def recover(self, ctx: RecoveryContext) -> Awaitable[None] | None:
        """Either colour."""
        return None


@attrs.define
class Renamed(RecoveryAction):
    """
    An attrs class whose name and probe are fields.
    """

    name: str = "renamed"
    revert_when: Callable[[], object] | None = None

    def recover(self, ctx: RecoveryContext) -> None:
        """Sync."""


@recovery_action
def warm(ctx: RecoveryContext) -> int:
    """Sync function."""
    return 1


@recovery_action
async def fetch(ctx: RecoveryContext) -> None:
    """Async function."""


@recovery_action(name="other", blast=Blast.PROCESS, destructive=True, revert_when=lambda: True)
def optioned(ctx: RecoveryContext) -> None:
    """With options."""


@optioned.reverting
def undo(ctx: RecoveryContext) -> None:
    """Stays a function."""


def plain_function(ctx: RecoveryContext) -> None:
    """Not decorated."""


def compose(ctx: RecoveryContext, fault: Fault) -> None:
    """What the operators make of them."""
    plain, held, configured = Plain(), Held("held"), Configured("pool")
    assert_type(warm, FunctionAction[int])
    assert_type(warm(ctx), int)
    colour: Coroutine[Any, Any, None] = fetch(ctx)
    colour.close()
    assert_type(optioned, FunctionAction[None])
    assert_type(undo(ctx), None)
    assert_type(plain + held, Sequence)
    assert_type(plain + held + warm, Sequence)
    assert_type(plain >> held, Ladder)
    assert_type(plain + held >> configured >> warm, Ladder)
    assert_type(rung(plain, attempts=3) >> held, Ladder)
    assert_type(plain >> rung(plain_function, cooldown=dt.timedelta(minutes=1)), Ladder)
    assert_type(plain.within(5), RecoveryAction)
    assert_type(plain.within(dt.timedelta(seconds=5)) + held, Sequence)
    assert_type(warm.retrying(stop=tenacity.stop_after_attempt(3)), RecoveryAction)
    warm.retrying(
        stop=tenacity.stop_after_attempt(3) | tenacity.stop_after_delay(10),
        wait=tenacity.wait_exponential(max=5) + tenacity.wait_random(0, 1),
        retry=tenacity.retry_if_exception_type(OSError),
    )
    assert_type(plain.when(kinds={"stale"}), RecoveryAction)
    assert_type(by_fault({"stale": plain, "down": held}, default=Renamed()), RecoveryAction)
    assert_type(held.held, bool)
    assert_type(held.name, str)
    assert_type(plain.applies(fault), bool)
    assert_type(rung(warm), Ladder)


def drive(action: RecoveryAction, fault: Fault, applied: list[RecoveryAction]) -> Outcome:
    """What a runner is given."""
    steps = plan(action, fault=fault, applied=applied, now=lambda: 0.0)
    assert_type(steps, Plan)
    step = steps.send(None)
    assert_type(step, Run | Pause)
    match step:
        case Run(leaf, revert, until):
            assert_type(leaf, RecoveryAction)
            assert_type(revert, bool)
            assert_type(until, float)
        case Pause(seconds):
            assert_type(seconds, float)
    assert_type(revert_plan(applied, now=lambda: 0.0), Plan)
    return Outcome.done()


def mistakes(plain: RecoveryAction) -> None:
    """What an editor underlines."""
    plain >> 3  # type: ignore[operator]  # pyright: ignore[reportOperatorIssue, reportUnusedExpression]
    rung(plain, 3)  # type: ignore[call-arg, misc, unused-ignore]  # pyright: ignore[reportCallIssue]
    (plain >> plain).within(5)  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]
    plain.retrying()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    plain.when({"stale"})  # type: ignore[call-arg, misc, unused-ignore]  # pyright: ignore[reportCallIssue]
    recovery_action(compose)  # type: ignore[arg-type, call-overload, unused-ignore]  # pyright: ignore[reportArgumentType]
    recovery_action(nmae="x")  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
