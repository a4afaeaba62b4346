"""
``python -m selfheal incidents``: what a journal holds, in a table, in sentences, and as JSON.
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import subprocess
import sys

import pytest

from selfheal import Healer, HealingPolicy, HealthCheck, RecoveryAction, Unhealthy
from selfheal.__main__ import main
from selfheal.testing import Even, VirtualClock


class Divert(RecoveryAction):
    """Is left in force."""

    def recover(self, ctx):
        return None

    def revert(self, ctx):
        return None


@pytest.fixture
def journal(tmp_path):
    """Two checks that broke at the same time, and what was done about it."""
    clock, path = VirtualClock(), tmp_path / "selfheal.db"
    policy = HealingPolicy(interval=5, fast_interval=1, timeout=2, jitter=0, fall=2, probation=300)

    def probe():
        if 10 <= clock.now() < 13:
            raise Unhealthy("down")

    checks = [HealthCheck(probe, name=name, policy=policy, recovery=Divert()) for name in ("db", "cache")]
    healer = Healer(checks, clock=clock, phase=0, slack=0, random=Even(), journal=path)

    async def story():
        async with healer:
            await clock.sleep(60)

    clock.run(story)
    return str(path)


def test_the_table_has_a_line_for_each_incident_and_each_change_in_force(journal, capsys):
    """
    The table is for people: when, what, how it ended; below it what is still different.
    """
    assert 0 == main(["incidents", journal])
    lines = capsys.readouterr().out.splitlines()

    assert ["OPENED", "CHECK", "NUMBER", "FAULT", "RESULT"] == lines[0].split()[:5]
    assert ["2026-01-01T00:00:11Z", "db", "1", "down", "aborted", "1", "1.0", "s", "4.0", "s"] == lines[1].split()
    assert "in force, or perhaps so:" == lines[4]
    assert ["db", "divert", "divert", "applied"] == lines[6].split()[1:5]


def test_a_check_and_a_time_narrow_it_down(journal, capsys):
    """
    --check and --since leave out the others, in what is in force too.
    """
    assert 0 == main(["incidents", journal, "--check", "cache"])
    said = capsys.readouterr().out
    assert "cache" in said
    assert "db" not in said.replace(journal, "")
    assert 0 == main(["incidents", journal, "--since", "2026-01-01T00:00:12+00:00"])
    assert capsys.readouterr().out.startswith("no incidents\n")
    assert 0 == main(["incidents", journal, "--since", "2026-01-01T00:00:11+00:00"])
    assert "cache" in capsys.readouterr().out


def test_json_has_it_all(journal, capsys):
    """
    --json is one document with incidents, their timelines, and what is in force.
    """
    assert 0 == main(["incidents", journal, "--json", "--limit", "1"])
    said = json.loads(capsys.readouterr().out)

    (incident,) = said["incidents"]
    assert ("cache", "down", "aborted") == (incident["check"], incident["kind"], incident["result"])
    assert "selfheal.incident.opened" == incident["timeline"][0]["event"]
    assert ["db", "cache"] == [change["check"] for change in said["held"]]


def test_the_story_is_told(journal, capsys):
    """
    --story prints each incident line by line.
    """
    assert 0 == main(["incidents", journal, "--story"])

    assert "divert begins, against down" in capsys.readouterr().out


def test_times_ago(journal, capsys):
    """
    --since takes a time ago as well.
    """
    for ago in ("90s", "30m", "2h", "7d", "1.5w"):
        assert 0 == main(["incidents", journal, "--since", ago, "--limit", "3"])


@pytest.mark.parametrize("since", ["yesterday", "2x", ""])
def test_a_time_that_is_none_is_refused(journal, capsys, since):
    """
    What cannot be read as a time says what can.
    """
    assert 2 == main(["incidents", journal, "--since", since])
    assert "nor an ISO date" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "said"), [(None, "there is no journal at"), (b"", "is empty"), (b"rubbish" * 2000, "cannot be read")]
)
def test_what_is_no_journal_is_said_in_one_line(tmp_path, capsys, content, said):
    """
    A file that is missing, empty, or something else ends with 2 and a sentence, and is left as it is.
    """
    path = tmp_path / "other"
    if content is not None:
        path.write_bytes(content)
    assert 2 == main(["incidents", str(path)])
    words = capsys.readouterr()

    assert "" == words.out
    assert said in words.err
    assert 1 == words.err.count("\n")
    assert (content is None) or content == path.read_bytes()


@pytest.mark.parametrize("limit", ["0", "1", "99999999999999999999999"])
def test_any_number_of_incidents_may_be_asked_for(journal, capsys, limit):
    """
    --limit takes none, some, or more than there can be.
    """
    assert 0 == main(["incidents", journal, "--limit", limit, "--json"])
    assert min(int(limit), 2) == len(json.loads(capsys.readouterr().out)["incidents"])


@pytest.mark.parametrize("option", [["--limit", "-1"], ["--since", "0001-01-01"], ["--since", "9999-12-31T23:59:59"]])
def test_what_is_out_of_range_is_said_in_one_line(journal, capsys, option):
    """
    A number or a time that there cannot be ends with 0 or 2, never with a traceback.
    """
    assert main(["incidents", journal, *option]) in {0, 2}
    assert capsys.readouterr().err.count("\n") <= 1


def test_a_name_that_is_no_text_is_no_check(journal, capsys):
    """
    Bytes that are not UTF-8, as they come from a command line, name nothing.
    """
    assert 0 == main(["incidents", journal, "--check", "d\udcffb"])
    assert "no incidents\n" == capsys.readouterr().out


@pytest.mark.parametrize(
    "damage",
    [
        "incidents SET result = 'zz'",
        "incidents SET began = 'x'",
        "incidents SET opened = 1e300, began = 1e300",
        "entries SET fields = '{'",
        "entries SET fields = '[]'",
        "held SET phase = 'zz', at = 1e300",
    ],
)
@pytest.mark.parametrize("form", [[], ["--story"], ["--json"]])
def test_rows_that_nobody_understands_are_said_in_one_line(journal, capsys, damage, form):
    """
    A damaged row ends with 2 and a sentence, or is shown as it is, never with a traceback.
    """
    with contextlib.closing(sqlite3.connect(journal)) as connection:
        connection.execute(f"UPDATE {damage}")
        connection.commit()
    status = main(["incidents", journal, *form])
    words = capsys.readouterr()

    assert (status, bool(words.out)) in {(0, True), (2, False)}
    assert ("damaged" in words.err) == (status == 2)
    assert words.err.count("\n") <= 1


def test_whatever_the_terminal_cannot_show_is_replaced(journal):
    """
    With the strictest of encodings there are question marks instead of a traceback, and nothing drives the terminal.
    """
    with contextlib.closing(sqlite3.connect(journal)) as connection:
        connection.execute("UPDATE incidents SET check_name = 'caf\u00e9 \x1b[2J'")
        connection.commit()
    run = subprocess.run(
        [sys.executable, "-m", "selfheal", "incidents", journal],
        capture_output=True,
        env={**os.environ, "PYTHONIOENCODING": "ascii:strict"},
    )
    assert (0, b"") == (run.returncode, run.stderr)
    assert b"caf? ?[2J" in run.stdout


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGPIPE")
def test_who_reads_may_have_seen_enough(journal):
    """
    A reader that goes away, such as head, ends it as it ends other commands, without a word.
    """
    read, write = os.pipe()
    os.close(read)
    with open(write, "wb") as nobody:
        run = subprocess.run(
            [sys.executable, "-m", "selfheal", "incidents", journal], stdout=nobody, stderr=subprocess.PIPE
        )
    assert (141, b"") == (run.returncode, run.stderr)
