"""
What a test wants to know of a `Story`. When it is not so, the failure tells the story.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NoReturn

from selfheal import names
from selfheal.model import Incident, IncidentResult
from selfheal.records import tell
from selfheal.testing.simulator import Story


def assert_healed(story: Story, check: str, *, within: float | None = None, by: str | None = None) -> Incident:
    """
    Every incident of *check* is over, and an action of ours has ended it.

    Args:
        story: What `simulate` gave.
        check: The check's name.
        within: Seconds from the first bad result to proved health, for each of them.
        by: The action that was proved to have helped, in the last one.

    Returns:
        The last incident.

    Raises:
        AssertionError: If it is not so; it tells the incident.
    """
    incidents = _incidents(story, check)
    if not incidents:
        _fail(f"{check!r} had nothing to heal until {story.until:g} s: no fault was confirmed", incidents)
    for incident in incidents:
        took = incident.time_to_recover
        if incident.result is None:
            _fail(f"{check!r} is still being healed at {story.until:g} s; its probation counts as well", incidents)
        if incident.result is not IncidentResult.HEALED:
            _fail(f"{check!r} was not healed: {incident.result.value}", incidents)
        if within is not None and took is not None and took > within:
            _fail(f"{check!r} was healed in {took:g} s, not within {within:g} s", incidents)
    healer = _verified(incidents[-1])
    if by is not None and by != healer:
        _fail(f"{check!r} was healed by {healer}, not by {by}", incidents)
    return incidents[-1]


def assert_untouched(story: Story, check: str) -> None:
    """
    No action was begun for *check*, whatever it has shown.

    Raises:
        AssertionError: If one was; it tells the incident.
    """
    incidents = _incidents(story, check)
    if actions := story.actions(check):
        at, action = actions[0]
        _fail(f"{check!r} was to be left alone, but {action} began at {at:g} s", incidents)


def assert_stepped_down(story: Story, check: str) -> None:
    """
    What was applied and held for *check* has been taken back, and there was such a thing.

    Raises:
        AssertionError: If it is not so; it tells the incident.
    """
    incidents = _incidents(story, check)
    held: list[str] = []
    applied = False
    for event in story.events:
        if event.check == check and event.name == names.HELD_APPLIED:
            applied = True
            held.append(str(event.fields["action"]))
        elif event.check == check and event.name == names.HELD_REVERTED:
            held.remove(str(event.fields["action"]))
    if not applied:
        _fail(f"nothing was held for {check!r}, so there was nothing to step down", incidents)
    if held:
        _fail(f"{', '.join(held)} of {check!r} is still in force at {story.until:g} s", incidents)


def _incidents(story: Story, check: str) -> Sequence[Incident]:
    known = sorted({event.check for event in story.events if event.check})
    if check not in known:
        msg = f"no check is called {check!r}. There are: {', '.join(known) or 'none'}."
        raise AssertionError(msg)
    return [incident for incident in (*story.incidents, *story.still_open) if incident.check == check]


def _verified(incident: Incident) -> str | None:
    verified = [entry for entry in incident.timeline if entry.event == names.HEALING_VERIFIED]
    return str(verified[-1].fields["action"]) if verified else None


def _fail(what: str, incidents: Sequence[Incident]) -> NoReturn:
    raise AssertionError("\n\n".join([what, *map(tell, incidents)]))
