"""
Objects that a forked child process must forget.
"""

from __future__ import annotations

import os
import weakref

from typing import Protocol


class Forgetful(Protocol):
    """
    What has something to forget.
    """

    def reset_after_fork(self) -> None:
        """
        Forget what belongs to the parent process.
        """
        ...


_all: list[weakref.WeakSet[Forgetful]] = []

#: What children inherited. Freeing it there would end the parent's connections (libpq says good-bye for them).
_inherited: list[object] = []


def reset_in_children(thing: Forgetful) -> None:
    """
    Have ``thing.reset_after_fork()`` called in every child process, for as long as *thing* lives.
    """
    # One hook for the process, set by the first object: a hook cannot be taken back, and none is set at import.
    if not _all:
        _all.append(weakref.WeakSet())
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=_reset)
    _all[0].add(thing)


def keep_inherited(value: object) -> None:
    """
    Keep *value* for as long as this process lives: one object for each fork at most.
    """
    _inherited.append(value)


def _reset() -> None:
    errors: list[Exception] = []
    for thing in tuple(_all[0]):
        try:
            thing.reset_after_fork()
        except Exception as exc:  # noqa: BLE001 - one that fails must not leave the others with their parent's state
            errors.append(exc)
    if errors:
        raise errors[0]  # the interpreter reports it
