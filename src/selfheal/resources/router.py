"""
`Router`: which of several servers is the one to use now, and what is known about the others.

Whether to switch is decided by `SwitchTo`; nothing here ever promotes a server.
"""

from __future__ import annotations

import functools
import inspect
import math
import threading

from collections.abc import Awaitable, Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Generic, Literal, NamedTuple, TypeVar, cast

from selfheal.answers import interpret, interpret_error
from selfheal.clock import SystemClock
from selfheal.errors import ConfigError, IllegalTransitionError
from selfheal.model.kinds import FAULT_KINDS
from selfheal.model.settings import require_name, seconds
from selfheal.resources.forks import reset_in_children
from selfheal.resources.router_roles import Answer, Role, Roles
from selfheal.resources.steps import Plan, adrive, drive, is_async


if TYPE_CHECKING:
    import datetime as dt

    from selfheal.clock import Clock
    from selfheal.model.health import CheckResult


T = TypeVar("T")

#: The faults that another server may be the answer to.
SWITCH_KINDS: Final = frozenset({"down", "read_only"})

#: Seconds for which an answer is worth asking again. `SwitchTo` never switches without asking anew.
FRESH: Final = 30.0


class _Route(NamedTuple):
    """
    Where to go. One object, so that a reader without a lock never sees half of a switch.
    """

    name: str
    target: Any
    #: When it was switched to, or `None`: never.
    since: float | None


