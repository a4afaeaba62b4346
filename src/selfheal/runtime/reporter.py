"""
Lets the world know: timelines become events, closed incidents are filed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final

import attrs

from selfheal import names
from selfheal.model import Entry, Event, Field
from selfheal.model.rings import IncidentRing


if TYPE_CHECKING:
    from selfheal.clock import Clock
    from selfheal.model import CheckResult
    from selfheal.runtime.listeners import Dispatcher
    from selfheal.runtime.watch import Watch

_NO_FIELDS: Final[Mapping[str, Field]] = {}


class Reporter:
    """
    What goes out, and what is settled when an incident closes.

    Args:
        clock: Dates the driver's own entries.
        dispatcher: Takes events to whoever listens.
        restored: Called with a check whose healing has proved itself.
    """

    def __init__(self, clock: Clock, dispatcher: Dispatcher, restored: Callable[[Watch, Entry], None]) -> None:
        self._clock = clock
        self._dispatcher = dispatcher
        self._restored = restored
        self.incidents = IncidentRing()
        #: Exceptions where there must be none.
        self.failures = 0
        #: Changes of a status or a state, and what was announced: whoever has seen so many knows all but the latest results.
        self.changes = 0
        #: Seconds by which the loop has called too late, at worst since the last result.
        self._lag = 0.0

    def late(self, seconds: float) -> None:
        """
        The loop has called *seconds* later than it was asked to.
        """
        self._lag = max(self._lag, seconds)

    def completed(self, watch: Watch, result: CheckResult, started: float, now: float) -> None:
        """
        A check has given a result. Not even looked at unless somebody listens.
        """
        if result.status is not watch.told:
            watch.told = result.status
            self.changes += 1
        self._tell_mistakes(watch, result)
        if not self._dispatcher.wants(names.CHECK_COMPLETED):
            return
        fields = {
            "status": result.status.value,
            "kind": None if result.fault is None else result.fault.kind,
            "duration": result.duration,
            "scheduled_lag": max(0.0, started - watch.due),
            "loop_lag": self._lag,
        }
        self._lag = 0.0
        error = None if result.fault is None else result.fault.error
        self.send(watch, Entry(now, names.CHECK_COMPLETED, fields), error)

    def _tell_mistakes(self, watch: Watch, result: CheckResult) -> None:
        """
        A mistake in a probe heals nothing and alarms nobody, so it is said once, when it begins.
        """
        fault = result.fault
        if fault is None or fault.kind != "probe_error":
            watch.broken = False
        elif not watch.broken:
            watch.broken = True
            error = fault.error  # its text may hold anything; what is wrong with an answer is ours to say
            self.note(
                watch,
                names.CHECK_BROKEN,
                error_type=None if error is None else type(error).__name__,
                message=fault.message if error is None else None,
            )

    def note(self, watch: Watch, event: str, **fields: Field) -> None:
        """
        Put a line of the driver's own into the timeline of *watch*.
        """
        watch.machine.note(Entry(self._clock.now(), event, fields))

    def publish(self, watch: Watch, error: BaseException | None = None) -> None:
        """
        Send what has happened to *watch* on its way, and file closed incidents.

        Args:
            watch: The check.
            error: What its action has just raised, if that is what has happened.
        """
        for entry in watch.machine.entries():
            watch.flaps.watch(entry)
            if entry.event == names.INCIDENT_OPENED:
                watch.opened_wall = self._clock.wall()
                watch.opened += 1
                watch.number = watch.opened
            elif entry.event == names.INCIDENT_CLOSED:
                self._closed(watch, entry)
            elif entry.event == names.STATE_CHANGED:
                watch.since = entry.at
                self.changes += 1
                self._restored(watch, entry)
            self.send(watch, entry, error if entry.event == names.ACTION_FINISHED else None)
            if entry.event == names.INCIDENT_CLOSED:
                watch.number = watch.rung = None

    def _closed(self, watch: Watch, entry: Entry) -> None:
        incident = watch.machine.last_incident
        if incident is not None:
            # Without the exception: its traceback holds the frames of the run, and all that they held.
            trigger = attrs.evolve(incident.trigger, error=None)
            self.incidents.append(attrs.evolve(watch.named(incident), trigger=trigger))
        if entry.fields.get("result") == "healed":
            for ledger, token in watch.charged:
                ledger.refund({token})
            watch.resource.cooldowns.reset()
        watch.charged.clear()

    def send(self, watch: Watch, entry: Entry, error: BaseException | None = None) -> None:
        """
        Send one entry of *watch* on its way.
        """
        if self._dispatcher.wants(entry.event):
            self._dispatcher.put(
                Event(
                    name=entry.event,
                    at=entry.at,
                    check=watch.check.name,
                    resource=watch.resource.name,
                    incident=watch.number,
                    fields=entry.fields,
                    error=error,
                )
            )

    def failed(self, watch: Watch | None, step: str, error: Exception) -> None:
        """
        Something has raised that must not.

        Args:
            watch: The check, if it was about one.
            step: What was being done.
            error: What was raised.
        """
        self.failures += 1
        self._dispatcher.put(
            Event(
                name=names.STEP_FAILED,
                at=self._clock.now(),
                check="" if watch is None else watch.check.name,
                resource="" if watch is None else watch.resource.name,
                incident=None if watch is None else watch.number,
                fields={"step": step, "error_type": type(error).__name__},
                error=error,
            )
        )

    def announce(
        self, event: str, fields: Mapping[str, Field] = _NO_FIELDS, *, check: str = "", resource: str = ""
    ) -> None:
        """
        Send an event that concerns no check that is watched. Safe from any thread.
        """
        self.changes += 1
        self._dispatcher.put(Event(name=event, at=self._clock.now(), check=check, resource=resource, fields=fields))
