"""
``python -m selfheal report``: the incidents of a journal as a page.
"""

from __future__ import annotations

import json
import os
import re
import sqlite3

import pytest

from selfheal import Healer, HealingPolicy, HealthCheck, Unhealthy, recovery_action
from selfheal.__main__ import main
from selfheal.testing import Even, VirtualClock


DATA = re.compile(r'<script type="application/json" id="data">(.*?)</script>')


@pytest.fixture(name="journal")
def fixture_journal(tmp_path):
    """Two checks that broke at the same time and were healed."""
    clock, path = VirtualClock(), tmp_path / "selfheal.db"
    policy = HealingPolicy(interval=5, fast_interval=1, timeout=2, jitter=0, fall=2, probation=30)

    rebuilt = set()

    def check(name):
        def probe():
            if 10 <= clock.now() and name not in rebuilt:
                raise Unhealthy("down")

        @recovery_action
        def rebuild(ctx):
            rebuilt.add(name)
            ctx.log("<b>rebuilt</b>")

        return HealthCheck(probe, name=name, policy=policy, recovery=rebuild)

    checks = [check("db"), check("cache")]

    async def story():
        async with Healer(checks, clock=clock, phase=0, slack=0, random=Even(), journal=path):
            await clock.sleep(120)

    clock.run(story)
    return path


def test_a_report_tells_what_the_journal_holds(journal, tmp_path, capsys):
    """
    One file, with every incident that was asked for; what somebody wrote into the log is no markup there.
    """
    page = tmp_path / "page.html"
    assert 0 == main(["report", str(journal), "-o", str(page)])
    assert f"{page}: 2 incidents\n" == capsys.readouterr().out
    (data,) = DATA.findall(page.read_text("utf-8"))
    found = json.loads(data)
    assert "selfheal.db" == found["source"]
    assert {("db-1", "2026-01-01T00:00:10.000Z", "healed"), ("cache-1", "2026-01-01T00:00:10.000Z", "healed")} == {
        (incident["id"], incident["began"], incident["result"]) for incident in found["incidents"]
    }
    assert ["<b>rebuilt</b>"] == [entry["message"] for entry in found["incidents"][0]["timeline"] if "message" in entry]
    assert "<b>rebuilt" not in page.read_text("utf-8")

    assert 0 == main(
        ["report", str(journal), "-o", str(page), "--check", "db", "--since", "2026-01-01", "--limit", "1"]
    )
    assert f"{page}: 1 incidents\n" == capsys.readouterr().out


def test_what_cannot_be_reported_is_said(journal, tmp_path, capsys):
    """
    No journal, a damaged one, a folder that is not there: one line on the standard error, and 2.
    """
    page = tmp_path / "page.html"
    assert 2 == main(["report", str(tmp_path / "nothing.db"), "-o", str(page)])
    assert 2 == main(["report", str(journal), "-o", str(tmp_path / "nowhere" / "page.html")])
    assert 2 == main(["report", str(journal), "-o", str(page), "--since", "yesterday-ish"])
    with sqlite3.connect(journal) as connection:
        connection.execute("UPDATE incidents SET began = 'then'")
    connection.close()
    assert 2 == main(["report", str(journal), "-o", str(page)])
    said = capsys.readouterr()
    assert ("", 4) == (said.out, said.err.count("no report was written: "))
    assert not page.exists()


@pytest.mark.parametrize("end", ["", "-wal", "-shm", "-owners"])
@pytest.mark.parametrize("link", [None, os.symlink, os.link])
def test_a_report_never_replaces_the_journal(journal, tmp_path, capsys, link, end):
    """
    Nor a file beside it, whatever link leads there: one line on the standard error, 2, and all is as before.
    """
    part = journal.with_name(journal.name + end)
    if end:
        part.write_bytes(b"")
    page = part if link is None else tmp_path / "page.html"
    if link is not None:
        link(part, page)
    before = part.read_bytes()
    assert 2 == main(["report", str(journal), "-o", str(page)])
    assert (
        f"no report was written: {page} belongs to the journal: give another file with -o.\n" == capsys.readouterr().err
    )
    assert before == part.read_bytes()
