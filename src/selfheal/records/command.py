"""
``python -m selfheal incidents journal.db``: what a journal holds, for people and for scripts.
"""

from __future__ import annotations

import datetime as dt
import re

from collections.abc import Iterator, Sequence
from json import dumps
from math import isfinite
from typing import Any, Final

from selfheal.clock import SystemClock
from selfheal.errors import ConfigError
from selfheal.model import Field, HeldChange, Incident
from selfheal.records.reading import INCIDENTS_LIMIT, JournalReader
from selfheal.records.telling import printable, tell


_UNITS: Final = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
_HEAD: Final = ("OPENED", "CHECK", "NUMBER", "FAULT", "RESULT", "ACTIONS", "DETECTED IN", "RECOVERED IN")
_HELD_HEAD: Final = ("", "CHECK", "RUNG", "ACTION", "PHASE", "SINCE", "PROCESS")


def report(
    path: str,
    *,
    since: str | None = None,
    check: str | None = None,
    limit: int = INCIDENTS_LIMIT,
    story: bool = False,
    json: bool = False,
) -> str:
    """
    Incidents, and held changes that are in force.

    Args:
        path: The journal.
        since: Opened since then: ``2h``, ``30m``, ``7d``, or an ISO date.
        check: Of this check alone.
        limit: The last so many.
        story: With everything that happened, line by line.
        json: For scripts.

    Raises:
        ConfigError: If there is no journal to read, it is damaged, or an argument is out of range.
    """
    journal = JournalReader(path)
    opened = None if since is None else moment(since)
    incidents = journal.incidents(since=opened, check=check, limit=limit)
    held = tuple(change for change in journal.held() if check in (None, change.key.check))
    try:
        return _as_document(incidents, held) if json else _as_text(incidents, held, story=story)
    except (ArithmeticError, AttributeError, LookupError, OSError, TypeError, ValueError) as exc:
        msg = (
            f"the journal {path} holds something that nobody understands ({type(exc).__name__}: {exc}): it is damaged."
        )
        raise ConfigError(msg) from exc


def _as_document(incidents: Sequence[Incident], held: Sequence[HeldChange]) -> str:
    said = {"incidents": [*map(_as_json, incidents)], "held": [*map(_held_as_json, held)]}
    return dumps(said, indent=2, allow_nan=False)


def _as_text(incidents: Sequence[Incident], held: Sequence[HeldChange], *, story: bool) -> str:
    said = [*map(tell, incidents)] if story else ["\n".join(_columns([_HEAD, *map(_row, incidents)]))]
    if not incidents:
        said = ["no incidents"]
    if held:
        said.append("\n".join(("in force, or perhaps so:", *_columns([_HELD_HEAD, *map(_held, held)]))))
    return "\n\n".join(said)


def moment(text: str) -> float:
    """
    Seconds since 1970 of a time ago, such as ``2h``, or of an ISO date; without a zone it is local time.

    Raises:
        ConfigError: If it is neither.
    """
    ago = re.fullmatch(r"(\d+(?:\.\d+)?)([smhdw])", text)
    if ago is not None:
        return SystemClock.wall() - float(ago[1]) * _UNITS[ago[2]]
    try:
        return dt.datetime.fromisoformat(text).timestamp()
    except (ValueError, OverflowError, OSError):
        msg = f"--since {text} is neither a time ago, such as 30m, 2h or 7d, nor an ISO date, such as 2026-01-31T12:00."
        raise ConfigError(msg) from None


def _row(incident: Incident) -> tuple[str, ...]:
    took = incident.time_to_recover
    return (
        _iso(incident.opened),
        incident.check,
        str(incident.number),
        incident.trigger.kind,
        "open" if incident.result is None else incident.result.value,
        str(incident.actions),
        f"{incident.time_to_detect:.1f} s",
        "-" if took is None else f"{took:.1f} s",
    )


def _held(change: HeldChange) -> tuple[str, ...]:
    key = change.key
    process = f"{change.pid} on {change.host}"
    return (str(change.number), key.check, key.rung, key.leaf, change.phase.value, _iso(change.at), process)


def _columns(rows: Sequence[tuple[str, ...]]) -> Iterator[str]:
    cells = [[printable(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for row in cells:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def _iso(at: float) -> str:
    return dt.datetime.fromtimestamp(at, dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _as_json(incident: Incident) -> dict[str, Any]:
    return {
        "check": incident.check,
        "resource": incident.resource,
        "number": incident.number,
        "kind": incident.trigger.kind,
        "began": incident.began,
        "opened": incident.opened,
        "recovered": incident.recovered,
        "ended": incident.ended,
        "result": None if incident.result is None else incident.result.value,
        "actions": incident.actions,
        "time_to_detect": incident.time_to_detect,
        "time_to_recover": incident.time_to_recover,
        "timeline": [
            {"at": entry.at, "event": entry.event, "fields": {key: _json(value) for key, value in entry.fields.items()}}
            for entry in incident.timeline
        ],
        "dropped": incident.dropped,
    }


def _json(value: Field) -> Field:
    # JSON knows no NaN and no infinity.
    return str(value) if isinstance(value, float) and not isfinite(value) else value


def _held_as_json(change: HeldChange) -> dict[str, Any]:
    return {
        "number": change.number,
        **change.key._asdict(),
        "phase": change.phase.value,
        "at": change.at,
        "host": change.host,
        "pid": change.pid,
    }
