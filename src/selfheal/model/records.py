"""
What is remembered: entries, events, incidents. Values only.
"""

from __future__ import annotations

import enum

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Final, Protocol, TypeAlias

import attrs

from selfheal.model.health import Fault


if TYPE_CHECKING:
    from selfheal.clock import Clock
    from selfheal.model.held import HeldChange, HeldKey, HeldPhase


#: What a field of an entry may hold: enough for logs, JSON and metrics, and nothing that can hold a secret by accident.
Field: TypeAlias = str | int | float | bool | None

_NO_FIELDS: Final[Mapping[str, Field]] = {}


@attrs.frozen
class Entry:
    """
    One line of a timeline.

    Args:
        at: Monotonic seconds.
        event: A name from `selfheal.names.EVENTS`.
        fields: Details; their keys are listed with the event.
    """

    at: float
    event: str
    fields: Mapping[str, Field] = _NO_FIELDS


@attrs.frozen(kw_only=True)
class Event:
    """
    One happening, as listeners, journals and exporters get it.

    Args:
        name: A name from `selfheal.names.EVENTS`.
        at: Monotonic seconds.
        check: The check concerned, or "" for the healer itself.
        resource: Its resource, or "".
        incident: The number of the check's open incident, or `None`.
        fields: Details; their keys are listed with the event.
        error: The exception behind it. It never leaves the process but through ``log_errors``.
    """

    name: str
    at: float
    check: str = ""
    resource: str = ""
    incident: int | None = None
    fields: Mapping[str, Field] = _NO_FIELDS
    error: BaseException | None = attrs.field(default=None, eq=False, repr=False)


class IncidentResult(enum.Enum):
    """
    How an incident ended, decided when it closes.
    """

    HEALED = "healed"
    SELF_RESOLVED = "self_resolved"
    EXHAUSTED = "exhausted"
    SUPPRESSED = "suppressed"
    ABORTED = "aborted"


@attrs.frozen(kw_only=True)
class Incident:
    """
    One healing, from the confirmed fault to the end of probation.

    All times are monotonic seconds, but for *opened_wall*.

    Args:
        number: 1 for the first incident of its check.
        trigger: The fault that confirmed it.
        began: When the first bad result counted had started.
        opened: When the fault was confirmed.
        check: The check's name.
        resource: The resource's name.
        recovered: When health was last proved, or `None`.
        ended: When it closed, or `None` while it is open.
        result: How it ended, or `None` while it is open.
        actions: Actions started.
        timeline: What happened, oldest first, at most `TIMELINE_LIMIT` entries.
        dropped: Entries beyond that limit.
        opened_wall: Seconds since 1970 when it was opened, for people.
    """

    number: int
    trigger: Fault
    began: float
    opened: float
    check: str = ""
    resource: str = ""
    recovered: float | None = None
    ended: float | None = None
    result: IncidentResult | None = None
    actions: int = 0
    timeline: tuple[Entry, ...] = ()
    dropped: int = 0
    opened_wall: float | None = None

    @property
    def time_to_detect(self) -> float:
        """
        Seconds from the first bad result to the confirmed fault.
        """
        return self.opened - self.began

    @property
    def time_to_recover(self) -> float | None:
        """
        Seconds from the first bad result to proved health, or `None` as long as that has not come.
        """
        return None if self.recovered is None else self.recovered - self.began


#: Entries kept of one incident. A story longer than this is told by its beginning; the rest is counted.
TIMELINE_LIMIT: Final = 512


class Journal(Protocol):
    """
    Keeps what happened, and which held changes are in force, beyond the life of the process.

    All but `write` are called on the loop's thread and must return at once;
    they answer later, from any thread. What they raise is told and changes
    nothing.
    """

    def start(self, clock: Clock, tell: Callable[[str, Mapping[str, Field]], None]) -> None:
        """
        A healer starts.

        Args:
            clock: Dates events. If it is virtual, there are no other threads: answer at once.
            tell: Takes an event of the journal's own and its fields, from any thread.

        Raises:
            ConfigError: If this can never be written.
        """
        ...

    def write(self, event: Event) -> None:
        """
        Keep *event*. It is called in order, from one thread; what it raises is counted and changes nothing.
        """
        ...

    def mark(self, key: HeldKey, phase: HeldPhase, answer: Callable[[bool], object]) -> None:
        """
        Write down how far a held change has come; answer whether that will outlive the process.
        """
        ...

    def claim(self, keys: Collection[HeldKey], answer: Callable[[Sequence[HeldChange]], object]) -> None:
        """
        Answer with the open changes that nobody alive answers for, in the order in which they were applied.

        Those of *keys* belong to this process from now on, and to no other.
        """
        ...

    def close(self, done: Callable[[], object]) -> None:
        """
        Write what there is, let go of everything, and call *done*. It may be started again.
        """
        ...
