"""
Looking at objects that would rather run something than be looked at.
"""

from __future__ import annotations

import functools
import types

from collections import deque
from collections.abc import Callable
from typing import Any

import pytest

from selfheal import Healer, HealthCheck
from selfheal.doctor import audit
from selfheal.doctor.walk import MEMBERS_MAX, THINGS_MAX, reached


class Held:
    """What has to be found."""


HELD = Held()


def ran(*_args: Any, **_kwargs: Any) -> Any:
    """What no look may run."""
    raise BaseException("foreign code ran")


class Dict(dict):
    items = keys = values = get = copy = __iter__ = __len__ = __getitem__ = __contains__ = ran


class List(list):
    __iter__ = __len__ = __getitem__ = ran


class Tuple(tuple):  # noqa: SLOT001 - as an application would write it
    __iter__ = __len__ = __getitem__ = ran


class Set(set):
    __iter__ = __len__ = __contains__ = ran


class Deque(deque):
    __iter__ = __len__ = __getitem__ = ran


class Text(str):  # noqa: SLOT000 - as an application would write it
    __hash__ = str.__hash__
    __repr__ = __eq__ = startswith = partition = ran


class Meta(type):
    __getattribute__ = __hash__ = __eq__ = __subclasscheck__ = __instancecheck__ = __repr__ = ran  # type: ignore[assignment]


class Asked:
    __getattribute__ = __getattr__ = __eq__ = __repr__ = __bool__ = __len__ = __iter__ = __call__ = ran
    __class__ = property(ran)


class Hidden:
    __slots__ = ("__dict__", "other")


class HidesDict(Hidden):
    __dict__ = property(ran)


class Strange:
    held: object


Strange.__module__ = property(ran)  # type: ignore[assignment]


def with_held(thing: Any) -> Any:
    object.__setattr__(thing, "held", HELD)
    return thing


def of_metaclass() -> Any:
    # Made here, for pytest asks every class of this module for its attributes.
    return with_held(Meta("WithMeta", (), {"__slots__": ("held",)})())


def as_default() -> Callable[..., object]:
    def function(*, default: object = HELD) -> object:
        return default

    function.__kwdefaults__ = Dict(default=HELD)
    return function


THINGS: dict[str, Callable[[], Any]] = {
    "dict": lambda: Dict(held=HELD),
    "list": lambda: List([HELD]),
    "tuple": lambda: Tuple([HELD]),
    "set": lambda: Set([HELD]),
    "deque": lambda: Deque([HELD]),
    "mapping behind a proxy": lambda: types.MappingProxyType(Dict(held=HELD)),
    "metaclass": of_metaclass,
    "attributes": lambda: with_held(Asked()),
    "property __dict__": lambda: with_held(HidesDict()),
    "property __module__": lambda: with_held(Strange()),
    "partial": lambda: functools.partial(ran, HELD),
    "cached": lambda: with_held(functools.lru_cache(ran)),
    "defaults": as_default,
}


@pytest.mark.parametrize("name", THINGS)
def test_nothing_of_what_is_looked_at_runs(name: str) -> None:
    """
    Whatever an object overrides, what it holds is found and none of its code runs.
    """
    found = reached(THINGS[name](), "thing")

    assert any(each.thing is HELD for each in found)
    assert [] == [each.hidden for each in found if each.hidden]


def test_a_key_is_never_asked_what_it_is_called() -> None:
    """
    A value is found under the name of its dict when its key is no plain string.
    """
    found = reached({Text("key"): HELD, "plain": [HELD]}, "thing")

    assert {"thing", "thing['plain']"} == {each.name for each in found}
    assert ["thing"] == [each.name for each in found if each.thing is HELD]


@pytest.mark.parametrize(
    ("thing", "why"),
    [
        ([[number] for number in range(MEMBERS_MAX + 1)], f"it has {MEMBERS_MAX + 1} members"),
        ([[[n] for n in range(MEMBERS_MAX)] for _ in range(THINGS_MAX // MEMBERS_MAX + 1)], "it leads to more than"),
        (list(range(MEMBERS_MAX + 1)), ""),
    ],
)
def test_what_was_not_looked_at_is_said(thing: object, why: str) -> None:
    """
    An object of which only a part was looked at is named with the reason, unless nothing could be in it.
    """
    hidden = {found.name: found.hidden for found in audit(Healer([]), others={"app:thing": thing}).hidden}

    assert ([] if not why else ["app:thing"]) == list(hidden)
    assert hidden.get("app:thing", "").startswith(why)


def test_a_rule_survives_whatever_a_client_raises() -> None:
    """
    A property that ends the process is an info about the rule that read it.
    """
    psycopg_pool = pytest.importorskip("psycopg_pool")

    class Pool(psycopg_pool.ConnectionPool):  # type: ignore[misc, name-defined]
        reconnect_timeout = property(lambda self: ran(), lambda self, value: None)

    pool = Pool("host=db", open=False)
    findings = audit(Healer([HealthCheck(lambda: None, name="db")]), others={"app:pool": pool}).findings

    assert ["SH106"] == [found.code for found in findings if "looking raised BaseException" in found.problem]
    assert "SH101" in {found.code for found in findings}
