"""
`Rebuildable`: an object that is made at first use and can be replaced while it is in use.

Leases are counted without a lock of ours. Entering appends to a list and then
looks whether the generation is still in service; retiring takes it out of
service and then looks at the list. `list.append`, `pop` and `copy` are atomic
against one another, with and without the GIL, so one of the two sees the other.
"""

from __future__ import annotations

import math
import threading

from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, Final, Generic, NamedTuple, TypeVar, overload

from selfheal.errors import ConfigError, IllegalTransitionError
from selfheal.model.settings import require_name, seconds
from selfheal.resources.forks import keep_inherited, reset_in_children
from selfheal.resources.loops import Signal
from selfheal.resources.retirement import Generation, Retirement
from selfheal.resources.steps import adrive, drive, is_async
from selfheal.resources.succession import Succession


if TYPE_CHECKING:
    import datetime as dt


T = TypeVar("T")


class RebuildableStatistics(NamedTuple):
    """
    Numbers of one `Rebuildable`.

    Attributes:
        generation: The number of the object in service; 0 before the first.
        alive: Objects that exist: in service, or being put out of service. At most 2.
        leases: `use` blocks that are open, on all of them.
        retired: Objects whose close has ended, well or with an error.
        close_errors: Those among them whose close raised.
        given_up: Objects whose close did not end within ``close_deadline``, or could not be started.
        hanging: Those among them whose close still runs.
    """

    generation: int
    alive: int
    leases: int
    retired: int
    close_errors: int
    given_up: int
    hanging: int


class Lease(Generic[T]):
    """
    One use of the object in service, which is not closed before the block is left or the grace is over.

    Works with ``with`` and ``async with``, once.
    """

    __slots__ = ("_generation", "_owner", "_succession")

    def __init__(self, owner: Rebuildable[T], succession: Succession[T]) -> None:
        self._owner = owner
        self._succession = succession
        self._generation: Generation[T] | None = None

    def __enter__(self) -> T:
        succession = self._succession
        if self._generation is not None:
            msg = f"this lease of {self._owner.name} is in use already. Call use() for each block."
            raise IllegalTransitionError(msg)
        while True:
            generation = succession.in_service
            if generation is None:
                self._owner.ensure()
                continue
            generation.leases.append(None)
            if succession.in_service is generation:
                self._generation = generation
                return generation.value
            generation.give_back()  # it was replaced in between

    def __exit__(self, *_exc: object) -> None:
        generation, self._generation = self._generation, None
        if generation is not None:
            generation.give_back()

    async def __aenter__(self) -> T:
        while self._succession.in_service is None:
            await self._owner.aensure()
        return self.__enter__()

    async def __aexit__(self, *_exc: object) -> None:
        self.__exit__()


