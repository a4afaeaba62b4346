"""
What the checks come to, for each question that is asked from outside: is it alive, ready, started?
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING, Final, NamedTuple

from selfheal.model import HealingState
from selfheal.names import STATUS_WORDS


if TYPE_CHECKING:
    from selfheal.checks import HealthCheck
    from selfheal.runtime.snapshot import Snapshot
    from selfheal.runtime.watch import CheckStatus

#: The name under which the healer itself stands among the checks. None of theirs has a dot.
SELF: Final = "selfheal.healer"

#: The line that says that no more work is wanted.
DRAIN: Final = "selfheal.drain"

#: And that under which is told that not every check has been good once.
STARTUP: Final = "selfheal.startup"

# A person begins to notice after a second; kubelet gives up on a container after half a minute of its own trying.
SLOW_LOOP: Final = 1.0
DEAD_LOOP: Final = 60.0

#: Somebody heals, and what is good has not been proved.
_UNPROVED: Final = frozenset({HealingState.RECOVERING, HealingState.VERIFYING, HealingState.EXHAUSTED})

_WORST_LAST: Final = ("pass", "warn", "unknown", "fail")


class Line(NamedTuple):
    """
    What one check means for a group: its name, a word of `STATUS_WORDS`, and why, in words of ours.
    """

    name: str
    status: str
    why: str = ""


class Verdict(NamedTuple):
    """
    What a group comes to: the worst of its lines; without any, "pass".
    """

    status: str
    lines: tuple[Line, ...]


def worst(lines: Collection[Line]) -> Verdict:
    """
    The verdict of *lines*.
    """
    status = max((line.status for line in lines), key=_WORST_LAST.index, default="pass")
    return Verdict(status, tuple(lines))


def is_well(group: str, status: str) -> bool:
    """
    Whether *status* is a yes to *group*. Of whom nobody knows, it lives, but gets no work.
    """
    return status in {"pass", "warn"} or (group == "livez" and status == "unknown")


def status_of(check: HealthCheck, status: CheckStatus, now: float) -> str:
    """
    The word for how *check* is. A result that is too old says nothing, even if nobody has noticed yet.
    """
    last = status.last
    if last is None or last.started_at is None or now - last.started_at > limit_of(check):
        return "unknown"
    return STATUS_WORDS[status.status.value]


def limit_of(check: HealthCheck) -> float:
    """
    Seconds after the start of a run from which its result is too old.
    """
    return check.policy.stale_after + check.policy.timeout


def live(checks: Collection[HealthCheck], snapshot: Snapshot) -> Verdict:
    """
    Whether a restart of the process is called for.

    Only what is its own counts: a loop that does not turn, and a ladder that was climbed in vain. What other
    processes share does not get better by a restart, and whoever cannot tell is left alone.
    """
    return worst([_self(snapshot), *_exhausted(checks, snapshot)])


def _self(snapshot: Snapshot) -> Line:
    if not snapshot.running:
        return Line(SELF, "unknown", "it does not run")
    if snapshot.lag >= SLOW_LOOP:
        status = "fail" if snapshot.lag >= DEAD_LOOP else "warn"
        return Line(SELF, status, f"its loop has not turned for {snapshot.lag:.0f} s")
    return Line(SELF, "pass")


def _exhausted(checks: Collection[HealthCheck], snapshot: Snapshot) -> Iterator[Line]:
    for check in checks:
        status = snapshot.checks.get(check.name)
        if status is None or check.shared:
            continue
        # A ladder of which no rung was tried, or without rungs, says nothing about what a restart would do.
        if status.state is HealingState.EXHAUSTED and status.rung is not None:
            yield Line(check.name, "fail", "every rung was tried in vain")
        else:
            yield Line(check.name, "pass")


def ready(
    checks: Collection[HealthCheck],
    snapshot: Snapshot,
    *,
    draining: bool = False,
    shared_fails: bool = False,
) -> Verdict:
    """
    Whether work should be sent here.

    A single bad result does not take a process out, nor a single good one in: only a confirmed fault and proved
    health do. What every replica shares fails for all of them at once: to take them all out would turn a part that
    is down into everything. So it is a warning, unless *shared_fails*.

    Args:
        checks: All checks.
        snapshot: How they stand.
        draining: No more work is wanted.
        shared_fails: What is shared counts as what is not.
    """
    lines = [_self(snapshot)]
    if draining:
        lines.append(Line(DRAIN, "fail", "it is being drained"))
    for check in checks:
        status = snapshot.checks.get(check.name)
        if status is None:
            continue
        line = _readiness(check, status, snapshot.at)
        if check.shared and not shared_fails and status.last is not None and line.status in {"fail", "unknown"}:
            line = line._replace(status="warn")
        lines.append(line)
    return worst(lines)


def _readiness(check: HealthCheck, status: CheckStatus, now: float) -> Line:
    word = status_of(check, status, now)
    if word == "unknown":
        return Line(check.name, word, "nothing fresh is known" if status.last else "it has not been looked at")
    if word == "fail":
        is_suspicion = status.incident is None and status.was_good  # else there is nothing to keep up
        return Line(check.name, "warn" if is_suspicion else "fail", status.fault.kind if status.fault else "")
    if status.state in _UNPROVED:
        return Line(check.name, "fail", "it is well again, which is not proved yet")
    return Line(check.name, word, status.fault.kind if status.fault else "")


def started(checks: Collection[HealthCheck], snapshot: Snapshot) -> Verdict:
    """
    Whether every check has been good once; of what is shared, whether it has been looked at.
    """
    lines = [_self(snapshot)]
    for check in checks:
        status = snapshot.checks.get(check.name)
        if status is None:
            continue
        seen = status.last is not None
        if status.was_good or (check.shared and seen):
            lines.append(Line(check.name, "pass"))
        else:
            lines.append(
                Line(check.name, "unknown", "it has not been good yet" if seen else "it has not been looked at")
            )
    return worst(lines)