class Router(Generic[T]):
    """
    One name for several servers of which one is in use: connection strings, addresses, or clients.

    Reading `target` takes no lock and is as cheap as an attribute. A program
    starts at *primary*; `settle` looks first whether that is right. A child
    process that is forked goes on where its parent was.

    Args:
        targets: By name, in order of preference. The names are metric labels.
        primary: The one to use while all is well, and to fail back to.
        role: Called with a target, sync or async: returns ``"primary"`` if it can be written to, ``"standby"`` if it
            cannot, and raises if it does not answer. It may return a tuple of that and a generation, a whole number of
            0 or more that grows with every promotion, such as PostgreSQL's timeline: a server of an older generation
            than the one in use has been left behind, and is never switched to.
        min_dwell: Seconds to stay after a switch, at least.
        failback: "auto": back to the primary once it has been well for a whole probation. "manual": not before
            somebody calls `allow_failback`.
        role_timeout: Seconds that each target has to tell its role. They are asked at the same time.
        name: For records.
        clock: The time; tests pass a virtual one.

    Raises:
        ConfigError: If an argument cannot work.

    Examples:
        >>> router = Router({"a": "db1:5432", "b": "db2:5432"}, primary="a", role=lambda target: "primary")
        >>> router.current, router.target
        ('a', 'db1:5432')

    .. versionadded:: 26.1.0
    """

    def __init__(
        self,
        targets: Mapping[str, T],
        *,
        primary: str,
        role: Callable[[T], Role | Awaitable[Role]],
        min_dwell: float | dt.timedelta = 60.0,
        failback: Literal["auto", "manual"] = "auto",
        role_timeout: float | dt.timedelta = 1.0,
        name: str = "router",
        clock: Clock | None = None,
    ) -> None:
        self.name: Final = require_name(name)
        self.targets: Final[Mapping[str, T]] = MappingProxyType(_named(targets))
        self.primary: Final = primary
        self.min_dwell: Final = seconds(min_dwell)
        _validate(self, role, failback, seconds(role_timeout))
        self._clock: Clock = SystemClock() if clock is None else clock
        self._roles = Roles(self.targets, role, timeout=seconds(role_timeout), clock=self._clock)
        self._is_auto = failback == "auto"
        self._is_allowed = self._is_auto
        self._route = _Route(primary, self.targets[primary], None)
        self._answers: Mapping[str, Answer] = {}
        self._newest = 0  # the highest generation that was in use
        self._lock = threading.Lock()
        reset_in_children(self)

    # -- using it -------------------------------------------------------------

    @property
    def current(self) -> str:
        """
        The name of the target to use now.
        """
        return self._route.name

    @property
    def target(self) -> T:
        """
        The target to use now. Read it anew for each connection or request.
        """
        return cast("T", self._route.target)

    @property
    def is_async(self) -> bool:
        """
        Whether the role is asked on an event loop.
        """
        return self._roles.is_async

    @property
    def answers(self) -> Mapping[str, Answer]:
        """
        What each target answered when it was asked last.
        """
        return self._answers

    @property
    def closed_until(self) -> float | None:
        """
        When the dwell after the last switch is over, in seconds of the clock; `None`: it may switch.
        """
        since = self._route.since
        until = -math.inf if since is None else since + self.min_dwell
        return until if self._clock.now() < until else None

    def __repr__(self) -> str:
        return f"<Router {self.name} at {self.current}>"

    def settle(self) -> str:
        """
        At the start of a program, before the first connection: go where one can write.

        That is the target of the newest generation, the primary among equals. If none can be written to, it stays at
        the primary. This counts as no switch: the dwell stays open.

        Returns:
            The name of the target to use now.

        Raises:
            IllegalTransitionError: If it has switched already, or the role is async: ``await asettle()`` then.
        """
        self._require_sync("await asettle()")
        return drive(self._settle())

    async def asettle(self) -> str:
        """
        As `settle`, from a coroutine.

        Raises:
            IllegalTransitionError: If it has switched already.
        """
        return await adrive(self._settle())

    def ask(self) -> Mapping[str, Answer]:
        """
        Ask every target for its role, at the same time; returns after ``role_timeout`` seconds at most.

        Raises:
            IllegalTransitionError: If the role is async: ``await aask()`` then.
        """
        self._require_sync("await aask()")
        return drive(self.asking())

    async def aask(self) -> Mapping[str, Answer]:
        """
        As `ask`, from a coroutine.
        """
        return await adrive(self.asking())

    def allow_failback(self) -> None:
        """
        Let it go back to the primary, once, as soon as that is well. Says nothing while it is there.
        """
        with self._lock:
            self._is_allowed = self._is_auto or self.current != self.primary

    def watching(self, probe: Callable[[], object]) -> Callable[[], object]:
        """
        *probe*, with a second look: when it finds a fault that a switch could heal, every target is asked for its role.
        The one in use is asked while it is well, until it has once told its generation.

        So `SwitchTo` knows whether there is anywhere to go, and waits for it instead of being used up by a standby
        that nobody has promoted yet. The answers cost at most ``role_timeout`` seconds more than the probe: the
        check's timeout has to cover both.

        Raises:
            ConfigError: If the role is async and *probe* is not: in a thread there is no loop to ask on.
        """
        # A probe such as PoolHealth says by itself what it returns.
        if is_async(probe) or getattr(probe, "is_async", False):

            @functools.wraps(probe)
            async def awatched() -> object:
                return await self._awatched(cast("Awaitable[object]", probe()), probe)

            return awatched
        if self.is_async:
            msg = f"{self.name}: its role is async and {probe!r} is not: make both of one kind."
            raise ConfigError(msg)

        @functools.wraps(probe)
        def watched() -> object:
            try:
                answer = probe()
            except Exception as exc:
                drive(self._second_look(interpret_error(exc, FAULT_KINDS, probe)))
                raise
            if inspect.isawaitable(answer):
                return self._awatched(answer, probe)
            drive(self._second_look(interpret(answer, FAULT_KINDS)))
            return answer

        return watched

    async def _awatched(self, answering: Awaitable[object], probe: Callable[[], object]) -> object:
        try:
            answer = await answering
        except Exception as exc:
            await adrive(self._second_look(interpret_error(exc, FAULT_KINDS, probe)))
            raise
        await adrive(self._second_look(interpret(answer, FAULT_KINDS)))
        return answer

    def _second_look(self, result: CheckResult) -> Plan[None]:
        if result.fault is not None and result.fault.kind in SWITCH_KINDS:
            yield from self.asking()
        elif result.fault is None and not self._knows_current():
            # While it is well: once it has failed nobody can tell its generation, and who was left behind by it.
            yield from self.asking(self.current)

    def _knows_current(self) -> bool:
        answer = self._answers.get(self.current)
        return answer is not None and (answer.writable or self._clock.now() - answer.at <= FRESH)

    # -- what decides about it, and moves it ------------------------------------

    @property
    def could_switch(self) -> bool:
        """
        Whether a switch is worth asking for: the dwell is over, and for all that is known there is a better target.
        """
        if self.closed_until is not None:
            return False
        now = self._clock.now()
        fresh = {name: answer for name, answer in self._answers.items() if now - answer.at <= FRESH}
        return not fresh or self.better(fresh) is not None

    @property
    def may_fail_back(self) -> bool:
        """
        Whether it is away from the primary, the dwell is over, and going back is allowed.
        """
        return self.current != self.primary and self._is_allowed and self.closed_until is None

    def better(self, answers: Mapping[str, Answer]) -> str | None:
        """
        The target to use instead of the present one: of the newest generation, the first in order among equals. `None`
        if there is none, or the present one can be written to itself.
        """
        route = self._route
        if route.name in answers and answers[route.name].writable:
            return None
        usable = (name for name in self.targets if name != route.name and self.is_usable(name, answers))
        return max(usable, key=lambda name: answers[name].generation or 0, default=None)  # the first of equals

    def is_usable(self, name: str, answers: Mapping[str, Answer]) -> bool:
        """
        Whether it answers, can be written to, and was not left behind by a promotion.
        """
        answer = answers.get(name)
        return answer is not None and answer.writable and not self._is_left_behind(answer)

    def told(self, answers: Mapping[str, Answer]) -> str:
        """
        *answers* for people. Never the text of an error.
        """
        return ", ".join(
            f"{name}: {answer}{' but left behind by a promotion' if self._is_left_behind(answer) else ''}"
            for name, answer in answers.items()
        )

    def asking(self, *names: str) -> Plan[Mapping[str, Answer]]:
        """
        The steps of asking the targets called *names*, or all.
        """
        answers = yield from self._roles.ask(names or self.targets)
        with self._lock:
            self._answers = {**self._answers, **answers}
            self._learn()
        return answers

    def route(self, name: str) -> None:
        """
        Use the target called *name* from now on. Nobody is asked: that is for `SwitchTo`, which has done so.

        Raises:
            IllegalTransitionError: If the dwell after the last switch is not over. Nothing has changed then.
        """
        with self._lock:
            until = self.closed_until
            if until is not None:
                msg = f"{self.name} stays at {self.current} for another {until - self._clock.now():.1f} s (min_dwell)"
                raise IllegalTransitionError(msg)
            self._move(name, self._clock.now())

    def reset_after_fork(self) -> None:
        """
        Called by itself in a child made by `os.fork`, which goes on where its parent was.
        """
        self._lock = threading.Lock()
        self._roles.forget()

    def _settle(self) -> Plan[str]:
        if self._route.since is not None:
            msg = f"{self.name} has switched already: settle() is for the start of a program."
            raise IllegalTransitionError(msg)
        answers = yield from self.asking()
        usable = [name for name in (self.primary, *self.targets) if self.is_usable(name, answers)]
        with self._lock:
            if usable and self._route.since is None:  # max() gives the first of equals
                self._move(max(usable, key=lambda name: answers[name].generation or 0), None)
        return self.current

    def _move(self, name: str, since: float | None) -> None:
        self._route = _Route(name, self.targets[name], since)
        self._is_allowed = self._is_auto  # every diversion needs a permission of its own
        self._learn()

    def _learn(self) -> None:
        answer = self._answers.get(self.current)
        if answer is not None and answer.writable:
            self._newest = max(self._newest, answer.generation or 0)

    def _is_left_behind(self, answer: Answer) -> bool:
        return answer.generation is not None and answer.generation < self._newest

    def _require_sync(self, instead: str) -> None:
        if self.is_async:
            msg = f"the role of {self.name} is async: use {instead}."
            raise IllegalTransitionError(msg)


