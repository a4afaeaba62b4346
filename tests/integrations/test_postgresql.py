"""
Who hangs, by what a server says of its processes.
"""

from __future__ import annotations

import pytest

from selfheal.integrations.postgresql import judge


HERE = "10.0.0.1 5432"


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ([(9, "asks", HERE), (1, "rests", HERE), (2, "works", HERE)], (["one", "gone"], ["two"])),
        ([(9, "asks", None), (1, "works", None), (2, "works", None)], (["gone"], ["one", "two"])),
        ([(9, "asks", "10.0.0.7 5432"), (1, "rests", "10.0.0.7 5432")], (["one"], [])),
        ([(9, "rests", HERE), (1, "rests", HERE)], ([], [])),
        ([(8, "asks", HERE), (1, "rests", HERE)], ([], [])),
        ([], ([], [])),
    ],
    ids=[
        "one server",
        "a socket of the same machine",
        "behind a balancer",
        "not tracked",
        "behind a pooler",
        "nothing",
    ],
)
def test_a_query_hangs_if_the_server_that_has_it_does_not_work_on_it(answer, expected):
    """
    A process that is not there hangs only if it could be nowhere else: behind a balancer it may be another server's.
    """
    suspects = {"one": 1, "two": 2, "gone": 3}
    assert expected == judge(suspects, answer, own=9, dialled=HERE)
