"""
Snapshots, incidents and results as JSON. Texts that probes, actions and exceptions gave stay inside, unless they are
asked for.
"""

from __future__ import annotations

import datetime as dt
import math

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final

from selfheal import names
from selfheal.export.http.groups import Verdict, limit_of, status_of
from selfheal.monitors.latency import LatencyMonitor


if TYPE_CHECKING:
    from selfheal.checks import HealthCheck
    from selfheal.model import Entry, Incident
    from selfheal.model.rings import PastResult
    from selfheal.runtime.snapshot import Snapshot
    from selfheal.runtime.watch import CheckStatus, Pause

#: Turns a text that somebody else has written into what may be shown of it; `None`: nothing.
Show = Callable[[str], str | None]

#: Fields of events that carry the words of probes and actions. The rest are names, numbers, and words of ours.
_WORDS_OF_OTHERS: Final = frozenset({"message", "kept"})


def health(
    verdict: Verdict, checks: Iterable[HealthCheck], snapshot: Snapshot, notes: list[str], *, show: Show
) -> dict[str, Any]:
    """
    The body of the health+json draft (draft-inadarei-api-health-check-06).
    """
    lines = {line.name: line for line in verdict.lines}
    body: dict[str, Any] = {"status": verdict.status}
    if notes:
        body["notes"] = notes
    body["checks"] = {
        f"{check.name}:responseTime": [_component(check, status, snapshot, lines, show)]
        for check in checks
        if (status := snapshot.checks.get(check.name)) is not None
    }
    return body


def _component(
    check: HealthCheck, status: CheckStatus, snapshot: Snapshot, lines: Mapping[str, Any], show: Show
) -> dict[str, Any]:
    line = lines.get(check.name)
    body: dict[str, Any] = {"componentId": check.resource, "status": line.status if line else "unknown"}
    if status.last is not None and status.last.duration is not None:
        body["observedValue"], body["observedUnit"] = round(status.last.duration, 6), "s"
        body["time"] = iso(snapshot, (status.last.started_at or 0.0) + status.last.duration)
    if status.fault is not None:
        body["output"] = status.fault.kind
        if (message := show(status.fault.message)) is not None and message:
            body["output"] += f": {message}"
    body["x-selfheal"] = {
        "status": status_of(check, status, snapshot.at),
        "state": status.state.value,
        "shared": check.shared,
        "fall": check.policy.fall,
        "rise": check.policy.rise,
        "freshFor": limit_of(check),
    }
    return body


def state(checks: Iterable[HealthCheck], snapshot: Snapshot, *, show: Show) -> dict[str, Any]:
    """
    Everything about now: what the page shows.
    """
    return {
        "time": iso(snapshot, snapshot.at),
        "running": snapshot.running,
        "mode": snapshot.mode,
        "lag": round(snapshot.lag, 3),
        "paused": _pause(snapshot.paused, snapshot),
        "pauses": {name: _pause(pause, snapshot) for name, pause in snapshot.pauses.items()},
        "checks": [
            check_state(check, status, snapshot, show=show)
            for check in checks
            if (status := snapshot.checks.get(check.name)) is not None
        ],
    }


def check_state(check: HealthCheck, status: CheckStatus, snapshot: Snapshot, *, show: Show) -> dict[str, Any]:
    """
    Everything about one check now.
    """
    last, fault = status.last, status.fault
    return {
        "check": check.name,
        "resource": check.resource,
        "status": status_of(check, status, snapshot.at),
        "state": status.state.value,
        "since": iso(snapshot, status.since) if status.since else None,
        "shared": check.shared,
        "self_doubt": check.self_doubt,
        "interval": check.policy.interval,
        "last": None
        if last is None
        else {"time": iso(snapshot, last.started_at or 0.0), "duration": _number(last.duration)},
        "fault": None if fault is None else {"kind": fault.kind, "message": show(fault.message) or ""},
        "abandoned": status.abandoned,
        "ladder": [
            {"rung": rung.name, "held": rung.held, "destructive": rung.destructive} for rung in check.recovery.rungs
        ],
        "rung": status.rung,
        "running": status.running,
        "held": list(status.held),
        "gates": []
        if status.waits is None
        else [
            {
                "gate": verdict.gate.value,
                "reason": verdict.reason,
                "until": None if verdict.until is None else iso(snapshot, verdict.until),
            }
            for verdict in status.waits.closed
        ],
        "thresholds": [
            _number(monitor.threshold_ms / 1000) for monitor in check.monitors if isinstance(monitor, LatencyMonitor)
        ],
        "incident": None if status.incident is None else incident(status.incident, snapshot, show=show),
    }


def incident(value: Incident, snapshot: Snapshot, *, show: Show) -> dict[str, Any]:
    """
    One incident with its timeline; its times are in seconds since the first bad result.
    """
    return {
        "id": f"{value.check}-{value.number}",
        "check": value.check,
        "resource": value.resource,
        "number": value.number,
        "kind": value.trigger.kind,
        "message": show(value.trigger.message) or "",
        "began": iso(snapshot, value.began),
        "opened": value.opened - value.began,
        "recovered": value.time_to_recover,
        "ended": None if value.ended is None else value.ended - value.began,
        "result": None if value.result is None else value.result.value,
        "actions": value.actions,
        "dropped": value.dropped,
        "timeline": [_entry(entry, value, show) for entry in value.timeline],
    }


def _entry(entry: Entry, value: Incident, show: Show) -> dict[str, Any]:
    fields = dict(entry.fields)
    words = set(_WORDS_OF_OTHERS)
    if entry.event == names.RUNG_REFUSED or fields.get("outcome") == "cannot_help":
        words.add("reason")
    if entry.event == names.ACTION_LOGGED:  # with fields of the action's own
        words |= fields.keys() - {"action", "rung"}
    if isinstance(until := fields.get("until"), int | float):
        fields["until"] = until - value.began
    for name in words & fields.keys():
        text = fields[name]
        fields[name] = show(text) if isinstance(text, str) else text
    fields = {name: _number(field) if isinstance(field, float) else field for name, field in fields.items()}
    return {"at": entry.at - value.began, "event": entry.event.removeprefix("selfheal."), **fields}


def history(results: Iterable[PastResult], snapshot: Snapshot) -> list[list[Any]]:
    """
    Results as ``[time, status, seconds]``, oldest first.
    """
    return [[iso(snapshot, past.at), names.STATUS_WORDS[past.status.value], _number(past.duration)] for past in results]


def _pause(pause: Pause | None, snapshot: Snapshot) -> dict[str, Any] | None:
    if pause is None:
        return None
    return {"reason": pause.reason, "until": None if pause.until is None else iso(snapshot, pause.until)}


def iso(snapshot: Snapshot, at: float) -> str | None:
    """
    Monotonic seconds as a date, in UTC; `None` if there is none for it.
    """
    wall = snapshot.wall + at - snapshot.at
    try:
        return dt.datetime.fromtimestamp(wall, dt.UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    except (OverflowError, ValueError, OSError):
        return None


def _number(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else round(value, 6)
