"""
Makes the Grafana dashboard that ships with the package: ``python tests/export/dashboard.py`` writes it.

What stands in it comes from `selfheal.names`: the words of states and statuses, and what each metric means.
"""

from __future__ import annotations

import json
import pathlib
import re
import string

from grafana_foundation_sdk.builders import common, logs, loki, prometheus, stat, statetimeline, table, timeseries
from grafana_foundation_sdk.builders import dashboard as build
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import common as options
from grafana_foundation_sdk.models import dashboard as model
from grafana_foundation_sdk.models import prometheus as queries

import selfheal

from selfheal import names


PATH = pathlib.Path(selfheal.__file__).parent / "export" / "assets" / "dashboard.json"

METRICS_FROM = model.DataSourceRef(type_val="prometheus", uid="${datasource}")
LOGS_FROM = model.DataSourceRef(type_val="loki", uid="${loki}")

HERE = 'job=~"$job", instance=~"$instance"'
RESOURCE = f'{HERE}, resource="$resource"'
CHECK = f'{HERE}, check=~"$check"'
BUDGETS = f'{HERE}, budget=~"$resource|[(]process[)]"'

GREEN, YELLOW, ORANGE, RED, BLUE, GREY = "green", "yellow", "orange", "red", "blue", "#808080"
STATUS_COLOURS = {"pass": GREEN, "warn": YELLOW, "fail": RED, "unknown": GREY}
STATE_COLOURS = {
    "idle": GREEN,
    "detecting": YELLOW,
    "recovering": ORANGE,
    "verifying": BLUE,
    "restored": "#8fd18f",
    "exhausted": RED,
}


def meaning(*expressions: str) -> str:
    """What the metrics in *expressions* mean."""
    used = dict.fromkeys(word for text in expressions for word in re.findall(r"\b(?:selfheal|healing)_\w+", text))
    known = dict.fromkeys(re.sub(r"_bucket$", "", word) for word in used)
    return "\n".join(f"{name}: {names.METRICS[name].meaning}" for name in known if name in names.METRICS)


def one_hot(metric: str, label: str, words: tuple[str, ...], where: str, by: str = "job, instance, check") -> str:
    """Which of *words* is 1, as its number: the timeline shows one row for a check, not one for each word."""
    parts = (f'({metric}{{{where}, {label}="{word}"}} == 1) * {number}' for number, word in enumerate(words))
    return f"max by ({by}) (\n  {' or '.join(parts)}\n)"


def query(expression: str, legend: str = "", *, instant: bool = False) -> prometheus.Dataquery:
    """One query of a panel."""
    made = prometheus.Dataquery().expr(expression).legend_format(legend or "__auto")
    return made.instant().format(queries.PromQueryFormat.TABLE) if instant else made.range()


def words(colours: dict[str, str]) -> list[model.ValueMapping]:
    """Show numbers as the words they stand for."""
    results = {
        str(number): model.ValueMappingResult(text=word, color=colour, index=number)
        for number, (word, colour) in enumerate(colours.items())
    }
    return [model.ValueMap(options=results)]


def limits(*steps: tuple[float | None, str]) -> build.ThresholdsConfig:
    """Colours from these values on."""
    made = [model.Threshold(value=value, color=colour) for value, colour in steps]
    return build.ThresholdsConfig().mode(model.ThresholdsMode.ABSOLUTE).steps(made)


def figure(title, expression, *, bad=RED, unit="short", limit=1.0, no_value="none") -> stat.Panel:
    """One number, with a colour from *limit* on."""
    return (
        stat.Panel()
        .title(title)
        .description(meaning(expression))
        .datasource(METRICS_FROM)
        .with_target(query(expression))
        .unit(unit)
        .no_value(no_value)
        .decimals(0)
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
        .color_mode(options.BigValueColorMode.BACKGROUND)
        .graph_mode(options.BigValueGraphMode.NONE)
        .thresholds(limits((None, GREEN), (limit, bad)))
        .span(4)
        .height(4)
    )


