"""
The one table of event names, their log levels and fields. Code, docs and tests share it.

An event is ``selfheal.<noun>.<past participle>``; values stand in fields, never
in the name. In a log record a field ``gate`` is the key ``selfheal_gate``.
"""

from __future__ import annotations

from typing import Final, NamedTuple


class EventName(NamedTuple):
    """
    What is known about one event: logging level, field names, meaning.
    """

    level: int
    fields: tuple[str, ...]
    meaning: str


# Levels are logging's numbers; importing logging here would cost every user 10 ms.
_DEBUG, _INFO, _WARNING, _ERROR = 10, 20, 30, 40

HEALER_STARTED: Final = "selfheal.healer.started"
HEALER_STOPPED: Final = "selfheal.healer.stopped"
CHECK_COMPLETED: Final = "selfheal.check.completed"
CHECK_ABANDONED: Final = "selfheal.check.abandoned"
CHECK_ENDED: Final = "selfheal.check.ended"
CHECK_STALE: Final = "selfheal.check.stale"
CHECK_DELAYED: Final = "selfheal.check.delayed"
STATE_CHANGED: Final = "selfheal.state.changed"
SUSPICION_CLEARED: Final = "selfheal.suspicion.cleared"
INCIDENT_OPENED: Final = "selfheal.incident.opened"
INCIDENT_CLOSED: Final = "selfheal.incident.closed"
ACTION_STARTED: Final = "selfheal.action.started"
ACTION_FINISHED: Final = "selfheal.action.finished"
ACTION_ENDED: Final = "selfheal.action.ended"
ACTION_BLOCKED: Final = "selfheal.action.blocked"
ACTION_LOGGED: Final = "selfheal.action.logged"
RUNG_REFUSED: Final = "selfheal.rung.refused"
HEALING_VERIFIED: Final = "selfheal.healing.verified"
HEALING_REFUTED: Final = "selfheal.healing.refuted"
HELD_APPLIED: Final = "selfheal.held.applied"
HELD_REVERTED: Final = "selfheal.held.reverted"
HELD_STUCK: Final = "selfheal.held.stuck"
EVIDENCE_DISCARDED: Final = "selfheal.evidence.discarded"
RESOURCE_PAUSED: Final = "selfheal.resource.paused"
RESOURCE_RESUMED: Final = "selfheal.resource.resumed"
LISTENER_FAILED: Final = "selfheal.listener.failed"

EVENTS: Final[dict[str, EventName]] = {
    HEALER_STARTED: EventName(_INFO, ("checks", "mode"), "The healer runs."),
    HEALER_STOPPED: EventName(_INFO, ("held", "running"), "The healer has stopped; what is still applied or runs."),
    CHECK_COMPLETED: EventName(_DEBUG, ("status", "kind", "duration", "scheduled_lag"), "One run of a check ended."),
    CHECK_ABANDONED: EventName(_WARNING, ("timeout", "abandoned"), "A run outlived its deadline and still runs."),
    CHECK_ENDED: EventName(_INFO, ("duration", "abandoned"), "An abandoned run has ended after all."),
    CHECK_STALE: EventName(_WARNING, ("age",), "There has been no known result for too long."),
    CHECK_DELAYED: EventName(_WARNING, ("delay",), "A due check waits for a free thread."),
    STATE_CHANGED: EventName(_INFO, ("from_state", "to_state", "reason"), "The healing of a check moved on."),
    SUSPICION_CLEARED: EventName(_INFO, ("age",), "Bad results were seen and no fault was confirmed."),
    INCIDENT_OPENED: EventName(_WARNING, ("kind", "time_to_detect", "manual"), "A fault is confirmed."),
    INCIDENT_CLOSED: EventName(
        _INFO, ("result", "actions", "duration", "time_to_recover"), "An incident is over, probation included."
    ),
    ACTION_STARTED: EventName(_INFO, ("action", "rung", "attempt", "kind", "revert"), "An action or a revert began."),
    ACTION_FINISHED: EventName(
        _INFO, ("action", "rung", "attempt", "outcome", "reason", "duration", "revert"), "It ended, or was given up."
    ),
    ACTION_ENDED: EventName(_INFO, ("action", "duration"), "An abandoned action has ended after all."),
    ACTION_BLOCKED: EventName(
        _INFO, ("action", "rung", "gate", "until", "reason", "revert"), "Nothing is done now, and why."
    ),
    ACTION_LOGGED: EventName(_INFO, ("action", "rung", "message"), "What an action had to say."),
    RUNG_REFUSED: EventName(_WARNING, ("action", "rung", "reason"), "A rung is used up without having been run."),
    HEALING_VERIFIED: EventName(_INFO, ("action", "rung", "attempt"), "The action has helped: health is proved."),
    HEALING_REFUTED: EventName(
        _WARNING, ("action", "rung", "attempt", "reason"), "The action has not helped, or not for long."
    ),
    HELD_APPLIED: EventName(_WARNING, ("action", "rung"), "A held change is in force."),
    HELD_REVERTED: EventName(_INFO, ("action", "rung"), "A held change was taken back."),
    HELD_STUCK: EventName(_ERROR, ("action", "rung", "reason", "until"), "A held change could not be taken back."),
    EVIDENCE_DISCARDED: EventName(_DEBUG, ("reason",), "What was seen before no longer counts."),
    RESOURCE_PAUSED: EventName(_WARNING, ("reason", "until"), "Actions are paused."),
    RESOURCE_RESUMED: EventName(_INFO, ("reason",), "Actions are allowed again."),
    LISTENER_FAILED: EventName(_ERROR, ("listener", "error_type"), "A listener raised; nothing else changed."),
}
