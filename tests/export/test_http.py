"""
Requests and their answers, without a server.
"""

from __future__ import annotations

import json

from collections.abc import Callable
from typing import Any

import attrs
import jsonschema
import prometheus_client
import pytest
import trio
import trio.testing

from selfheal import ConfigError, Healer, HealingPolicy, HealthCheck, Unhealthy, names, recovery_action
from selfheal.export.http import AsgiApp, Handler, Request, Response, WsgiApp, health_schema, listen, mounted_asgi
from selfheal.export.http.messages import query_of
from selfheal.model import Event
from selfheal.testing import VirtualClock


POLICY = HealingPolicy(interval=5, fast_interval=1, timeout=2, jitter=0, fall=2, rise=2, probation=10, verify_within=10)
TOKEN = "correct horse battery staple"
SECRET = "postgresql://shop:hunter2@db/orders"


class World:
    """
    A healer in virtual time, whose checks are down as `down` says, and a handler for it.
    """

    def __init__(self, *, shared: bool = False, heals: bool = True, token: str | None = TOKEN, **options) -> None:
        self.clock = VirtualClock()
        self.down: set[str] = set()
        self.events: list[Event] = []

        @recovery_action
        def rebuild(ctx) -> None:
            ctx.log(f"connecting to {SECRET}", dsn=SECRET)
            if heals:
                self.down.discard("db")

        def probe(name: str) -> Callable[[], None]:
            def look() -> None:
                if name in self.down:
                    raise Unhealthy("stale", f"no answer from {SECRET}")

            return look

        checks = [
            HealthCheck(probe("db"), name="db", policy=POLICY, recovery=rebuild, shared=shared),
            HealthCheck(probe("cache"), name="cache", policy=POLICY),
        ]
        self.probe = probe
        self.registry = prometheus_client.CollectorRegistry()
        self.healer = Healer(checks, clock=self.clock, phase=0, slack=0, registry=self.registry)
        self.healer.on_event(self.events.append)
        self.handler = Handler(self.healer, token, **options)

    def ask(self, path: str, *, token: str | None = None, method: str = "GET", **fields) -> Response:
        """What is answered now."""
        path, _, query = path.partition("?")
        headers = {} if token is None else {"authorization": f"Bearer {token}"}
        parameters = dict(part.partition("=")[::2] for part in query.split("&") if part)
        self.handler.renew()
        request = Request(method=method, path=path, query=parameters, headers=headers)
        return self.handler.handle(attrs.evolve(request, **fields))

    def run(self, *steps: float | Callable[[], object]) -> None:
        """Let so many seconds pass, or call, one after the other, while the healer runs."""

        async def main() -> None:
            async with self.healer:
                for step in steps:
                    if callable(step):
                        step()
                    else:
                        await self.clock.sleep(step)

        self.clock.run(main)


def codes(world: World) -> tuple[int, int, int]:
    return tuple(world.ask(f"/{group}").status for group in ("livez", "readyz", "startupz"))


def breaks(world: World, name: str = "db") -> Callable[[], None]:
    return lambda: world.down.add(name)


def test_a_healthy_process_is_live_ready_and_started():
    """
    All three groups answer 200 and "ok", and say so in a header; nothing is to be cached.
    """
    world = World()
    seen = []
    world.run(1, lambda: seen.extend(world.ask(f"/{group}") for group in ("livez", "readyz", "startupz")))
    assert [(200, b"ok\n")] * 3 == [(answer.status, answer.body) for answer in seen]
    for answer in seen:
        fields = dict(answer.fields())
        assert ("pass", "no-store") == (fields["X-SelfHeal-Status"], fields["Cache-Control"])


def test_before_the_first_look_it_is_live_but_not_ready():
    """
    A process that does not run yet is not to be restarted, and gets no work.
    """
    assert (200, 503, 503) == codes(World())


def test_what_has_never_been_good_is_not_ready_whatever_the_debounce():
    """
    A first bad result is no suspicion that may be waited for: there is nothing to keep up yet.
    """
    world = World()
    world.down.add("cache")
    seen = []
    world.run(0.5, lambda: seen.append(codes(world)))
    assert [(200, 503, 503)] == seen