def timeline(title, expression, legend, colours, *, height=8) -> statetimeline.Panel:
    """One row for each series, coloured by what it is in."""
    return (
        statetimeline.Panel()
        .title(title)
        .description(meaning(expression))
        .datasource(METRICS_FROM)
        .with_target(query(expression, legend))
        .mappings(words(colours))
        .show_value(options.VisibilityMode.NEVER)
        .legend(legend_below())
        .span(24)
        .height(height)
    )


def legend_below() -> common.VizLegendOptions:
    """Names under the picture."""
    return (
        common.VizLegendOptions()
        .display_mode(options.LegendDisplayMode.LIST)
        .placement(options.LegendPlacement.BOTTOM)
        .show_legend(True)
    )


def lines(title, *targets: tuple[str, str], unit="short", span=12) -> timeseries.Panel:
    """Values over time."""
    panel = (
        timeseries.Panel()
        .title(title)
        .description(meaning(*(expression for expression, _ in targets)))
        .datasource(METRICS_FROM)
        .unit(unit)
        .min(0)
        .legend(legend_below())
        .span(span)
        .height(8)
    )
    for expression, legend in targets:
        panel = panel.with_target(query(expression, legend))
    return panel


def bars(title, expression, legend, *, span=12) -> timeseries.Panel:
    """What happened when."""
    return (
        lines(title, (expression, legend), span=span)
        .draw_style(options.GraphDrawStyle.BARS)
        .fill_opacity(80)
        .stacking(common.StackingConfig().mode(options.StackingMode.NORMAL))
    )


def quantile(share: float, metric: str, where: str, by: str) -> str:
    """The value that *share* of what was observed stays under."""
    return f"histogram_quantile({share}, sum by ({by}, le) (rate({metric}_bucket{{{where}}}[$__rate_interval])))"


def increase(metric: str, where: str, by: str) -> str:
    """How many more."""
    return f"sum by ({by}) (increase({metric}{{{where}}}[$__rate_interval]))"


STATUSES = tuple(STATUS_COLOURS)
STATES = tuple(STATE_COLOURS)

OVERVIEW = (
    figure("Checks not well", f"count(selfheal_probe_up{{{HERE}}} == 0) or vector(0)"),
    figure("Open incidents", f"sum(selfheal_incidents_open{{{HERE}}})", bad=ORANGE),
    figure("Need a person", f"sum(selfheal_exhausted{{{HERE}}})"),
    figure("Healed", f"sum(increase(healing_total{{{HERE}}}[$__range]))", bad=BLUE),
    figure("Healers paused", f"sum(selfheal_paused{{{HERE}}})", bad=ORANGE),
    figure("Last sign of life", f"max(time() - selfheal_heartbeat_timestamp_seconds{{{HERE}}})", unit="s", limit=60.0),
    timeline(
        "How each check is",
        one_hot("selfheal_probe_status", "status", STATUSES, HERE),
        "{{check}} · {{instance}}",
        STATUS_COLOURS,
    ),
    bars(
        "What was done",
        increase("selfheal_recovery_attempts_total", HERE, "resource, action, outcome"),
        "{{resource}}: {{action}}, {{outcome}}",
    ),
    bars(
        "Whether it helped",
        increase("selfheal_recovery_verifications_total", HERE, "resource, action, outcome"),
        "{{resource}}: {{action}}, {{outcome}}",
    ),
    bars(
        "Why something was not done",
        increase("selfheal_recovery_suppressed_total", HERE, "resource, gate"),
        "{{resource}}: {{gate}}",
    ),
    bars(
        "How incidents ended",
        increase("selfheal_incidents_closed_total", HERE, "resource, result"),
        "{{resource}}: {{result}}",
    ),
)

