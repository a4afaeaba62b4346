"""
A healer that does nothing but say what the test tells it to: exporters see nothing else of one.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING

import pytest

from selfheal import Budget, Fault, HealthCheck, LatencyMonitor, rung
from selfheal.model import Event, Field
from selfheal.recovery import recovery_action
from selfheal.runtime.snapshot import PROCESS, Allowance, Snapshot
from selfheal.runtime.watch import Pause


if TYPE_CHECKING:
    from selfheal.runtime.watch import CheckStatus


@recovery_action
def drain(_ctx: object) -> None:
    """The cheap rung."""


@recovery_action
def rebuild(_ctx: object) -> None:
    """The dear rung."""


class Stage:
    """
    What exporters see of a healer, played by the test.
    """

    def __init__(self, *checks: HealthCheck) -> None:
        self.checks = checks
        self.mode = "enforce"
        self.paused = False
        self.pauses: dict[str, Pause] = {}
        self.events_dropped = 0
        self.log_errors = False
        self.redact = None
        self.present: dict[str, CheckStatus] = {}
        self.budgets = {PROCESS: Allowance(Budget(10, per=600), 10), "orders_db": Allowance(Budget(3, per=60), 3)}
        self.listeners: list[tuple[Callable[[Event], object], Collection[str] | None]] = []

    def status(self) -> Mapping[str, CheckStatus]:
        """How each check stands."""
        return self.present

    def snapshot(self, *, max_age: float = 0.0) -> Snapshot:
        """Everything at once."""
        del max_age
        return Snapshot(
            at=1.0,
            wall=1_000.0,
            running=True,
            mode=self.mode,
            lag=0.0,
            paused=Pause("testing") if self.paused else None,
            pauses=self.pauses,
            checks=self.present,
            budgets=self.budgets,
        )

    def on_event(
        self, listener: Callable[[Event], object], /, *, events: Collection[str] | None = None
    ) -> Callable[[], None]:
        """Remember the listener."""
        item = (listener, events)
        self.listeners.append(item)
        return lambda: self.listeners.remove(item)

    def say(
        self,
        name: str,
        /,
        check: str = "orders",
        *,
        at: float = 1.0,
        error: BaseException | None = None,
        number: int | None = None,
        **fields: Field,
    ) -> None:
        """Send one event to whoever wants it."""
        resource = "orders_db" if check else ""
        event = Event(name=name, at=at, check=check, resource=resource, incident=number, fields=fields, error=error)
        for listener, events in tuple(self.listeners):
            if events is None or name in events:
                listener(event)


def orders() -> HealthCheck:
    """A check with everything that has metrics: two rungs, a monitor, a budget."""
    return HealthCheck(
        lambda: None,
        name="orders",
        resource="orders_db",
        interval=7,
        monitors=[LatencyMonitor(window_size=2, threshold_ms=500)],
        recovery=rung(drain) >> rung(rebuild),
        budget=Budget(3, per=60),
    )


@pytest.fixture
def stage() -> Stage:
    """A healer with one check."""
    return Stage(orders())


@pytest.fixture
def make_stage() -> Callable[..., Stage]:
    """Makes healers with the given checks."""
    return Stage


@pytest.fixture
def make_check() -> Callable[[], HealthCheck]:
    """Makes the check of `stage` again."""
    return orders


@pytest.fixture
def fault() -> Fault:
    """Something is wrong."""
    return Fault("error")