def test_one_bad_result_takes_nobody_out():
    """
    Readiness warns while a fault is not confirmed, fails once it is, and passes again once health is proved.
    """
    world = World(heals=False)
    seen = []

    def look() -> None:
        answer = world.ask("/readyz")
        seen.append((answer.status, dict(answer.fields())["X-SelfHeal-Status"]))

    # Looked at at 0 and 5: bad at 5, confirmed at 6, tried in vain; good from 9 on, proved at 10.
    world.run(4, breaks(world), 1.5, look, 1, look, 2, lambda: world.down.clear(), 1, look, 1.5, look)
    assert [(200, "warn"), (503, "fail"), (503, "fail"), (200, "pass")] == seen


def test_liveness_fails_only_when_a_ladder_was_climbed_in_vain():
    """
    A fault alone, or one that nothing of ours could heal, is no reason for a restart.
    """
    world = World(heals=False)
    seen = []
    world.run(
        *(4, breaks(world, "cache"), 10, lambda: seen.append(codes(world))),
        *(breaks(world), 60, lambda: seen.append(codes(world))),
    )
    assert [(200, 503, 200), (503, 503, 200)] == seen


def test_what_is_shared_fails_no_liveness_and_warns_in_readiness():
    """
    The database that every replica needs takes none of them out, unless that is asked for.
    """
    seen = []
    for options in ({}, {"shared_fails": True}):
        world = World(heals=False, shared=True, **options)
        world.run(4, breaks(world), 60, lambda world=world: seen.append(codes(world)))
    assert [(200, 200, 200), (200, 503, 200)] == seen


def test_an_old_result_says_nothing():
    """
    A result that nobody has renewed is unknown to whoever asks, though nobody has noticed yet.
    """
    world = World()
    world.run(1)
    late = world.healer.snapshot()
    late = attrs.evolve(late, at=late.at + 18)
    from selfheal.export.http import groups

    statuses = {groups.status_of(check, late.checks[check.name], late.at) for check in world.healer.checks}
    assert {"unknown"} == statuses


def test_verbose_names_every_check_and_why():
    """
    With a token, the lines of Kubernetes' own endpoints: a mark, a name, a word, a category.
    """
    world = World(heals=False)
    seen = []
    world.run(4, breaks(world), 3, lambda: seen.append(world.ask("/readyz?verbose", token=TOKEN)))
    assert "[+]selfheal.healer ok\n[-]db failed: stale\n[+]cache ok\nreadyz check failed\n" == seen[0].body.decode()


def test_a_check_can_be_asked_for_and_left_out():
    """
    ``/readyz/<check>`` answers for one, ``?exclude=`` for all others; a name that is not there is a 404.
    """
    world = World(heals=False)
    seen = []
    paths = ["/readyz/db", "/readyz/cache", "/readyz?exclude=db,x", "/readyz/x", "/readyz/db/x"]
    world.run(4, breaks(world), 3, lambda: seen.extend(world.ask(path, token=TOKEN).status for path in paths))
    assert [503, 200, 200, 404, 404] == seen


@pytest.mark.parametrize("token", [None, "", "correct horse battery staple ", "correct horse", "ö" * 28, "Bearer"])
@pytest.mark.parametrize("path", ["/state", "/incidents", "/history", "/events"])
def test_details_are_for_the_token(path, token):
    """
    Nothing but the whole token opens them: not a part of it, not one that is no ASCII.
    """
    world = World()
    seen = []
    world.run(1, lambda: seen.append(world.ask(path, token=token)))
    expected = 200 if token == "correct horse battery staple " else 401
    # The pure handler has no stream: whoever serves it gives one instead.
    assert (406 if path == "/events" and expected == 200 else expected) == seen[0].status


def test_without_a_token_details_do_not_exist():
    """
    A mounted handler never trusts its peer: what nobody may see is a 404, and the groups tell no names.
    """
    world = World(token=None)
    seen = []
    paths = ["/state", "/incidents", "/history", "/events", "/livez/db"]
    world.run(1, lambda: seen.extend(world.ask(path).status for path in paths))
    assert [404] * 5 == seen
    assert b"ok\n" == world.ask("/livez?verbose&exclude=db").body
    assert {"status": "unknown"} == json.loads(world.ask("/health").body)


def test_a_direct_request_sees_details():
    """
    Whoever comes over a listener that only this machine reaches needs no token.
    """
    world = World(token=None)
    assert 200 == world.ask("/state", direct=True).status


