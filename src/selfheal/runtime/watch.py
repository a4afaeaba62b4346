"""
What the driver knows about one check and about one resource. It decides nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import attrs

from selfheal.healing.ledgers import BudgetLedger, CooldownLedger, FlapLedger
from selfheal.model import CheckResult, HealingState, HealthStatus
from selfheal.model.rings import ResultRing
from selfheal.runtime.schedule import Timed


if TYPE_CHECKING:
    from selfheal.checks import HealthCheck
    from selfheal.healing import HealingStateMachine
    from selfheal.healing.gates import Trace
    from selfheal.model import Fault, Incident
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
        since: Monotonic seconds at which it got into that state.
        rung: Name of the rung that was tried last in the open incident, or `None`.
        running: Name of the action that runs for it, or `None`.
        was_good: Whether it has ever been HEALTHY or DEGRADED.
        waits: What the gates have said last, while an action or a revert waits for them.
    """

    status: HealthStatus
    state: HealingState
    last: CheckResult | None
    fault: Fault | None
    incident: Incident | None
    abandoned: int
    held: tuple[str, ...]
    since: float = 0.0
    rung: str | None = None
    running: str | None = None
    was_good: bool = False
    waits: Trace | None = None


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
        "_telling",
        "abandoned",
        "action",
        "applied",
        "asking",
        "better_asked",
        "better_since",
        "broken",
        "charged",
        "check",
        "due",
        "flaps",
        "fresh",
        "gone",
        "hopes",
        "is_async",
        "machine",
        "number",
        "opened",
        "opened_wall",
        "resource",
        "ring",
        "run",
        "rung",
        "since",
        "told",
        "unanswered",
        "waiters",
        "waits",
        "was_good",
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
        #: The question that was given up and whose code has not ended, at most one.
        self.unanswered: Question | None = None
        #: When a ``revert_when`` was answered last, and since when it has been good.
        self.better_asked: float | None = None
        self.better_since: float | None = None
        #: Held leaves in force, by rung, oldest first.
        self.applied: dict[int, list[RecoveryAction]] = {}
        #: The last result, if it says more than that all is well.
        self._telling: CheckResult | None = None
        #: The last result was a mistake of the probe itself.
        self.broken = False
        self.due = 0.0
        #: Incidents so far, and the number of the open one or `None`.
        self.opened = 0
        self.number: int | None = None
        #: The rung that was begun last in the open incident.
        self.rung: int | None = None
        #: What the gates have said to the step that waits for them.
        self.waits: Trace | None = None
        #: It has been HEALTHY or DEGRADED once.
        self.was_good = False
        #: The status that was told last.
        self.told: HealthStatus | None = None
        #: When its state changed last.
        self.since = 0.0
        #: It was removed: nothing is begun for it any more.
        self.gone = False
        #: Called with `True` once it is well, or with `False` if that is not to be waited for any more.
        self.hopes: list[Callable[[bool], None]] = []
        self.ring = ResultRing()
        self.flaps = FlapLedger()
        #: Charges of the open incident, to be refunded if it ends healed.
        self.charged: list[tuple[BudgetLedger, int]] = []
        #: Checks whose decision waits for this one's next result.
        self.waiters: list[Watch] = []
        self.opened_wall: float | None = None

    @property
    def rests(self) -> bool:
        """
        Whether nothing runs for it that has a say in what comes next.
        """
        return self.run is None and self.action is None and self.asking is None and not self.gone

    def remember(self, result: CheckResult, started: float) -> None:
        """
        Keep *result*, of a run that began at *started*.

        A run that finds all well leaves no object behind. One each, and the garbage collector would go through
        the whole application every few seconds: measured with 10,000 checks, it stopped the loop for 0.2 s.
        """
        plain = result.status is HealthStatus.HEALTHY and not result.data
        if not plain:  # set before the ring moves and cleared after: other threads read `last`
            self._telling = result
        self.ring.append(started, result.status, result.duration)
        if plain:
            self._telling = None
        if plain or result.status is HealthStatus.HEALTHY or result.status is HealthStatus.DEGRADED:
            self.was_good = True

    @property
    def last(self) -> CheckResult | None:
        """
        The last result; of a plain good one, the duration has seven digits.
        """
        if self._telling is not None or not self.ring.total:
            return self._telling
        (past,) = self.ring.last(1)
        return CheckResult(past.status, started_at=past.at, duration=past.duration)

    def better(self, *, good: bool, at: float, now: float) -> None:
        """
        Take in an answer to its ``revert_when``: asked *at*, answered *now*.
        """
        policy = self.check.policy
        was_asked = self.better_asked
        gap = 0.0 if was_asked is None else at - was_asked
        self.better_asked = now
        if not good:
            self.better_since = None
        elif self.better_since is None or gap > 2 * policy.interval + policy.timeout:
            self.better_since = at  # what nobody has asked about for so long, as during a pause, begins anew

    def hope(self, call: Callable[[bool], None]) -> Callable[[], None]:
        """
        Call *call* with `True` once it is well, with `False` if it is removed or the healer stops.

        Returns:
            A function that calls it off.
        """
        self.hopes.append(call)
        if self.is_well:
            self.end_hopes(well=True)

        def call_off() -> None:
            if call in self.hopes:
                self.hopes.remove(call)

        return call_off

    def end_hopes(self, *, well: bool) -> None:
        """
        Tell those who wait for its health.
        """
        while self.hopes:
            self.hopes.pop()(well)

    @property
    def is_well(self) -> bool:
        """
        Whether it is healthy and its healing, if there was one, has proved itself.
        """
        machine = self.machine
        return machine.status is HealthStatus.HEALTHY and machine.state in {HealingState.IDLE, HealingState.RESTORED}

    @property
    def waiting(self) -> Trace | None:
        """
        What the gates have said since its state changed last.
        """
        return None if self.waits is None or self.waits.at < self.since else self.waits

    def status(self) -> CheckStatus:
        """
        A snapshot, safe from any thread.
        """
        machine, last = self.machine, self.last
        status, state, incident = machine.status, machine.state, machine.incident
        fault = machine.fault if last is None or last.fault is None else last.fault
        if incident is not None:
            incident = self.named(incident)
        rungs, action = self.check.recovery.rungs, self.action
        return CheckStatus(
            status=status,
            state=state,
            last=last,
            fault=None if status is HealthStatus.HEALTHY else fault,
            incident=incident,
            abandoned=len(self.abandoned),
            held=tuple(rungs[index].name for index in machine.held),
            since=self.since,
            rung=None if self.rung is None else rungs[self.rung].name,
            running=None if action is None else action.rung.name,
            was_good=self.was_good,
            waits=self.waiting,
        )

    def named(self, incident: Incident) -> Incident:
        """
        *incident* as the world knows it: the machine knows neither its own name nor wall time.
        """
        return attrs.evolve(incident, check=self.check.name, resource=self.resource.name, opened_wall=self.opened_wall)
