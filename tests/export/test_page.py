"""
The live page as a file, and how it is served.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re

import pytest

from selfheal import Fault, Healer
from selfheal.export.http import Handler, Request, page
from selfheal.model import Entry, Incident
from selfheal.testing import VirtualClock


TOKEN = "correct horse battery staple"
DIRECT, FAR = Request(method="GET", path="/", direct=True), Request(method="GET", path="/")


@pytest.fixture(name="healer")
def fixture_healer() -> Healer:
    """A healer of nothing."""
    return Healer([], clock=VirtualClock())


def test_the_page_is_served_where_details_can_be_had(healer: Healer) -> None:
    """
    From this machine, or where there is a token to be asked for; else nothing tells that there is a page.
    """
    assert 200 == Handler(healer).handle(DIRECT).status
    assert 404 == Handler(healer).handle(FAR).status
    assert 200 == Handler(healer, TOKEN).handle(FAR).status
    assert TOKEN.encode() not in Handler(healer, TOKEN).handle(FAR).body


def test_the_policy_names_what_stands_in_the_page_and_nothing_else() -> None:
    """
    The one script and the one style are allowed by their hashes; requests go to where the page came from.
    """
    answer = page.answer()
    fields = dict(answer.fields())
    policy = dict(part.split(" ", 1) for part in fields["Content-Security-Policy"].split("; "))
    for tag, directive in (("script", "script-src"), ("style", "style-src")):
        (inline,) = re.findall(rf"<{tag}>(.*?)</{tag}>".encode(), answer.body, re.DOTALL)
        assert f"'sha256-{base64.b64encode(hashlib.sha256(inline).digest()).decode()}'" == policy[directive]
    assert ("'none'", "'self'", "'none'") == (policy["default-src"], policy["connect-src"], policy["frame-ancestors"])
    assert ("text/html; charset=utf-8", "no-store") == (fields["Content-Type"], fields["Cache-Control"])


def test_the_page_needs_nobody_else() -> None:
    """
    No address of another host stands in it but the name of SVG, which is never fetched; nothing is loaded by name.
    """
    assert {"http://www.w3.org/2000/svg"} == set(re.findall(r"\w+://[^\s\"']+", page.text()))
    assert [] == re.findall(r"""\b(?:src|srcset|action|poster)=|@import|url\(|\simport\b""", page.text())


def test_what_comes_from_outside_is_never_markup() -> None:
    """
    Nothing in the script makes markup or code of a text.
    """
    forbidden = r"innerHTML|outerHTML|insertAdjacent|document\.write|\beval\(|new Function|setHTML|srcdoc|style="
    assert [] == re.findall(forbidden, page.text())


def test_a_report_is_the_page_with_incidents_in_it() -> None:
    """
    One file, whose data cannot end its own element, and whose policy stands in it.
    """
    opened = Entry(12.0, "selfheal.incident.opened", {"kind": "stale", "time_to_detect": 2.0, "manual": False})
    fault = Fault("stale", message="</script><script>alert(1)</script>")
    incident = Incident(number=1, check="db", trigger=fault, began=10.0, opened=12.0, timeline=(opened,))
    told = page.report([incident], source="journal <db>", now=100.0)
    (data,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', told)
    found = json.loads(data)
    assert ("journal <db>", "1970-01-01T00:01:40.000Z") == (found["source"], found["time"])
    assert [("db-1", "1970-01-01T00:00:10.000Z", fault.message)] == [
        (one["id"], one["began"], one["message"]) for one in found["incidents"]
    ]
    assert 1 == told.count('<meta http-equiv="Content-Security-Policy"')
    assert page.text().count("<script") == told.count("<script")