def test_health_follows_the_draft():
    """
    health+json: the worst status, each check by name, its time, and a category instead of a text.
    """
    world = World(heals=False)
    seen = []
    world.run(4, breaks(world), 3, lambda: seen.append(world.ask("/health", token=TOKEN)))
    (answer,) = seen
    body = json.loads(answer.body)
    db = body["checks"]["db:responseTime"][0]
    assert (503, "application/health+json", "fail") == (answer.status, answer.content_type, body["status"])
    assert ("db", "fail", "stale", "s") == (db["componentId"], db["status"], db["output"], db["observedUnit"])
    assert db["time"].endswith("Z")
    assert "verifying" == db["x-selfheal"]["state"]


@pytest.mark.parametrize("options", [{}, {"expose_errors": True}], ids=["kinds", "texts"])
@pytest.mark.parametrize("token", [TOKEN, None], ids=["details", "no-details"])
def test_health_is_as_its_schema_says(token, options):
    """
    In every state of a check and of the whole, with details and without, paused and drained.
    """
    validator = jsonschema.Draft202012Validator(health_schema())
    world = World(heals=False, **options)
    told = []

    def look() -> None:
        body = json.loads(world.ask("/health", token=token).body)
        validator.validate(body)
        told.append((body["status"], *body.get("notes", ())))

    look()  # nobody has looked yet
    # Bad at 5, confirmed at 6, tried in vain; good from 9 on, proved at 10.
    world.run(4, look, breaks(world), 1.5, look, 1, look, lambda: world.healer.pause("night"), look)
    world.handler.draining = True
    look()
    (notes, both) = ((), ()) if token is None else (("healing is paused: night",), ("this instance is being drained",))
    assert [("unknown",), ("pass",), ("warn",), ("fail",), ("fail", *notes), ("fail", *notes, *both)] == told


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"status": "healthy"},
        {"status": "pass", "version": "1"},
        {"status": "pass", "checks": {"db": []}},
        {"status": "pass", "checks": {"db:responseTime": [{"componentId": "db", "status": "pass"}]}},
    ],
)
def test_the_schema_says_no_to_what_is_not_health(body):
    """
    An unknown word, a part that is missing, or one that is not described.
    """
    assert not jsonschema.Draft202012Validator(health_schema()).is_valid(body)


def test_a_pause_is_noted():
    """
    Whoever reads health learns that healing is paused, and why.
    """
    world = World()
    seen = []
    world.run(
        *(1, lambda: world.healer.pause("migration")),
        lambda: seen.append(json.loads(world.ask("/health", token=TOKEN).body)["notes"]),
    )
    assert [["healing is paused: migration"]] == seen


def test_the_state_has_all_that_a_page_shows():
    """
    Where each check stands, since when, its ladder and rung, and the gates that are closed, until when.
    """
    world = World(heals=False)
    seen = []
    world.run(
        *(4, breaks(world), 3, lambda: world.healer.pause("night", resource="cache", ttl=60)),
        lambda: seen.append(json.loads(world.ask("/state", token=TOKEN).body)),
    )
    (state,) = seen
    db, cache = state["checks"]
    assert ("fail", "verifying", "rebuild") == (db["status"], db["state"], db["rung"])
    assert [{"rung": "rebuild", "held": False, "destructive": False}] == db["ladder"]
    assert {"kind": "stale", "message": ""} == db["fault"]
    assert "db-1" == db["incident"]["id"]
    assert ("pass", None, []) == (cache["status"], cache["incident"], cache["gates"])
    assert "night" == state["pauses"]["cache"]["reason"]
    assert (True, "enforce", None, False) == (state["running"], state["mode"], state["paused"], state["draining"])


def test_closed_gates_say_until_when():
    """
    What keeps an action from being started is in the state, with the time at which it may be.
    """
    world = World(heals=False)
    seen = []
    world.run(
        *(4, lambda: world.healer.pause("night", ttl=60), breaks(world), 3),
        lambda: seen.append(json.loads(world.ask("/state", token=TOKEN).body)["checks"][0]["gates"]),
    )
    ((gate,),) = seen
    assert ("paused", "night") == (gate["gate"], gate["reason"])
    assert gate["until"].endswith("Z")


