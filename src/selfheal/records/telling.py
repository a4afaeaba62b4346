"""
Incidents in sentences, for whoever reads them afterwards.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from selfheal import names
from selfheal.model import Entry, Incident


def tell(incident: Incident) -> str:
    """
    The story of *incident*, a line for each thing that matters, with the seconds since the first bad result.

    Examples:
        >>> from selfheal import Fault
        >>> from selfheal.model import Entry
        >>> opened = Entry(12.0, names.INCIDENT_OPENED, {"kind": "stale", "time_to_detect": 2.0, "manual": False})
        >>> fault = Fault("stale", message="connection is lost")
        >>> print(tell(Incident(number=1, check="db", trigger=fault, began=10.0, opened=12.0, timeline=(opened,))))
        db, incident 1: stale, still open
           +0.0 s  first bad result
           +2.0 s  fault confirmed: stale: connection is lost

    .. versionadded:: 26.1.0
    """
    lines = [f"{incident.check}, incident {incident.number}: {incident.trigger.kind}, {_end(incident)}"]
    # The words of others, such as a driver's error, may have lines of their own.
    lines += [f"{f'+{at - incident.began:.1f} s':>9}  {printable(what)}" for at, what in _told(incident)]
    if incident.dropped:
        lines.append(f"{'':>9}  ({incident.dropped} more entries were not kept)")
    return "\n".join(lines)


def printable(text: str) -> str:
    """
    *text* in one line, without what would drive a terminal.
    """
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in " ".join(text.split()))


def _end(incident: Incident) -> str:
    if incident.result is None:
        return "still open"
    took = "" if incident.time_to_recover is None else f" in {incident.time_to_recover:.1f} s"
    return f"{incident.result.value.replace('_', '-')}{took}"


def _told(incident: Incident) -> Iterator[tuple[float, str]]:
    yield incident.began, "first bad result"
    for entry in incident.timeline:
        if entry.event == names.INCIDENT_OPENED:
            by_hand = ", healing started by hand" if entry.fields.get("manual") else ""
            yield entry.at, f"fault confirmed: {incident.trigger}{by_hand}"
        elif (what := sentence(entry)) is not None:
            yield entry.at, what


def sentence(entry: Entry) -> str | None:
    """
    One line of a timeline in words, or `None` if another line says it better.
    """
    told = _SENTENCES.get(entry.event)
    return None if told is None else told(entry.fields)


def _changed(fields: Mapping[str, Any]) -> str | None:
    return {
        "verifying": "has it helped? only results from now on count",
        "exhausted": "nothing is left to try: a case for a person",
    }.get(fields["to_state"])


def _started(fields: Mapping[str, Any]) -> str:
    if fields["revert"]:
        return f"{fields['action']} is stepped down"
    attempt = f", attempt {fields['attempt']}" if fields["attempt"] > 1 else ""
    return f"{fields['action']} begins, against {fields['kind']}{attempt}"


def _finished(fields: Mapping[str, Any]) -> str:
    how = "ended well" if fields["outcome"] == "done" else fields["outcome"].replace("_", " ")
    reason = f": {fields['reason']}" if fields["reason"] else ""
    return f"{fields['action']} {how} after {fields['duration']:.2f} s{reason}"


_SENTENCES: Final[dict[str, Callable[[Mapping[str, Any]], str | None]]] = {
    names.STATE_CHANGED: _changed,
    names.ACTION_STARTED: _started,
    names.ACTION_LOGGED: lambda fields: f"{fields['action']}: {fields['message']}",
    names.ACTION_FINISHED: _finished,
    names.ACTION_BLOCKED: lambda fields: f"nothing is done now, gate {fields['gate']}: {fields['reason']}",
    names.RUNG_REFUSED: lambda fields: f"{fields['action']} is passed over: {fields['reason']}",
    names.HEALING_VERIFIED: lambda fields: f"{fields['action']} has helped: health is proved",
    names.HEALING_REFUTED: lambda fields: f"{fields['action']} has not helped: {fields['reason']}",
    names.HELD_APPLIED: lambda fields: f"{fields['action']} stays in force until it is stepped down",
    names.HELD_STUCK: lambda fields: f"{fields['action']} could not be stepped down: {fields['reason']}",
    names.EVIDENCE_DISCARDED: lambda fields: f"what was seen before no longer counts: {fields['reason']}",
    names.INCIDENT_CLOSED: lambda fields: f"closed: {fields['result'].replace('_', '-')}",
}