ONE_RESOURCE = (
    timeline(
        "Where its healing stands",
        one_hot("selfheal_state", "state", STATES, RESOURCE),
        "{{check}} · {{instance}}",
        STATE_COLOURS,
        height=6,
    ),
    lines(
        "Latency and its threshold",
        (f"selfheal_latency_seconds{{{CHECK}}}", "{{check}}, {{monitor}} · {{instance}}"),
        (f"selfheal_latency_threshold_seconds{{{CHECK}}}", "threshold of {{check}}, {{monitor}} · {{instance}}"),
        unit="s",
    ),
    lines(
        "Length of its probes",
        (quantile(0.5, "selfheal_probe_duration_seconds", CHECK, "check"), "{{check}}, median"),
        (quantile(0.99, "selfheal_probe_duration_seconds", CHECK, "check"), "{{check}}, 99 %"),
        unit="s",
    ),
    bars("Runs", increase("selfheal_probe_runs_total", CHECK, "check, outcome"), "{{check}}, {{outcome}}"),
    lines(
        "Share of its runs that fail, five minutes",
        (f"check:selfheal_probe_failures_per_runs:ratio_rate5m{{{CHECK}}}", "{{check}} · {{instance}}"),
        unit="percentunit",
    ),
    lines("Failures in a row", (f"selfheal_probe_consecutive_failures{{{CHECK}}}", "{{check}} · {{instance}}")),
    lines("How far up its ladder it is", (f"selfheal_recovery_level{{{RESOURCE}}}", "{{check}} · {{instance}}")),
    bars(
        "Rungs of its ladder",
        increase("selfheal_recovery_attempts_total", RESOURCE, "rung, action, outcome"),
        "{{rung}} {{action}}, {{outcome}}",
    ),
    bars(
        "Gates that were closed",
        increase("selfheal_recovery_suppressed_total", RESOURCE, "action, gate"),
        "{{action}}: {{gate}}",
    ),
    lines(
        "Actions called for, and started",
        (increase("selfheal_recovery_detected_total", RESOURCE, "action"), "{{action}}, called for"),
        (increase("selfheal_recovery_enforced_total", RESOURCE, "action"), "{{action}}, started"),
    ),
    lines(
        "What is left of its budget, and of the process's",
        (f"selfheal_budget_remaining{{{BUDGETS}}}", "{{budget}} · {{instance}}"),
        (increase("selfheal_budget_denials_total", BUDGETS, "budget"), "{{budget}}, denied"),
    ),
    lines(
        "Actions that run, changes that are held",
        (f"sum(selfheal_recovery_in_progress{{{RESOURCE}}})", "running"),
        (f"selfheal_recovery_held{{{RESOURCE}}}", "{{action}} is held · {{instance}}"),
    ),
    bars(
        "Held changes that were taken back",
        increase("selfheal_recovery_reverts_total", RESOURCE, "action, outcome"),
        "{{action}}, {{outcome}}",
    ),
    lines(
        "Length of its actions (90 %)",
        (quantile(0.9, "selfheal_recovery_duration_seconds", RESOURCE, "action"), "{{action}}"),
        unit="s",
    ),
    lines(
        "Time to notice, and to be well again (90 %)",
        (quantile(0.9, "selfheal_detection_duration_seconds", RESOURCE, "resource"), "to notice"),
        (quantile(0.9, "selfheal_incident_duration_seconds", RESOURCE, "resource"), "to be well again"),
        (
            f"resource:selfheal_incident_duration_seconds:p90_1d{{{RESOURCE}}}",
            "to be well again, one day · {{instance}}",
        ),
        unit="s",
    ),
    lines(
        "Share of its actions that fail, one hour",
        (f"resource:selfheal_recovery_failures_per_attempts:ratio_rate1h{{{RESOURCE}}}", "{{resource}} · {{instance}}"),
        unit="percentunit",
    ),
)

