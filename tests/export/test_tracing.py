"""
Spans, by OpenTelemetry's own SDK.
"""

from __future__ import annotations

import pytest

from selfheal import ConfigError, Healer, HealingPolicy, HealthCheck, Unhealthy, recovery_action
from selfheal.export.tracing import TraceExporter
from selfheal.testing import VirtualClock


sdk = pytest.importorskip("opentelemetry.sdk.trace")
POLICY = HealingPolicy(interval=5, fast_interval=1, timeout=2, jitter=0, fall=2, rise=2, probation=10, verify_within=10)
SECRET = "hunter2"


class World:
    """A healer in virtual time, whose spans are kept."""

    def __init__(self, **options) -> None:
        from opentelemetry.sdk.trace.export import SimpleSpanProcessor
        from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

        self.clock = VirtualClock()
        self.down = False
        self.memory = InMemorySpanExporter()
        provider = sdk.TracerProvider()
        provider.add_span_processor(SimpleSpanProcessor(self.memory))
        check = HealthCheck(
            self.probe, name="db", resource="orders", policy=POLICY, recovery=self.broken() >> self.rebuild()
        )
        self.healer = Healer([check], clock=self.clock, phase=0, slack=0)
        self.end = TraceExporter(provider, clock=self.clock, **options).attach(self.healer)

    def probe(self) -> None:
        if self.down:
            raise Unhealthy("stale", SECRET)

    def broken(self):
        @recovery_action(name="broken")
        def broken(ctx) -> None:
            raise ValueError(SECRET)

        return broken

    def rebuild(self):
        @recovery_action(name="rebuild")
        async def rebuild(ctx) -> None:
            await self.clock.sleep(3)
            self.down = False

        return rebuild

    def run(self, seconds: float, *, down_at: float | None = None) -> None:
        async def main() -> None:
            async with self.healer:
                if down_at is not None:
                    await self.clock.sleep(down_at)
                    self.down = True
                await self.clock.sleep(seconds - (down_at or 0))

        self.clock.run(main)

    def spans(self, name: str):
        return [span for span in self.memory.get_finished_spans() if span.name == f"selfheal.{name}"]


def seconds(span) -> float:
    return round((span.end_time - span.start_time) / 1e9, 3)


def test_an_incident_is_a_span_and_what_was_done_links_to_it():
    """
    Incident, recovery and verification have their true lengths; the last two a link to the first.
    """
    world = World()
    world.run(60, down_at=4)
    (incident,) = world.spans("incident")
    failed, helped = world.spans("recovery")
    (verified,) = world.spans("verification")
    # Bad at 5, confirmed at 6, rebuilt from 6 to 9, proved at 10, over at 20.
    assert (15.0, 0.0, 3.0, 1.0) == (seconds(incident), seconds(failed), seconds(helped), seconds(verified))
    assert "healed" == incident.attributes["selfheal.result"]
    assert ("broken", "failed", "ValueError") == (
        failed.attributes["selfheal.action"],
        failed.attributes["selfheal.outcome"],
        failed.attributes["error.type"],
    )
    assert (False, True, True) == (failed.status.is_ok, helped.status.is_ok, verified.status.is_ok)
    for span in (failed, helped, verified):
        assert [incident.context] == [link.context for link in span.links]
        assert span.parent is None
        assert ("db", "orders", 1) == (
            span.attributes["selfheal.check"],
            span.attributes["selfheal.resource"],
            span.attributes["selfheal.incident"],
        )


def test_bad_runs_always_have_a_span_and_good_ones_a_share():
    """
    Of good runs every fourth, if a quarter is asked for.
    """
    world = World(probe_share=0.25)
    world.run(38)  # 8 good runs
    assert 2 == len(world.spans("probe"))
    silent = World(probe_share=0)
    silent.run(60, down_at=4)
    assert {"stale"} == {span.attributes["selfheal.kind"] for span in silent.spans("probe")}
    assert not any(span.status.is_ok for span in silent.spans("probe"))


def test_no_text_of_an_exception_gets_into_a_span():
    """
    Neither what a probe nor what an action has raised.
    """
    world = World(probe_share=1)
    world.run(60, down_at=4)
    assert [] != world.memory.get_finished_spans()
    assert SECRET not in "".join(span.to_json() for span in world.memory.get_finished_spans())


def test_open_incidents_end_with_the_healer_and_with_the_following():
    """
    No span is left open.
    """
    world = World()
    world.run(7, down_at=4)
    assert 1 == len(world.spans("incident"))
    world.end()
    assert 1 == len(world.spans("incident"))


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan")])
def test_a_share_is_from_nothing_to_all(share):
    """
    Anything else is an error.
    """
    with pytest.raises(ConfigError, match="probe_share"):
        TraceExporter(probe_share=share)


def test_metrics_of_an_incident_lead_to_its_span():
    """
    Whatever a healer counts of an incident, from its beginning to its end, names the incident's own trace.
    """
    from prometheus_client import CollectorRegistry

    from selfheal.export.prometheus import PrometheusExporter

    world, registry = World(), CollectorRegistry()
    PrometheusExporter(registry).attach(world.healer)
    world.run(60, down_at=4)
    (incident,) = world.spans("incident")
    traces = {
        sample.name: sample.exemplar.labels
        for metric in registry.collect()
        for sample in metric.samples
        if sample.exemplar is not None
    }

    assert {
        "healing_total",
        "selfheal_detection_duration_seconds_bucket",
        "selfheal_incident_duration_seconds_bucket",
        "selfheal_incidents_closed_total",
        "selfheal_incidents_opened_total",
        "selfheal_recovery_attempts_total",
        "selfheal_recovery_duration_seconds_bucket",
    } <= traces.keys()
    assert {format(incident.context.trace_id, "032x")} == {labels["trace_id"] for labels in traces.values()}
