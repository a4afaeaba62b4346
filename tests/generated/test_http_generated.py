"""
Requests that schemathesis makes up from a description of what we answer: sensible ones and others.

It takes longer to install than to run, so it has a session of nox to itself.
"""

from __future__ import annotations

import collections
import contextlib

from collections.abc import Iterator
from typing import Any

import hypothesis
import prometheus_client
import pytest
import requests
import schemathesis

from schemathesis import GenerationMode
from serving import uvicorn_serving

from selfheal import Healer, HealthCheck, recovery_action
from selfheal.export.http import asgi_app, health_schema, listen


pytestmark = pytest.mark.timeout(600)  # to make them up takes far longer than to answer them
TOKEN = "correct horse battery staple"

#: Requests to each server.
ENOUGH = 1_000


def parameter(name: str, where: str = "query", **schema: Any) -> dict[str, Any]:
    """A parameter; of a path it is needed."""
    return {"name": name, "in": where, "required": where == "path", "schema": {"type": "string", **schema}}


def said(*statuses: int, **content: Any) -> dict[str, Any]:
    """The answers that there are: these, and those that every path has."""
    every = (400, 401, 404, 405, 431)
    found: dict[str, Any] = {str(status): {"description": "no"} for status in every}
    return found | {str(status): {"description": "yes", **content} for status in statuses}


def read(*parameters: dict[str, Any], answers: dict[str, Any]) -> dict[str, Any]:
    """Something to look at."""
    headers = (
        parameter("Authorization", "header"),
        parameter("Accept", "header"),
        parameter("X-Forwarded-For", "header"),
    )
    return {"get": {"parameters": [*parameters, *headers], "responses": answers}}


def write(**properties: dict[str, Any]) -> dict[str, Any]:
    """Something to wish for."""
    body = {"application/json": {"schema": {"type": "object", "properties": properties}}}
    guard = parameter("X-SelfHeal", "header", enum=["1"])
    answers = said(200, 202, 403, 408, 409, 411, 413)
    return {"post": {"parameters": [guard], "requestBody": {"content": body}, "responses": answers}}


CHECK = parameter("check", "path", enum=["db", "cache", "nothing"])
LIMIT = parameter("limit", type="integer", minimum=1)
VERBOSE = (parameter("verbose"), parameter("exclude"))
HEALTH = {"content": {"application/health+json": {"schema": health_schema()}}}
PATHS = {
    **{f"/{group}": read(*VERBOSE, answers=said(200, 503)) for group in ("livez", "readyz", "startupz")},
    **{f"/{group}/{{check}}": read(CHECK, answers=said(200, 503)) for group in ("livez", "readyz", "startupz")},
    "/health": read(answers=said(200, 503, **HEALTH)),
    "/state": read(answers=said(200)),
    "/incidents": read(LIMIT, parameter("check"), answers=said(200)),
    "/history": read(LIMIT, parameter("check"), answers=said(200)),
    "/metrics": read(answers=said(200)),
    "/": read(answers=said(200)),
    "/pause": write(reason={"type": "string"}, ttl={"type": "number"}, resource={"type": "string"}),
    "/resume": write(reason={"type": "string"}, resource={"type": "string"}),
    "/heal": write(check={"type": "string", "enum": ["db", "cache", "nothing"]}),
    "/drain": write(drain={"type": "boolean"}),
}
SCHEMA = schemathesis.openapi.from_dict(
    {"openapi": "3.1.0", "info": {"title": "selfheal", "version": "1"}, "paths": PATHS}
)


@recovery_action
def warm(ctx: object) -> None:
    """What can be asked for."""


@pytest.fixture
def healer() -> Iterator[Healer]:
    """It runs."""
    checks = [
        HealthCheck(lambda: None, name="db", interval=0.2, timeout=10),
        HealthCheck(lambda: None, name="cache", interval=0.2, timeout=10, recovery=warm),
    ]
    with Healer(checks, registry=prometheus_client.CollectorRegistry()) as healer:
        yield healer


@pytest.fixture(params=["uvicorn", "listener"])
def address(request: pytest.FixtureRequest, healer: Healer) -> Iterator[str]:
    """Where it is asked."""
    if request.param == "uvicorn":
        with uvicorn_serving(asgi_app(healer, TOKEN, actions=True)) as port:
            yield f"http://127.0.0.1:{port}"
    else:
        with listen(healer, TOKEN, port=0, actions=True) as listener:
            yield listener.address


def test_no_request_is_a_fault_of_ours(address: str) -> None:
    """
    A thousand requests to each server, with the token and without, get an answer that is described, none of them a 5xx
    but the 503 of what is not well.
    """
    operations = [found.ok() for found in SCHEMA.get_all_operations()]
    assert len(PATHS) == len(operations)
    counted: collections.Counter[int] = collections.Counter()
    seed = 0
    with requests.Session() as session:
        session.trust_env = False
        while counted.total() < ENOUGH:
            for operation in operations:
                for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
                    counted += asked(operation, mode, seed, address, session)
            seed += 1
    assert {200, 202, 400, 401, 404} <= set(counted)


def asked(operation: Any, mode: GenerationMode, seed: int, address: str, session: requests.Session) -> Any:
    """The statuses of what this seed makes of an operation."""
    counted: collections.Counter[int] = collections.Counter()
    described = {int(status) for status in operation.definition.raw["responses"]}
    cases = operation.as_strategy(generation_mode=mode)

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=20, deadline=None, database=None, suppress_health_check=list(hypothesis.HealthCheck)
    )
    @hypothesis.given(case=cases, allowed=hypothesis.strategies.booleans())
    def ask(case: schemathesis.Case, allowed: bool) -> None:
        headers = {"Authorization": f"Bearer {TOKEN}", "X-SelfHeal": "1"} if allowed else {}
        answer = case.call(base_url=address, session=session, headers=headers, timeout=30)
        counted[answer.status_code] += 1
        assert answer.status_code in described, (case.as_curl_command(), answer.status_code, answer.content)
        if case.path == "/health":
            operation.validate_response(answer)

    with contextlib.suppress(hypothesis.errors.Unsatisfiable):  # there is no wrong way to ask for this one
        ask()
    return counted