FLEET = (
    timeline(
        "Is everything well there?",
        f"min by (job, instance) (selfheal_probe_up{{{HERE}}})",
        "{{instance}}",
        {"not well": RED, "well": GREEN},
        height=6,
    ),
    timeline(
        "Does it get work?",
        one_hot("selfheal_health_status", "status", STATUSES, f'{HERE}, group="ready"', "job, instance"),
        "{{instance}}",
        STATUS_COLOURS,
        height=6,
    ),
    bars("Healed", increase("healing_total", HERE, "job, instance"), "{{instance}}"),
    lines(
        "How late runs begin (99 %)",
        (quantile(0.99, "selfheal_scheduler_lag_seconds", HERE, "job, instance"), "{{instance}}"),
        unit="s",
    ),
    lines(
        "How late the event loop calls (99 %)",
        (quantile(0.99, "selfheal_event_loop_lag_seconds", HERE, "job, instance"), "{{instance}}"),
        unit="s",
    ),
    lines(
        "Runs that hang",
        (f"sum by (job, instance) (selfheal_probe_abandoned{{{HERE}}})", "{{instance}}"),
    ),
    bars(
        "Events that were lost",
        increase("selfheal_events_dropped_total", HERE, "job, instance, sink"),
        "{{sink}} · {{instance}}",
    ),
    table.Panel()
    .title("Versions")
    .description(meaning("selfheal_build_info"))
    .datasource(METRICS_FROM)
    .with_target(
        query(f"max by (job, instance, version, python_version) (selfheal_build_info{{{HERE}}})", instant=True)
    )
    .span(12)
    .height(8),
    table.Panel()
    .title("Only observing, or paused")
    .description(meaning("selfheal_dry_run", "selfheal_paused"))
    .datasource(METRICS_FROM)
    .with_target(query(f"max by (job, instance) (selfheal_dry_run{{{HERE}}})", instant=True))
    .with_target(query(f"max by (job, instance) (selfheal_paused{{{HERE}}})", instant=True))
    .with_transformation(model.DataTransformerConfig(id_val="merge", options={}))
    .override_by_name("Value #A", [model.DynamicConfigValue(id_val="displayName", value="only observing")])
    .override_by_name("Value #B", [model.DynamicConfigValue(id_val="displayName", value="paused")])
    .span(12)
    .height(8),
)

LOG = (
    logs.Panel()
    .title("What it says")
    .description("The log events of selfheal, as Alloy has brought them.")
    .datasource(LOGS_FROM)
    .with_target(loki.Dataquery().expr('{job=~"$job"} |= `selfheal.`').datasource(LOGS_FROM))
    .show_time(True)
    .enable_log_details(True)
    .sort_order(options.LogsSortOrder.DESCENDING)
    .span(24)
    .height(10),
)

ROWS = {"Overview": OVERVIEW, "One resource: $resource": ONE_RESOURCE, "Fleet": FLEET, "Log": LOG}


def variable(name: str, label: str, values: str, *, many: bool = True) -> build.QueryVariable:
    """A choice at the top, offered from what Prometheus has."""
    made = (
        build.QueryVariable(name)
        .label(label)
        .datasource(METRICS_FROM)
        .query(values)
        .refresh(model.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(model.VariableSort.ALPHABETICAL_ASC)
    )
    return made.multi(True).include_all(True).all_value(".*").current(EVERYTHING) if many else made


EVERYTHING = model.VariableOption(selected=True, text="All", value="$__all")

VARIABLES = (
    build.DatasourceVariable("datasource").label("Metrics").type("prometheus"),
    build.DatasourceVariable("loki").label("Logs").type("loki"),
    variable("job", "Job", "label_values(selfheal_build_info, job)"),
    variable("instance", "Instance", 'label_values(selfheal_build_info{job=~"$job"}, instance)'),
    variable("resource", "Resource", f"label_values(selfheal_state{{{HERE}}}, resource)", many=False),
    variable("check", "Check", f"label_values(selfheal_state{{{RESOURCE}}}, check)"),
)


def dashboard() -> str:
    """The dashboard as JSON."""
    made = (
        build.Dashboard("Self-healing")
        .uid("selfheal")
        .description("What is sick, what was done about it, whether it helped, and why something was not done.")
        .tags(["selfheal"])
        .time("now-1h", "now")
        .refresh("10s")
        .timezone("browser")
        .tooltip(model.DashboardCursorSync.CROSSHAIR)
    )
    for each in VARIABLES:
        made = made.with_variable(each)
    for title, panels in ROWS.items():
        made = made.with_row(build.Row(title))
        for panel in panels:
            made = made.with_panel(panel)
    built = made.build()
    for number, panel in enumerate(built.panels or (), start=1):
        panel.id_val = number  # Grafana would number them anew each time
        for letter, target in zip(string.ascii_uppercase, getattr(panel, "targets", None) or (), strict=False):
            target.ref_id = letter
    return json.dumps(built, cls=JSONEncoder, indent=1, sort_keys=True) + "\n"


if __name__ == "__main__":
    PATH.write_text(dashboard(), "utf-8")
