"""
From a request to its answer, without a server: everything is read from one snapshot.
"""

from __future__ import annotations

import hmac

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final

import attrs

from selfheal.errors import ConfigError, UnknownCheckError
from selfheal.export.http import bodies, events, groups, metrics, page
from selfheal.export.http.messages import (
    FLOOD,
    NOT_FOUND,
    UNAUTHORIZED,
    Request,
    Response,
    as_json,
    check_token,
    is_flood,
    length_of,
    refused,
)
from selfheal.export.http.writing import ACTIONS, GUARD, UNGUARDED, act


if TYPE_CHECKING:
    from selfheal.checks import HealthCheck
    from selfheal.healer import Healer
    from selfheal.runtime.snapshot import Snapshot

#: Seconds for which a snapshot and the answers made from it are good enough, while no status or state changes.
KEEP: Final = 0.1

#: Incidents in one answer, unless fewer are asked for.
_INCIDENTS: Final = 256

_HEALTH_JSON: Final = "application/health+json"
_GROUPS: Final = ("livez", "readyz", "startupz")
_MARKS: Final = {"pass": "[+]", "warn": "[!]", "unknown": "[?]", "fail": "[-]"}

#: Digits of a number that are looked at.
_DIGITS: Final = 9

#: HTTP statuses that an answer can have.
_STATUSES: Final = range(200, 600)

#: And those from here on say no.
_BAD: Final = 400


class View:
    """
    A snapshot, the checks it is of, and the answers that were made from it.

    Args:
        snapshot: Made after *asked*.
        checks: Of the healer.
        asked: What `Handler.renew` had left when this was begun.
    """

    def __init__(self, snapshot: Snapshot, checks: tuple[HealthCheck, ...], asked: object) -> None:
        self.snapshot = snapshot
        self.checks = checks
        self.asked = asked
        self.answers: dict[tuple[str, bool], Response] = {}
        #: Each check as the clients of the stream are told of it, once for all of them.
        self.told: dict[str, str] = {}


