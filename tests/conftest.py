"""
What holds for every test: no real sleep in virtual time, and no skip where a test could have run.
"""

from __future__ import annotations

import os
import pathlib
import signal
import time

from collections.abc import Generator
from typing import TypeVar

import hypothesis
import pytest


HERE = pathlib.Path(__file__).parent
REAL_TIME = (HERE / "generated", HERE / "real", HERE / "system")
Report = TypeVar("Report", pytest.CollectReport, pytest.TestReport)

# `ci` finds the same every time; `dev` looks elsewhere in each run. Chosen with --hypothesis-profile.
hypothesis.settings.register_profile("dev", max_examples=100, deadline=None)
hypothesis.settings.register_profile("ci", max_examples=300, deadline=None, derandomize=True)
hypothesis.settings.load_profile("dev")


def pytest_configure() -> None:
    """Programs under test hear Ctrl-C, also if we run in the background of a shell, which has it ignored."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whatever lives under `generated`, `real` and `system` may take real time."""
    for item in items:
        if any(item.path.is_relative_to(folder) for folder in REAL_TIME):
            item.add_marker("real_time")


def _forbid_skip(report: Report) -> Report:
    if report.skipped and os.environ.get("SELFHEAL_NO_SKIPS") and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"{report.nodeid} was skipped where it has to run: {report.longrepr}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Where nothing may be skipped, a skipped file is a failure that names its reason."""
    return _forbid_skip((yield))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Where nothing may be skipped, a skipped test is a failure that names its reason."""
    return _forbid_skip((yield))


@pytest.fixture(autouse=True)
def no_real_sleep(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A test in virtual time that sleeps in earnest fails at once."""

    def sleep(seconds: float) -> None:
        raise AssertionError(
            f"time.sleep({seconds}) in a test of virtual time: wait on the clock, or mark it real_time"
        )

    if request.node.get_closest_marker("real_time") is None:
        monkeypatch.setattr(time, "sleep", sleep)
