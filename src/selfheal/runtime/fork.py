"""
What a forked child must not inherit: threads that are not there, locks that nobody will release.
"""

from __future__ import annotations

import os
import weakref

from typing import Protocol


class Forked(Protocol):
    """
    Something that has to begin anew in a child process.
    """

    def after_fork(self) -> None:
        """
        Called in the child, in the one thread it has.
        """
        ...


#: What a child has inherited and must neither use nor free: finalizers would close what belongs to the parent.
_inherited: list[object] = []

_guarded: weakref.WeakSet[Forked] = weakref.WeakSet()
_installed = False


def guard(thing: Forked) -> None:
    """
    Have ``after_fork`` called on *thing* in every child process.
    """
    global _installed
    _guarded.add(thing)
    if not _installed and hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_in_child)
        _installed = True


def _in_child() -> None:
    for thing in list(_guarded):
        thing.after_fork()


def abandon(*things: object) -> None:
    """
    Keep what came from the parent untouched for ever. Bounded by one set a fork and healer.
    """
    _inherited.extend(things)
