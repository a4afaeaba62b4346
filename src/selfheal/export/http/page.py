"""
The live page: one file without data in it, which asks for that itself; or, as a report, with data and without asking.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import json
import re

from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from selfheal.export.http import bodies
from selfheal.export.http.messages import Response
from selfheal.runtime.snapshot import Snapshot


if TYPE_CHECKING:
    from selfheal.model import Incident

PATH: Final = "/"

_INLINE: Final = re.compile(r"<(style|script)>(.*?)</\1>", re.DOTALL)
_DATA: Final = '<script type="application/json" id="data">'
_CHARSET: Final = '<meta charset="utf-8">\n'


@functools.cache
def text() -> str:
    """
    The page's source.
    """
    from importlib import resources  # here: it takes milliseconds

    return (resources.files("selfheal.export.http") / "page.html").read_text("utf-8")


@functools.cache
def answer() -> Response:
    """
    The page, and what a browser is to allow it: what stands in it, and questions to where it came from.
    """
    policy = f"{_policy()}; connect-src 'self'; frame-ancestors 'none'"
    return Response(
        200,
        text().encode(),
        content_type="text/html; charset=utf-8",
        headers=(
            ("Content-Security-Policy", policy),
            ("Cross-Origin-Opener-Policy", "same-origin"),
            ("Referrer-Policy", "no-referrer"),
        ),
    )


def report(incidents: Iterable[Incident], *, source: str, now: float) -> str:
    """
    The page as a file that can be kept and passed on: it tells *incidents* and asks nobody.

    Args:
        incidents: Their times are seconds since 1970, as in a journal. All of their texts are shown.
        source: Where they come from, for people.
        now: Seconds since 1970.
    """
    # One clock for both: what is monotonic elsewhere is dated already.
    dated = Snapshot(at=now, wall=now, running=False, mode="enforce", lag=0.0, paused=None, pauses={}, checks={})
    told = [bodies.incident(incident, dated, show=str) for incident in incidents]
    data = json.dumps({"time": bodies.iso(dated, now), "source": source, "incidents": told}, allow_nan=False)
    policy = f'<meta http-equiv="Content-Security-Policy" content="{_policy()}">\n'
    # A "</script>" in somebody's words must not end the element.
    safe = data.replace("<", "\\u003c")
    return text().replace(_CHARSET, _CHARSET + policy, 1).replace(_DATA, _DATA + safe, 1)


@functools.cache
def _policy() -> str:
    hashes = {kind: _hashed(inline) for kind, inline in _INLINE.findall(text())}
    return (
        f"default-src 'none'; script-src {hashes['script']}; style-src {hashes['style']}; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )


def _hashed(inline: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(inline.encode()).digest()).decode()}'"
