"""
What comes in and what goes out, whatever server or framework stands before it.
"""

from __future__ import annotations

import functools
import http.client
import json

from collections.abc import Iterable, Mapping
from typing import Final
from urllib.parse import parse_qsl

import attrs

from selfheal.errors import ConfigError


JSON: Final = "application/json"
TEXT: Final = "text/plain; charset=utf-8"

#: Bytes of a body that are read; the actions need a hundred.
BODY_LIMIT: Final = 16 * 1024

#: Digits of a length; more are no length of a body that is read.
_DIGITS: Final = 9

#: Headers of a request, and characters of all their values: a flood is not looked through.
_HEADERS: Final = 64
_HEADER_LENGTH: Final = 32 * 1024

#: Seconds that it may take.
BODY_WITHIN: Final = 5.0

#: Below this a token can be guessed.
_TOKEN_LENGTH: Final = 16

#: Query parameters that are looked at.
_PARAMETERS: Final = 32


@attrs.frozen(kw_only=True)
class Request:
    """
    A request, as the pure handler sees it.

    Args:
        method: In capitals.
        path: Below the mount, without a trailing slash; "/" for the mount itself.
        query: Each parameter's last value; of "exclude" all, with commas between them.
        headers: By names in lower case.
        body: At most `BODY_LIMIT` bytes are of use.
        direct: It came over a listener of our own that only this machine reaches, and through no proxy.
    """

    method: str
    path: str
    query: Mapping[str, str] = attrs.field(factory=dict[str, str])
    headers: Mapping[str, str] = attrs.field(factory=dict[str, str])
    body: bytes = b""
    direct: bool = False


@attrs.frozen
class Response:
    """
    An answer. For a HEAD the server leaves out the body.

    Args:
        status: The HTTP status code.
        body: The whole body.
        content_type: Its media type.
        headers: Further headers.
    """

    status: int
    body: bytes
    content_type: str = attrs.field(default=TEXT, kw_only=True)
    headers: tuple[tuple[str, str], ...] = attrs.field(default=(), kw_only=True)

    def fields(self) -> list[tuple[str, str]]:
        """
        All headers: what is said of health now is not to be kept, and no browser is to guess what it is.
        """
        common = [
            ("Content-Type", self.content_type),
            ("Content-Length", str(len(self.body))),
            ("X-Content-Type-Options", "nosniff"),
        ]
        if all(name != "Cache-Control" for name, _ in self.headers):
            common.append(("Cache-Control", "no-store"))
        return [*common, *self.headers]

    @functools.cached_property
    def head(self) -> bytes:
        """
        Status line and headers as HTTP/1.1 has them. Made once: many ask for the same answer.
        """
        phrase = http.client.responses.get(self.status, "")
        lines = [f"HTTP/1.1 {self.status} {phrase}", *(f"{name}: {value}" for name, value in self.fields()), "", ""]
        return "\r\n".join(lines).encode("latin-1")


def as_json(
    status: int, value: object, *, content_type: str = JSON, headers: tuple[tuple[str, str], ...] = ()
) -> Response:
    """
    *value* as an answer. What JSON has no word for, such as infinity, must not be in it.
    """
    body = json.dumps(value, allow_nan=False, separators=(",", ":")).encode()
    return Response(status, body, content_type=content_type, headers=headers)


def refused(why: str, status: int = 400) -> Response:
    """
    No, and why.
    """
    return as_json(status, {"error": why})


NOT_FOUND: Final = refused("there is nothing here", 404)
UNAUTHORIZED: Final = as_json(
    401, {"error": "a token is needed"}, headers=(("WWW-Authenticate", 'Bearer realm="selfheal"'),)
)
TOO_SLOW: Final = refused(f"the body has not come within {BODY_WITHIN:g} s", 408)
FLOOD: Final = refused("there are too many headers", 431)
CUT_OFF: Final = refused("the request has ended too soon")


def fields_of(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    """
    Headers by their names in lower case. One that comes twice is joined, as over WSGI, so that two tokens are none.
    """
    found: dict[str, str] = {}
    for name, value in pairs:
        key = name.lower()
        found[key] = f"{found[key]},{value}" if key in found else value
    return found


def is_flood(headers: Mapping[str, str]) -> bool:
    """
    Whether there is more of these headers than any client of ours sends.
    """
    return len(headers) > _HEADERS or sum(map(len, headers.values())) > _HEADER_LENGTH


def length_of(headers: Mapping[str, str]) -> int | Response:
    """
    Bytes of the body that *headers* announce, or why it is not read.

    What is cut off must not be taken for a whole wish, so how long it is has to be known before.
    """
    length = headers.get("content-length") or "0"
    if "transfer-encoding" in headers:
        return refused("a body needs its Content-Length", 411)
    if not (length.isascii() and length.isdigit()):
        return refused("the Content-Length is no number")
    if len(length) > _DIGITS or int(length) > BODY_LIMIT:
        return refused(f"the body must not have more than {BODY_LIMIT} bytes", 413)
    return int(length)


def check_token(token: object) -> None:
    """
    Raise `ConfigError` if *token* can be guessed, or carried by no header.
    """
    if not isinstance(token, str) or not (token.isascii() and token.isprintable()) or token != token.strip():
        msg = "the token must be a str of visible ASCII characters, or no header carries it: strip() what was read."
        raise ConfigError(msg)
    if len(token) < _TOKEN_LENGTH:
        msg = f"the token has {len(token)} characters, and can be guessed: take {_TOKEN_LENGTH} or more."
        raise ConfigError(msg)


def query_of(text: str) -> dict[str, str]:
    """
    The parameters of a query string. What is too much or cannot be read is left out.
    """
    try:
        pairs = parse_qsl(text, keep_blank_values=True, max_num_fields=_PARAMETERS, errors="replace")
    except ValueError:
        return {}
    # Kubernetes' own endpoints take one name each, and as many of them as there are.
    excluded = [value for name, value in pairs if name == "exclude"]
    return dict(pairs) | ({"exclude": ",".join(excluded)} if excluded else {})


def path_below(path: str, mount: str) -> str:
    """
    *path* below the *mount*, without its trailing slash.

    Some frameworks give the whole path and the mount, some only the rest.
    """
    if mount and (path == mount or path.startswith(f"{mount}/")):
        path = path[len(mount) :]
    return path.rstrip("/") or "/"


#: What a request that has come through somebody else carries.
_FORWARDED: Final = frozenset(
    {"cf-connecting-ip", "forwarded", "true-client-ip", "via", "x-client-ip", "x-original-forwarded-for", "x-real-ip"}
)


def is_forwarded(headers: Iterable[str]) -> bool:
    """
    Whether one of these header names, in lower case, says that a proxy has passed the request on.
    """
    return any(name in _FORWARDED or name.startswith("x-forwarded") for name in headers)
