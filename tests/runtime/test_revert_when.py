"""
A diversion that lasts: what is written down while the better state is waited for.
"""

from __future__ import annotations

from selfheal import HealingPolicy, HealthCheck, RecoveryAction, RecoveryContext, Unhealthy, names
from selfheal.testing import VirtualClock, assert_healed, assert_stepped_down, simulate


class Divert(RecoveryAction):
    """Diverts from 10 s on; what it diverts from is well again after two hours."""

    def __init__(self, clock: VirtualClock) -> None:
        self.clock = clock
        self.is_diverted = False

    def probe(self) -> None:
        if not self.is_diverted:
            self.revert_when()

    def recover(self, ctx: RecoveryContext) -> None:
        self.is_diverted = True

    def revert(self, ctx: RecoveryContext) -> None:
        self.is_diverted = False

    def revert_when(self) -> None:
        if 10 <= self.clock.now() < 7200:
            raise Unhealthy("down")


def test_waiting_for_the_better_state_is_written_down_once_with_its_reason() -> None:
    """
    Two hours of asking `revert_when` in vain leave one entry, which says what is waited for.
    """
    clock = VirtualClock()
    divert = Divert(clock)
    policy = HealingPolicy(interval=5, timeout=1, probation=30)
    story = simulate([HealthCheck(divert.probe, name="db", policy=policy, recovery=divert)], until=8000, clock=clock)

    (incident,) = story.incidents
    blocked = [entry for entry in incident.timeline if entry.event == names.ACTION_BLOCKED]
    reason = "what divert names as revert_when has not been good for the whole probation"
    assert [("precondition", reason)] == [(entry.fields["gate"], entry.fields["reason"]) for entry in blocked]
    assert incident is assert_healed(story, "db", within=10, by="divert")
    assert_stepped_down(story, "db")
