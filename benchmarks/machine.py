"""
What one step of a healthy `HealingStateMachine` costs, beside one trigger of a general state machine.
"""

from __future__ import annotations

import logging
import time

from collections.abc import Callable

from transitions import Machine

from benchmarks.harness import Case, Goal, Report, measure, nanoseconds, table
from selfheal import CheckResult, HealingPolicy, HealingStateMachine


STEPS = 2_000


class Model:
    """
    What `transitions` puts its triggers on.
    """

    probe: Callable[[], bool]


def _steps() -> Callable[[], float]:
    machine = HealingStateMachine(HealingPolicy(interval=10))
    now = 0.0

    def cost() -> float:
        nonlocal now
        results = [CheckResult.healthy(started_at=now + 10 * number, duration=0.0) for number in range(STEPS)]
        tick, checked = machine.tick, machine.checked
        start = time.thread_time_ns()
        for result in results:
            tick(now=now)
            checked(result, now=now)
            now += 10.0
        spent = time.thread_time_ns() - start
        machine.entries()
        return spent / STEPS

    return cost


def _trigger(dest: str | None) -> Callable[[], float]:
    model = Model()
    machine = Machine(model, states=["idle", "detecting"], initial="idle", auto_transitions=False)
    machine.add_transition("probe", "idle", dest)
    return nanoseconds(model.probe, STEPS)


def run() -> Report:
    logging.getLogger("transitions").setLevel(logging.WARNING)
    figures = measure(
        [
            Case("selfheal", _steps(), "tick and answer: due times, windows, staleness"),
            Case("transitions, internal", _trigger(None), "one trigger that changes no state; no time, no window"),
            Case("transitions, reflexive", _trigger("="), "one trigger that enters the same state again"),
        ]
    )
    text = "Nanoseconds of one healthy step, loop included.\n\n" + table(
        figures, unit="ns", base="transitions, internal"
    )
    ratio = figures["selfheal"].median / figures["transitions, internal"].median
    return Report(
        "A step of the machine",
        text,
        [Goal("a healthy tick and answer of the machine beside one `transitions` trigger", ratio, 0.1)],
    )
