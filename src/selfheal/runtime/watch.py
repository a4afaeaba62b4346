"""
What the driver knows about one check and about one resource. It decides nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import attrs

from selfheal.healing.ledgers import BudgetLedger, CooldownLedger, FlapLedger
from selfheal.model import HealingState, HealthStatus
from selfheal.model.rings import ResultRing
from selfheal.runtime.schedule import Timed


if TYPE_CHECKING:
    from selfheal.checks import HealthCheck
    from selfheal.healing import HealingStateMachine
    from selfheal.model import CheckResult, Fault, Incident
    from selfheal.recovery import RecoveryAction
    from selfheal.runtime.actions import ActionRun
    from selfheal.runtime.probes import ProbeRun
    from selfheal.runtime.questions import Awaited, Question


@attrs.frozen
class Pause:
    """
    Somebody's wish that nothing is done.

    Args:
        reason: Why, for people.
        until: Monotonic seconds at which it ends by itself, or `None`.
    """

    reason: str
    until: float | None = None


@attrs.frozen(kw_only=True)
class CheckStatus:
    """
    How a check stands right now.

    Args:
        status: HEALTHY, DEGRADED, UNHEALTHY, or UNKNOWN: nothing known yet, or nothing fresh.
        state: Where its healing stands.
        last: Its last result, or `None`.
        fault: The latest fault, or `None` while it is healthy.
        incident: Its open incident so far, or `None`.
        abandoned: Runs that outlived their deadline and have not ended.
        held: Names of the held rungs that are applied.
    """

    status: HealthStatus
    state: HealingState
    last: CheckResult | None
    fault: Fault | None
    incident: Incident | None
    abandoned: int
    held: tuple[str, ...]


class Resource:
    """
    What the checks of one resource share: the lock, cooldowns, budget and pause.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.watches: list[Watch] = []
        self.pause: Pause | None = None
        self.cooldowns = CooldownLedger()
        self.budget: BudgetLedger | None = None


class Watch(Timed):
    """
    One check, its machine, and what is going on with it.
    """

    __slots__ = (
        "abandoned",
        "action",
        "applied",
        "asking",
        "better_asked",
        "better_since",
        "charged",
        "check",
        "due",
        "flaps",
        "fresh",
        "hopes",
        "is_async",
        "last",
        "machine",
        "number",
        "opened",
        "opened_wall",
        "resource",
        "ring",
        "run",
        "waiters",
    )

    def __init__(self, check: HealthCheck, machine: HealingStateMachine, resource: Resource, *, is_async: bool) -> None:
        super().__init__()
        self.check = check
        self.machine = machine
        self.resource = resource
        self.is_async = is_async
        #: The run in flight that is not abandoned, at most one.
        self.run: ProbeRun | None = None
        #: Runs that outlived their deadline and have not ended, at most `probes.MAX_ABANDONED`.
        self.abandoned: list[ProbeRun] = []
        #: Whether a fresh run beside them is allowed: a new path must be provable.
        self.fresh = False
        #: The action this check has started and that was not answered yet.
        self.action: ActionRun | None = None
        #: A question that has to be answered before a decision, beside the check's own runs.
        self.asking: Question | Awaited | None = None
        #: When a ``revert_when`` was answered last, and since when it has been good.
        self.better_asked: float | None = None
        self.better_since: float | None = None
        #: Held leaves in force, by rung, oldest first.
        self.applied: dict[int, list[RecoveryAction]] = {}
        self.last: CheckResult | None = None
        self.due = 0.0
        #: Incidents so far, and the number of the open one or `None`.
        self.opened = 0
        self.number: int | None = None
        #: Called once it is well.
        self.hopes: list[Callable[[], None]] = []
        self.ring = ResultRing()
        self.flaps = FlapLedger()
        #: Charges of the open incident, to be refunded if it ends healed.
        self.charged: list[tuple[BudgetLedger, int]] = []
        #: Checks whose decision waits for this one's next result.
        self.waiters: list[Watch] = []
        self.opened_wall: float | None = None

    @property
    def is_well(self) -> bool:
        """
        Whether it is healthy and its healing, if there was one, has proved itself.
        """
        machine = self.machine
        return machine.status is HealthStatus.HEALTHY and machine.state in {HealingState.IDLE, HealingState.RESTORED}

    def status(self) -> CheckStatus:
        """
        A snapshot, safe from any thread.
        """
        machine = self.machine
        incident = machine.incident
        if incident is not None:
            incident = self.named(incident)
        rungs = self.check.recovery.rungs
        return CheckStatus(
            status=machine.status,
            state=machine.state,
            last=self.last,
            fault=None if machine.status is HealthStatus.HEALTHY else machine.fault,
            incident=incident,
            abandoned=len(self.abandoned),
            held=tuple(rungs[index].name for index in machine.held),
        )

    def named(self, incident: Incident) -> Incident:
        """
        *incident* as the world knows it: the machine knows neither its own name nor wall time.
        """
        return attrs.evolve(incident, check=self.check.name, resource=self.resource.name, opened_wall=self.opened_wall)
