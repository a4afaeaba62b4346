"""
Incidents in sentences.
"""

from __future__ import annotations

import pytest

from selfheal import Fault, HealingPolicy, HealthCheck, Incident, RecoveryAction, RecoveryContext, Unhealthy, names
from selfheal.model import Entry
from selfheal.records import tell
from selfheal.testing import Story, VirtualClock, simulate


class World:
    """
    A resource that breaks at 10 s and is healed by the second rung.
    """

    def __init__(self) -> None:
        self.clock = VirtualClock()
        self.is_diverted = False

    def probe(self) -> None:
        if self.clock.now() >= 10 and not self.is_diverted:
            raise Unhealthy("stale", "connection is lost")

    def story(self) -> Story:
        world = self

        class Restart(RecoveryAction):
            def recover(self, ctx: RecoveryContext) -> None:
                world.clock.pass_time(3)
                raise OSError("no")

        class Divert(RecoveryAction):
            def recover(self, ctx: RecoveryContext) -> None:
                world.is_diverted = True
                ctx.log("goes to the other one")

            def revert(self, ctx: RecoveryContext) -> None:
                world.clock.pass_time(1)

        policy = HealingPolicy(interval=5, timeout=1, fall=2, jitter=0, probation=30)
        check = HealthCheck(self.probe, name="db", policy=policy, recovery=Restart() >> Divert())
        return simulate([check], until=200, clock=self.clock)


def test_an_incident_tells_what_was_done_and_what_came_of_it() -> None:
    """
    The story has every action with its outcome, the proof, and the step back, timed from the first bad result.
    """
    (incident,) = World().story().incidents
    assert [
        "db, incident 1: stale, healed in 5.0 s",
        "   +0.0 s  first bad result",
        "   +1.0 s  fault confirmed: stale: connection is lost",
        "   +1.0 s  restart begins, against stale",
        "   +4.0 s  restart failed after 3.00 s: OSError",
        "   +4.0 s  divert begins, against stale",
        "   +4.0 s  divert: goes to the other one",
        "   +4.0 s  divert ended well after 0.00 s",
        "   +4.0 s  divert stays in force until it is stepped down",
        "   +4.0 s  has it helped? only results from now on count",
        "   +5.0 s  divert has helped: health is proved",
        "  +35.0 s  divert is stepped down",
        "  +36.0 s  divert ended well after 1.00 s",
        "  +66.0 s  closed: healed",
    ] == tell(incident).splitlines()


@pytest.mark.parametrize(
    ("incident", "said"),
    [
        (Incident(number=2, check="db", trigger=Fault("down"), began=0, opened=1), "db, incident 2: down, still open"),
        (Incident(number=1, trigger=Fault("down"), began=0, opened=1, dropped=7), "(7 more entries were not kept)"),
        (
            Incident(
                number=1,
                trigger=Fault("down"),
                began=0,
                opened=1,
                timeline=(Entry(2, "selfheal.action.blocked", {"gate": "paused", "reason": "migration"}),),
            ),
            "   +2.0 s  nothing is done now, gate paused: migration",
        ),
        (
            Incident(number=1, trigger=Fault("down"), began=0, opened=1, timeline=(Entry(2, "of.somebody.else"),)),
            "   +0.0 s  first bad result",
        ),
    ],
)
def test_open_cut_off_and_blocked_incidents_say_so(incident: Incident, said: str) -> None:
    """
    An open incident, entries that were not kept and a closed gate are named; an unknown entry is left out.
    """
    assert said in tell(incident)
    assert "somebody" not in tell(incident)


def test_words_of_others_stay_on_one_line() -> None:
    """
    A message with line breaks, as drivers write them, makes one line of the story.
    """
    fault = Fault("down", message="connection refused\n\tIs the server running?")
    opened = Entry(1.0, names.INCIDENT_OPENED, {"kind": "down", "time_to_detect": 1.0, "manual": False})
    incident = Incident(number=1, check="db", trigger=fault, began=0.0, opened=1.0, timeline=(opened,))
    assert (
        "   +1.0 s  fault confirmed: down: connection refused Is the server running?" == tell(incident).splitlines()[2]
    )