class Rebuildable(Generic[T]):
    """
    An object that is made at first use and can be replaced while it is in use.

    If one of *factory*, *verify* and *close* is a coroutine function, the
    object is an *async* one: all three are called on the running loop, and it
    is built by ``async with x.use()`` or ``await x.arebuild()``. Otherwise they
    are called in threads, and everything works from sync and async code.

    A child process that is forked gets an object of its own; the parent's is
    neither used nor closed there.

    Args:
        factory: Makes a new object.
        close: Puts an old one out of service for good. What it raises is kept in `last_close_error`.
        verify: Raises if a new object does not work. Not asked for the very first one, for which there is no better
            alternative.
        name: For records: a metric label.
        grace: Seconds that the leases of an old object are waited for.
        close_deadline: Seconds after which its close is given up (it may go on for ever in its thread).

    Raises:
        ConfigError: If an argument cannot work.

    Examples:
        >>> numbers = iter([1, 2])
        >>> box = Rebuildable(lambda: [next(numbers)], close=list.clear, name="box")
        >>> with box.use() as content:
        ...     print(content, box.rebuild(), content)
        [1] [2] [1]
        >>> box.current, box.generation
        ([2], 2)
        >>> box.close()

    .. versionadded:: 26.1.0
    """

    # Overloaded, and *close* and *verify* open to any callable: else a generic pool's own methods would not fit.
    @overload
    def __init__(
        self,
        factory: Callable[[], Coroutine[Any, Any, T]],
        *,
        close: Callable[..., object],
        verify: Callable[..., object] | None = ...,
        name: str = ...,
        grace: float | dt.timedelta = ...,
        close_deadline: float | dt.timedelta = ...,
    ) -> None: ...
    @overload
    def __init__(
        self,
        factory: Callable[[], T],
        *,
        close: Callable[..., object],
        verify: Callable[..., object] | None = ...,
        name: str = ...,
        grace: float | dt.timedelta = ...,
        close_deadline: float | dt.timedelta = ...,
    ) -> None: ...
    def __init__(
        self,
        factory: Callable[[], Coroutine[Any, Any, T]] | Callable[[], T],
        *,
        close: Callable[..., object],
        verify: Callable[..., object] | None = None,
        name: str = "rebuildable",
        grace: float | dt.timedelta = 10.0,
        close_deadline: float | dt.timedelta = 5.0,
    ) -> None:
        self.name: Final = require_name(name)
        for what, part in {"factory": factory, "close": close, "verify": verify or close}.items():
            _require_function(f"{name}: {what}", part)
        self._is_async = any(map(is_async, (factory, close, verify)))
        self._retirement: Retirement[T] = Retirement(
            close,
            name=name,
            grace=_time("grace", grace),
            close_deadline=_time("close_deadline", close_deadline),
        )
        self._succession: Succession[T] = Succession(
            factory, verify, self._retirement, is_async=self._is_async, name=name
        )
        reset_in_children(self)

    # -- using it -------------------------------------------------------------

    @property
    def current(self) -> T:
        """
        The object in service, built if there is none yet. Keep it for one operation at most; better is `use`.

        Raises:
            IllegalTransitionError: If this is closed, or is an async object that is not built yet.
            Exception: What the factory raised.
        """
        generation = self._succession.in_service
        return self.ensure() if generation is None else generation.value

    def use(self) -> Lease[T]:
        """
        Lease the object in service for a ``with`` or ``async with`` block, built if there is none yet.

        Raises (on entering):
            IllegalTransitionError: If this is closed, or is an async object that is not built yet (sync ``with`` only).
            Exception: What the factory raised.
        """
        return Lease(self, self._succession)

    @property
    def is_async(self) -> bool:
        """
        Whether it is built and closed on an event loop.
        """
        return self._is_async

    @property
    def generation(self) -> int:
        """
        The number of the object in service: 1 for the first, 0 before it. Never reused, not even in a forked child.
        """
        generation = self._succession.in_service
        return 0 if generation is None else generation.number

    @property
    def generations(self) -> tuple[int, ...]:
        """
        The numbers of the objects that are alive, the one in service last; at most two.
        """
        return tuple(generation.number for generation in self._succession.alive())

    @property
    def last_close_error(self) -> BaseException | None:
        """
        What the latest failed close raised (`TimeoutError`: it was given up), or `None`.
        """
        return self._retirement.last_error

    def statistics(self) -> RebuildableStatistics:
        """
        The numbers so far.
        """
        alive, retirement = self._succession.alive(), self._retirement
        return RebuildableStatistics(
            generation=self.generation,
            alive=len(alive),
            leases=sum(len(generation.leases) for generation in alive),
            retired=retirement.retired,
            close_errors=retirement.close_errors,
            given_up=retirement.given_up,
            hanging=retirement.hanging,
        )

    def __repr__(self) -> str:
        return (
            f"<Rebuildable {self.name}, generation {self.generation}{', closed' if self._succession.is_closed else ''}>"
        )

    def ensure(self) -> T:
        """
        As `current`, said as a command: build the object now, before the first request.

        Raises:
            IllegalTransitionError: If this is closed, or is an async object that is not built yet.
            Exception: What the factory raised.
        """
        if self._succession.in_service is None and not self._succession.is_closed:
            self._require_sync(f"'async with {self.name}.use()' or 'await {self.name}.aensure()' first")
        return drive(self._succession.plan(first=True))

    async def aensure(self) -> T:
        """
        As `ensure`, from a coroutine.

        Raises:
            IllegalTransitionError: If this is closed.
            Exception: What the factory raised.
        """
        return await self._abuild(first=True)

    # -- replacing it ---------------------------------------------------------

    def rebuild(self) -> T:
        """
        Build a new object, verify it, put it into service, and retire the old one in the background.

        If an older one is still being retired, this waits for it first, for
        ``grace + close_deadline`` at most. Of concurrent calls one builds; all get its result.

        Raises:
            RebuildError: If the factory or verify raised, which is the cause. The old object is still in service.
            IllegalTransitionError: If this is closed, or is an async object: ``await arebuild()`` then.
        """
        self._require_sync("await arebuild()")
        return drive(self._succession.plan())

    async def arebuild(self) -> T:
        """
        As `rebuild`, from a coroutine. A sync object is built in a thread.

        If it is cancelled, the old object stays in service and a new one that was under way is closed.

        Raises:
            RebuildError: If the factory or verify raised, which is the cause. The old object is still in service.
            IllegalTransitionError: If this is closed.
        """
        return await self._abuild(first=False)

    def close(self) -> None:
        """
        Put it out of service for good, once its leases are back; returns after ``grace + close_deadline`` at most.

        Raises:
            IllegalTransitionError: If this is an async object that was built: ``await aclose()`` then.
        """
        if self._succession.in_service is not None:
            self._require_sync("await aclose()")
        drive(self._succession.plan_close())

    async def aclose(self) -> None:
        """
        As `close`, from a coroutine.
        """
        await adrive(self._succession.plan_close())

    def reset_after_fork(self) -> None:
        """
        Forget the object in service without closing it: it belongs to the parent process.

        Called by itself in a child made by `os.fork`. The next use builds a new object.
        """
        for generation in self._succession.forget():
            generation.drained = None  # its lock, too, may be held by a thread that does not exist here
            keep_inherited(generation.value)

    async def _abuild(self, *, first: bool) -> T:
        if self._is_async:
            return await adrive(self._succession.plan(first=first))
        return await self._build_in_thread(first=first)

    async def _build_in_thread(self, *, first: bool) -> T:
        # A daemon thread of our own: a factory that hangs must keep neither the loop nor the process from ending.
        done, dropped = Signal(), threading.Event()
        answer: list[T] = []
        failure: list[BaseException] = []

        def build() -> None:
            try:
                answer.append(drive(self._succession.plan(first=first, is_wanted=lambda: not dropped.is_set())))
            except BaseException as exc:  # noqa: BLE001 - handed over to the task that waits
                failure.append(exc)
            done.set()

        threading.Thread(target=build, name=f"selfheal-build-{self.name}", daemon=True).start()
        try:
            await done.await_(None)
        finally:
            dropped.set()
        if failure:
            raise failure[0]
        return answer[0]

    def _require_sync(self, instead: str) -> None:
        if self._is_async:
            msg = f"{self.name} is built and closed by coroutine functions: use {instead}."
            raise IllegalTransitionError(msg)


def _time(name: str, value: float | dt.timedelta) -> float:
    number = seconds(value)
    if not 0 <= number < math.inf:
        msg = f"{name}={value}: must be a finite number of seconds, 0 or more."
        raise ConfigError(msg)
    return number


def _require_function(what: str, part: object) -> None:
    if not callable(part):
        msg = f"{what}={part!r} cannot be called. Give a function."
        raise ConfigError(msg)
