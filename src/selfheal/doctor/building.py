"""
What `Rebuildable` objects make, for the time of a look: only if it was asked for, because it may connect.
"""

from __future__ import annotations

import contextlib

from collections.abc import Generator, Sequence
from typing import Any

from selfheal.doctor.targets import telling
from selfheal.doctor.walk import Found


@contextlib.contextmanager
def built(unbuilt: Sequence[Found]) -> Generator[None]:
    """
    Let each of them make its object, and close it at the end.

    Raises:
        ConfigError: If one of them could not.
    """
    import asyncio  # nobody else here needs it

    with contextlib.ExitStack() as stack:
        runner = stack.enter_context(asyncio.Runner())

        def do(thing: Any, what: str) -> None:
            if thing.is_async:
                runner.run(getattr(thing, f"a{what}")())
            else:
                getattr(thing, what)()

        for found in unbuilt:
            with telling(f"{found.name} could not be built"):
                do(found.thing, "ensure")
            stack.callback(do, found.thing, "close")
        yield
