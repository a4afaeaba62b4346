"""
What the front door passes on to the driver, each on the loop's own thread.
"""

from __future__ import annotations

import threading

from collections.abc import Callable, Collection, Iterable
from typing import TYPE_CHECKING

from selfheal import names
from selfheal.errors import ConfigError, IllegalTransitionError, NotRunningError, UnknownCheckError
from selfheal.healing.feasibility import require_closable
from selfheal.runtime import gating, pauses, roster
from selfheal.runtime.engine import Engine
from selfheal.runtime.hosts import running_host
from selfheal.runtime.settings import DEFAULT_BUDGET
from selfheal.runtime.watch import Pause


if TYPE_CHECKING:
    from selfheal.checks import HealthCheck
    from selfheal.model import Incident
    from selfheal.runtime.listeners import Listener


class Desk(Engine):
    """
    An engine that takes wishes, from any thread.
    """

    def admit(self, checks: Iterable[HealthCheck]) -> None:
        """
        Watch more checks: all of them, or none.

        Raises:
            ConfigError: If one of them, or all together, cannot work. Nothing has changed then.
        """
        new = list(checks)

        def add() -> None:
            together = roster.distinct((*self.checks.values(), *new))
            roster.require_acyclic(together)
            # The default is a net below all checks there may ever be; few or slow ones need not be able to reach it.
            if self.settings.budget != DEFAULT_BUDGET:
                spenders = [(check.policy, check.recovery) for check in together.values()]
                require_closable(self.settings.budget, spenders, what="the process, through all its checks")
            self.checks = together
            for check in new:
                self.driver.add(check)

        self.on_loop(add)

    def dismiss(self, name: str) -> None:
        """
        Watch a check no longer.

        Raises:
            UnknownCheckError: If there is none of this name.
            ConfigError: If another check depends on it.
        """

        def remove() -> None:
            self.require(name)
            roster.require_removable(self.checks, name)
            self.checks = {other: check for other, check in self.checks.items() if other != name}
            self.driver.remove(name)

        self.on_loop(remove)

    def explain(self, name: str) -> gating.Explanation:
        """
        Why a check is, or is not, being healed.

        Raises:
            UnknownCheckError: If there is none of this name.
        """

        def explain() -> gating.Explanation:
            self.require(name)
            return gating.explain(self.driver, self.driver.watches[name], self.clock.now())

        return self.on_loop(explain)

    def heal(self, name: str) -> Incident:
        """
        Heal by hand; the incident so far.

        Raises:
            UnknownCheckError: If there is none of this name.
            IllegalTransitionError: If it is being healed already.
            NotRunningError: If the healer does not run.
        """

        def heal() -> Incident:
            self.require(name, running=True)
            return self.driver.heal(name)

        return self.on_loop(heal)

    def check_now(self, name: str) -> None:
        """
        Run a check at once. Errors as for `heal`, but the second.
        """

        def check() -> None:
            self.require(name, running=True)
            self.driver.check_now(name)

        self.on_loop(check)

    def wait_healthy(self, name: str, timeout: float | None) -> bool:
        """
        Block until a check is well; whether it is. Errors as for `heal`, the second on the loop's own thread.
        """
        if self.here:
            msg = "wait_healthy would block the event loop it waits for. Use: await healer.await_healthy(...)"
            raise IllegalTransitionError(msg)
        reached = threading.Event()
        hope = Hope(reached.set)
        call_off = self.on_loop(lambda: self._hope(name, hope))
        try:
            self.wait(reached, timeout)
        finally:
            self._post(call_off)
        return self._well(name, hope)

    async def await_healthy(self, name: str, timeout: float | None) -> bool:
        """
        As `wait_healthy`, in any event loop.
        """
        import anyio

        reached = anyio.Event()
        caller = None if self.here else running_host(self.clock)
        hope = Hope(reached.set if caller is None else lambda: caller.post(reached.set))
        call_off = self.on_loop(lambda: self._hope(name, hope))
        try:
            with anyio.move_on_after(timeout):
                await reached.wait()
        finally:
            self._post(call_off)
        return self._well(name, hope)

    def _hope(self, name: str, hope: Hope) -> Callable[[], None]:
        self.require(name, running=True)
        return self.driver.watches[name].hope(hope.end)

    def _well(self, name: str, hope: Hope) -> bool:
        if hope.well is False:
            self.require(name)
            msg = f"the healer was stopped while somebody waited for {name!r} to be healthy"
            raise NotRunningError(msg)
        return hope.well is True

    def require(self, name: str, *, running: bool = False) -> None:
        """
        Refuse to go on without a check of this name, or without a loop.

        Raises:
            UnknownCheckError: With the names there are.
            NotRunningError: If the healer does not run.
        """
        if name not in self.checks:
            msg = f"no check is called {name!r}. There are: {', '.join(self.checks) or 'none'}."
            raise UnknownCheckError(msg)
        if running and not (self.running and self.driver.open):
            msg = "the healer does not run. Enter it first: with Healer([...]) as healer."
            raise NotRunningError(msg)

    def _require_resource(self, name: str | None) -> None:
        if name is not None and name not in self.driver.resources:
            msg = f"no resource is called {name!r}. There are: {', '.join(self.driver.resources) or 'none'}."
            raise UnknownCheckError(msg)

    @property
    def paused(self) -> bool:
        """
        Whether all actions are paused.
        """
        return pauses.pause_of(self.driver, None, self.clock.now()) is not None

    def pause(self, reason: str, resource: str | None, ttl: float | None) -> None:
        """
        Start no action on one resource, or on any.

        Raises:
            ConfigError: If it would be over at once.
            UnknownCheckError: If there is no such resource.
        """
        if ttl is not None and ttl <= 0:
            msg = f"ttl={ttl:g}: a pause lasts longer than 0 seconds. resume() ends one."
            raise ConfigError(msg)
        until = None if ttl is None else self.clock.now() + ttl

        def pause() -> None:
            self._require_resource(resource)
            pauses.pause(self.driver, resource, Pause(reason, until))

        self.on_loop(pause)

    def resume(self, reason: str, resource: str | None) -> None:
        """
        End a pause.

        Raises:
            UnknownCheckError: If there is no such resource.
        """

        def resume() -> None:
            self._require_resource(resource)
            pauses.resume(self.driver, resource, reason)

        self.on_loop(resume)

    def audit(self, action: str, target: str) -> None:
        """
        Record a wish from outside.
        """
        self.driver.reporter.announce(names.REQUEST_ACCEPTED, {"action": action, "target": target})

    def listen(self, listener: Listener, events: Collection[str] | None) -> Callable[[], None]:
        """
        Add a listener that also hears the next life; returns what takes it off again.

        Raises:
            ConfigError: If a name is unknown.
        """
        unknown = sorted(set(events or ()) - set(names.EVENTS))
        if unknown:
            msg = f"no such events: {', '.join(unknown)}. selfheal.names.EVENTS has them all."
            raise ConfigError(msg)
        key = object()
        self._listeners[key] = (listener, events)
        self._removes[key] = self.dispatcher.add(listener, events)

        def remove() -> None:
            if self._listeners.pop(key, None) is not None:
                self._removes.pop(key)()

        return remove


class Hope:
    """
    Somebody waits for a check to be well.

    Args:
        wake: Wakes whoever waits. Called on the loop's thread.
    """

    def __init__(self, wake: Callable[[], object]) -> None:
        self._wake = wake
        #: How it has ended, or `None`.
        self.well: bool | None = None

    def end(self, well: bool) -> None:
        """
        It has come true, or is not to be waited for any more.
        """
        self.well = well
        self._wake()
