"""
What happens to a check is what its metrics say.
"""

import gc
import re
import weakref

import pytest

from prometheus_client import CollectorRegistry, Counter, generate_latest

from selfheal import Budget, CheckResult, ConfigError, Healer, HealthCheck, HealthStatus, Incident, names
from selfheal.export import attach
from selfheal.export.prometheus import PrometheusExporter
from selfheal.export.registration import metrics_in
from selfheal.model import Gate, HealingState, IncidentResult, Verdict
from selfheal.runtime.watch import Pause
from selfheal.testing.clock import VirtualClock


CHECK = {"check": "orders"}
RESOURCE = {"resource": "orders_db"}
BOTH = CHECK | RESOURCE
DRAIN = RESOURCE | {"action": "drain"}


class Scrape:
    """
    A registry, asked for single values.
    """

    def __init__(self, stage):
        self.registry = CollectorRegistry()
        self.exporter = PrometheusExporter(self.registry, wall=lambda: 1_000.0)
        self.detach = self.exporter.attach(stage)

    def __call__(self, name, /, **labels):
        return self.registry.get_sample_value(name, labels)

    def series(self):
        """Names and labels of all series."""
        return {
            (sample.name, *sorted(sample.labels.items()))
            for metric in self.registry.collect()
            for sample in metric.samples
        }


@pytest.fixture
def scrape(stage):
    """The metrics of `stage`."""
    return Scrape(stage)


@pytest.fixture
def healer():
    """A real healer with one check, in virtual time."""
    return Healer([HealthCheck(lambda: None, name="db", budget=Budget(3, per=60))], clock=VirtualClock())


@pytest.fixture
def scrape_of():
    """Makes the metrics of any healer."""
    return Scrape


def finish(stage, outcome="done", **fields):
    """One action, from start to end."""
    stage.say(names.ACTION_STARTED, action="drain", rung=0, attempt=1, kind="stale", revert=False)
    stage.say(
        names.ACTION_FINISHED,
        **{
            "action": "drain",
            "rung": 0,
            "attempt": 1,
            "outcome": outcome,
            "reason": "",
            "duration": 2.0,
            "revert": False,
        }
        | fields,
    )


A_LIFE = [
    (names.HEALER_STARTED, {"checks": 1, "mode": "enforce"}),
    (
        names.CHECK_COMPLETED,
        {"status": "unhealthy", "kind": "stale", "duration": 0.1, "scheduled_lag": 0.0, "loop_lag": 0.0},
    ),
    (names.CHECK_ABANDONED, {"timeout": 1.0, "abandoned": 1}),
    (names.CHECK_ENDED, {"duration": 3.0, "abandoned": 0}),
    (names.STATE_CHANGED, {"from_state": "idle", "to_state": "detecting", "reason": ""}),
    (names.STATE_CHANGED, {"from_state": "detecting", "to_state": "recovering", "reason": ""}),
    (names.INCIDENT_OPENED, {"kind": "stale", "time_to_detect": 2.0, "manual": False}),
    (
        names.ACTION_BLOCKED,
        {"action": "drain", "rung": 0, "gate": "budget", "until": None, "reason": "", "revert": False},
    ),
    (
        names.ACTION_BLOCKED,
        {"action": None, "rung": None, "gate": "precondition", "until": None, "reason": "", "revert": False},
    ),
    (names.ACTION_STARTED, {"action": "drain", "rung": 0, "attempt": 1, "kind": "stale", "revert": False}),
    (
        names.ACTION_FINISHED,
        {"action": "drain", "rung": 0, "attempt": 1, "outcome": "done", "reason": "", "duration": 1.0, "revert": False},
    ),
    (names.HEALING_REFUTED, {"action": "drain", "rung": 0, "attempt": 1, "reason": ""}),
    (names.HEALING_VERIFIED, {"action": "rebuild", "rung": 1, "attempt": 1}),
    (names.HELD_APPLIED, {"action": "rebuild", "rung": 1}),
    (names.HELD_REVERTED, {"action": "rebuild", "rung": 1}),
    (names.INCIDENT_CLOSED, {"result": "healed", "actions": 2, "duration": 70.0, "time_to_recover": 10.0}),
    (names.CHECK_STALE, {"age": 30.0}),
    (names.LISTENER_FAILED, {"listener": "f", "error_type": "ValueError"}),
]