def test_incidents_tell_their_story():
    """
    Closed ones, the latest first, with a timeline in seconds since the first bad result.
    """
    world = World()
    world.run(4, breaks(world), 30)
    (incident,) = json.loads(world.ask("/incidents?limit=1&check=db", token=TOKEN).body)["incidents"]
    assert ("db-1", "stale", "healed", 1) == (
        incident["id"],
        incident["kind"],
        incident["result"],
        incident["actions"],
    )
    told = [entry["event"] for entry in incident["timeline"]]
    assert told.index("incident.opened") < told.index("action.started") < told.index("healing.verified")
    assert [] == json.loads(world.ask("/incidents?check=cache", token=TOKEN).body)["incidents"]


def test_a_timeline_has_its_times_in_seconds_since_the_first_bad_result():
    """
    Also that until which a gate is closed: monotonic seconds mean nothing to anybody else.
    """
    world = World(heals=False)
    world.run(4, lambda: world.healer.pause("night", ttl=20), breaks(world), 5)
    (incident,) = json.loads(world.ask("/incidents", token=TOKEN).body)["incidents"]
    (blocked,) = (entry for entry in incident["timeline"] if entry["event"] == "action.blocked")
    # Paused at 4 until 24, bad since 5.
    assert (1.0, 19.0) == (blocked["at"], blocked["until"])


def test_history_has_the_last_results():
    """
    Of one check or of all, oldest first, as many as are asked for.
    """
    world = World()
    world.run(4, breaks(world), 10)
    history = json.loads(world.ask("/history?check=db&limit=4", token=TOKEN).body)["history"]
    assert ["db"] == list(history)
    assert 4 == len(history["db"])
    everything = json.loads(world.ask("/history", token=TOKEN).body)["history"]
    assert {"db", "cache"} == set(everything)
    assert {"pass", "fail"} == {status for _, status, _ in everything["db"]}
    assert 404 == world.ask("/history?check=x", token=TOKEN).status


@pytest.mark.parametrize("limit", ["0", "-1", "x", "1.5", "", "१"])
def test_limits_are_whole_numbers(limit):
    """
    Anything else is a clear 400.
    """
    world = World()
    for path in ("/incidents", "/history"):
        answer = world.ask(path, token=TOKEN, query={"limit": limit})
        assert 400 == answer.status
        assert "whole number" in json.loads(answer.body)["error"]


def test_no_text_of_others_is_shown():
    """
    What probes, actions and exceptions have said is in no answer, not even for whoever sees details.
    """
    world = World()
    world.run(4, breaks(world), 3)
    paths = ["/state", "/incidents", "/history", "/health", "/metrics", "/readyz?verbose", "/livez/db"]
    everything = b"".join(world.ask(path, token=TOKEN).body for path in paths)
    assert b"stale" in everything
    assert b"hunter2" not in everything
    assert TOKEN.encode() not in everything


def test_texts_are_shown_redacted_where_they_are_asked_for():
    """
    ``expose_errors`` shows them to whoever sees details, by the healer's ``redact``.
    """
    world = World(expose_errors=True)
    world.healer.redact = lambda text: text.replace("hunter2", "***")
    world.run(4, breaks(world), 30)
    body = world.ask("/incidents", token=TOKEN).body
    assert b"connecting to postgresql://shop:***@db" in body
    assert b"hunter2" not in body


def test_metrics_are_the_registrys():
    """
    In the format that is asked for, always with 200; without a registry there are none.
    """
    world = World()
    seen = []
    world.run(1, lambda: seen.append(world.ask("/metrics", headers={"accept": "application/openmetrics-text"})))
    assert b'selfheal_probe_up{check="db"} 1.0' in seen[0].body
    assert "openmetrics" in seen[0].content_type
    plain = world.handler.handle(Request(method="GET", path="/metrics"))
    assert "text/plain" in plain.content_type
    world.healer.registry = None
    assert 404 == world.ask("/metrics").status


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "BREW"])
def test_reading_is_by_get_and_head_alone(method):
    """
    Any other method is a 405 that says which there are, for what is there; a 404 for what is not.
    """
    world = World()
    answer = world.ask("/livez", method=method)
    assert (405, ("Allow", "GET, HEAD")) == (answer.status, answer.headers[0])
    assert 404 == world.ask("/nothing", method=method).status


def post(world: World, path: str, body: object = None, *, token: str | None = TOKEN, guard: bool = True) -> Response:
    headers = {"x-selfheal": "1"} if guard else {}
    if token is not None:
        headers["authorization"] = f"Bearer {token}"
    raw = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
    return world.ask(path, method="POST", headers=headers, body=raw)


