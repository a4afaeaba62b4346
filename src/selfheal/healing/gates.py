"""
Named reasons why nothing is done now: pure questions about a value that the runtime has filled.

A gate never waits and never charges. All are asked, in the order of `Gate`, so
that the trace of one question says everything. Leases are named in `Gate` and
have no input here: what is not measured is not judged.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

import attrs

from selfheal.model import Budget, Gate, HealthStatus, Rung


class Dependency(NamedTuple):
    """
    What is known about another check that has to be well before this one may be healed.

    Args:
        name: Of its check.
        status: Its latest known status.
        suspect: It is under suspicion, or being healed: anything but idle or on probation.
    """

    name: str
    status: HealthStatus
    suspect: bool = False


class Spent(NamedTuple):
    """
    A used-up budget of some scope around the action.

    Args:
        scope: "resource", "process", "host" or "fleet".
        budget: The budget.
        opens_at: When the next action fits in (monotonic seconds).
    """

    scope: str
    budget: Budget
    opens_at: float


@attrs.frozen(kw_only=True)
class Surroundings:
    """
    All that the gates look at. Times are monotonic seconds.

    Args:
        check: Name of the check.
        now: The time.
        rung: The rung to run or to revert; `None`: none applies to the fault.
        revert: It is to be stepped down.
        manual: Somebody asked for it by hand.
        mode: Of the healer: "enforce", or one that does nothing.
        paused: Why it is paused, or `None`.
        paused_until: When the pause expires; `None`: not by itself.
        running: Names of the actions on the resource that have not ended.
        abandoned: All of them were given up: their deadline is over.
        doubts: The checks that speak for this process itself, as far as their state is known.
        dependencies: Its hard dependencies, likewise.
        actions: Actions that run now, on whatever resource.
        max_concurrent: So many may run at once.
        flapping_until: When the check has calmed down, or `None`.
        cooldown_until: When the rung's cooldown is over, or `None`.
        spent: The budgets that are used up.
    """

    check: str
    now: float
    rung: Rung | None
    revert: bool = False
    manual: bool = False
    mode: str = "enforce"
    paused: str | None = None
    paused_until: float | None = None
    running: tuple[str, ...] = ()
    abandoned: bool = False
    doubts: tuple[Dependency, ...] = ()
    dependencies: tuple[Dependency, ...] = ()
    actions: int = 0
    max_concurrent: int = 4
    flapping_until: float | None = None
    cooldown_until: float | None = None
    spent: tuple[Spent, ...] = ()


class GateVerdict(NamedTuple):
    """
    What one gate says.

    Args:
        gate: The gate.
        open: Whether it lets the action through.
        reason: For people; why it is closed, or why an open one was not asked.
        until: When a closed one opens (monotonic seconds); `None`: nobody knows.
    """

    gate: Gate
    open: bool
    reason: str = ""
    until: float | None = None


@attrs.frozen(kw_only=True)
class Trace:
    """
    What all gates say about one step. Its `str` is a sentence.

    Args:
        check: Name of the check.
        at: When they were asked (monotonic seconds).
        revert: It was about stepping down.
        verdicts: One a gate, in the order of `Gate`.
    """

    check: str
    at: float
    revert: bool = False
    verdicts: tuple[GateVerdict, ...]

    @property
    def closed(self) -> tuple[GateVerdict, ...]:
        """
        The verdicts of the closed gates.
        """
        return tuple(verdict for verdict in self.verdicts if not verdict.open)

    @property
    def open(self) -> bool:
        """
        Whether every gate is open.
        """
        return not self.closed

    @property
    def gate(self) -> Gate | None:
        """
        The first closed gate, or `None`.
        """
        return next((verdict.gate for verdict in self.closed), None)

    @property
    def until(self) -> float | None:
        """
        When the last of the closed gates opens; `None` if all are open, or if one of them does not know.
        """
        times = [verdict.until for verdict in self.closed]
        known = [until for until in times if until is not None]
        return max(known) if known and len(known) == len(times) else None

    def __str__(self) -> str:
        done = "reverted" if self.revert else "healed"
        if self.open:
            return f"{self.check}: may be {done}: every gate is open"
        return f"{self.check}: not {done}: " + "; ".join(self._clause(verdict) for verdict in self.closed)

    def _clause(self, verdict: GateVerdict) -> str:
        clause = f"{verdict.gate.value}: {verdict.reason}"
        return clause if verdict.until is None else f"{clause}, next in {verdict.until - self.at:.1f} s"


class _Closed(NamedTuple):
    reason: str
    until: float | None = None


def _paused(around: Surroundings) -> _Closed | None:
    return None if around.paused is None else _Closed(around.paused, around.paused_until)


def _busy(around: Surroundings) -> _Closed | None:
    if not around.running:
        return None
    if around.abandoned and not around.revert and around.rung is not None and around.rung.safe_after_abandon:
        return None
    what = ", ".join(around.running)
    return _Closed(f"{what} was given up and has not ended" if around.abandoned else f"{what} runs")


def _self_doubt(around: Surroundings) -> _Closed | None:
    return _ailing(around.doubts, "the fault may be this process' own")


def _dependency(around: Surroundings) -> _Closed | None:
    return _ailing(around.dependencies, "it needs that")


def _ailing(others: tuple[Dependency, ...], so: str) -> _Closed | None:
    # UNKNOWN closes nothing: "we cannot tell" about one thing is no reason to leave another one broken.
    for other in others:
        if other.status is HealthStatus.UNHEALTHY:
            return _Closed(f"{other.name} is unhealthy, and {so}")
        if other.suspect:
            return _Closed(f"{other.name} is under suspicion, and {so}")
    return None


def _storm(around: Surroundings) -> _Closed | None:
    if around.actions + 1 <= around.max_concurrent:  # counted with the candidate
        return None
    return _Closed(f"{around.actions} actions run, and max_concurrent={around.max_concurrent}")


def _flapping(around: Surroundings) -> _Closed | None:
    if around.flapping_until is None:
        return None
    return _Closed("it changes its mind too often", around.flapping_until)


def _cooldown(around: Surroundings) -> _Closed | None:
    if around.cooldown_until is None:
        return None
    name = "the rung" if around.rung is None else around.rung.name
    return _Closed(f"{name} has just run", around.cooldown_until)


def _precondition(around: Surroundings) -> _Closed | None:
    return _Closed("no rung applies to the fault") if around.rung is None else None


def _budget(around: Surroundings) -> _Closed | None:
    if not around.spent:
        return None
    last = max(around.spent, key=lambda spent: spent.opens_at)
    return _Closed(f"{last.budget.limit} actions in {last.budget.per:g} s ({last.scope}) are used up", last.opens_at)


def _shadow(around: Surroundings) -> _Closed | None:
    return None if around.mode == "enforce" else _Closed(f"the mode is {around.mode}")


_GATES: Final[tuple[tuple[Gate, Callable[[Surroundings], _Closed | None]], ...]] = (
    (Gate.PAUSED, _paused),
    (Gate.BUSY, _busy),
    (Gate.SELF_DOUBT, _self_doubt),
    (Gate.DEPENDENCY, _dependency),
    (Gate.STORM, _storm),
    (Gate.FLAPPING, _flapping),
    (Gate.COOLDOWN, _cooldown),
    (Gate.PRECONDITION, _precondition),
    (Gate.BUDGET, _budget),
    (Gate.SHADOW, _shadow),
)

#: Whoever heals by hand has looked, and wants it now. Paused, busy, budget and shadow still hold.
_MANUAL: Final = frozenset({Gate.SELF_DOUBT, Gate.DEPENDENCY, Gate.STORM, Gate.FLAPPING, Gate.COOLDOWN})

#: Stepping down is part of a healing that was let through. Flapping, cooldown and budget brake healing that does not
#: help, and this one has; the precondition asks about a fault, and there is none. A brake here would only keep a
#: degraded service degraded.
_REVERT: Final = frozenset({Gate.FLAPPING, Gate.COOLDOWN, Gate.PRECONDITION, Gate.BUDGET})


def ask(around: Surroundings) -> Trace:
    """
    Ask every gate.
    """
    return Trace(
        check=around.check,
        at=around.now,
        revert=around.revert,
        verdicts=tuple(_verdict(gate, closed, around) for gate, closed in _GATES),
    )


def _verdict(gate: Gate, ask_gate: Callable[[Surroundings], _Closed | None], around: Surroundings) -> GateVerdict:
    if around.revert and gate in _REVERT:
        return GateVerdict(gate, True, "does not apply to stepping down")
    if around.manual and gate in _MANUAL:
        return GateVerdict(gate, True, "passed over: started by hand")
    closed = ask_gate(around)
    return GateVerdict(gate, True) if closed is None else GateVerdict(gate, False, closed.reason, closed.until)