class TestTable:
    def test_words_are_those_of_the_enums(self):
        """
        The closed labels of the table are the values of the enums, so that no event finds a series missing.
        """
        rows = {
            name: tuple(row[0] for row in spec.rows) for name, spec in names.METRICS.items() if len(spec.closed) == 1
        }

        assert tuple(state.value for state in HealingState) == rows["selfheal_state"]
        assert tuple(gate.value for gate in Gate) == rows["selfheal_recovery_suppressed_total"]
        assert tuple(verdict.value for verdict in Verdict) == rows["selfheal_recovery_attempts_total"]
        assert tuple(result.value for result in IncidentResult) == rows["selfheal_incidents_closed_total"]
        assert tuple(status.value for status in HealthStatus) == tuple(names.STATUS_WORDS)

    @pytest.mark.parametrize("name", names.METRICS)
    def test_follows_the_conventions(self, name):
        """
        Every metric has our prefix, a meaning, and what its type needs: a total, a mode or buckets.
        """
        spec = names.METRICS[name]

        assert name == "healing_total" or name.startswith("selfheal_")
        assert spec.meaning.endswith(".")
        assert (spec.type == "counter") == name.endswith("_total")
        assert (spec.type == "gauge") == bool(spec.mode)
        assert (spec.type == "histogram") == bool(spec.buckets)
        assert {len(spec.closed)} == {len(row) for row in spec.rows}


class TestSeries:
    def test_all_exist_before_anything_has_happened(self, scrape):
        """
        Each metric has its series from the start, and every counter is 0.
        """
        found = {sample.name for metric in scrape.registry.collect() for sample in metric.samples}
        totals = [
            sample.value
            for metric in scrape.registry.collect()
            for sample in metric.samples
            if sample.name.endswith(("_total", "_count"))
        ]

        assert set() == {name for name, spec in names.METRICS.items() if spec.type != "histogram"} - found
        assert set() == {f"{name}_count" for name, spec in names.METRICS.items() if spec.type == "histogram"} - found
        assert {0.0} == set(totals)

    def test_none_appears_later(self, stage, scrape):
        """
        A whole life of events adds no series to those of the start.
        """
        before = scrape.series()
        for name, fields in A_LIFE:
            stage.say(name, **fields)

        assert before == scrape.series()

    def test_a_check_that_is_added_later_gets_its_own(self, stage, scrape):
        """
        The first event of an added check brings all its series.
        """
        stage.checks = (*stage.checks, HealthCheck(lambda: None, name="cache", interval=2, timeout=1))
        stage.say(names.CHECK_COMPLETED, "cache", status="healthy", kind=None, duration=0.1, scheduled_lag=0.0)

        assert 2.0 == scrape("selfheal_probe_interval_seconds", check="cache")
        assert 0.0 == scrape("selfheal_probe_runs_total", check="cache", outcome="fail")

    def test_hold_no_text_of_an_exception(self, stage, scrape):
        """
        What an exception says, or a person, gets into no label.
        """
        for name, fields in A_LIFE:
            stage.say(name, error=ValueError("s3cret"), **fields | ({"reason": "s3cret"} if "reason" in fields else {}))

        assert b"s3cret" not in generate_latest(scrape.registry)


