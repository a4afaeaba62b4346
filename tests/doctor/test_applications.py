"""
The doctor, as a command, on two applications: one with every client as its library makes it, one put in order.
"""

from __future__ import annotations

import json
import pathlib
import re
import subprocess
import sys

from typing import Any

import pytest


HERE = pathlib.Path(__file__).parent / "applications"

for library in ("cachetools", "psycopg_pool", "sqlalchemy", "asyncpg", "redis", "httpx", "httpx2", "aiohttp"):
    pytest.importorskip(library)


def doctor(*arguments: str) -> tuple[int, str, str]:
    """The status of the command, and what it said, in the folder of the applications."""
    command = [sys.executable, "-m", "selfheal", "doctor", *arguments]
    done = subprocess.run(command, cwd=HERE, capture_output=True, text=True)
    return done.returncode, done.stdout, done.stderr


def told(*arguments: str) -> tuple[int, dict[str, Any]]:
    """The same, as JSON."""
    status, said, _ = doctor("--json", *arguments)
    return status, json.loads(said)


@pytest.fixture(scope="module")
def planted() -> tuple[int, dict[str, Any]]:
    """What is told about the first one."""
    return told("planted:healer")


def test_every_planted_defect_is_found(planted):
    """
    Each defect that the sample application names in a comment is found, and nothing that it does not name.
    """
    status, report = planted
    named = set(re.findall(r"SH\d{3}", (HERE / "planted.py").read_text()))

    assert (1, named) == (status, {found["code"] for found in report["findings"]})
    assert len(named) >= 15


def test_findings_name_what_has_them_and_say_what_to_do(planted):
    """
    Every finding has the application's own name for its subject, a reason and a fix, and no connection string.
    """
    findings = planted[1]["findings"]

    assert [] == [found for found in findings if not (found["problem"] and found["why"] and found["fix"])]
    assert {"planted:orders", "planted:carts", "carts_answer"} <= {found["subject"] for found in findings}
    assert "shop@" not in json.dumps(findings)


def test_nothing_is_found_in_the_clean_one():
    """
    The application that was put in order has no finding of any severity, and all its clients were looked at.
    """
    status, report = told("clean:make_healer", "--fail-on", "info")
    clients = {f"clean:{name}" for name in ("orders", "reports", "stock", "carts", "payments", "parcels", "ledger")}

    assert (0, []) == (status, report["findings"])
    assert clients <= set(report["looked_at"])
    assert ["clean.py", "planted.py"] == sorted(path.name for path in HERE.glob("*.*"))


def test_text_is_grouped_by_what_has_the_problem(planted):
    """
    For people there is a heading for each subject, the findings below it, and a line that counts.
    """
    _, said, _ = doctor("planted:healer")
    counted = {"error": 0, "warning": 0, "info": 0}
    for found in planted[1]["findings"]:
        counted[found["severity"]] += 1

    assert "planted:orders (psycopg pool)\n  SH101 warning  connecting has no time limit" in said
    assert said.rstrip().endswith(
        f"{counted['error']} errors, {counted['warning']} warnings, {counted['info']} info in 18 objects"
    )
    assert 1 == said.count("planted:orders (psycopg pool)")


def test_other_objects_are_looked_at_on_request():
    """
    --also looks at an object of another module, and at all that stands beside it.
    """
    status, report = told("clean:make_healer", "--also", "planted:carts")
    found = {(each["subject"], each["code"]) for each in report["findings"]}

    assert 1 == status
    assert ("planted:carts", "SH401") in found
    assert ("planted:orders", "SH101") in found


def test_rules_can_be_left_out(planted):
    """
    --ignore leaves one rule out, and the others in.
    """
    _, report = told("planted:healer", "--ignore", "SH101", "--ignore", "SH902")
    codes = {found["code"] for found in planted[1]["findings"]}

    assert codes - {"SH101"} == {found["code"] for found in report["findings"]}
