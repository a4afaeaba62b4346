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

        What a role raises that is no `Exception` is raised again here.
        """
        round_ = _Round(tuple(names))
        try:
            for name in round_.names:
                self._begin(name, round_)
            yield Wait(round_.done, self.timeout)
        finally:
            round_.cancel()
        if round_.raised is not None:
            raise round_.raised
        late = Answer(False, self._clock.now(), TimeoutError(f"no answer within {self.timeout:g} s"))
        return {name: round_.answers.get(name, late) for name in round_.names}

    def _begin(self, name: str, round_: _Round) -> None:
        try:
            if self.is_async:
                round_.cancels.append(running().spawn(functools.partial(self._ask_on_loop, name, round_)))
            elif self._reserved(name, round_):
                self._launch(functools.partial(self._ask_here, name, round_), name)
        except RuntimeError as exc:  # no loop
            round_.take(name, self._failed(exc))

    def _reserved(self, name: str, round_: _Round) -> bool:
        """
        Whether *name* may be asked; if not, that is its answer.
        """
        with self._lock:
            is_free = self._unanswered[name] < QUESTIONS
            self._unanswered[name] += is_free
        if not is_free:
            round_.take(name, self._failed(TimeoutError(f"{QUESTIONS} earlier questions are not answered yet")))
        return is_free

    def _launch(self, ask: Callable[[], None], name: str) -> None:
        if self._clock.virtual:
            ask()
            return
        run = functools.partial(contextvars.Context().run, ask)
        try:
            threading.Thread(target=run, name=f"selfheal-role-{name}", daemon=True).start()
        except RuntimeError:  # no thread to be had
            self._release(name)
            raise

    def _ask_here(self, name: str, round_: _Round) -> None:
        answer: Answer | BaseException
        try:
            answer = self._understood(call(functools.partial(self._role, self._targets[name])))
        except Exception as exc:  # noqa: BLE001 - whatever a role raises says that the target is of no use
            answer = self._failed(exc)
        except BaseException as exc:  # noqa: BLE001 - handed over to whoever asks
            answer = exc
        self._release(name)
        round_.take(name, answer)

    async def _ask_on_loop(self, name: str, round_: _Round) -> None:
        import anyio

        if not self._reserved(name, round_):
            return
        answer: Answer | BaseException = self._failed(TimeoutError("it was cancelled"))
        try:
            answer = self._understood(await acall(functools.partial(self._role, self._targets[name])))
        except Exception as exc:  # noqa: BLE001 - whatever a role raises says that the target is of no use
            answer = self._failed(exc)
        except (anyio.get_cancelled_exc_class(), GeneratorExit):
            raise
        except BaseException as exc:  # noqa: BLE001 - handed over to whoever asks
            answer = exc
        finally:
            self._release(name)
            round_.take(name, answer)

    def _release(self, name: str) -> None:
        with self._lock:
            self._unanswered[name] -= 1

    def _failed(self, error: Exception) -> Answer:
        return Answer(False, self._clock.now(), error)

    def _understood(self, said: object) -> Answer:
        pair = cast("tuple[object, ...]", said) if isinstance(said, tuple) else (said, None)
        role, generation = pair if len(pair) == 2 else (None, None)
        is_role = isinstance(role, str) and role in {"primary", "standby"}
        is_generation = isinstance(generation, int) and not isinstance(generation, bool) and generation >= 0
        if not is_role or not (generation is None or is_generation):
            msg = (
                f"role answered {said!r}: must be 'primary' or 'standby', or a tuple of that and its generation, a whole "
                "number of 0 or more."
            )
            raise ConfigError(msg)
        return Answer(role == "primary", self._clock.now(), None, cast("int | None", generation))


class _Round:
    """
    One question to several targets.
    """

    def __init__(self, names: tuple[str, ...]) -> None:
        self.names = names
        self.answers: dict[str, Answer] = {}
        self.raised: BaseException | None = None
        self.done = Signal()
        self.cancels: list[Callable[[], None]] = []

    def take(self, name: str, answer: Answer | BaseException) -> None:
        if isinstance(answer, Answer):
            self.answers[name] = answer
        else:
            self.raised = answer
        if self.raised is not None or len(self.answers) == len(self.names):
            self.done.set()

    def cancel(self) -> None:
        """
        Nobody waits any more. What hangs and cannot be cancelled goes on by itself, and is counted.
        """
        for cancel in self.cancels:
            cancel()