class TestChecks:
    @pytest.mark.parametrize(
        ("status", "kind", "duration", "outcome"),
        [
            ("healthy", None, 0.1, "pass"),
            ("degraded", "slow", 0.1, "warn"),
            ("unhealthy", "stale", 0.1, "fail"),
            ("unhealthy", "timeout", 1.0, "timeout"),
            ("unhealthy", "stuck", 0.1, "fail"),
            ("unhealthy", "stuck", 0.0, "skipped"),
            ("unknown", "probe_error", 0.1, "error"),
            ("unknown", None, None, "unknown"),
        ],
    )
    def test_runs_are_counted_by_what_they_came_to(self, stage, scrape, status, kind, duration, outcome):
        """
        Each run counts once: by its status, or by why there is none.
        """
        stage.say(names.CHECK_COMPLETED, status=status, kind=kind, duration=duration, scheduled_lag=0.0)
        counts = {
            word: count
            for (word,) in names.METRICS["selfheal_probe_runs_total"].rows
            if (count := scrape("selfheal_probe_runs_total", **CHECK, outcome=word))
        }

        assert {outcome: 1.0} == counts

    @pytest.mark.parametrize(
        ("status", "word", "up"),
        [("healthy", "pass", 1.0), ("degraded", "warn", 1.0), ("unhealthy", "fail", 0.0), ("unknown", "unknown", 0.0)],
    )
    def test_exactly_one_status_is_1(self, stage, scrape, status, word, up):
        """
        The present status is 1, the others are 0, and only pass and warn are up.
        """
        stage.say(names.CHECK_COMPLETED, status="unhealthy", kind="error", duration=0.1, scheduled_lag=0.0)
        stage.say(names.CHECK_COMPLETED, status=status, kind=None, duration=0.1, scheduled_lag=0.0)
        shown = [
            other
            for other in names.STATUS_WORDS.values()
            if scrape("selfheal_probe_status", **CHECK, status=other) == 1
        ]

        assert ([word], up) == (shown, scrape("selfheal_probe_up", **CHECK))

    def test_times_are_those_of_the_last_run_and_the_last_good_one(self, stage):
        """
        A bad run moves the time of the last run alone; a due time without a run moves neither.
        """
        now = 10.0
        registry = CollectorRegistry()
        PrometheusExporter(registry, wall=lambda: now).attach(stage)
        for now, kind, duration in ((10.0, None, 0.1), (20.0, "error", 0.1), (30.0, "stuck", 0.0)):  # noqa: B007 - wall
            status = "unhealthy" if kind else "healthy"
            stage.say(names.CHECK_COMPLETED, status=status, kind=kind, duration=duration, scheduled_lag=0.5)

        assert 20.0 == registry.get_sample_value("selfheal_probe_last_run_timestamp_seconds", CHECK)
        assert 10.0 == registry.get_sample_value("selfheal_probe_last_success_timestamp_seconds", CHECK)
        assert 30.0 == registry.get_sample_value("selfheal_heartbeat_timestamp_seconds")
        assert 2.0 == registry.get_sample_value("selfheal_probe_duration_seconds_count", CHECK)
        assert 1.0 == registry.get_sample_value("selfheal_scheduler_lag_seconds_sum")

    def test_a_stale_check_is_unknown(self, stage, scrape):
        """
        Without fresh results the last good one no longer counts as up.
        """
        stage.say(names.CHECK_COMPLETED, status="healthy", kind=None, duration=0.1, scheduled_lag=0.0)
        stage.say(names.CHECK_STALE, age=30.0)

        assert (0.0, 1.0) == (
            scrape("selfheal_probe_up", **CHECK),
            scrape("selfheal_probe_status", **CHECK, status="unknown"),
        )

    def test_abandoned_runs_go_up_and_down(self, stage, scrape):
        """
        The gauge says how many runs are still out.
        """
        stage.say(names.CHECK_ABANDONED, timeout=1.0, abandoned=2)
        out = scrape("selfheal_probe_abandoned", **CHECK)
        stage.say(names.CHECK_ENDED, duration=9.0, abandoned=1)

        assert (2.0, 1.0) == (out, scrape("selfheal_probe_abandoned", **CHECK))

    def test_latency_is_what_the_monitor_says(self, stage, scrape):
        """
        The monitor's statistic, in seconds, is taken when its check has run.
        """
        (monitor,) = stage.checks[0].monitors
        for ms in (600, 800):
            monitor.add_sample(ms)
        stage.say(names.CHECK_COMPLETED, status="unhealthy", kind="slow", duration=0.1, scheduled_lag=0.0)
        labels = CHECK | {"monitor": "latency"}

        assert 0.7 == scrape("selfheal_latency_seconds", **labels)
        assert 0.5 == scrape("selfheal_latency_threshold_seconds", **labels)
        assert (2.0, 1.0) == (
            scrape("selfheal_latency_window_samples", **labels),
            scrape("selfheal_latency_breached", **labels),
        )

    def test_each_time_it_begins_to_be_slow_counts_once(self, stage, scrape):
        """
        Slow for two runs, well again, and slow once more: two breaches.
        """
        (monitor,) = stage.checks[0].monitors
        for ms in (900, 900, 1, 900):
            monitor.add_sample(ms)
            monitor.add_sample(ms)
            stage.say(names.CHECK_COMPLETED, status="unhealthy", kind="slow", duration=0.1, scheduled_lag=0.0)

        assert 2.0 == scrape("selfheal_latency_breaches_total", **CHECK, monitor="latency")

    def test_failures_in_a_row_end_with_what_is_good(self, stage, scrape):
        """
        What is not known neither extends a row nor ends it.
        """
        rows = []
        for status in ("unhealthy", "unhealthy", "unknown", "unhealthy", "degraded"):
            stage.say(names.CHECK_COMPLETED, status=status, kind=None, duration=0.1, scheduled_lag=0.0)
            rows.append(scrape("selfheal_probe_consecutive_failures", **CHECK))

        assert [1.0, 2.0, 2.0, 3.0, 0.0] == rows

    def test_how_late_the_loop_called_is_observed(self, stage, scrape):
        """
        A loop that was blocked shows with the next result.
        """
        stage.say(names.CHECK_COMPLETED, status="healthy", kind=None, duration=0.1, scheduled_lag=10.0, loop_lag=9.8)

        assert (1.0, 9.8) == (
            scrape("selfheal_event_loop_lag_seconds_count"),
            scrape("selfheal_event_loop_lag_seconds_sum"),
        )

    def test_settings_are_shown(self, scrape):
        """
        Interval and budget can be compared with what happens, and each check says what it is of.
        """
        assert 1.0 == scrape("selfheal_probe_info", **BOTH, shared="false")
        assert 7.0 == scrape("selfheal_probe_interval_seconds", **CHECK)
        assert 3.0 == scrape("selfheal_budget_limit", budget="orders_db")
        assert 60.0 == scrape("selfheal_budget_window_seconds", budget="orders_db")
        assert 10.0 == scrape("selfheal_budget_limit", budget="(process)")


