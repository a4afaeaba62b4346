"""
A whole healing, as metrics and log lines tell it.
"""

import logging

import pytest

from prometheus_client import CollectorRegistry

from selfheal import Healer, HealingPolicy, HealthCheck, names, recovery_action, rung
from selfheal.testing.clock import VirtualClock


POLICY = HealingPolicy(
    interval=10, fast_interval=1, timeout=1, fall=2, rise=2, jitter=0, probation=60, verify_within=10
)


class World:
    """
    Breaks at 25 seconds; a rebuild of five seconds mends it, a drain does not.
    """

    def __init__(self):
        self.clock = VirtualClock()
        self.broken = True
        self.check = HealthCheck(
            self.probe,
            name="orders",
            resource="orders_db",
            policy=POLICY,
            recovery=rung(self.drain()) >> self.rebuild(),
        )

    def probe(self):
        """The check."""
        if self.broken and self.clock.now() >= 25:
            raise ConnectionResetError(104, "s3cret")

    def drain(self):
        """The rung that fails."""

        @recovery_action
        def drain(_ctx):
            raise ValueError("s3cret")

        return drain

    def rebuild(self):
        """The rung that heals."""

        @recovery_action
        def rebuild(_ctx):
            self.clock.pass_time(5)
            self.broken = False

        return rebuild

    def live(self, until, **options):
        """Run a healer to the end of the story, in virtual time."""
        healer = Healer([self.check], clock=self.clock, phase=0, slack=0, **options)

        async def story():
            async with healer:
                await self.clock.sleep(until)

        self.clock.run(story)
        return healer


@pytest.fixture
def world():
    """What the story is about."""
    return World()


def test_the_metrics_tell_the_story(world):
    """
    Suspected, confirmed, tried in vain, mended, proved and closed: each is in its series.
    """
    registry = CollectorRegistry()
    world.live(200, registry=registry)

    def value(name, **labels):
        return registry.get_sample_value(name, labels)

    resource = {"resource": "orders_db"}
    of = {"check": "orders"} | resource
    assert 1.0 == value("healing_total")
    assert 1.0 == value("selfheal_recovery_attempts_total", **resource, action="drain", rung="0", outcome="failed")
    assert 1.0 == value("selfheal_recovery_attempts_total", **resource, action="rebuild", rung="1", outcome="done")
    assert 5.0 == value("selfheal_recovery_duration_seconds_sum", **resource, action="rebuild")
    assert 1.0 == value("selfheal_recovery_detected_total", **resource, action="rebuild")
    assert 1.0 == value("selfheal_recovery_enforced_total", **resource, action="rebuild")
    assert 1.0 == value("selfheal_incidents_closed_total", **resource, result="healed")
    assert 0.0 == value("selfheal_incidents_open", **resource)
    assert 0.0 == value("selfheal_recovery_in_progress", **resource)
    assert 1.0 == value("selfheal_state", **of, state="idle")
    assert 1.0 == value("selfheal_state_transitions_total", **of, from_state="detecting", to_state="recovering")
    assert 1.0 == value("selfheal_probe_status", check="orders", status="pass")
    assert 2.0 == value("selfheal_probe_runs_total", check="orders", outcome="fail")


def test_no_series_appears_that_was_not_there(world):
    """
    A real healing needs no series that did not exist before it.
    """
    registry = CollectorRegistry()
    seen = []

    def keep(_event):
        seen.append(
            {(sample.name, *sample.labels.items()) for metric in registry.collect() for sample in metric.samples}
        )

    healer = Healer([world.check], clock=world.clock, phase=0, slack=0, registry=registry)
    healer.on_event(keep, events=[names.HEALER_STARTED, names.HEALER_STOPPED])

    async def story():
        async with healer:
            await world.clock.sleep(200)

    world.clock.run(story)
    first, last = seen

    assert first == last


def test_a_second_life_is_counted_once(world):
    """
    A healer that is entered again goes on in the same series, without counting double.
    """
    registry = CollectorRegistry()
    healer = Healer([world.check], clock=world.clock, phase=0, slack=0, registry=registry)

    async def life():
        async with healer:
            await world.clock.sleep(5)

    for _ in range(3):
        world.clock.run(life)

    assert 3.0 == registry.get_sample_value("selfheal_probe_runs_total", {"check": "orders", "outcome": "pass"})


def test_the_log_tells_the_story(world, caplog):
    """
    Without any setting each station is one line, with the check in its keys and no word of an exception.
    """
    caplog.set_level(logging.INFO, "selfheal")
    world.live(200)
    told = [record.getMessage() for record in caplog.records if record.name == "selfheal"]
    order = [
        names.HEALER_STARTED,
        names.INCIDENT_OPENED,
        names.ACTION_STARTED,
        names.ACTION_FINISHED,
        names.ACTION_STARTED,
        names.ACTION_FINISHED,
        names.HEALING_VERIFIED,
        names.INCIDENT_CLOSED,
        names.HEALER_STOPPED,
    ]

    assert order == [name for name in told if name in order]
    assert {"orders", ""} == {record.selfheal_check for record in caplog.records}
    assert "s3cret" not in repr([record.__dict__ for record in caplog.records])


def test_error_texts_are_logged_when_asked_for(world, caplog):
    """
    Healer(log_errors=True) lets the texts of a probe's and of an action's exception through its redact into the log.
    """
    caplog.set_level(logging.DEBUG, "selfheal")
    world.live(35, log_errors=True, redact=lambda text: text.replace("s3cret", "***"))
    texts = {getattr(record, "selfheal_error", None) for record in caplog.records}

    assert {None, "[Errno 104] ***", "***"} == texts