def test_actions_are_off_by_default():
    """
    Without ``actions`` they are not there, whoever asks.
    """
    world = World()
    assert {404} == {post(world, path).status for path in ("/pause", "/resume", "/heal", "/drain")}
    assert not world.healer.paused


def test_actions_do_what_they_say_and_leave_a_record():
    """
    Pause, resume, heal and drain, each in an event of its own.
    """
    world = World(actions=True)
    seen = []

    def act() -> None:
        seen.append(post(world, "/pause", {"reason": "deploy", "ttl": 60}).status)
        seen.append(world.healer.paused)
        seen.append(post(world, "/resume").status)
        seen.append(world.healer.paused)
        seen.append(json.loads(post(world, "/heal", {"check": "db"}).body))
        seen.append(post(world, "/drain").status)
        seen.append(world.ask("/readyz").status)
        seen.append(post(world, "/drain", {"drain": False}).status)
        seen.append(world.ask("/readyz?exclude=db", token=TOKEN).status)

    world.run(1, act, 1)
    assert [200, True, 200, False, {"incident": "db-1"}, 200, 503, 200, 200] == seen
    recorded = [event.fields for event in world.events if event.name == names.REQUEST_ACCEPTED]
    assert [
        {"action": "pause", "target": ""},
        {"action": "resume", "target": ""},
        {"action": "heal", "target": "db"},
        {"action": "drain", "target": ""},
        {"action": "drain", "target": ""},
    ] == recorded


def test_drained_readiness_can_be_a_404():
    """
    HAProxy's ``disable-on-404`` takes it for "finish what you have".
    """
    world = World(actions=True, drain_status=404)
    seen = []
    world.run(1, lambda: post(world, "/drain"), lambda: seen.append(codes(world)))
    assert [(200, 404, 200)] == seen


@pytest.mark.parametrize(
    ("path", "body", "options", "status"),
    [
        ("/pause", {"reason": "x"}, {"token": None}, 401),
        ("/pause", {"reason": "x"}, {"token": "correct horse battery stapl"}, 401),
        ("/pause", {"reason": "x"}, {"guard": False}, 403),
        ("/pause", {}, {}, 400),
        ("/pause", {"reason": "x", "ttl": None}, {}, 400),
        ("/pause", {"reason": "x", "ttl": -1}, {}, 400),
        ("/pause", {"reason": "x", "ttl": True}, {}, 400),
        ("/pause", b'{"reason": "x", "ttl": NaN}', {}, 400),
        ("/pause", b'{"reason": "x", "ttl": 1e999}', {}, 400),
        ("/pause", b'{"reason": "x", "ttl": ' + b"9" * 400 + b"}", {}, 400),
        ("/pause", {"reason": 3}, {}, 400),
        ("/pause", {"reason": "x", "resource": "nothing"}, {}, 404),
        ("/resume", {"resource": "nothing"}, {}, 404),
        ("/heal", {}, {}, 400),
        ("/heal", {"check": "nothing"}, {}, 404),
        ("/heal", {"check": ["db"]}, {}, 400),
        ("/drain", {"drain": "yes"}, {}, 400),
        ("/drain", b"[]", {}, 400),
        ("/drain", b"{", {}, 400),
        ("/drain", b"\xff", {}, 400),
        ("/drain", b"[" * 16_000, {}, 400),
        ("/drain", b"x" * 20_000, {}, 413),
    ],
)
def test_a_bad_wish_changes_nothing(path, body, options, status):
    """
    Whatever is wrong with it gets its 4xx and a reason.
    """
    world = World(actions=True)
    seen = []
    world.run(1, lambda: seen.append(post(world, path, body, **options)), 1)
    assert status == seen[0].status
    assert json.loads(seen[0].body)["error"]
    assert (False, False, []) == (
        world.healer.paused,
        world.handler.draining,
        [event for event in world.events if event.name == names.REQUEST_ACCEPTED],
    )


def test_only_posts_write():
    """
    A GET of an action is a 405.
    """
    world = World(actions=True)
    assert 405 == world.ask("/pause", token=TOKEN).status


@pytest.mark.parametrize(
    "options",
    [
        {"token": "short"},
        {"token": None, "actions": True},
        {"token": TOKEN.encode()},
        {"token": f"{TOKEN}\n"},
        {"token": f" {TOKEN}"},
        {"token": f"{TOKEN}\udcff"},
        {"token": "ö" * 28},
        {"token": f"{TOKEN}\r\nX: y"},
    ],
)
def test_settings_that_are_no_protection_are_refused(options):
    """
    A token that can be guessed, one that no header carries, and actions without one.
    """
    with pytest.raises(ConfigError, match="token"):
        Handler(Healer(), **options)


