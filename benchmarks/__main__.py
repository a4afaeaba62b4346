"""
``python -m benchmarks`` runs everything and writes RESULTS.md; with names of modules it runs those and prints them.
"""

from __future__ import annotations

import datetime as dt
import importlib
import importlib.metadata
import os
import pathlib
import platform
import subprocess
import sys

from benchmarks.harness import Report


MODULES = ("timed_calls", "latency_window", "machine", "schedule", "imports")

PEERS = (
    "aiobreaker",
    "anyio",
    "APScheduler",
    "attrs",
    "circuitbreaker",
    "hyx",
    "prometheus_client",
    "purgatory",
    "pybreaker",
    "stamina",
    "tenacity",
    "transitions",
)

RESULTS = pathlib.Path(__file__).with_name("RESULTS.md")


def processor() -> str:
    """
    The model of the processor, as the system tells it.
    """
    cpuinfo = pathlib.Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def heading() -> str:
    """
    Where and with what it was measured.
    """
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in PEERS)
    rustc = subprocess.run("rustc --version || echo none", shell=True, capture_output=True, text=True).stdout.strip()
    return f"""# Results

Written by `python -m benchmarks`. Thread-CPU time (process CPU time for imports), all alternatives interleaved in a
fresh random order each round, medians and quartiles. Compare ratios, not figures of different machines.

| | |
|---|---|
| machine | {processor()}, {os.cpu_count()} cores |
| system | {platform.system()} {platform.release()} |
| Python | {platform.python_implementation()} {platform.python_version()} |
| peers | {versions} |
| Rust | {rustc} |
| date | {dt.datetime.now(dt.UTC):%Y-%m-%d} |
"""


def page(reports: list[Report]) -> str:
    """
    The whole page.
    """
    goals = "\n".join(str(goal) for report in reports for goal in report.goals)
    sections = "\n\n".join(f"## {report.title}\n\n{report.text}" for report in reports)
    return f"{heading()}\n## Goals\n\n| goal | limit | measured | |\n|---|---:|---:|---|\n{goals}\n\n{sections}\n"


def main(names: list[str]) -> None:
    reports: list[Report] = []
    for name in names or MODULES:
        print(f"{name} ...", file=sys.stderr)
        reports.append(importlib.import_module(f"benchmarks.{name}").run())
    text = page(reports)
    print(text)
    if not names:
        RESULTS.write_text(text)


if __name__ == "__main__":
    main(sys.argv[1:])
