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
CHECK_BROKEN: Final = "selfheal.check.broken"
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
HELD_ADOPTED: Final = "selfheal.held.adopted"
HELD_REPORTED: Final = "selfheal.held.reported"
HELD_UNRECORDED: Final = "selfheal.held.unrecorded"
JOURNAL_LOST: Final = "selfheal.journal.lost"
JOURNAL_RESTORED: Final = "selfheal.journal.restored"
JOURNAL_REPLACED: Final = "selfheal.journal.replaced"
EVIDENCE_DISCARDED: Final = "selfheal.evidence.discarded"
RESOURCE_PAUSED: Final = "selfheal.resource.paused"
RESOURCE_RESUMED: Final = "selfheal.resource.resumed"
REQUEST_ACCEPTED: Final = "selfheal.request.accepted"
LISTENER_FAILED: Final = "selfheal.listener.failed"
STEP_FAILED: Final = "selfheal.step.failed"

EVENTS: Final[dict[str, EventName]] = {
    HEALER_STARTED: EventName(_INFO, ("checks", "mode"), "The healer runs."),
    HEALER_STOPPED: EventName(_INFO, ("held", "running"), "The healer has stopped; what is still applied or runs."),
    CHECK_COMPLETED: EventName(
        _DEBUG, ("status", "kind", "duration", "scheduled_lag", "loop_lag"), "One run of a check ended."
    ),
    CHECK_ABANDONED: EventName(_WARNING, ("timeout", "abandoned"), "A run outlived its deadline and still runs."),
    CHECK_ENDED: EventName(_INFO, ("duration", "abandoned"), "An abandoned run has ended after all."),
    CHECK_BROKEN: EventName(
        _WARNING,
        ("error_type", "message"),
        "The probe itself is mistaken: its answer means nothing, or its own lines raise.",
    ),
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
    HELD_ADOPTED: EventName(
        _WARNING, ("action", "leaf", "phase"), "A held change that an earlier process has left is taken over."
    ),
    HELD_REPORTED: EventName(
        _ERROR, ("action", "leaf", "phase", "reason"), "A held change was left, and nobody here may take it back."
    ),
    HELD_UNRECORDED: EventName(
        _ERROR, ("action", "leaf", "phase"), "The journal has not taken in a held change in time; healing goes on."
    ),
    JOURNAL_LOST: EventName(
        _ERROR, ("reason", "waiting", "dropped"), "The journal cannot be written; the newest is kept in memory."
    ),
    JOURNAL_RESTORED: EventName(_INFO, ("waiting", "dropped"), "The journal can be written again."),
    JOURNAL_REPLACED: EventName(
        _ERROR, ("reason", "kept"), "The journal was damaged: it was moved aside and a new one begun."
    ),
    EVIDENCE_DISCARDED: EventName(_DEBUG, ("reason",), "What was seen before no longer counts."),
    RESOURCE_PAUSED: EventName(_WARNING, ("reason", "until"), "Actions are paused."),
    RESOURCE_RESUMED: EventName(_INFO, ("reason",), "Actions are allowed again."),
    REQUEST_ACCEPTED: EventName(
        _WARNING, ("action", "target"), "Somebody outside has asked for something, and got it."
    ),
    LISTENER_FAILED: EventName(_ERROR, ("listener", "error_type"), "A listener raised; nothing else changed."),
    STEP_FAILED: EventName(
        _ERROR, ("step", "error_type"), "What must not raise has: a monitor, a predicate, selfheal itself. It goes on."
    ),
}


class MetricName:
    """
    What is known about one metric: type, help, open and closed labels.

    *open* labels carry registered names, one series for each check, resource
    or rung. *closed* labels carry the words in *rows* alone, so that every
    series can exist, as 0, before anything has happened.

    *mode* says how the gauges of several processes become one
    (prometheus_client's ``multiprocess_mode``); counters and histograms add up.
    """

    # A NamedTuple of so many fields takes a third of a millisecond to define, whether anybody exports metrics or not.
    __slots__ = ("buckets", "closed", "meaning", "mode", "open", "rows", "type")

    def __init__(
        self,
        type_: str,
        meaning: str,
        open_: tuple[str, ...] = (),
        closed: tuple[str, ...] = (),
        rows: tuple[tuple[str, ...], ...] = ((),),
        mode: str = "",
        buckets: tuple[float, ...] = (),
    ) -> None:
        self.type = type_
        self.meaning = meaning
        self.open = open_
        self.closed = closed
        self.rows = rows
        self.mode = mode
        self.buckets = buckets

    @property
    def labels(self) -> tuple[str, ...]:
        """
        All label names, in the order in which values are given.
        """
        return self.open + self.closed


