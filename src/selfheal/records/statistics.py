"""
How often, how fast, and thanks to what: incidents in, numbers out. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import attrs

from selfheal import names
from selfheal.model import Incident, IncidentResult


@attrs.frozen(kw_only=True)
class ActionStatistics:
    """
    What became of one action.

    Args:
        resource: What it was to heal.
        action: Its name.
        runs: How often it ended or was given up; reverts are not counted.
        failed: Runs that did not end well.
        verified: How often health was proved after it.
        refuted: How often it had not helped, or not for long.
        healed: Incidents that closed as healed, it being the last that was verified.
        seconds_mean: Length of a run.
    """

    resource: str
    action: str
    runs: int
    failed: int
    verified: int
    refuted: int
    healed: int
    seconds_mean: float

    @property
    def effectiveness(self) -> float:
        """
        Share of its runs that healed an incident for good, from 0 to 1.
        """
        return self.healed / self.runs if self.runs else 0.0


@attrs.frozen(kw_only=True)
class IncidentStatistics:
    """
    Numbers over closed incidents. Means are in seconds, and `None` where there is nothing to take the mean of.

    Args:
        incidents: How many.
        results: How many ended how; every result is there.
        time_to_detect_mean: From the first bad result to the confirmed fault (MTTD).
        time_to_recover_mean: From the first bad result to proved health (MTTR), over those that recovered.
        actions: One for each resource and action that ran, in that order.
    """

    incidents: int
    results: Mapping[IncidentResult, int]
    time_to_detect_mean: float | None
    time_to_recover_mean: float | None
    actions: tuple[ActionStatistics, ...]


def statistics(incidents: Iterable[Incident]) -> IncidentStatistics:
    """
    What *incidents* have in common, for instance those of `Healer.incidents`.

    Open ones are left out. Of an incident whose timeline is full, later
    actions are not seen.

    .. versionadded:: 26.1.0
    """
    closed = [incident for incident in incidents if incident.result is not None]
    results = dict.fromkeys(IncidentResult, 0)
    tallies: dict[tuple[str, str], _Tally] = {}
    for incident in closed:
        if incident.result is not None:
            results[incident.result] += 1
        _count(incident, tallies)
    recovered = [incident.time_to_recover for incident in closed if incident.time_to_recover is not None]
    return IncidentStatistics(
        incidents=len(closed),
        results=results,
        time_to_detect_mean=_mean([incident.time_to_detect for incident in closed]),
        time_to_recover_mean=_mean(recovered),
        actions=tuple(tallies[key].value(*key) for key in sorted(tallies)),
    )


class _Tally:
    """
    The numbers of one action while they are being counted.
    """

    def __init__(self) -> None:
        self.failed = self.verified = self.refuted = self.healed = 0
        self.seconds: list[float] = []

    def value(self, resource: str, action: str) -> ActionStatistics:
        """
        What was counted.
        """
        return ActionStatistics(
            resource=resource,
            action=action,
            runs=len(self.seconds),
            failed=self.failed,
            verified=self.verified,
            refuted=self.refuted,
            healed=self.healed,
            seconds_mean=_mean(self.seconds) or 0.0,
        )


def _count(incident: Incident, tallies: dict[tuple[str, str], _Tally]) -> None:
    last_verified: _Tally | None = None
    for entry in incident.timeline:
        fields = entry.fields
        if entry.event not in _COUNTED or fields.get("revert"):
            continue
        tally = tallies.setdefault((incident.resource, str(fields["action"])), _Tally())
        if entry.event == names.HEALING_VERIFIED:
            tally.verified += 1
            last_verified = tally
        elif entry.event == names.HEALING_REFUTED:
            tally.refuted += 1
        else:
            tally.failed += fields["outcome"] != "done"
            tally.seconds.append(float(fields["duration"] or 0))
    if incident.result is IncidentResult.HEALED and last_verified is not None:
        last_verified.healed += 1


_COUNTED = frozenset({names.ACTION_FINISHED, names.HEALING_VERIFIED, names.HEALING_REFUTED})


def _mean(numbers: Sequence[float]) -> float | None:
    return sum(numbers) / len(numbers) if numbers else None
