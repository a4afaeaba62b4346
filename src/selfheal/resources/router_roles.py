"""
Asks several servers at once what they are, each on its own deadline. It does not know what the answers are for.
"""

from __future__ import annotations

import contextvars
import functools
import threading

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Final, NamedTuple, cast

from selfheal.errors import ConfigError
from selfheal.resources.loops import Signal, running
from selfheal.resources.steps import Plan, Wait, acall, call, is_async


if TYPE_CHECKING:
    from selfheal.clock import Clock


#: Questions to one target that may be unanswered at once: each may hold a thread for as long as its driver likes.
QUESTIONS: Final = 4

#: What a role may be: a name, or a name and the number of the promotion that made it.
Role = str | tuple[str, int | None]


class Answer(NamedTuple):
    """
    What one target has answered to the question of its role.

    Attributes:
        writable: It answered, and can be written to.
        at: When, in seconds of the router's clock.
        error: What was raised instead, or `None`.
        generation: Grows with every promotion; `None`: its role did not say.
    """

    writable: bool
    at: float
    error: Exception | None = None
    generation: int | None = None

    def __str__(self) -> str:
        # The text of an error may tell addresses and users; its type does not.
        if self.error is not None:
            return f"no answer ({type(self.error).__name__})"
        return "writable" if self.writable else "read-only"


class Roles:
    """
    The targets, and how each is asked.

    Args:
        targets: By name.
        role: Called with a target, sync or async.
        timeout: Seconds that each of them gets.
        clock: Stamps the answers.
    """

    def __init__(
        self, targets: Mapping[str, object], role: Callable[..., object], *, timeout: float, clock: Clock
    ) -> None:
        self.is_async = is_async(role)
        self.timeout = timeout
        self._targets = targets
        self._role = role
        self._clock = clock
        self.forget()

    def forget(self) -> None:
        """
        Drop what belongs to a parent process: its threads are not here, and one of them may hold the lock.
        """
        self._unanswered: dict[str, int] = dict.fromkeys(self._targets, 0)
        self._lock = threading.Lock()

    def ask(self, names: Iterable[str]) -> Plan[dict[str, Answer]]:
        """
        Ask them all at once; no later than ``timeout`` seconds after there is an answer for each.
        """
        round_ = _Round(tuple(names))
        try:
            for name in round_.names:
                self._begin(name, round_)
            yield Wait(round_.done, self.timeout)
        finally:
            round_.cancel()
        late = Answer(False, self._clock.now(), TimeoutError(f"no answer within {self.timeout:g} s"))
        return {name: round_.answers.get(name, late) for name in round_.names}

    def _begin(self, name: str, round_: _Round) -> None:
        if self._unanswered[name] >= QUESTIONS:
            round_.take(name, self._failed(TimeoutError(f"{QUESTIONS} earlier questions are not answered yet")))
            return
        try:
            if self.is_async:
                round_.cancels.append(running().spawn(functools.partial(self._ask_on_loop, name, round_)))
            elif self._clock.virtual:
                self._ask_here(name, round_)
            else:
                run = functools.partial(contextvars.Context().run, self._ask_here, name, round_)
                threading.Thread(target=run, name=f"selfheal-role-{name}", daemon=True).start()
        except RuntimeError as exc:  # no thread to be had, or no loop
            round_.take(name, self._failed(exc))

    def _ask_here(self, name: str, round_: _Round) -> None:
        self._count(name, 1)
        try:
            answer = self._understood(call(functools.partial(self._role, self._targets[name])))
        except Exception as exc:  # noqa: BLE001 - whatever a role raises says that the target is of no use
            answer = self._failed(exc)
        finally:
            self._count(name, -1)
        round_.take(name, answer)

    async def _ask_on_loop(self, name: str, round_: _Round) -> None:
        self._count(name, 1)
        try:
            answer = self._understood(await acall(functools.partial(self._role, self._targets[name])))
        except Exception as exc:  # noqa: BLE001 - whatever a role raises says that the target is of no use
            answer = self._failed(exc)
        finally:
            self._count(name, -1)
        round_.take(name, answer)

    def _count(self, name: str, change: int) -> None:
        with self._lock:
            self._unanswered[name] += change

    def _failed(self, error: Exception) -> Answer:
        return Answer(False, self._clock.now(), error)

    def _understood(self, said: object) -> Answer:
        role, generation = cast("tuple[object, object]", said) if isinstance(said, tuple) else (said, None)
        if role not in {"primary", "standby"} or not (generation is None or isinstance(generation, int)):
            msg = f"role answered {said!r}: must be 'primary' or 'standby', or a tuple of that and a whole number."
            raise ConfigError(msg)
        return Answer(role == "primary", self._clock.now(), None, generation)


class _Round:
    """
    One question to several targets.
    """

    def __init__(self, names: tuple[str, ...]) -> None:
        self.names = names
        self.answers: dict[str, Answer] = {}
        self.done = Signal()
        self.cancels: list[Callable[[], None]] = []

    def take(self, name: str, answer: Answer) -> None:
        self.answers[name] = answer
        if len(self.answers) == len(self.names):
            self.done.set()

    def cancel(self) -> None:
        """
        Nobody waits any more. What hangs and cannot be cancelled goes on by itself, and is counted.
        """
        for cancel in self.cancels:
            cancel()