class TestHealing:
    def test_exactly_one_state_is_1(self, stage, scrape):
        """
        The state that was entered is 1 and counted; the one that was left is 0.
        """
        stage.say(names.STATE_CHANGED, from_state="recovering", to_state="exhausted", reason="")
        shown = [state.value for state in HealingState if scrape("selfheal_state", **BOTH, state=state.value) == 1]

        assert ["exhausted"] == shown
        assert 1.0 == scrape("selfheal_state_transitions_total", **BOTH, from_state="recovering", to_state="exhausted")
        assert (1.0, 1_000.0) == (
            scrape("selfheal_exhausted", **BOTH),
            scrape("selfheal_state_entered_timestamp_seconds", **BOTH),
        )

    def test_an_incident_is_open_until_it_is_closed(self, stage, scrape):
        """
        Opened and closed are counted, with the times to detect and to recover.
        """
        stage.say(names.INCIDENT_OPENED, kind="stale", time_to_detect=2.0, manual=False)
        during = scrape("selfheal_incidents_open", **RESOURCE)
        stage.say(names.INCIDENT_CLOSED, result="healed", actions=1, duration=70.0, time_to_recover=10.0)

        assert (1.0, 0.0) == (during, scrape("selfheal_incidents_open", **RESOURCE))
        assert 1.0 == scrape("selfheal_incidents_opened_total", **RESOURCE)
        assert 1.0 == scrape("selfheal_incidents_closed_total", **RESOURCE, result="healed")
        assert 2.0 == scrape("selfheal_detection_duration_seconds_sum", **RESOURCE)
        assert 10.0 == scrape("selfheal_incident_duration_seconds_sum", **RESOURCE, result="healed")

    @pytest.mark.parametrize("outcome", [verdict.value for verdict in Verdict])
    def test_an_action_counts_by_how_it_ended(self, stage, scrape, outcome):
        """
        Each end of an action has its own series, and its length is kept.
        """
        finish(stage, outcome)

        assert 1.0 == scrape("selfheal_recovery_attempts_total", **DRAIN, rung="0", outcome=outcome)
        assert 2.0 == scrape("selfheal_recovery_duration_seconds_sum", **DRAIN)

    def test_an_abandoned_action_is_in_progress_until_it_ends(self, stage, scrape):
        """
        What was given up still runs, and the gauge says so.
        """
        finish(stage, "abandoned")
        given_up = scrape("selfheal_recovery_in_progress", **RESOURCE)
        stage.say(names.ACTION_ENDED, action="drain", duration=90.0)

        assert (1.0, 0.0) == (given_up, scrape("selfheal_recovery_in_progress", **RESOURCE))

    def test_the_level_is_the_rung_of_the_open_incident(self, stage, scrape):
        """
        It goes up with the ladder, and is 0 when the incident is over.
        """
        levels = [scrape("selfheal_recovery_level", **BOTH)]
        for rung, action in enumerate(("drain", "rebuild")):
            stage.say(names.ACTION_STARTED, action=action, rung=rung, attempt=1, kind="stale", revert=False)
            levels.append(scrape("selfheal_recovery_level", **BOTH))
        stage.say(names.ACTION_STARTED, action="drain", rung=0, attempt=None, kind=None, revert=True)
        levels.append(scrape("selfheal_recovery_level", **BOTH))
        stage.say(names.INCIDENT_CLOSED, result="healed", actions=2, duration=70.0, time_to_recover=10.0)

        assert [0.0, 1.0, 2.0, 2.0, 0.0] == [*levels, scrape("selfheal_recovery_level", **BOTH)]

    def test_a_budget_shows_what_is_left_and_whom_it_has_denied(self, stage, scrape):
        """
        What is left goes down when an action starts; a denial counts for the budget that is used up, and for no other.
        """
        whole = scrape("selfheal_budget_remaining", budget="orders_db")
        stage.budgets["orders_db"] = stage.budgets["orders_db"]._replace(left=0)
        finish(stage)
        used_up = scrape("selfheal_budget_remaining", budget="orders_db")
        stage.say(names.ACTION_BLOCKED, action="drain", rung=0, gate="budget", until=None, reason="", revert=False)

        assert (3.0, 0.0) == (whole, used_up)
        assert 1.0 == scrape("selfheal_budget_denials_total", budget="orders_db")
        assert 0.0 == scrape("selfheal_budget_denials_total", budget="(process)")

    def test_what_was_recorded_as_a_trace_is_an_exemplar(self, stage, scrape):
        """
        Counters and histograms of an incident name its trace, in OpenMetrics; those of another one name none.
        """
        sdk = pytest.importorskip("opentelemetry.sdk.trace")
        from opentelemetry.trace import NoOpTracerProvider
        from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics

        from selfheal.export.tracing import TraceExporter

        def incident(number):
            stage.say(names.INCIDENT_OPENED, kind="stale", time_to_detect=2.0, manual=False, number=number)
            closed = {"result": "healed", "actions": 1, "duration": 9.0, "time_to_recover": number}
            stage.say(names.INCIDENT_CLOSED, **closed, number=number)
            lines = generate_openmetrics(scrape.registry).decode().splitlines()
            return [line.split("#")[1] for line in lines if "orders_db" in line and "#" in line]

        follow = [TraceExporter(provider).attach for provider in (NoOpTracerProvider(), sdk.TracerProvider())]
        follow[0](stage)
        scrape.exporter.attach(stage)  # after the traces, as a healer does when it starts
        unrecorded = incident(1)
        follow[1](stage)
        scrape.exporter.attach(stage)
        recorded = incident(2)

        assert [] == unrecorded
        assert 4 == len(recorded)
        assert all(re.match(r' \{trace_id="[0-9a-f]{32}"\} ', exemplar) for exemplar in recorded)
        assert b"trace_id" not in generate_latest(scrape.registry)

    def test_a_revert_is_no_recovery(self, stage, scrape):
        """
        Stepping down is counted apart, in no attempt and no detection.
        """
        stage.say(names.ACTION_STARTED, action="drain", rung=0, attempt=None, kind=None, revert=True)
        stage.say(names.ACTION_FINISHED, action="drain", rung=0, outcome="done", duration=1.0, revert=True)

        assert 1.0 == scrape("selfheal_recovery_reverts_total", **DRAIN, rung="0", outcome="done")
        assert 0.0 == scrape("selfheal_recovery_attempts_total", **DRAIN, rung="0", outcome="done")
        assert 0.0 == scrape("selfheal_recovery_detected_total", **DRAIN)
        assert 0.0 == scrape("selfheal_recovery_in_progress", **RESOURCE)

    def test_what_waits_at_several_gates_was_called_for_once(self, stage, scrape):
        """
        An action is detected once however many gates it met, and enforced when it starts.
        """
        for gate in ("cooldown", "budget"):
            stage.say(names.ACTION_BLOCKED, action="drain", rung=0, gate=gate, until=None, reason="", revert=False)
        waiting = (
            scrape("selfheal_recovery_detected_total", **DRAIN),
            scrape("selfheal_recovery_enforced_total", **DRAIN),
        )
        finish(stage, "failed")
        finish(stage)

        assert (1.0, 0.0) == waiting
        assert 2.0 == scrape("selfheal_recovery_detected_total", **DRAIN)
        assert 2.0 == scrape("selfheal_recovery_enforced_total", **DRAIN)
        assert 1.0 == scrape("selfheal_recovery_suppressed_total", **DRAIN, gate="cooldown")
        assert 1.0 == scrape("selfheal_recovery_suppressed_total", **DRAIN, gate="budget")

    def test_a_decision_that_lapsed_may_come_again(self, stage, scrape):
        """
        Blocked until health came back by itself, and blocked again in the next incident: two decisions.
        """
        for _ in range(2):
            stage.say(names.STATE_CHANGED, from_state="detecting", to_state="recovering", reason="")
            stage.say(names.ACTION_BLOCKED, action="drain", rung=0, gate="paused", until=None, reason="", revert=False)
            stage.say(names.STATE_CHANGED, from_state="recovering", to_state="restored", reason="")

        assert (2.0, 0.0) == (
            scrape("selfheal_recovery_detected_total", **DRAIN),
            scrape("selfheal_recovery_enforced_total", **DRAIN),
        )

    def test_no_applicable_rung_is_suppressed_without_an_action(self, stage, scrape):
        """
        The gate *precondition* is counted, and no action counts as called for.
        """
        stage.say(
            names.ACTION_BLOCKED, action=None, rung=None, gate="precondition", until=None, reason="", revert=False
        )

        assert 1.0 == scrape("selfheal_recovery_suppressed_total", **RESOURCE, action="", gate="precondition")
        assert 0.0 == scrape("selfheal_recovery_detected_total", **DRAIN)

    def test_a_proved_recovery_is_a_healing(self, stage, scrape):
        """
        `healing_total` counts what was proved; what was refuted is counted elsewhere.
        """
        stage.say(names.HEALING_REFUTED, action="drain", rung=0, attempt=1, reason="")
        stage.say(names.HEALING_VERIFIED, action="drain", rung=0, attempt=2)

        assert 1.0 == scrape("healing_total")
        assert 1.0 == scrape("selfheal_recovery_verifications_total", **DRAIN, outcome="verified")
        assert 1.0 == scrape("selfheal_recovery_verifications_total", **DRAIN, outcome="refuted")
        assert 1_000.0 == scrape("selfheal_recovery_last_success_timestamp_seconds", **RESOURCE)

    def test_a_held_change_shows_while_it_is_in_force(self, stage, scrape):
        """
        The gauge is 1 from applied to reverted.
        """
        stage.say(names.HELD_APPLIED, action="drain", rung=0)
        during = scrape("selfheal_recovery_held", **DRAIN)
        stage.say(names.HELD_REVERTED, action="drain", rung=0)

        assert (1.0, 0.0) == (during, scrape("selfheal_recovery_held", **DRAIN))

    def test_paused_while_anything_is(self, stage, scrape):
        """
        Of two pauses that overlap, the end of one leaves the gauge at 1.
        """
        stage.pauses = {"orders_db": Pause("deploy")}
        stage.say(names.RESOURCE_PAUSED, reason="", until=None)
        stage.paused = True
        stage.say(names.RESOURCE_PAUSED, "", reason="", until=None)
        stage.pauses = {}
        stage.say(names.RESOURCE_RESUMED, reason="")
        during = scrape("selfheal_paused")
        stage.paused = False
        stage.say(names.RESOURCE_RESUMED, "", reason="")

        assert (1.0, 0.0) == (during, scrape("selfheal_paused"))

    def test_a_pause_without_an_event_shows_at_once(self, stage, scrape):
        """
        What no event tells, as the end of a pause by itself, is looked after when somebody reads.
        """
        shown = []
        for stage.pauses in ({"orders_db": Pause("deploy")}, {}):
            shown.append(scrape("selfheal_paused"))

        assert [1.0, 0.0] == shown

    def test_files_of_several_processes_are_brought_up_to_date_once_a_second(self, stage, scrape):
        """
        Where somebody else reads what was written, it is looked after when a check has run.
        """
        gauge = metrics_in(scrape.registry).child("selfheal_paused")
        result = {"status": "healthy", "kind": None, "duration": 0.1, "scheduled_lag": 0.0}
        shown = []
        for at, pauses in ((1.0, {"orders_db": Pause("deploy")}), (1.9, {}), (2.0, {})):
            stage.pauses = pauses
            stage.say(names.CHECK_COMPLETED, at=at, **result)
            shown.extend(sample.value for metric in gauge.collect() for sample in metric.samples)

        assert [1.0, 1.0, 0.0] == shown

    def test_a_pause_from_before_the_start_shows_and_outlives_a_restart(self, healer, scrape_of):
        """
        What was paused before anybody counted, or in an earlier life of the healer, is paused in the metrics.
        """
        healer.pause("deploy", resource="db", ttl=None)
        scrape = scrape_of(healer)
        attached = scrape("selfheal_paused")
        scrape.exporter.attach(healer)

        assert (1.0, 1.0) == (attached, scrape("selfheal_paused"))

    def test_a_removed_resource_is_paused_no_longer(self, healer, scrape_of):
        """
        The pause of a resource goes with it.
        """
        healer.add(HealthCheck(lambda: None, name="cache"))
        scrape = scrape_of(healer)
        healer.pause("deploy", resource="db", ttl=None)
        healer.remove("db")
        healer.pause("deploy", resource="cache")
        healer.resume(resource="cache")

        assert 0.0 == scrape("selfheal_paused")

    def test_the_series_of_a_removed_check_go(self, stage, scrape, make_check):
        """
        A check that is watched no longer leaves no series to raise an alarm, and may come back.
        """
        other = HealthCheck(lambda: None, name="cache")
        result = {"status": "healthy", "kind": None, "duration": 0.1, "scheduled_lag": 0.0}
        before = scrape.series()
        stage.checks = (other,)
        stage.say(names.CHECK_COMPLETED, "cache", **result)
        without = scrape("selfheal_probe_up", **CHECK), scrape("selfheal_incidents_open", **RESOURCE)
        stage.checks = (make_check(), other)
        stage.say(names.CHECK_COMPLETED, **result)

        assert (None, 0.0) == without
        assert set() == before - scrape.series()

    def test_a_check_in_the_place_of_another_shows_its_own(self, healer, scrape_of):
        """
        Interval, resource and state are those of the new check, though it has the name of the old one.
        """
        scrape = scrape_of(healer)
        healer.remove("db")
        healer.add(HealthCheck(lambda: None, name="db", resource="new_db", interval=60, shared=True))
        healer.pause("deploy", resource="new_db")
        labels = {"check": "db", "resource": "db"}

        assert 60.0 == scrape("selfheal_probe_interval_seconds", check="db")
        assert 1.0 == scrape("selfheal_probe_info", check="db", resource="new_db", shared="true")
        assert None is scrape("selfheal_probe_info", **labels, shared="false")
        assert (None, 0.0) == (
            scrape("selfheal_exhausted", **labels),
            scrape("selfheal_exhausted", check="db", resource="new_db"),
        )

    def test_the_last_check_goes_without_an_event(self, stage, scrape):
        """
        Whoever reads is told what there is now, even if nothing is left that could say so.
        """
        stage.checks = ()

        assert None is scrape("selfheal_probe_interval_seconds", **CHECK)

    def test_a_run_that_ends_after_its_check_was_removed_leaves_nothing(self, stage, scrape):
        """
        The late end of an abandoned run brings no series back.
        """
        stage.checks = ()
        without = scrape.series()
        stage.say(names.CHECK_ENDED, duration=9.0, abandoned=0)

        assert None is scrape("selfheal_probe_abandoned", **CHECK)
        assert without == scrape.series()

    def test_the_budget_of_a_removed_resource_goes(self, healer, scrape_of):
        """
        What nobody can spend any more is not shown; the budget of everybody stays.
        """
        scrape = scrape_of(healer)
        before = scrape("selfheal_budget_limit", budget="db")
        healer.remove("db")
        healer.pause("deploy")

        assert (3.0, None) == (before, scrape("selfheal_budget_limit", budget="db"))
        assert 10.0 == scrape("selfheal_budget_limit", budget="(process)")

    def test_a_check_removed_while_nobody_listened_is_gone_at_the_next_start(self, stage, scrape):
        """
        Who follows a healer anew shows what is there now.
        """
        stage.checks = ()
        scrape.detach()
        scrape.exporter.attach(stage)

        assert None is scrape("selfheal_probe_interval_seconds", **CHECK)

    def test_a_failing_listener_is_counted(self, stage, scrape):
        """
        What a listener did not take in is not forgotten.
        """
        stage.say(names.LISTENER_FAILED, "", listener="f", error_type="ValueError")

        assert 1.0 == scrape("selfheal_events_dropped_total", sink="listener", reason="error")

    def test_events_that_were_lost_on_the_way_are_counted(self, stage, scrape):
        """
        What slow listeners have missed shows when the next check has run.
        """
        stage.events_dropped = 3
        stage.say(names.CHECK_COMPLETED, status="healthy", kind=None, duration=0.1, scheduled_lag=0.0)
        stage.events_dropped = 1  # the healer has begun anew
        stage.say(names.CHECK_COMPLETED, at=9.0, status="healthy", kind=None, duration=0.1, scheduled_lag=0.0)

        assert 3.0 == scrape("selfheal_events_dropped_total", sink="listener", reason="overflow")

    def test_health_is_what_an_orchestrator_would_be_told(self, stage, scrape, fault):
        """
        For each group exactly one word is 1: what is being healed lives, and gets no work.
        """
        from selfheal.runtime.watch import CheckStatus

        stage.present["orders"] = CheckStatus(
            status=HealthStatus.UNHEALTHY,
            state=HealingState.RECOVERING,
            last=CheckResult(HealthStatus.UNHEALTHY, fault=fault, started_at=1.0, duration=0.1),
            fault=fault,
            incident=Incident(number=1, trigger=fault, began=0.0, opened=1.0),
            abandoned=0,
            held=(),
            was_good=True,
        )
        stage.say(names.CHECK_COMPLETED, status="unhealthy", kind="error", duration=0.1, scheduled_lag=0.0)
        shown = [
            row
            for row in names.METRICS["selfheal_health_status"].rows
            if scrape("selfheal_health_status", group=row[0], status=row[1])
        ]

        assert [("live", "pass"), ("ready", "fail"), ("startup", "pass")] == shown

    def test_observing_is_a_dry_run(self, stage, scrape):
        """
        A mode that does not act shows as one.
        """
        before = scrape("selfheal_dry_run")
        stage.say(names.HEALER_STARTED, "", checks=1, mode="observe")

        assert (0.0, 1.0) == (before, scrape("selfheal_dry_run"))