@pytest.mark.parametrize("status", [0, 199, 600, 1000, -1, "429", 429.0, True, None])
@pytest.mark.parametrize("name", ["warn_status", "drain_status"])
def test_a_status_that_cannot_be_sent_is_refused(name, status):
    """
    At once, by its name; not when somebody asks.
    """
    with pytest.raises(ConfigError, match=f"{name}=.* from 200 to 599"):
        Handler(Healer(), **{name: status})


@pytest.mark.parametrize("status", [299, 404, 520, 599])
def test_a_status_without_a_name_is_sent_over_wsgi(status):
    """
    Also one that nobody has given a meaning.
    """
    world = World(drain_status=status)
    world.handler.draining = True
    sent = []
    environ = {"REQUEST_METHOD": "GET", "PATH_INFO": "/readyz"}
    WsgiApp(world.handler)(environ, lambda line, fields: sent.append(line))
    number, _, phrase = sent[0].partition(" ")
    assert (str(status), True) == (number, bool(phrase))


def test_a_redact_that_raises_hides_the_text_alone():
    """
    The answer is there, with "redacted" where the text would be.
    """
    world = World(expose_errors=True)
    world.run(4, breaks(world), 30)
    world.healer.redact = lambda text: 1 / 0
    answer = world.ask("/incidents", token=TOKEN)
    assert 200 == answer.status
    assert "redacted" in answer.body.decode()
    assert b"hunter2" not in answer.body


@pytest.mark.parametrize("content", [b"", b"xxxx"])
def test_a_damaged_file_of_another_process_fails_the_metrics_alone(content, tmp_path, monkeypatch):
    """
    A 500 that says where to look; everything else is answered as before.
    """
    (tmp_path / "counter_1.db").write_bytes(content)
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    world = World()
    answer = world.ask("/metrics")
    assert 500 == answer.status
    assert "PROMETHEUS_MULTIPROC_DIR" in json.loads(answer.body)["error"]
    assert 200 == world.ask("/livez").status


def test_an_answer_is_made_once_in_a_while():
    """
    Requests within a tenth of a second get the very same answer: a flood costs a lookup each.
    """
    world = World()
    request = Request(method="GET", path="/health")
    assert world.handler.handle(request) is world.handler.handle(request)


def test_what_has_changed_is_in_the_next_answer():
    """
    No answer is older than the last change of a status, however short ago the one before was made.
    """
    world = World()
    seen = []

    def look() -> None:
        seen.append(world.handler.handle(Request(method="GET", path="/readyz")).status)

    world.run(look, 0.001, look)
    assert [503, 200] == seen


@pytest.mark.parametrize("age", [0.0, 1.0])
def test_who_is_woken_by_a_change_never_reads_what_was_before_it(age: float) -> None:
    """
    Also where another thread had begun to look before the change, and comes back after it.
    """

    class Interrupted(VirtualClock):
        change: Callable[[], object] | None = None

        def wall(self) -> float:  # which a snapshot asks for when it has begun
            change, self.change = self.change, None
            if change is not None:
                change()
            return super().wall()

    clock, seen = Interrupted(), []
    handler = Handler(Healer([], clock=clock))
    if age:
        handler.view()
        clock.pass_time(age)

    def change() -> None:
        clock.pass_time(0.01)
        handler.renew()
        seen.append(handler.view().snapshot.at)

    clock.change = change
    handler.view()
    seen.append(handler.view().snapshot.at)
    assert [age + 0.01] * 2 == seen


def test_a_body_that_does_not_come_is_not_waited_for_long():
    """
    After five seconds the answer is 408, and nothing is done.
    """
    world = World(actions=True)
    headers = [(b"authorization", f"Bearer {TOKEN}".encode()), (b"x-selfheal", b"1"), (b"content-length", b"2")]
    scope = {"type": "http", "method": "POST", "path": "/drain", "headers": headers}
    sent = []

    async def send(message):
        sent.append(message)

    async def main() -> float:
        began = trio.current_time()
        received = [{"type": "http.request", "body": b"{", "more_body": True}]

        async def receive():
            if not received:
                await trio.sleep_forever()
            return received.pop()

        await AsgiApp(world.handler)(scope, receive, send)
        return trio.current_time() - began

    assert 5.0 == pytest.approx(trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0)))
    assert (408, False) == (sent[0]["status"], world.handler.draining)


