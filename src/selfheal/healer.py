"""
The front door: what an application makes, enters, asks and leaves.

It checks what it is given, finds the loop, and passes everything on to the
driver. It decides nothing.
"""

from __future__ import annotations

import os

from collections.abc import Callable, Collection, Iterable, Mapping
from types import MappingProxyType, TracebackType
from typing import TYPE_CHECKING, Literal, Self

from selfheal.checks import HealthCheck, resolve
from selfheal.clock import SystemClock
from selfheal.errors import ConfigError
from selfheal.model.policy import Budget
from selfheal.model.settings import seconds


if TYPE_CHECKING:
    import datetime as dt
    import random as random_module

    from selfheal.clock import Clock
    from selfheal.model import Incident, Journal
    from selfheal.model.rings import PastResult
    from selfheal.runtime.gating import Explanation
    from selfheal.runtime.hosts import Host
    from selfheal.runtime.listeners import Listener
    from selfheal.runtime.snapshot import Snapshot
    from selfheal.runtime.watch import CheckStatus

#: A pause without an end is forgotten and never found: this is how long one lasts unless said otherwise.
PAUSE_SECONDS = 3600.0

Mode = Literal["enforce", "observe"]


class Healer:
    """
    Watches checks and heals their resources, in a sync or in an async program.

    ``with`` runs it in one background thread, ``async with`` inside your own loop, asyncio or trio. Times are in seconds.

    Args:
        checks: Functions marked by `health_check`, and `HealthCheck` values.
        mode: "enforce" heals; "observe" only looks and records.
        allow_destructive: Allow rungs that destroy data or work of somebody else.
        budget: Actions of the whole process.
        max_concurrent: Actions at the same time.
        max_threads: Threads for sync probes and actions. Abandoned ones are not counted; they have a bound of
            their own, four a check.
        grace: Seconds that running actions get when the healer stops. A running probe gets one of them at most.
        journal: Keeps incidents and held changes beyond the life of the process: the path of a SQLite file, or a
            `Journal`.
        registry: A registry of prometheus-client to report to, or `True` for its default one.
        clock: The time; tests pass a virtual one.
        random: Where jitter and phases come from.
        phase: Seconds until each first check; by default a random time within its interval, one second at most.
        slack: Seconds by which due times may be late to share wake-ups; by default 5 % of the wait, 50 ms at most.
        log_errors: Let exception texts and tracebacks into the log.
        redact: Applied to each such text first.
        after_fork: What a child process does: "warn" that it has no healer, or "start" one of its own.

    Raises:
        ConfigError: If a setting, or two checks together, cannot work.
    """

    def __init__(
        self,
        checks: Iterable[HealthCheck | Callable[[], object]] = (),
        *,
        mode: Mode = "enforce",
        allow_destructive: bool = False,
        budget: Budget = Budget(10, per=600),  # noqa: B008 - a frozen value
        max_concurrent: int = 4,
        max_threads: int = 32,
        grace: float | dt.timedelta = 5.0,
        journal: str | os.PathLike[str] | Journal | None = None,
        registry: object = None,
        clock: Clock | None = None,
        random: random_module.Random | None = None,
        phase: float | None = None,
        slack: float | None = None,
        log_errors: bool = False,
        redact: Callable[[str], str] | None = None,
        after_fork: Literal["warn", "start"] = "warn",
    ) -> None:
        if isinstance(checks, HealthCheck) or callable(checks):
            msg = f"Healer({checks!r}): give a list of checks, Healer([check])."
            raise ConfigError(msg)
        # Here, so that whoever only names the Healer does not pay for the rooms that wait.
        from selfheal.runtime.desk import Desk
        from selfheal.runtime.settings import Settings

        settings = Settings(
            mode=mode,
            allow_destructive=allow_destructive,
            budget=budget,
            max_concurrent=max_concurrent,
            max_threads=max_threads,
            grace=grace,
            phase=phase,
            slack=slack,
            after_fork=after_fork,
            random=random,
        )
        self.mode: Mode = mode
        self.log_errors = log_errors
        self.redact = redact
        self.registry = registry
        clock = SystemClock() if clock is None else clock
        self._engine = Desk(settings, clock, on_start=self._attach_exporters, journal=_opened(journal))
        self._engine.admit(resolve(check) for check in checks)

    def _attach_exporters(self) -> None:
        # The one look upwards: whoever gets a registry, and every healer for its log, expects them to work by itself.
        from selfheal.export import attach

        attach(self, registry=self.registry)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    async def __aenter__(self) -> Self:
        await self.astart()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.astop()

    def start(self) -> None:
        """
        Start in a background thread. An async program awaits `astart`.

        Raises:
            IllegalTransitionError: If it runs already.
        """
        self._engine.start()

    async def astart(self) -> None:
        """
        Start inside the running loop of asyncio or trio.

        Raises:
            IllegalTransitionError: If it runs already.
            NotRunningError: If no loop runs here.
        """
        await self._engine.astart()

    def begin_on(self, host: Host) -> None:
        """
        Start on a loop of one's own, as the simulator does. Applications use ``with`` or ``async with``.

        Raises:
            IllegalTransitionError: If it runs already.
        """
        self._engine.begin_on(host)

    def stop(self, *, revert: bool = False) -> None:
        """
        Stop a healer that was started by `start`, within ``grace`` seconds.

        Running actions get the grace, then are given up and named in the event
        ``selfheal.healer.stopped``; probes that are in time get a second of it, so that what they use may be closed
        next. Held changes stay as they are.

        Args:
            revert: Step held changes down first, as far as the grace goes.

        Raises:
            IllegalTransitionError: If it runs inside your own loop: await `astop` there. Or on its own thread.
        """
        self._engine.stop(revert=revert)

    async def astop(self, *, revert: bool = False) -> None:
        """
        Stop a healer that was started by `astart`, within ``grace`` seconds. As `stop`.
        """
        await self._engine.astop(revert=revert)

    @property
    def checks(self) -> tuple[HealthCheck, ...]:
        """
        What is watched.
        """
        return tuple(self._engine.checks.values())

    def add(self, check: HealthCheck | Callable[[], object]) -> None:
        """
        Watch one more check.

        Raises:
            ConfigError: If its name is taken, or it cannot work. Nothing has changed then.
        """
        self._engine.admit([resolve(check)])

    def remove(self, name: str) -> None:
        """
        Watch a check no longer. Its open incident ends as aborted; held changes stay as they are.

        Raises:
            UnknownCheckError: If there is none of this name.
            ConfigError: If another check depends on it.
        """
        self._engine.dismiss(name)

    def status(self) -> Mapping[str, CheckStatus]:
        """
        How every check stands right now. Safe from any thread; never waits.
        """
        return MappingProxyType({name: watch.status() for name, watch in tuple(self._engine.driver.watches.items())})

    def snapshot(self, *, max_age: float = 0.0) -> Snapshot:
        """
        Everything about it at this moment; or the last snapshot, if it is younger than *max_age* seconds and no status
        or state has changed since. Safe from any thread; never waits.
        """
        from selfheal.runtime.snapshot import snapshot

        return snapshot(self._engine, max_age)

    def explain(self, name: str) -> Explanation:
        """
        Why a check is, or is not, being healed: every gate with its reason. Its ``str`` is a sentence.

        Raises:
            UnknownCheckError: If there is none of this name.
        """
        return self._engine.explain(name)

    def results(self, name: str) -> tuple[PastResult, ...]:
        """
        The last results of a check, oldest first, at most 300. Safe from any thread; never waits.

        Raises:
            UnknownCheckError: If there is none of this name.
        """
        self._engine.require(name)
        return tuple(self._engine.driver.watches[name].ring)

    def incidents(self) -> tuple[Incident, ...]:
        """
        The last closed incidents, oldest first, at most 256.
        """
        return tuple(self._engine.driver.reporter.incidents)

    @property
    def paused(self) -> bool:
        """
        Whether all actions are paused.
        """
        return self._engine.paused

    @property
    def events_dropped(self) -> int:
        """
        Events that slow listeners have missed.
        """
        return self._engine.dispatcher.dropped

    @property
    def step_errors(self) -> int:
        """
        Exceptions of monitors and predicates, which must not raise, and of selfheal itself. None of them stops a check.
        """
        return self._engine.driver.reporter.failures

    @property
    def listener_errors(self) -> int:
        """
        Exceptions of listeners.
        """
        return self._engine.dispatcher.failed

    def heal(self, name: str) -> Incident:
        """
        Heal now, as if the fault had just been confirmed. Returns at once.

        It passes over the gates self_doubt, dependency, storm, flapping and cooldown, never over paused, busy and budget.

        Returns:
            The incident so far; `wait_healthy` waits for its end.

        Raises:
            UnknownCheckError: If there is no check of this name.
            IllegalTransitionError: If it is being healed already.
            NotRunningError: If the healer does not run.
        """
        return self._engine.heal(name)

    def check_now(self, name: str) -> None:
        """
        Run a check now instead of at its due time. Returns at once.

        Raises:
            UnknownCheckError: If there is none of this name.
            NotRunningError: If the healer does not run.
        """
        self._engine.check_now(name)

    def pause(
        self, reason: str, *, resource: str | None = None, ttl: float | dt.timedelta | None = PAUSE_SECONDS
    ) -> None:
        """
        Start no action and no revert; checks go on, and what runs is not cancelled.

        Args:
            reason: Why, for whoever finds it.
            resource: Only this one; by default all.
            ttl: Seconds after which the pause ends by itself; `None`: only `resume` ends it.

        Raises:
            UnknownCheckError: If there is no such resource.
            ConfigError: If the reason is empty or *ttl* is no time.
        """
        if not reason:
            msg = "a pause needs a reason: somebody will find it at 3 a.m. and wonder."
            raise ConfigError(msg)
        self._engine.pause(reason, resource, None if ttl is None else seconds(ttl))

    def resume(self, *, resource: str | None = None, reason: str = "resumed") -> None:
        """
        End a pause. What was seen during it is no evidence.

        Raises:
            UnknownCheckError: If there is no such resource.
        """
        self._engine.resume(reason, resource)

    def audit(self, action: str, target: str = "") -> None:
        """
        Record that somebody outside has asked for *action*, in the event ``selfheal.request.accepted``.
        """
        self._engine.audit(action, target)

    def on_event(self, listener: Listener, *, events: Collection[str] | None = None) -> Callable[[], None]:
        """
        Call *listener* with every `Event`, or those of these names, in order, from a thread of the healer.

        What it raises is counted and changes nothing. At most 4096 events wait for slow ones; more are dropped and counted.

        Args:
            listener: Any callable with one parameter.
            events: Names from `selfheal.names.EVENTS`.

        Returns:
            A function that takes it off again.

        Raises:
            ConfigError: If a name is unknown.
        """
        return self._engine.listen(listener, events)

    def wait_healthy(self, name: str, *, timeout: float | dt.timedelta | None = None) -> bool:
        """
        Block until a check is healthy and its healing has proved itself (RESTORED or IDLE).

        Args:
            name: The check.
            timeout: Seconds to wait at most; `None`: as long as it takes.

        Returns:
            Whether it is.

        Raises:
            UnknownCheckError: If there is none of this name, or none any more.
            NotRunningError: If the healer does not run, or is stopped meanwhile.
            IllegalTransitionError: On the loop's own thread: await `await_healthy` there.
        """
        return self._engine.wait_healthy(name, None if timeout is None else seconds(timeout))

    async def await_healthy(self, name: str, *, timeout: float | dt.timedelta | None = None) -> bool:
        """
        As `wait_healthy`, without blocking the loop; in any event loop.
        """
        return await self._engine.await_healthy(name, None if timeout is None else seconds(timeout))


def _opened(journal: str | os.PathLike[str] | Journal | None) -> Journal | None:
    if isinstance(journal, str | os.PathLike):
        import importlib  # by name: the journal is a room above, and sqlite3 is for those who keep one

        made: Journal = importlib.import_module("selfheal.records.journal").SqliteJournal(journal)
        return made
    if journal is None or hasattr(journal, "claim"):
        return journal
    msg = f"journal={journal!r}: must be the path of a file, or have the methods of selfheal.model.Journal."
    raise ConfigError(msg)