def _named(targets: object) -> dict[str, Any]:
    if not isinstance(targets, Mapping):
        msg = f"targets={targets!r}: must be a mapping of two names at least, as in {{'a': dsn_a, 'b': dsn_b}}."
        raise ConfigError(msg)
    return {require_name(name, "target"): target for name, target in cast("Mapping[object, Any]", targets).items()}


def _validate(router: Router[Any], role: object, failback: object, role_timeout: float) -> None:
    """
    Say what cannot work.
    """
    targets, name = ", ".join(router.targets), router.name
    problem = None
    if len(router.targets) < 2:
        problem = f"targets has {targets or 'nothing'}: give two at least."
    elif router.primary not in tuple(router.targets):
        problem = f"primary={router.primary!r} is none of its targets: {targets}."
    elif not callable(role):
        problem = f"role={role!r} cannot be called. Give a function of a target."
    elif failback not in ("auto", "manual"):
        problem = f"failback={failback!r}: must be 'auto' or 'manual'."
    elif not 0 <= router.min_dwell < math.inf:
        problem = f"min_dwell={router.min_dwell:g}: must be a finite number of seconds, 0 or more."
    elif not 0 < role_timeout < math.inf:
        problem = f"role_timeout={role_timeout:g}: must be a finite number of seconds, greater than 0."
    if problem is not None:
        msg = f"{name}: {problem}"
        raise ConfigError(msg)