class TestAttaching:
    def test_shows_what_is_so_already(self, stage, fault):
        """
        A healer that has run for a while shows its present, not its beginning.
        """
        from selfheal.runtime.watch import CheckStatus

        incident = Incident(number=3, trigger=fault, began=0.0, opened=1.0)
        stage.paused = True
        stage.present["orders"] = CheckStatus(
            status=HealthStatus.UNHEALTHY,
            state=HealingState.EXHAUSTED,
            last=None,
            fault=fault,
            incident=incident,
            abandoned=2,
            held=("drain",),
        )
        scrape = Scrape(stage)

        assert 1.0 == scrape("selfheal_probe_status", **CHECK, status="fail")
        assert 1.0 == scrape("selfheal_exhausted", **BOTH)
        assert 2.0 == scrape("selfheal_probe_abandoned", **CHECK)
        assert 1.0 == scrape("selfheal_recovery_held", **DRAIN)
        assert 1.0 == scrape("selfheal_incidents_open", **RESOURCE)
        assert 1.0 == scrape("selfheal_paused")

    def test_twice_counts_once(self, stage, scrape):
        """
        A healer that is started again is not counted double.
        """
        scrape.exporter.attach(stage)
        finish(stage)

        assert 1 == len(stage.listeners)
        assert 1.0 == scrape("selfheal_recovery_attempts_total", **DRAIN, rung="0", outcome="done")

    def test_two_healers_share_a_registry(self, stage, scrape, make_stage):
        """
        A second healer with other checks brings its own series and counts into the common ones.
        """
        other = make_stage(HealthCheck(lambda: None, name="cache"))
        PrometheusExporter(scrape.registry).attach(other)
        stage.say(names.HEALING_VERIFIED, action="drain", rung=0, attempt=1)

        assert 10.0 == scrape("selfheal_probe_interval_seconds", check="cache")
        assert 7.0 == scrape("selfheal_probe_interval_seconds", **CHECK)
        assert 1.0 == scrape("healing_total")

    def test_what_one_healer_removes_and_another_has_stays(self, stage, scrape, make_stage):
        """
        The series of a check go when no healer watches a check of this name and resource any more.
        """
        other = make_stage(HealthCheck(lambda: None, name="orders", resource="other_db", interval=3))
        scrape.exporter.attach(other)
        both = scrape("selfheal_exhausted", **BOTH)
        stage.checks = ()
        stage.say(names.RESOURCE_PAUSED, "", reason="", until=None)

        assert (0.0, None) == (both, scrape("selfheal_exhausted", **BOTH))
        assert 0.0 == scrape("selfheal_exhausted", check="orders", resource="other_db")
        assert 3.0 == scrape("selfheal_probe_interval_seconds", **CHECK)

    def test_the_end_takes_back_what_is_open(self, stage, scrape):
        """
        A healer that is no longer followed leaves no incident open and no action running.
        """
        stage.say(names.INCIDENT_OPENED, kind="stale", time_to_detect=2.0, manual=False)
        stage.say(names.ACTION_STARTED, action="drain", rung=0, attempt=1, kind="stale", revert=False)
        scrape.detach()
        scrape.detach()

        assert [] == stage.listeners
        assert (0.0, 0.0) == (
            scrape("selfheal_incidents_open", **RESOURCE),
            scrape("selfheal_recovery_in_progress", **RESOURCE),
        )

    def test_an_event_that_was_on_its_way_no_longer_counts(self, stage, scrape):
        """
        What arrives after the end changes nothing.
        """
        ((listener, _),) = stage.listeners
        scrape.detach()
        stage.on_event(listener)
        stage.say(names.INCIDENT_OPENED, kind="stale", time_to_detect=2.0, manual=False)

        assert 0.0 == scrape("selfheal_incidents_open", **RESOURCE)

    def test_somebody_elses_metric_of_the_same_name_is_an_error_that_changes_nothing(self, stage):
        """
        The error says which name it is, and the registry holds what it held.
        """
        registry = CollectorRegistry()
        Counter("healing_total", "The application's own.", registry=registry)
        before = generate_latest(registry)
        for _ in range(2):
            with pytest.raises(ConfigError, match="healing"):
                PrometheusExporter(registry).attach(stage)

        assert before == generate_latest(registry)
        assert [] == stage.listeners

    def test_keeps_no_healer_alive(self, make_stage, make_check):
        """
        A healer that nobody needs any more goes, though its metrics stay.
        """
        registry = CollectorRegistry()
        stage = make_stage(make_check())
        PrometheusExporter(registry).attach(stage)
        gone = weakref.ref(stage)
        del stage
        gc.collect()

        assert None is gone()

    def test_a_registry_that_is_none_is_an_error(self, stage):
        """
        What is passed by mistake is named.
        """
        with pytest.raises(ConfigError, match="registry='orders'"):
            attach(stage, registry="orders")

    def test_a_healer_starts_with_what_it_was_given(self, stage):
        """
        A registry gets metrics, an exporter is attached, and a second start changes nothing.
        """
        registry = CollectorRegistry()
        for _ in range(2):
            attach(stage, registry=registry)
            attach(stage, registry=PrometheusExporter(registry))

        assert 0.0 == registry.get_sample_value("healing_total")
        assert 2 == len(stage.listeners)
