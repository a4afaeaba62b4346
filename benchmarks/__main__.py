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
import shutil
import subprocess
import sys

from benchmarks.harness import Report


MODULES = ("timed_calls", "latency_window", "machine", "schedule", "cache_hits", "imports")

PEERS = (
    "aiobreaker",
    "anyio",
    "APScheduler",
    "attrs",
    "cachetools",
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
    rustc = shutil.which("rustc")
    rust = subprocess.run([rustc, "--version"], capture_output=True, text=True).stdout.strip() if rustc else "absent"
    load = ", ".join(f"{load:.1f}" for load in os.getloadavg())
    return f"""# Results

Written by `python -m benchmarks`. Thread-CPU time (process CPU time for imports), all alternatives interleaved in a
fresh random order each round, medians and quartiles. Compare ratios, not figures of different machines. Only lateness
is told by the wall clock, and therefore also tells what else ran on the machine.

| | |
|---|---|
| machine | {processor()}, {os.cpu_count()} cores |
| system | {platform.system()} {platform.release()} |
| Python | {platform.python_implementation()} {platform.python_version()} |
| peers | {versions} |
| Rust | {rust} |
| load average before | {load} |
| date | {dt.datetime.now(dt.UTC):%Y-%m-%d} |
"""


def page(before: str, reports: list[Report]) -> str:
    """
    The whole page.
    """
    goals = "\n".join(str(goal) for report in reports for goal in report.goals)
    sections = "\n\n".join(f"## {report.title}\n\n{report.text}" for report in reports)
    return f"{before}\n## Goals\n\n| goal | limit | measured | |\n|---|---:|---:|---|\n{goals}\n\n{sections}\n"


def main(names: list[str]) -> int:
    """
    Measure, print, keep; 1 if a goal was not met.
    """
    before = heading()
    reports: list[Report] = []
    for name in names or MODULES:
        print(f"{name} ...", file=sys.stderr)
        reports.append(importlib.import_module(f"benchmarks.{name}").run())
    text = page(before, reports)
    print(text)
    if not names:
        RESULTS.write_text(text)
    return 0 if all(goal.met for report in reports for goal in report.goals) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