@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [
        ("/nothing", {}, 404),
        ("/livez", {}, 405),
        ("/drain", {}, 401),
        ("/drain", {"HTTP_AUTHORIZATION": f"Bearer {TOKEN}"}, 403),
        ("/drain", {"HTTP_AUTHORIZATION": f"Bearer {TOKEN}", "HTTP_X_SELFHEAL": "1", "CONTENT_LENGTH": "20000"}, 413),
    ],
)
def test_no_body_is_read_that_could_change_nothing(path, headers, status):
    """
    Who may do nothing gets the answer at once, also over WSGI and before the body is sent.
    """
    world = World(actions=True)
    environ = {"REQUEST_METHOD": "POST", "PATH_INFO": path, "CONTENT_LENGTH": "10", **headers}  # and no input
    seen = []
    app = WsgiApp(world.handler)
    world.run(1, lambda: app(environ, lambda line, _: seen.append(line)))
    assert str(status) == seen[0].partition(" ")[0]


@pytest.mark.parametrize(
    ("root", "path", "expected"),
    [
        ("", "/selfheal/livez", 200),
        ("/api", "/api/selfheal/livez", 200),
        ("/api", "/selfheal/livez/", 200),  # as servers do that leave it away
        ("/api/", "/api//selfheal/livez", 200),
        ("/api", "/api/selfheal", 200),
        ("/api", "/api/orders", 418),
        ("", "/selfhealing", 418),
    ],
)
def test_an_application_below_a_root_path_is_told_from_the_health(root: str, path: str, expected: int) -> None:
    """
    Whatever path the proxy before the server has taken away, the probes are below the mount, and all else is yours.
    """
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.request"}

    async def send(message: Any) -> None:
        sent.append(message)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 418, "headers": []})

    scope = {"type": "http", "method": "GET", "path": path, "root_path": root, "query_string": b"", "headers": []}
    both = mounted_asgi(app, AsgiApp(World().handler))
    trio.run(both, scope, receive, send)
    assert expected == sent[0]["status"]


def test_started_is_for_good_whatever_is_left_out_or_asked_for() -> None:
    """
    A check that is added later has not been good yet, which changes nothing of it.
    """
    world = World()
    seen: list[int] = []
    paths = ["/startupz", "/startupz?exclude=zzz", "/startupz?verbose", "/startupz/late"]

    def later() -> None:
        world.down.add("late")
        world.healer.add(HealthCheck(world.probe("late"), name="late", policy=POLICY))

    def look() -> None:
        seen.extend(world.ask(path, token=TOKEN).status for path in paths)

    world.run(1, lambda: world.ask("/startupz"), later, 1, look)
    assert [200] * 4 == seen


def test_each_exclude_counts() -> None:
    """
    Kubernetes' own form, a parameter for each name, leaves out all of them; of any other the last one counts.
    """
    query = query_of("exclude=db&verbose&exclude=cache,x&limit=1&limit=2")
    assert {"exclude": "db,cache,x", "verbose": "", "limit": "2"} == query


def test_only_as_many_incidents_are_told_as_are_asked_for() -> None:
    """
    The latest; of the others no text is even made safe.
    """
    world = World(expose_errors=True)
    world.run(4, breaks(world), 60, breaks(world), 60)
    shown: list[str] = []
    world.healer.redact = lambda text: shown.append(text) or text
    (latest,) = json.loads(world.ask("/incidents?limit=1", token=TOKEN).body)["incidents"]
    once = len(shown)
    both = json.loads(world.ask("/incidents", token=TOKEN).body)["incidents"]
    assert ("db-2", ["db-2", "db-1"]) == (latest["id"], [incident["id"] for incident in both])
    assert 0 < once < len(shown) - once


@pytest.mark.parametrize(
    "where", [{"port": "9464"}, {"port": 65536}, {"port": 0, "host": f"{'x' * 64}.example"}, {"path": "/tmp/a\0b"}]
)
def test_a_place_that_is_none_is_a_setting_that_cannot_work(where: dict[str, Any]) -> None:
    """
    A port that is text, one that is too large, a name that is too long, a path with a null byte.
    """
    with pytest.raises(ConfigError, match="cannot be listened to"):
        listen(Healer(), **where).start()
