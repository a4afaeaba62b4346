"""
What each event means for the metrics. One healer, one feed.
"""

from __future__ import annotations

import platform
import weakref

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import selfheal

from selfheal import names
from selfheal.export.exemplars import exemplar_of
from selfheal.export.labels import latency_monitors, open_labels, outcome_of
from selfheal.export.registration import Metrics, guard
from selfheal.export.standing import Standing


if TYPE_CHECKING:
    from selfheal.checks import HealthCheck
    from selfheal.healer import Healer
    from selfheal.model import Event, Field
    from selfheal.monitors.latency import LatencyMonitor
    from selfheal.runtime.watch import CheckStatus


class Feed:
    """
    Listens to one healer, and is held by that healer alone: metrics live as long as the process.
    """

    def __init__(self, healer: Healer, metrics: Metrics, wall: Callable[[], float]) -> None:
        self._healer = weakref.ref(healer)
        self._metrics = metrics
        self._forks = metrics.forks
        self._remove: Callable[[], None] = _nothing
        self._wall = wall
        self._checks: dict[str, HealthCheck] = {}
        self._monitors: dict[str, list[tuple[LatencyMonitor, str]]] = {}
        # What this healer has added to gauges that healers share, to be taken back when it is no longer followed.
        self._open: dict[str, str] = {}
        self._running: dict[str, int] = {}
        self._standing = Standing(metrics, healer.events_dropped)
        self._journal_dropped = 0
        #: The status each check shows, and its runs in a row with fail.
        self._shown: dict[str, str] = {}
        self._failures: dict[str, int] = {}
        #: Checks and monitors of theirs that call it unhealthy.
        self._breached: set[tuple[str, str]] = set()
        #: The action each check asks for, counted as detected already.
        self._asked: dict[str, Field] = {}
        self._handlers: dict[str, Callable[[Event], None]] = {
            names.HEALER_STARTED: self._started,
            names.HEALER_STOPPED: self._look,
            names.CHECK_COMPLETED: self._completed,
            names.CHECK_ABANDONED: self._abandoned,
            names.CHECK_ENDED: self._abandoned,
            names.CHECK_STALE: self._stale,
            names.STATE_CHANGED: self._state_changed,
            names.INCIDENT_OPENED: self._opened,
            names.INCIDENT_CLOSED: self._closed,
            names.ACTION_STARTED: self._action_started,
            names.ACTION_FINISHED: self._action_finished,
            names.ACTION_ENDED: self._action_ended,
            names.ACTION_BLOCKED: self._action_blocked,
            names.HEALING_VERIFIED: self._verified,
            names.HEALING_REFUTED: self._refuted,
            names.HELD_APPLIED: self._held,
            names.HELD_REVERTED: self._held,
            names.RESOURCE_PAUSED: self._look,
            names.RESOURCE_RESUMED: self._look,
            names.LISTENER_FAILED: self._listener_failed,
            names.JOURNAL_LOST: self._journal,
            names.JOURNAL_RESTORED: self._journal,
        }
        metrics.feeds.add(self)
        self._catch_up(healer)

    def follows(self, healer: Healer) -> bool:
        """
        Whether it listens to *healer*.
        """
        return self._healer() is healer

    @property
    def shown(self) -> frozenset[str]:
        """
        Names of the checks and budgets it shows.
        """
        return self._standing.budgets | self._checks.keys()

    def shows(self, opened: tuple[str, ...], values: tuple[str, ...]) -> bool:
        """
        Whether *values* of the labels *opened*, the first of them check or budget, are of something that is there.
        """
        if self._forks != guard().forks:
            return False
        if opened[0] == "budget":
            return values[0] in self._standing.budgets
        check = self._checks.get(values[0])
        return check is not None and values in open_labels(check)[opened]

    def listen(self, healer: Healer) -> None:
        """
        Begin, with the events that count: the others need not be built.
        """
        self._remove = healer.on_event(self, events=self._handlers.keys())

    def __call__(self, event: Event) -> None:
        """
        Count *event*.
        """
        shared = guard()
        with shared.lock:
            handle = self._handlers.get(event.name)
            if handle is None or self._forks != shared.forks:
                return  # no longer followed, or a child of the process that is counted
            if event.check and not self._knows(event):
                self._follow()
            handle(event)
            if event.check and not self._knows(event):
                self._follow(event.check)  # the late end of something that is gone, which has left its series again

    def look(self) -> None:
        """
        Look after what no event tells, before somebody reads. Call it under the guard's lock.
        """
        if self._handlers and self._forks == guard().forks:
            self._look()

    def close(self) -> None:
        """
        Listen no longer; take back what is counted in gauges that healers share.
        """
        remove, self._remove = self._remove, _nothing
        remove()
        shared = guard()
        with shared.lock:
            self._handlers = {}  # an event may still be on its way here
            if self._forks == shared.forks:
                for resource in self._open.values():
                    self._metrics.child("selfheal_incidents_open", resource).dec()
                for resource, count in self._running.items():
                    self._metrics.child("selfheal_recovery_in_progress", resource).dec(count)
            self._open, self._running = {}, {}

    def _catch_up(self, healer: Healer) -> None:
        child = self._metrics.child
        child("selfheal_build_info", selfheal.__version__, platform.python_version()).set(1)
        child("selfheal_dry_run").set(healer.mode != "enforce")
        self._standing.look(healer)
        self._follow()

    def _knows(self, event: Event) -> bool:
        check = self._checks.get(event.check)
        return check is not None and check.resource == event.resource

    def _follow(self, anew: str = "") -> None:
        """
        Show what is watched now and nothing else, as it stands; the check *anew* even if it seems to be shown.
        """
        healer = self._healer()
        if healer is None:
            return
        before, self._checks = self._checks, {check.name: check for check in healer.checks}
        gone = {name for name, check in before.items() if self._checks.get(name) is not check} | ({anew} - {""})
        new = [check for name, check in self._checks.items() if name in gone or name not in before]
        if gone:
            for known in (self._monitors, self._shown, self._failures, self._asked):
                for name in gone & known.keys():
                    del known[name]
            self._breached = {(name, label) for name, label in self._breached if name not in gone}
            self._metrics.drop(gone)
        statuses: Mapping[str, CheckStatus] = healer.status() if new else {}
        for check in new:
            self._bind(check)
            if check.name in statuses:  # else it was removed a moment ago
                self._show(check, statuses[check.name])

    def _show(self, check: HealthCheck, status: CheckStatus) -> None:
        child, name, resource = self._metrics.child, check.name, check.resource
        self._show_status(name, names.STATUS_WORDS[status.status.value])
        self._show_state(name, resource, status.state.value)
        child("selfheal_probe_abandoned", name).set(status.abandoned)
        for action in status.held:
            child("selfheal_recovery_held", resource, action).set(1)
        if status.incident is not None and name not in self._open:
            self._open[name] = resource
            child("selfheal_incidents_open", resource).inc()

    def _bind(self, check: HealthCheck) -> None:
        # Every series from the start: rate() does not see the step from "missing" to 1.
        name, resource = check.name, check.resource
        self._monitors[name] = latency_monitors(check)
        child, values = self._metrics.child, open_labels(check)
        for metric, spec in names.METRICS.items():
            for labels in values.get(spec.open, ()):
                for row in spec.rows:
                    child(metric, *labels, *row)
        # Of no action, for no rung applies.
        child("selfheal_recovery_suppressed_total", resource, "", "precondition")
        child("selfheal_probe_info", name, resource, str(check.shared).lower()).set(1)
        child("selfheal_probe_interval_seconds", name).set(check.policy.interval)
        child("selfheal_probe_consecutive_failures", name).set(0)
        for monitor, label in self._monitors[name]:
            child("selfheal_latency_threshold_seconds", name, label).set(monitor.threshold_ms / 1000)
        self._show_status(name, "unknown")
        self._show_state(name, resource, "idle")

    # One method an event.

    def _started(self, event: Event) -> None:
        self._metrics.child("selfheal_dry_run").set(event.fields["mode"] != "enforce")
        self._metrics.child("selfheal_heartbeat_timestamp_seconds").set(self._wall())

    def _completed(self, event: Event) -> None:
        child, check, fields = self._metrics.child, event.check, event.fields
        now = self._wall()
        word = names.STATUS_WORDS[str(fields["status"])]
        outcome = outcome_of(word, fields)
        child("selfheal_heartbeat_timestamp_seconds").set(now)
        if self._standing.is_due(event.at, len(self._checks)):
            self._look(event)
        child("selfheal_probe_runs_total", check, outcome).inc()
        self._show_status(check, word)
        self._observe(event, "loop_lag", "selfheal_event_loop_lag_seconds")
        if word != "unknown":  # neither extends nor ends a row
            self._failures[check] = self._failures.get(check, 0) + 1 if word == "fail" else 0
            child("selfheal_probe_consecutive_failures", check).set(self._failures[check])
        if outcome == "skipped":
            return
        child("selfheal_probe_last_run_timestamp_seconds", check).set(now)
        if word in ("pass", "warn"):
            child("selfheal_probe_last_success_timestamp_seconds", check).set(now)
        self._observe(event, "duration", "selfheal_probe_duration_seconds", check)
        self._observe(event, "scheduled_lag", "selfheal_scheduler_lag_seconds")
        for monitor, label in self._monitors.get(check, ()):
            value, breached = monitor.value, monitor.is_unhealthy()
            child("selfheal_latency_seconds", check, label).set(0 if value is None else value / 1000)
            child("selfheal_latency_window_samples", check, label).set(monitor.samples)
            child("selfheal_latency_breached", check, label).set(breached)
            if breached and (check, label) not in self._breached:
                child("selfheal_latency_breaches_total", check, label).inc()
                self._breached.add((check, label))
            elif not breached:
                self._breached.discard((check, label))

    def _abandoned(self, event: Event) -> None:
        abandoned = event.fields["abandoned"]
        if isinstance(abandoned, int):
            self._metrics.child("selfheal_probe_abandoned", event.check).set(abandoned)

    def _stale(self, event: Event) -> None:
        self._show_status(event.check, "unknown")

    def _state_changed(self, event: Event) -> None:
        before, after = str(event.fields["from_state"]), str(event.fields["to_state"])
        if before != after:
            self._metrics.child("selfheal_state_transitions_total", event.check, event.resource, before, after).inc()
            self._asked.pop(event.check, None)
        self._show_state(event.check, event.resource, after)

    def _opened(self, event: Event) -> None:
        resource = event.resource
        self._count(event, "selfheal_incidents_opened_total", resource)
        self._observe(event, "time_to_detect", "selfheal_detection_duration_seconds", resource)
        if event.check not in self._open:
            self._open[event.check] = resource
            self._metrics.child("selfheal_incidents_open", resource).inc()

    def _closed(self, event: Event) -> None:
        child, resource, result = self._metrics.child, event.resource, str(event.fields["result"])
        self._count(event, "selfheal_incidents_closed_total", resource, result)
        self._observe(event, "time_to_recover", "selfheal_incident_duration_seconds", resource, result)
        child("selfheal_recovery_level", event.check, resource).set(0)
        if self._open.pop(event.check, None) is not None:
            child("selfheal_incidents_open", resource).dec()

    def _action_started(self, event: Event) -> None:
        child, resource = self._metrics.child, event.resource
        self._running[resource] = self._running.get(resource, 0) + 1
        child("selfheal_recovery_in_progress", resource).inc()
        if event.fields.get("revert"):
            return
        self._detected(event)
        del self._asked[event.check]  # the next attempt of the same rung is a decision of its own
        self._count(event, "selfheal_recovery_enforced_total", resource, str(event.fields["action"]))
        rung = event.fields.get("rung")
        if isinstance(rung, int):
            child("selfheal_recovery_level", event.check, resource).set(rung + 1)
        healer = self._healer()
        if healer is not None:
            self._standing.charged(healer)

    def _action_finished(self, event: Event) -> None:
        resource, fields = event.resource, event.fields
        action, rung, outcome = str(fields["action"]), str(fields["rung"]), str(fields["outcome"])
        if fields.get("revert"):
            self._count(event, "selfheal_recovery_reverts_total", resource, action, rung, outcome)
        else:
            self._count(event, "selfheal_recovery_attempts_total", resource, action, rung, outcome)
            self._observe(event, "duration", "selfheal_recovery_duration_seconds", resource, action)
        if outcome != "abandoned":
            self._action_ended(event)

    def _action_ended(self, event: Event) -> None:
        running = self._running.get(event.resource, 0)
        if running:
            self._running[event.resource] = running - 1
            self._metrics.child("selfheal_recovery_in_progress", event.resource).dec()

    def _action_blocked(self, event: Event) -> None:
        if event.fields.get("revert"):
            return
        action, gate = str(event.fields.get("action") or ""), str(event.fields["gate"])
        self._count(event, "selfheal_recovery_suppressed_total", event.resource, action, gate)
        healer = self._healer()
        if gate == "budget" and healer is not None:
            self._standing.denied(healer, event.resource)
        if action:
            self._detected(event)

    def _detected(self, event: Event) -> None:
        # An action that waits at one gate after the other was called for once.
        rung = event.fields.get("rung")
        if event.check not in self._asked or self._asked[event.check] != rung:
            self._asked[event.check] = rung
            self._count(event, "selfheal_recovery_detected_total", event.resource, str(event.fields["action"]))

    def _verified(self, event: Event) -> None:
        self._count(event, "healing_total")
        action = str(event.fields["action"])
        self._count(event, "selfheal_recovery_verifications_total", event.resource, action, "verified")
        self._metrics.child("selfheal_recovery_last_success_timestamp_seconds", event.resource).set(self._wall())

    def _refuted(self, event: Event) -> None:
        action = str(event.fields["action"])
        self._count(event, "selfheal_recovery_verifications_total", event.resource, action, "refuted")

    def _held(self, event: Event) -> None:
        applied = event.name == names.HELD_APPLIED
        self._metrics.child("selfheal_recovery_held", event.resource, str(event.fields["action"])).set(applied)

    def _listener_failed(self, _event: Event) -> None:
        self._metrics.child("selfheal_events_dropped_total", "listener", "error").inc()

    def _journal(self, event: Event) -> None:
        dropped = event.fields["dropped"]
        if isinstance(dropped, int):
            lost = max(0, dropped - self._journal_dropped)
            self._metrics.child("selfheal_events_dropped_total", "journal", "overflow").inc(lost)
            self._journal_dropped = dropped

    # What several of them do.

    def _look(self, _event: Event | None = None) -> None:
        """
        Look after what changes without an event: the healer as a whole, and checks that are gone.
        """
        healer = self._healer()
        if healer is None:
            return
        self._standing.look(healer)
        self._follow()

    def _count(self, event: Event, metric: str, *labels: str) -> None:
        self._metrics.child(metric, *labels).inc(exemplar=exemplar_of(self._healer(), event))

    def _observe(self, event: Event, field: str, metric: str, *labels: str) -> None:
        value = event.fields.get(field)
        if isinstance(value, int | float):
            self._metrics.child(metric, *labels).observe(value, exemplar=exemplar_of(self._healer(), event))

    def _show_status(self, check: str, word: str) -> None:
        if self._shown.get(check) == word:
            return
        self._shown[check] = word
        self._metrics.child("selfheal_probe_up", check).set(word in ("pass", "warn"))
        for (other,) in names.METRICS["selfheal_probe_status"].rows:
            self._metrics.child("selfheal_probe_status", check, other).set(other == word)

    def _show_state(self, check: str, resource: str, state: str) -> None:
        child = self._metrics.child
        for (other,) in names.METRICS["selfheal_state"].rows:
            child("selfheal_state", check, resource, other).set(other == state)
        child("selfheal_exhausted", check, resource).set(state == "exhausted")
        child("selfheal_state_entered_timestamp_seconds", check, resource).set(self._wall())


def _nothing() -> None:
    """
    There is nothing to take off.
    """
