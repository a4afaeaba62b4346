"""
Plays the five faults, one after the other, on both applications at once, and keeps the score.
"""

from __future__ import annotations

import queue
import time

from collections.abc import Sequence
from typing import Final

import attrs

from selfheal import names
from selfheal.demo.application import Application
from selfheal.demo.meter import Score
from selfheal.demo.screen import Result, Screen
from selfheal.demo.world import HOLD, Fault, World
from selfheal.model import Entry, Event, HealingState, Incident
from selfheal.records.telling import sentence


_GLANCE: Final = 0.1  # seconds
#: Each fault is watched for so long at least.
_LEAST: Final = 4.0
#: Seconds that both applications get to work again once they were set right by hand.
_PATIENCE: Final = 20.0
#: What listeners are told of, but what is of no interest to people.
_UNTOLD: Final = frozenset({names.EVIDENCE_DISCARDED})


@attrs.define
class Act:
    """
    One fault, from its beginning to its score.

    Args:
        fault: Which.
        began: Monotonic seconds.
        detected: Seconds from then until selfheal had confirmed the fault.
        told: What was said about it already.
    """

    fault: Fault
    began: float
    detected: float | None = None
    told: set[str] = attrs.field(factory=set[str])

    def score(self, application: Application) -> Score:
        """
        How *application* has come through so far.
        """
        return application.meter.judge(since=self.began, writes_only=self.fault.writes_only)


class Stage:
    """
    Plays faults and shows what comes of them.

    Args:
        screen: Where to.
        port: Where the application that is healed can be watched, from this machine.
    """

    def __init__(self, screen: Screen, *, port: int | None = None) -> None:
        self._port = port
        self.acts: list[Act] = []
        self.results: list[Result] = []
        self.incidents: tuple[Incident, ...] = ()
        self._screen = screen
        self._events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._last = ""

    def play(self, faults: Sequence[Fault]) -> None:
        """
        Set the world up, play *faults*, and take it down again.

        Raises:
            MissingExtraError: If PostgreSQL's wheel is not installed.
            ConfigError: If the port is taken.
        """
        self._screen.note("Starting a PostgreSQL primary, a read-only standby, and an application twice ...")
        with World(self._events.put, lambda what: self._screen.say("world", what), port=self._port) as world:
            self._watch_for(1.0, world)
            for number, fault in enumerate(faults, 1):
                self._screen.chapter(number, len(faults), fault.title, fault.text)
                self._play(fault, world)
                self._set_right(world)
            self.incidents = world.healed.incidents()

    def incident(self, number: int) -> Incident | None:
        """
        The incident that fault *number*, counted from 1, has brought about: the first of its time, if there was one.
        """
        act = self.acts[number - 1]
        until = self.acts[number].began if number < len(self.acts) else HOLD
        found = (one for one in self.incidents if one.check == act.fault.check and act.began <= one.opened < until)
        return next(found, None)

    def _play(self, fault: Fault, world: World) -> None:
        script = fault.script(world)
        act = Act(fault, time.monotonic())
        self.acts.append(act)
        resume = act.began + next(script)
        while not self._is_over(act, resume, world):
            self._look(act, world)
            if time.monotonic() >= resume:
                resume = time.monotonic() + next(script)
        scores = act.score(world.healed), act.score(world.twin)
        for application, score in zip(world.applications, scores, strict=True):
            self._comment(act, application, score)
            if score.healed is None:
                what = (
                    f"not healed within {fault.limit:g} s: {score.failed} requests failed, {score.hanging} calls hang"
                )
                self._screen.say(application.name, what, style="bold red")
        self.results.append(Result(fault.title, act.detected, *scores, fault.remark(world, *scores)))
        for _ in script:  # set the world right again
            continue

    def _is_over(self, act: Act, resume: float, world: World) -> bool:
        lasted = time.monotonic() - act.began
        if resume < HOLD or lasted < _LEAST:
            return False
        healed = all(act.score(application).healed is not None for application in world.applications)
        return lasted >= act.fault.limit or (healed and _is_idle(world))

    def _set_right(self, world: World) -> None:
        """
        The next fault finds both in the same state.
        """
        for application in world.applications:
            application.renew()
        since = time.monotonic()
        self._screen.say("world", "set right by hand: both get a fresh pool and an empty log", style="dim")
        while time.monotonic() < since + _PATIENCE:
            self._watch_for(1.0, world)
            moment = time.monotonic()
            scores = [application.meter.judge(since=moment - 0.5) for application in world.applications]
            if _is_idle(world) and not any(score.failed or score.hanging for score in scores):
                return

    def _watch_for(self, seconds: float, world: World) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            self._narrate(None)
            self._screen.refresh(world.applications, until=until)
            time.sleep(_GLANCE)

    def _look(self, act: Act, world: World) -> None:
        self._narrate(act)
        for application in world.applications:
            self._comment(act, application, act.score(application))
        self._screen.refresh(world.applications, until=act.began + act.fault.limit)
        time.sleep(_GLANCE)

    def _narrate(self, act: Act | None) -> None:
        while not self._events.empty():
            event = self._events.get()
            if event.name == names.INCIDENT_OPENED:
                if act is not None and event.check == act.fault.check and act.detected is None:
                    act.detected = event.at - act.began
                self._tell(event, f"fault confirmed: {event.fields['kind']}", style="bold")
            elif event.name not in _UNTOLD:
                self._tell(event, sentence(Entry(event.at, event.name, event.fields)))

    def _tell(self, event: Event, what: str | None, *, style: str = "") -> None:
        if what is not None and what != self._last:
            self._last = what
            self._screen.say("selfheal", what, at=event.at, style=style)

    def _comment(self, act: Act, application: Application, score: Score) -> None:
        said: list[tuple[str, str, str]] = []
        if score.error is not None:
            said.append(("fails", "red", f"requests fail: {score.error}"))
        if score.hanging:
            said.append(("hangs", "yellow", "calls wait for more than a second"))
        if score.healed is not None and time.monotonic() - act.began >= _LEAST:
            said.append(
                ("works", "bold green", f"has worked since {score.healed:+.1f} s; {score.failed} requests failed")
            )
        for key, style, what in said:
            if f"{application.name} {key}" not in act.told:
                act.told.add(f"{application.name} {key}")
                self._screen.say(application.name, what, style=style)


def _is_idle(world: World) -> bool:
    return all(state is HealingState.IDLE for state in world.healed.states().values())
