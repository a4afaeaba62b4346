"""
The dashboard and the alerts ask for what is there, and are written where they are wanted.
"""

import json
import pathlib
import re
import runpy

import pytest

from selfheal import names
from selfheal.__main__ import main
from selfheal.export.assets import FILES, RUNBOOKS, asset, write


ROOT = pathlib.Path(__file__).parents[2]
GENERATOR = pathlib.Path(__file__).with_name("dashboard.py")
PANELS = json.loads(asset("dashboard.json"))["panels"]
TITLED = {panel["title"]: panel["targets"] for panel in PANELS if panel.get("targets")}
RULES = re.findall(
    r"^      - (alert|record): (\S+)\n(.*?)(?=^      - |^  - |\Z)",
    asset("selfheal.rules.yml"),
    re.MULTILINE | re.DOTALL,
)
RECORDED = {name for kind, name, _ in RULES if kind == "record"}
ALERTS = {name: text for kind, name, text in RULES if kind == "alert"}
EXPRESSIONS = {
    **{
        f"{title}, {target['refId']}": target["expr"]
        for title, targets in TITLED.items()
        for target in targets
        if "selfheal." not in target["expr"]
    },
    **{name: text.partition("labels:")[0].partition("expr:")[2] for _, name, text in RULES},
}

#: What Prometheus puts on every series.
OF_PROMETHEUS = {"job", "instance"}
SUFFIXES = re.compile(r"_(bucket|count|sum)$")


def metric(word):
    """The name in the catalogue of a series in a query."""
    name = SUFFIXES.sub("", word)
    return name if names.METRICS.get(name, names.METRICS["healing_total"]).type == "histogram" else word


class TestQueries:
    @pytest.mark.parametrize("query", EXPRESSIONS.values(), ids=EXPRESSIONS)
    def test_ask_for_metrics_that_exist(self, query):
        """
        Each name in a query is that of a metric in the table, or of a series that a rule records.
        """
        asked = {metric(word) for word in re.findall(r"(?<![:\w])(?:selfheal|healing)_\w+", query)}
        recorded = set(re.findall(r"\w+:selfheal_\w+:\w+", query))

        assert asked | recorded
        assert (set(), set()) == (asked - names.METRICS.keys(), recorded - RECORDED)

    @pytest.mark.parametrize("query", EXPRESSIONS.values(), ids=EXPRESSIONS)
    def test_ask_for_labels_and_words_that_exist(self, query):
        """
        Each selector names labels of its metric, and words that these labels can have.
        """
        for word, selector in re.findall(r"(?<![:\w])((?:selfheal|healing)_\w+)\{(.*?)\}", query):
            spec = names.METRICS[metric(word)]
            for label, value in re.findall(r'(\w+)=~?"(.*?)"', selector):
                assert label in {*spec.labels, *OF_PROMETHEUS}
                if label in spec.closed:
                    known = {row[spec.closed.index(label)] for row in spec.rows}
                    assert set() == set(value.split("|")) - known

    @pytest.mark.parametrize("query", EXPRESSIONS.values(), ids=EXPRESSIONS)
    def test_group_by_labels_that_exist(self, query):
        """
        What is summed up is summed up by labels of the metrics in the query.
        """
        specs = [names.METRICS[metric(word)] for word in re.findall(r"\w+", query) if metric(word) in names.METRICS]
        known = {label for spec in specs for label in spec.labels}
        grouped = {label for labels in re.findall(r"\b(?:by|on) \((.*?)\)", query) for label in labels.split(", ")}

        assert set() == grouped - known - OF_PROMETHEUS - {"le"}


class TestDashboard:
    def test_is_what_is_generated(self):
        """
        The dashboard that ships is the one that its generator makes of the table of metrics.
        """
        pytest.importorskip("grafana_foundation_sdk")

        assert asset("dashboard.json") == runpy.run_path(str(GENERATOR))["dashboard"]()

    def test_shows_every_metric_that_somebody_looks_at(self):
        """
        No metric is left out of dashboard and alerts but those that others are reckoned from.
        """
        used = {metric(word) for query in EXPRESSIONS.values() for word in re.findall(r"\w+", query)}

        assert {
            "selfheal_budget_limit",
            "selfheal_budget_window_seconds",
            "selfheal_incidents_opened_total",
            "selfheal_latency_breaches_total",
            "selfheal_latency_window_samples",
            "selfheal_probe_info",
            "selfheal_probe_last_success_timestamp_seconds",
            "selfheal_recovery_last_success_timestamp_seconds",
            "selfheal_state_transitions_total",
        } == names.METRICS.keys() - used

    def test_panels_stand_beside_one_another(self):
        """
        No two panels share an identity or a place, and none is wider than the page.
        """
        places = {
            (x, y)
            for place in (panel["gridPos"] for panel in PANELS)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }

        assert len(PANELS) == len({panel["id"] for panel in PANELS})
        assert len(places) == sum(panel["gridPos"]["w"] * panel["gridPos"]["h"] for panel in PANELS)
        assert range(24) == range(max(x for x, _ in places) + 1)


