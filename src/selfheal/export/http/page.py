"""
The live page: one file without data in it, which asks for that itself.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import re

from typing import Final

from selfheal.export.http.messages import Response


PATH: Final = "/"

_INLINE: Final = re.compile(r"<(style|script)>(.*?)</\1>", re.DOTALL)


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
    hashes = {kind: _hashed(inline) for kind, inline in _INLINE.findall(text())}
    policy = "; ".join(
        (
            "default-src 'none'",
            f"script-src {hashes['script']}",
            f"style-src {hashes['style']}",
            "connect-src 'self'",
            "img-src data:",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
        )
    )
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


def _hashed(inline: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(inline.encode()).digest()).decode()}'"
