"""
Which trace an incident has: written by whoever makes spans, read by whoever counts. Neither need know the other.
"""

from __future__ import annotations

import weakref

from typing import TYPE_CHECKING, Final, TypeAlias


if TYPE_CHECKING:
    from selfheal.healer import Healer
    from selfheal.model import Event

#: By check: the number of its open or last incident that is recorded, and the trace.
Traces: TypeAlias = "dict[str, tuple[int | None, str]]"

#: By healer.
recorded: Final[weakref.WeakKeyDictionary[Healer, Traces]] = weakref.WeakKeyDictionary()


def exemplar_of(healer: Healer | None, event: Event) -> dict[str, str] | None:
    """
    The labels that lead from what *event* counts to the trace of its incident; `None`: that is not recorded.
    """
    if healer is None or event.incident is None:
        return None
    number, trace = recorded.get(healer, {}).get(event.check, (None, ""))
    return {"trace_id": trace} if number == event.incident else None
