"""
What may be asked for from outside, for whoever has the token.
"""

from __future__ import annotations

import json

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final, cast

from selfheal.errors import ConfigError, IllegalTransitionError, NotRunningError, UnknownCheckError
from selfheal.export.http.messages import BODY_LIMIT, Request, Response, as_json, refused
from selfheal.healer import PAUSE_SECONDS


if TYPE_CHECKING:
    from selfheal.export.http.handler import Handler

#: A browser sends no such header to another origin without asking first, which nobody answers.
GUARD: Final = "x-selfheal"

UNGUARDED: Final = refused("a header 'X-SelfHeal: 1' is needed, which no foreign page can send", 403)

#: Seconds: a month. Who wants longer than that does not want a pause.
_PAUSE_MAX: Final = 31 * 86_400.0


def act(handler: Handler, request: Request) -> Response:
    """
    Do what *request* asks for, or change nothing. It may wait for the healer's loop.
    """
    if len(request.body) > BODY_LIMIT:
        return refused(f"the body must not have more than {BODY_LIMIT} bytes", 413)
    try:
        options: object = json.loads(request.body) if request.body else {}
    except (ValueError, RecursionError):
        return refused("the body must be JSON")
    if not isinstance(options, dict):
        return refused("the body must be a JSON object")
    try:
        answer, target = ACTIONS[request.path](handler, cast("dict[str, Any]", options))
    except UnknownCheckError as exc:
        return refused(str(exc), 404)
    except (IllegalTransitionError, NotRunningError) as exc:
        return refused(str(exc), 409)
    except ConfigError as exc:
        return refused(str(exc))
    handler.healer.audit(request.path[1:], target)
    return answer


def _heal(handler: Handler, options: Mapping[str, Any]) -> tuple[Response, str]:
    check = _text(options, "check")
    if not check:
        msg = 'name a check: {"check": "..."}'
        raise ConfigError(msg)
    incident = handler.healer.heal(check)
    return as_json(202, {"incident": f"{check}-{incident.number}"}), check


def _pause(handler: Handler, options: Mapping[str, Any]) -> tuple[Response, str]:
    ttl, resource = options.get("ttl", PAUSE_SECONDS), _text(options, "resource")
    if isinstance(ttl, bool) or not isinstance(ttl, int | float) or not 0 < ttl <= _PAUSE_MAX:
        msg = f"ttl must be seconds, at most {_PAUSE_MAX:g}: a pause from outside ends by itself"
        raise ConfigError(msg)
    handler.healer.pause(_text(options, "reason") or "", resource=resource, ttl=ttl)
    return as_json(200, {"paused": True}), resource or ""


def _resume(handler: Handler, options: Mapping[str, Any]) -> tuple[Response, str]:
    resource = _text(options, "resource")
    handler.healer.resume(resource=resource, reason=_text(options, "reason") or "resumed")
    return as_json(200, {"paused": False}), resource or ""


def _drain(handler: Handler, options: Mapping[str, Any]) -> tuple[Response, str]:
    drain = options.get("drain", True)
    if not isinstance(drain, bool):
        msg = "drain must be true or false"
        raise ConfigError(msg)
    handler.draining = drain
    return as_json(200, {"draining": drain}), ""


ACTIONS: Final[Mapping[str, Callable[[Handler, Mapping[str, Any]], tuple[Response, str]]]] = {
    "/drain": _drain,
    "/heal": _heal,
    "/pause": _pause,
    "/resume": _resume,
}


def _text(options: Mapping[str, Any], name: str) -> str | None:
    value = options.get(name)
    if value is None or isinstance(value, str):
        return value
    msg = f"{name} must be a string"
    raise ConfigError(msg)