class TestAlerts:
    @pytest.mark.parametrize("alert", ALERTS)
    def test_say_what_to_do(self, alert):
        """
        Each alert says how bad it is and what it means, and leads to a section of the page on alerts.
        """
        text = ALERTS[alert]
        page = (ROOT / RUNBOOKS).read_text("utf-8")

        assert re.search(r"severity: (warning|critical)\n", text)
        assert 'summary: "' in text
        assert 'description: "' in text
        assert f"runbook_url: {RUNBOOKS}#{alert.lower()}\n" in text
        assert f"\n## {alert}\n" in page

    def test_each_section_of_the_page_has_its_alert(self):
        """
        The page describes no alert that is gone.
        """
        page = (ROOT / RUNBOOKS).read_text("utf-8")

        assert set(ALERTS) == set(re.findall(r"^## (SelfHeal\w+)$", page, re.MULTILINE))


class TestWriting:
    def test_writes_every_file(self, tmp_path):
        """
        All files are there afterwards, in a folder that is made.
        """
        folder = tmp_path / "new" / "folder"

        assert set(FILES) == {path.name for path in write(folder)}
        assert {name: asset(name) for name in FILES} == {
            path.name: path.read_text("utf-8") for path in folder.iterdir()
        }

    def test_a_second_time_writes_nothing(self, tmp_path):
        """
        What is the same already is left alone.
        """
        write(tmp_path)

        assert [] == write(tmp_path)

    def test_replaces_nothing_that_somebody_has_changed(self, tmp_path, capsys):
        """
        A file that was changed is left alone and named, with 2, while those that are missing are written; forced, it is
        replaced.
        """
        write(tmp_path)
        (tmp_path / "prometheus.yml").write_text("mine")
        (tmp_path / "compose.yaml").unlink()

        assert 2 == main(["assets", "--out", str(tmp_path)])
        said = capsys.readouterr().err
        assert re.search(r"has prometheus\.yml, which differ.*--force", said)
        assert ("mine", True) == ((tmp_path / "prometheus.yml").read_text(), (tmp_path / "compose.yaml").exists())
        assert ["prometheus.yml"] == [path.name for path in write(tmp_path, force=True)]

    @pytest.mark.parametrize("address", ["", "a'b", 'a"b', "{{ x }}", "https://x/\ny: z", "a b", "https://x/#y", "a\n"])
    def test_runbooks_are_at_a_plain_address(self, address, tmp_path, capsys):
        """
        What would end a string or begin a template is refused, and nothing is written.
        """
        assert 2 == main(["assets", "--out", str(tmp_path), "--runbooks", address])
        assert "is no plain address" in capsys.readouterr().err
        assert [] == list(tmp_path.iterdir())

    def test_a_place_that_is_none_is_one_line(self, tmp_path, capsys):
        """
        Where nothing can be written the command ends with 2 and says why.
        """
        (tmp_path / "file").write_text("")

        assert 2 == main(["assets", "--out", str(tmp_path / "file")])
        said = capsys.readouterr()
        assert ("", 1) == (said.out, said.err.count("\n"))
        assert "cannot be written" in said.err

    def test_the_command_says_what_it_has_written(self, tmp_path, capsys):
        """
        Each file is named with what it is, and then that nothing was left to do.
        """
        command = ["assets", "--out", str(tmp_path)]

        assert (0, 0) == (main(command), main(command))
        said = capsys.readouterr().out.splitlines()
        assert [f"{tmp_path / name}: {what}" for name, what in FILES.items()] == said[:-1]
        assert f"{tmp_path} is up to date." == said[-1]

    def test_runbooks_may_be_elsewhere(self, tmp_path):
        """
        The alerts lead to wherever somebody keeps the page on them.
        """
        assert 0 == main(["assets", "--out", str(tmp_path), "--runbooks", "https://wiki.example/alerts"])
        rules = (tmp_path / "selfheal.rules.yml").read_text("utf-8")

        assert RUNBOOKS not in rules
        assert "runbook_url: https://wiki.example/alerts#selfhealexhausted\n" in rules

    def test_the_rules_of_the_scrape_are_the_ones_written(self):
        """
        Prometheus is told to load a file of ours, under the job of the dashboards.
        """
        text = asset("prometheus.yml")

        assert re.search(r"rule_files:\n +- (\S+)", text)[1] in FILES
        assert "job_name: self-healing\n" in text
        assert '"127.0.0.1:9464"' in text

    def test_the_compose_file_mounts_files_that_are_written(self):
        """
        What the services are given of this folder is in it.
        """
        mounted = set(re.findall(r"- \./([\w.]+):", asset("compose.yaml")))

        assert {"dashboard.json", "prometheus.yml", "selfheal.rules.yml"} == mounted