#: `HealthStatus` as the world outside knows it: the words of the health+json draft.
STATUS_WORDS: Final = {"healthy": "pass", "degraded": "warn", "unhealthy": "fail", "unknown": "unknown"}

#: What one due time of a check came to: its status, or why there is none. "skipped": the last run still runs.
RUN_OUTCOMES: Final = ("pass", "warn", "fail", "timeout", "error", "skipped", "unknown")

#: Every change of state there is.
TRANSITIONS: Final = (
    ("idle", "detecting"),
    ("idle", "recovering"),
    ("idle", "restored"),
    ("detecting", "idle"),
    ("detecting", "recovering"),
    ("recovering", "verifying"),
    ("recovering", "restored"),
    ("recovering", "exhausted"),
    ("verifying", "recovering"),
    ("verifying", "restored"),
    ("restored", "idle"),
    ("restored", "recovering"),
    ("exhausted", "recovering"),
    ("exhausted", "restored"),
)

_STATES: Final = tuple((word,) for word in ("idle", "detecting", "recovering", "verifying", "restored", "exhausted"))
_VERDICTS: Final = tuple((word,) for word in ("done", "failed", "cannot_help", "abandoned", "cancelled"))
_RESULTS: Final = tuple((word,) for word in ("healed", "self_resolved", "exhausted", "suppressed", "aborted"))
_GATES: Final = tuple(
    (word,)
    for word in (
        *("paused", "busy", "self_doubt", "dependency", "storm", "flapping"),
        *("cooldown", "precondition", "budget", "shadow", "lease"),
    )
)

