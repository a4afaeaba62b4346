"""
Runs a healer in simulated time, without any event loop: a story in, a timeline out.
"""

from __future__ import annotations

import heapq
import inspect

from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from typing import TYPE_CHECKING, Any, Literal

import attrs

from selfheal import names
from selfheal.healer import Healer
from selfheal.model import Budget
from selfheal.runtime.leash import Tether, leash, park
from selfheal.testing.clock import Even, VirtualClock


if TYPE_CHECKING:
    from selfheal.checks import HealthCheck
    from selfheal.model import Event, Incident
    from selfheal.runtime.threads import Ended


@attrs.frozen(kw_only=True)
class Story:
    """
    What has happened in a simulation.

    Args:
        events: Everything, in order.
        incidents: Those that have closed.
        still_open: Those that have not, as they stood at the end.
        until: Virtual seconds at the end.
    """

    events: tuple[Event, ...] = attrs.field(repr=False)
    incidents: tuple[Incident, ...]
    still_open: tuple[Incident, ...] = ()
    until: float

    def states(self, check: str | None = None) -> list[tuple[float, str]]:
        """
        When which state was entered, by one check or by all.
        """
        return states(self.events, check)

    def actions(self, check: str | None = None) -> list[tuple[float, str]]:
        """
        When which action was started.
        """
        return [
            (event.at, str(event.fields["action"]))
            for event in self.events
            if event.name == names.ACTION_STARTED and check in {None, event.check}
        ]


def states(events: Iterable[Event], check: str | None = None) -> list[tuple[float, str]]:
    """
    The state changes among *events*, as (seconds, state) pairs.
    """
    return [
        (event.at, str(event.fields["to_state"]))
        for event in events
        if event.name == names.STATE_CHANGED and check in {None, event.check}
    ]


def simulate(
    checks: Iterable[HealthCheck | Callable[[], object]],
    *,
    until: float,
    clock: VirtualClock | None = None,
    mode: Literal["enforce", "observe"] = "enforce",
    allow_destructive: bool = False,
    budget: Budget = Budget(10, per=600),  # noqa: B008 - a frozen value
) -> Story:
    """
    Run a healer over *checks* until a virtual time, with the very code that runs in production.

    Phase and slack are zero and nothing is jittered, so the same checks give
    the same story. Async probes and actions let time pass by ``await
    clock.sleep(...)``, sync ones by ``clock.pass_time(...)``.

    Args:
        checks: As for `Healer`.
        until: Virtual seconds at which it ends.
        clock: The clock that the probes and actions use.
        mode: As for `Healer`.
        allow_destructive: As for `Healer`.
        budget: As for `Healer`.

    Raises:
        ConfigError: As `Healer`.
    """
    clock = VirtualClock() if clock is None else clock
    events: list[Event] = []
    healer = Healer(
        checks,
        mode=mode,
        allow_destructive=allow_destructive,
        budget=budget,
        clock=clock,
        phase=0,
        slack=0,
        random=Even(),
    )
    healer.on_event(events.append)
    with clock.simulated():
        world = World(clock)
        healer.begin_on(world)
        world.run(until)
        still_open = tuple(status.incident for status in healer.status().values() if status.incident is not None)
        world.let_go()
    return Story(events=tuple(events), incidents=healer.incidents(), still_open=still_open, until=until)


class _Cancelled(BaseException):
    """
    What cancelled code sees in a simulation.
    """


class World:
    """
    An event loop without a loop: coroutines that wait for virtual time, and nothing else.

    Args:
        clock: Moved by it.
    """

    cancelled: tuple[type[BaseException], ...] = (_Cancelled,)

    def __init__(self, clock: VirtualClock) -> None:
        self._clock = clock
        self._ready: deque[Callable[[], object]] = deque()
        self._sleeping: list[tuple[float, int, _Sleeper]] = []
        self._count = 0
        self._alarm: tuple[float, Callable[[], None]] | None = None

    def start(self, fn: Callable[[], Awaitable[object]], ended: Ended) -> _Sleeper:
        """
        As `selfheal.runtime.hosts.Host.start`.
        """
        sleeper = _Sleeper(self, fn, ended)
        self._ready.append(sleeper.step)
        return sleeper

    def alarm(self, when: float, fn: Callable[[], None]) -> None:
        """
        As `selfheal.runtime.hosts.Host.alarm`.
        """
        self._alarm = (when, fn)

    def post(self, fn: Callable[[], object]) -> bool:
        """
        As `selfheal.runtime.hosts.Host.post`.
        """
        self._ready.append(fn)
        return True

    def sleep(self, sleeper: _Sleeper, when: float) -> None:
        """
        Step *sleeper* again at *when*.
        """
        self._count += 1
        heapq.heappush(self._sleeping, (when, self._count, sleeper))

    def run(self, until: float) -> None:
        """
        Let everything happen that is due by *until*.
        """
        while True:
            while self._ready:
                self._ready.popleft()()
            alarm = self._alarm
            wake = self._sleeping[0][0] if self._sleeping else float("inf")
            ring = float("inf") if alarm is None else alarm[0]
            if min(wake, ring) > until:
                self._clock.move_to(until)
                return
            if wake <= ring:
                when, _, sleeper = heapq.heappop(self._sleeping)
                self._clock.move_to(when)
                sleeper.wake(when)
            elif alarm is not None:
                self._alarm = None
                self._clock.move_to(alarm[0])
                alarm[1]()

    def alive(self) -> bool:
        """
        As `selfheal.runtime.hosts.Host.alive`.
        """
        return True

    def let_go(self) -> None:
        """
        Leave whatever still waits where it is.
        """
        park((self._sleeping, self._ready))


class _Sleeper:
    """
    One coroutine and where it waits.
    """

    is_task = True

    def __init__(self, world: World, fn: Callable[[], Awaitable[object]], ended: Ended) -> None:
        self._world = world
        self._fn = fn
        self._ended = ended
        self._tether = Tether()
        self._coro: Coroutine[Any, Any, object] | None = None
        self._cancel = False
        self._due: float | None = None
        self._over = False

    def step(self) -> None:
        """
        Run it until it waits or ends.
        """
        if self._over:
            return
        try:
            if self._coro is None:
                awaitable = self._fn()
                inner = awaitable if inspect.iscoroutine(awaitable) else _awaiting(awaitable)
                self._coro = _leashed(inner, self._tether)
            if self._cancel:
                self._cancel = False
                when = self._coro.throw(_Cancelled())
            else:
                when = self._coro.send(None)
        except StopIteration as stop:
            self._over = True
            self._ended(stop.value, None)
        except BaseException as exc:  # noqa: BLE001 - handed over, as every host does
            self._over = True
            self._ended(None, exc)
        else:
            self._due = when
            self._world.sleep(self, when)

    def wake(self, when: float) -> None:
        """
        A time it has slept for has come; not if it was woken meanwhile.
        """
        if when == self._due:
            self._due = None
            self.step()

    def cancel(self) -> None:
        """
        Pass one cancellation on.
        """
        self._tether.requested = True
        self._cancel = True
        self._due = None
        self._world.post(self.step)


async def _awaiting(awaitable: Awaitable[object]) -> object:
    return await awaitable


async def _leashed(coro: Coroutine[Any, Any, object], tether: Tether) -> object:
    return await leash(coro, tether)
