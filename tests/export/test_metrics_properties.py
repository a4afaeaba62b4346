"""
Checks come, go, take one another's place and are paused in any order: the metrics show what is there.
"""

from __future__ import annotations

from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from prometheus_client import CollectorRegistry

from selfheal import Budget, Healer, HealthCheck, LatencyMonitor, names, rung
from selfheal.export.prometheus import PrometheusExporter
from selfheal.recovery import recovery_action
from selfheal.testing.clock import Even, VirtualClock
from selfheal.testing.simulator import World


NAMES = st.sampled_from(["a", "b", "c"])
RESOURCES = st.sampled_from(["a", "x"])


@recovery_action
def renew(_ctx):
    """Help nobody."""


def bad():
    """Fail."""
    raise OSError


class Present(RuleBasedStateMachine):
    """
    A healer in virtual time beside a list of what is there: what the metrics must show is looked up there.
    """

    def __init__(self):
        super().__init__()
        self.registry = CollectorRegistry()
        self.clock = VirtualClock()
        self.simulated = self.clock.simulated()
        self.simulated.__enter__()
        self.world = World(self.clock)
        self.healer = Healer(clock=self.clock, phase=0, slack=0, random=Even(), registry=self.registry)
        self.there = {}
        self.paused = set()

    @initialize(early=st.booleans())
    def begin(self, early):
        """It starts, or is followed, before anything is there or with one check."""
        if early:
            self.add("a", "a", True, True, True)
        self.healer.begin_on(self.world)

    @rule(name=NAMES, resource=RESOURCES, well=st.booleans(), slow=st.booleans(), spends=st.booleans())
    def add(self, name, resource, well, slow, spends):
        """A check comes, or takes the place of the one of its name."""
        if name in self.there:
            self.remove(name)
        check = HealthCheck(
            (lambda: None) if well else bad,
            name=name,
            resource=resource,
            interval=7 if slow else 3,
            timeout=1,
            monitors=[LatencyMonitor(window_size=2, threshold_ms=500)] if slow else [],
            recovery=rung(renew),
            budget=Budget(5, per=600) if spends else None,
        )
        self.healer.add(check)
        self.there[name] = check

    @rule(name=NAMES)
    def remove(self, name):
        """A check goes."""
        if name in self.there:
            self.healer.remove(name)
            del self.there[name]
            self.paused &= {None, *(check.resource for check in self.there.values())}

    @rule(resource=st.none() | RESOURCES)
    def pause(self, resource):
        """Somebody wants peace."""
        if resource is None or any(check.resource == resource for check in self.there.values()):
            self.healer.pause("testing", resource=resource, ttl=None)
            self.paused.add(resource)

    @rule(resource=st.none() | RESOURCES)
    def resume(self, resource):
        """Somebody has had enough of it."""
        if resource in self.paused:
            self.healer.resume(resource=resource)
            self.paused.discard(resource)

    @rule()
    def follow_anew(self):
        """Somebody attaches what is attached."""
        PrometheusExporter(self.registry).attach(self.healer)

    @rule(seconds=st.sampled_from([0, 1, 10]))
    def wait(self, seconds):
        """Time passes."""
        self.world.run(self.clock.now() + seconds)

    @invariant()
    def the_series_are_those_of_what_is_there(self):
        """No series of a check that is gone, and none too few; settings and pauses are those of now."""
        shown, values = set(), {}
        for metric in self.registry.collect():
            for sample in metric.samples:
                values[(sample.name, *sorted(sample.labels.items()))] = sample.value
                if sample.name.endswith("_count") or (metric.type != "histogram" and sample.name[-8:] != "_created"):
                    shown.add((sample.name, tuple(sorted(sample.labels.items()))))
        expected = set()
        for check in self.there.values():
            expected |= series_of(check)
        budgets = self.healer.snapshot().budgets

        # A removal may end any state, and so makes transitions that the table does not name.
        unnamed = {one for one in shown - expected if one[0] == "selfheal_state_transitions_total"}
        kept = {(check.name, check.resource) for check in self.there.values()}

        assert expected == {one for one in shown - unnamed if "check" in dict(one[1])}
        assert {(dict(labels)["check"], dict(labels)["resource"]) for _, labels in unnamed} <= kept
        assert set(budgets) == {dict(labels)["budget"] for _, labels in shown if "budget" in dict(labels)}
        assert float(bool(self.paused)) == values[("selfheal_paused",)]
        for name, check in self.there.items():
            assert check.policy.interval == values[("selfheal_probe_interval_seconds", ("check", name))]

    def teardown(self):
        """The world ends."""
        self.world.let_go()
        self.simulated.__exit__(None, None, None)


def series_of(check):
    """All series that have the label *check*, slowly, one by one."""
    words = {
        "check": [check.name],
        "resource": [check.resource],
        "shared": ["false"],
        "monitor": ["latency"] if check.monitors else [],
    }
    series = set()
    for name, spec in names.METRICS.items():
        if "check" not in spec.labels:
            continue
        rows = [()]
        for label in spec.open:
            rows = [(*row, (label, word)) for row in rows for word in words[label]]
        for row in rows:
            for closed in spec.rows:
                labels = tuple(sorted((*row, *zip(spec.closed, closed, strict=True))))
                series.add((f"{name}_count" if spec.type == "histogram" else name, labels))
    return series


TestPresent = Present.TestCase
# Explaining a failure traces every line, which takes minutes for a machine of this size.
TestPresent.settings = settings(
    stateful_step_count=15,
    max_examples=min(12, settings.default.max_examples),
    phases=set(Phase) - {Phase.explain},
)