_PROBE_SECONDS: Final = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_ACTION_SECONDS: Final = (0.01, 0.05, 0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
_INCIDENT_SECONDS: Final = (0.5, 1.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 900.0, 1800.0, 3600.0, 14400.0)

_C: Final = ("check",)
_CR: Final = ("check", "resource")
_R: Final = ("resource",)
_RA: Final = ("resource", "action")
_RAR: Final = ("resource", "action", "rung")
_M: Final = ("check", "monitor")

METRICS: Final[dict[str, MetricName]] = {
    "healing_total": MetricName("counter", "Recoveries that were proved to have helped."),
    # The healer
    "selfheal_build_info": MetricName(
        "gauge", "Always 1; the versions are in the labels.", ("version", "python_version"), mode="max"
    ),
    "selfheal_paused": MetricName("gauge", "1 while actions are paused, somewhere.", mode="max"),
    "selfheal_dry_run": MetricName("gauge", "1 while the mode is not 'enforce'.", mode="max"),
    "selfheal_heartbeat_timestamp_seconds": MetricName("gauge", "When a check last ended, any.", mode="livemin"),
    "selfheal_scheduler_lag_seconds": MetricName(
        "histogram", "From the due time of a run to its start.", buckets=_PROBE_SECONDS
    ),
    "selfheal_event_loop_lag_seconds": MetricName(
        "histogram", "How late the healer's loop has called, at worst between two results.", buckets=_PROBE_SECONDS
    ),
    "selfheal_health_status": MetricName(
        "gauge",
        "1 for what the checks come to for liveness, readiness and startup, 0 for the other words.",
        (),
        ("group", "status"),
        tuple((group, word) for group in ("live", "ready", "startup") for word in STATUS_WORDS.values()),
        "livemax",
    ),
    "selfheal_events_dropped_total": MetricName(
        "counter",
        "Events that did not get where they should.",
        (),
        ("sink", "reason"),
        (("listener", "error"), ("listener", "overflow"), ("journal", "overflow")),
    ),
    # Checks
    "selfheal_probe_info": MetricName(
        "gauge",
        "Always 1; the labels say what the check is of, and whether other replicas use that too.",
        ("check", "resource", "shared"),
        mode="max",
    ),
    "selfheal_probe_up": MetricName("gauge", "1 while the status is pass or warn.", _C, mode="livemin"),
    "selfheal_probe_status": MetricName(
        "gauge",
        "1 for the present status, 0 for the others.",
        _C,
        ("status",),
        tuple((word,) for word in STATUS_WORDS.values()),
        "livemax",
    ),
    "selfheal_probe_runs_total": MetricName(
        "counter", "Runs by what they came to.", _C, ("outcome",), tuple((word,) for word in RUN_OUTCOMES)
    ),
    "selfheal_probe_duration_seconds": MetricName("histogram", "Length of a run.", _C, buckets=_PROBE_SECONDS),
    "selfheal_probe_consecutive_failures": MetricName("gauge", "Runs in a row with fail.", _C, mode="livemax"),
    "selfheal_probe_last_run_timestamp_seconds": MetricName(
        "gauge", "When a run last ended; 0: never.", _C, mode="livemin"
    ),
    "selfheal_probe_last_success_timestamp_seconds": MetricName(
        "gauge", "When a run last ended with pass or warn; 0: never.", _C, mode="livemin"
    ),
    "selfheal_probe_interval_seconds": MetricName(
        "gauge", "Seconds between runs while all is well.", _C, mode="livemax"
    ),
    "selfheal_probe_abandoned": MetricName(
        "gauge", "Runs that outlived their deadline and still run.", _C, mode="livesum"
    ),
    # Monitors
    "selfheal_latency_seconds": MetricName(
        "gauge", "The monitor's statistic over its window, when the check last ran.", _M, mode="livemax"
    ),
    "selfheal_latency_threshold_seconds": MetricName("gauge", "What it is compared with.", _M, mode="livemax"),
    "selfheal_latency_window_samples": MetricName("gauge", "Samples in the window.", _M, mode="livesum"),
    "selfheal_latency_breached": MetricName("gauge", "1 while the monitor calls it unhealthy.", _M, mode="livemax"),
    "selfheal_latency_breaches_total": MetricName("counter", "Times it has begun to.", _M),
    # The healing of a check
    "selfheal_state": MetricName(
        "gauge", "1 for the present state of healing, 0 for the others.", _CR, ("state",), _STATES, "livemax"
    ),
    "selfheal_state_transitions_total": MetricName(
        "counter", "Changes of state.", _CR, ("from_state", "to_state"), TRANSITIONS
    ),
    "selfheal_state_entered_timestamp_seconds": MetricName("gauge", "When the state was entered.", _CR, mode="livemin"),
    "selfheal_exhausted": MetricName(
        "gauge", "1 while nothing is left that could heal it: a case for a person.", _CR, mode="livemax"
    ),
    "selfheal_recovery_level": MetricName(
        "gauge",
        "How far up its ladder the open incident is, 1 for the lowest rung; 0: no action yet.",
        _CR,
        mode="livemax",
    ),
    # Actions
    "selfheal_recovery_detected_total": MetricName("counter", "Actions called for, in every mode.", _RA),
    "selfheal_recovery_enforced_total": MetricName("counter", "Actions called for and started.", _RA),
    "selfheal_recovery_attempts_total": MetricName("counter", "Actions ended, by how.", _RAR, ("outcome",), _VERDICTS),
    "selfheal_recovery_reverts_total": MetricName(
        "counter", "Reverts of held actions ended, by how.", _RAR, ("outcome",), _VERDICTS
    ),
    "selfheal_recovery_duration_seconds": MetricName("histogram", "Length of an action.", _RA, buckets=_ACTION_SECONDS),
    "selfheal_recovery_in_progress": MetricName(
        "gauge", "Actions and reverts that run, abandoned ones included.", _R, mode="livesum"
    ),
    "selfheal_recovery_held": MetricName("gauge", "1 while a held action is in force.", _RA, mode="livemax"),
    "selfheal_recovery_suppressed_total": MetricName(
        "counter", "Actions not started, by the gate that was closed.", _RA, ("gate",), _GATES
    ),
    "selfheal_recovery_verifications_total": MetricName(
        "counter", "Whether an action has helped.", _RA, ("outcome",), (("verified",), ("refuted",))
    ),
    "selfheal_recovery_last_success_timestamp_seconds": MetricName(
        "gauge", "When an action was last proved to have helped; 0: never.", _R, mode="livemax"
    ),
    # Incidents
    "selfheal_incidents_opened_total": MetricName("counter", "Faults confirmed.", _R),
    "selfheal_incidents_closed_total": MetricName("counter", "Incidents over, by result.", _R, ("result",), _RESULTS),
    "selfheal_incidents_open": MetricName("gauge", "Incidents that are not over.", _R, mode="livesum"),
    "selfheal_incident_duration_seconds": MetricName(
        "histogram", "From the first bad result to proved health.", _R, ("result",), _RESULTS, buckets=_INCIDENT_SECONDS
    ),
    "selfheal_detection_duration_seconds": MetricName(
        "histogram", "From the first bad result to the confirmed fault.", _R, buckets=_INCIDENT_SECONDS
    ),
    # Budgets
    "selfheal_budget_limit": MetricName("gauge", "Actions allowed within a window.", ("budget",), mode="livemax"),
    "selfheal_budget_window_seconds": MetricName("gauge", "Length of that window.", ("budget",), mode="livemax"),
    "selfheal_budget_remaining": MetricName(
        "gauge", "Actions that are left in the present window.", ("budget",), mode="livemin"
    ),
    "selfheal_budget_denials_total": MetricName("counter", "Actions not started, for none was left.", ("budget",)),
}
