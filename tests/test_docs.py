"""
What the pages say that the code can say as well.
"""

from __future__ import annotations

import functools
import os
import pathlib
import re
import subprocess
import sys

from selfheal import names


ROOT = pathlib.Path(__file__).parents[1]
STATES = ROOT / "docs" / "explanation" / "states.md"
MERMAID = re.compile(r"(?<=^```mermaid\n).*?(?=^```$)", re.MULTILINE | re.DOTALL)


@functools.cache
def _diagram() -> str:
    done = subprocess.run([sys.executable, "-m", "selfheal", "diagram"], capture_output=True, text=True, check=True)
    return done.stdout.strip() + "\n"


def test_diagram_of_the_states_is_what_the_machine_does() -> None:
    """
    The page on the states draws what `python -m selfheal diagram` finds by running the machine.
    """
    page, found = STATES.read_text(), _diagram()
    if os.environ.get("SELFHEAL_ACCEPT_API"):
        page = MERMAID.sub(lambda _: found, page)
        STATES.write_text(page)
    assert [found] == MERMAID.findall(page)


def test_table_of_transitions_is_what_the_diagram_shows() -> None:
    """
    The transitions that label the metrics are those that the machine was found to make.
    """
    drawn = re.findall(r"^\s*(\w+) --> (\w+)", _diagram(), re.MULTILINE)
    assert set(names.TRANSITIONS) == {(before.lower(), after.lower()) for before, after in drawn if before != after}


def test_readme_has_the_command_that_ci_runs() -> None:
    """
    `.ci/run` finds the test command in the README, exactly once.
    """
    commands = re.findall(r"^.*nox -s tests real$", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert 1 == len(commands)