@attrs.define(eq=False)
class Handler:
    """
    Answers requests about one healer.

    No probe is run for a request and no lock is held. An answer is made from a snapshot that is at most 0.1 s
    old, and of which no status or state has changed since.

    Args:
        healer: The healer.
        token: Whoever sends ``Authorization: Bearer <token>`` sees details. `None`: nobody does, but for *direct* requests.
        actions: Answer ``POST /pause``, ``/resume``, ``/heal`` and ``/drain`` as well; needs a token.
        shared_fails: A failing `shared` check makes the readiness fail, not warn.
        warn_status: HTTP status for "warn": 429 for Consul.
        drain_status: HTTP status of ``/readyz`` while it is drained: 404 for HAProxy's ``disable-on-404``.
        expose_errors: Show the texts of faults and actions to those who see details; the healer's ``redact`` is applied.

    Raises:
        ConfigError: If *token* is too short or no header carries it, *actions* come without one, or a status is none
            from 200 to 599.
    """

    healer: Healer
    token: str | None = attrs.field(default=None, repr=False)
    actions: bool = attrs.field(default=False, kw_only=True)
    shared_fails: bool = attrs.field(default=False, kw_only=True)
    warn_status: int = attrs.field(default=200, kw_only=True)
    drain_status: int = attrs.field(default=503, kw_only=True)
    expose_errors: bool = attrs.field(default=False, kw_only=True)
    draining: bool = attrs.field(default=False, init=False)
    _view: View | None = attrs.field(default=None, init=False)
    _asked: object = attrs.field(default=None, init=False)
    changes: events.Changes = attrs.field(init=False)
    _started: bool = attrs.field(default=False, init=False)
    _reads: Mapping[str, Callable[[View, Request, bool], Response]] = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.changes = events.Changes(self)
        self._reads = {
            events.PATH: self._events,
            "/health": self._health,
            "/history": self._history,
            "/incidents": self._incidents,
            metrics.PATH: self._metrics,
            page.PATH: self._page,
            "/state": self._state,
        }
        for name, status in (("warn_status", self.warn_status), ("drain_status", self.drain_status)):
            if type(status) is not int or status not in _STATUSES:
                msg = f"{name}={status!r}: must be an HTTP status from {_STATUSES[0]} to {_STATUSES[-1]}."
                raise ConfigError(msg)
        if self.token is not None:
            check_token(self.token)
        if self.actions and self.token is None:
            msg = "actions=True needs a token: whoever can reach this could pause the healing, or start it."
            raise ConfigError(msg)

    def handle(self, request: Request) -> Response:
        """
        The answer to *request*. It may be called from any thread, and blocks for nothing but a POST.
        """
        if is_flood(request.headers):
            return FLOOD
        path = request.path
        if path in ACTIONS:
            return self._act(request) if request.method == "POST" else _not_allowed("POST")
        answer = self._route(path)
        if answer is None:
            return NOT_FOUND
        if request.method not in {"GET", "HEAD"}:
            return _not_allowed("GET, HEAD")
        allowed = self.sees_details(request)
        view = self.view()
        if request.query or path == metrics.PATH:  # which is told how to answer by a header
            return answer(view, request, allowed)
        key = (path, allowed)
        known = view.answers.get(key)
        if known is None:
            known = view.answers[key] = answer(view, request, allowed)
        return known

    def _route(self, path: str) -> Callable[[View, Request, bool], Response] | None:
        if path in self._reads:
            return self._reads[path]
        group, _, name = path[1:].partition("/")
        return self._group if group in _GROUPS and "/" not in name else None

    def wanted(self, request: Request) -> int | Response:
        """
        Bytes to be read of the body of *request*, a POST without it; or the answer, if it is no whatever they are.

        A body that does not come keeps whoever waits for it: nobody does without the token.
        """
        if is_flood(request.headers):
            return FLOOD
        if request.path not in ACTIONS:
            return self.handle(request)
        refusal = self._refusal(request)
        return length_of(request.headers) if refusal is None else refusal

    def _refusal(self, request: Request) -> Response | None:
        if not self.actions:
            return NOT_FOUND
        if not self.has_token(request):
            return UNAUTHORIZED
        return None if GUARD in request.headers else UNGUARDED

    def _act(self, request: Request) -> Response:
        refusal = self._refusal(request)
        if refusal is not None:
            return refusal
        try:
            return act(self, request)
        finally:
            self.renew()

    def sees_details(self, request: Request) -> bool:
        """
        Whether whoever asks may see more than pass or fail.
        """
        return request.direct or self.has_token(request)

    def has_token(self, request: Request) -> bool:
        """
        Whether the request carries the token.
        """
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        # Compared as bytes: what is no ASCII would raise, which tells more than no.
        return (
            self.token is not None
            and scheme.lower() == "bearer"
            and hmac.compare_digest(given.strip().encode("utf-8", "replace"), self.token.encode())
        )

    def view(self) -> View:
        """
        The present snapshot.
        """
        view, asked = self._view, self._asked
        # One that another thread had begun before `renew` and put there after it is told by what it was asked by.
        if view is None or view.asked is not asked:
            view = self._view = View(self.healer.snapshot(), self.healer.checks, asked)
            return view
        snapshot = self.healer.snapshot(max_age=KEEP)
        if snapshot is not view.snapshot and snapshot.at >= view.snapshot.at:
            view = self._view = View(snapshot, self.healer.checks, asked)
        return view

    def renew(self) -> None:
        """
        Whatever is asked for from now on is answered from a snapshot that is made from now on.
        """
        self._asked = object()

    # --- groups ----------------------------------------------------------------

    def verdict(self, group: str, view: View) -> groups.Verdict:
        """
        What *group*, one of "livez", "readyz" and "startupz", comes to.
        """
        if group == "livez":
            return groups.live(view.checks, view.snapshot)
        if group == "startupz" or not self._started:
            started = groups.started(view.checks, view.snapshot)
            self._started = self._started or started.status == "pass"
            if group == "startupz":  # from then on for good
                lines = [line._replace(status="pass", why="") if self._started else line for line in started.lines]
                return groups.worst(lines)
        ready = groups.ready(
            view.checks,
            view.snapshot,
            draining=self.draining,
            shared_fails=self.shared_fails,
        )
        if self._started or ready.status == "fail":
            return ready
        return groups.worst(
            (*ready.lines, groups.Line(groups.STARTUP, "unknown", "not every check has been good once"))
        )

    def _group(self, view: View, request: Request, allowed: bool) -> Response:
        group, _, name = request.path[1:].partition("/")
        verdict = self.verdict(group, view)
        if allowed and "exclude" in request.query:
            left_out = set(request.query["exclude"].split(","))
            verdict = groups.worst([line for line in verdict.lines if line.name not in left_out])
        if name:
            verdict = groups.worst([line for line in verdict.lines if line.name == name])
            if not allowed or not verdict.lines:
                return NOT_FOUND
        return self._said(group, verdict, verbose=allowed and ("verbose" in request.query or bool(name)))

    def _said(self, group: str, verdict: groups.Verdict, *, verbose: bool) -> Response:
        status = self._code(group, verdict)
        text = "ok" if status < _BAD else "fail"
        if verbose:
            told = [f"{_MARKS[line.status]}{line.name} {_outcome(line)}" for line in verdict.lines]
            text = "\n".join([*told, f"{group} check {'passed' if status < _BAD else 'failed'}"])
        return Response(status, f"{text}\n".encode(), headers=self._headers(verdict.status, status))

    def _code(self, group: str, verdict: groups.Verdict) -> int:
        if verdict.status == "pass" or (group == "livez" and verdict.status == "unknown"):
            return 200
        if verdict.status == "warn":
            return 200 if group == "livez" else self.warn_status
        if self.draining and group == "readyz":
            return self.drain_status
        return 503

    def _headers(self, word: str, status: int) -> tuple[tuple[str, str], ...]:
        headers = (("X-SelfHeal-Status", word),)
        return headers if status < _BAD else (*headers, ("Retry-After", "1"))

    # --- details ---------------------------------------------------------------

    def _health(self, view: View, request: Request, allowed: bool) -> Response:
        del request
        verdict = self.verdict("readyz", view)
        status = self._code("readyz", verdict)
        body: Mapping[str, Any] = {"status": verdict.status}
        if allowed:
            body = bodies.health(verdict, view.checks, view.snapshot, self._notes(view), show=self.show)
        headers = (*self._headers(verdict.status, status), ("Vary", "Authorization"))
        return as_json(status, body, content_type=_HEALTH_JSON, headers=headers)

    def _notes(self, view: View) -> list[str]:
        pause = view.snapshot.paused
        notes = [] if pause is None else [f"healing is paused: {pause.reason}"]
        return [*notes, "this instance is being drained"] if self.draining else notes

    def _state(self, view: View, request: Request, allowed: bool) -> Response:
        if not allowed:
            return self._hidden()
        return as_json(200, self.state(view, view.checks))

    def state(self, view: View, checks: Iterable[HealthCheck]) -> dict[str, Any]:
        """
        How the healer stands now, and each of *checks*.
        """
        now = bodies.state(checks, view.snapshot, show=self.show)
        return {**now, "draining": self.draining, "actions": self.actions}

    def _incidents(self, view: View, request: Request, allowed: bool) -> Response:
        if not allowed:
            return self._hidden()
        limit = _whole(request.query.get("limit"), _INCIDENTS)
        if limit is None:
            return refused("limit must be a whole number, 1 or more")
        check = request.query.get("check")
        latest_first = [each for each in reversed(self.healer.incidents()) if check in {None, each.check}]
        told = [bodies.incident(incident, view.snapshot, show=self.show) for incident in latest_first[:limit]]
        return as_json(200, {"incidents": told})

    def _history(self, view: View, request: Request, allowed: bool) -> Response:
        if not allowed:
            return self._hidden()
        asked = request.query.get("check")
        limit = _whole(request.query.get("limit"), _INCIDENTS)
        if limit is None:
            return refused("limit must be a whole number, 1 or more")
        known = {check.name for check in view.checks}
        if asked is not None and asked not in known:
            return NOT_FOUND
        told: dict[str, Any] = {}
        for name in known if asked is None else [asked]:
            try:
                told[name] = bodies.history(self.healer.results(name)[-limit:], view.snapshot)
            except UnknownCheckError:  # removed meanwhile
                continue
        return as_json(200, {"history": told})

    def _events(self, view: View, request: Request, allowed: bool) -> Response:
        # Where there is a stream, the server has given it instead.
        del view, request
        return events.NO_STREAM if allowed else self._hidden()

    def _metrics(self, view: View, request: Request, allowed: bool) -> Response:
        del view, allowed
        return metrics.scrape(self.healer.registry, request.headers.get("accept", ""))

    def _page(self, view: View, request: Request, allowed: bool) -> Response:
        # It holds no data: whoever has no token yet may have it, to enter one.
        del view, request
        return page.answer() if allowed or self.token is not None else NOT_FOUND

    def show(self, text: str) -> str | None:
        """
        What may be shown of a text that a probe, an action or an exception gave; `None`: nothing.
        """
        if not self.expose_errors:
            return None
        try:
            return text if self.healer.redact is None else self.healer.redact(text)
        except Exception:  # noqa: BLE001 - what cannot be made safe is not shown, and all the rest is
            return "redacted"

    def _hidden(self) -> Response:
        return NOT_FOUND if self.token is None else UNAUTHORIZED


def _outcome(line: groups.Line) -> str:
    word = {"pass": "ok", "warn": "warning", "unknown": "unknown", "fail": "failed"}[line.status]
    return f"{word}: {line.why}" if line.why else word


def _whole(text: str | None, default: int) -> int | None:
    """
    A whole number from 1 to *default*, or `None` if *text* is none.
    """
    if text is None:
        return default
    if not text.isascii() or not text.isdigit() or int(text[:_DIGITS]) < 1:
        return None
    return min(int(text[:_DIGITS]), default)


def _not_allowed(methods: str) -> Response:
    return as_json(405, {"error": f"only {methods}"}, headers=(("Allow", methods),))
