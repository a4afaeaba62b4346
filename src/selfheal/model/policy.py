"""
How patient a check is, and how much healing is allowed. Numbers only.
"""

from __future__ import annotations

import math

from typing import TYPE_CHECKING, Final

import attrs

from selfheal.errors import ConfigError
from selfheal.model.settings import at_least_one, not_negative, positive, require, seconds, share


if TYPE_CHECKING:
    import datetime as dt

#: "Derive it": inside this file only; what a policy shows is always a number.
_DERIVED: Final = math.nan


def _or_derived(value: float | dt.timedelta | None) -> float:
    return _DERIVED if value is None else seconds(value)


def _or_zero(value: int | None) -> int:
    return 0 if value is None else value


_POSITIVE: Final = (
    "interval",
    "fast_interval",
    "timeout",
    "action_timeout",
    "stale_after",
    "verify_within",
    "max_incident_age",
    "retry_after",
)


@attrs.frozen(kw_only=True)
class HealingPolicy:
    """
    When a check looks, when it believes what it sees, and how long it tries.

    All times are in seconds and accept a `timedelta`.

    Args:
        interval: From the start of one run to the start of the next, while all is well.
        fast_interval: The same while something is wrong. Default: ``min(1, interval)``.
        timeout: Hard deadline of one run; it may be longer than the interval.
        action_timeout: Hard deadline of one recovery action.
        jitter: Share by which due times are spread, at least 0 and less than 1.
        startup_grace: For so long bad results are recorded, not counted; the first good one ends it.
        stale_after: Without a known result for so long the check shows UNKNOWN. Default: 3 x interval.
        fall: So many bad results confirm a fault ...
        fall_window: ... among so many known ones. Default: ``fall + 2``, because strictly consecutive
            results would miss a check that alternates.
        fall_for: ... and not before the suspicion is so old.
        rise: So many good results in a row prove health.
        verify_within: A healing must prove itself within so long after it has settled.
        probation: And stay proved for so long.
        max_actions: Actions in one incident.
        max_incident_age: Time an incident may take, counted while its gates are open.
        retry_after: When a ladder is exhausted, its harmless rungs are tried again so often.
        heal_degraded: Count DEGRADED as bad.

    Raises:
        ConfigError: If a number is out of range, or two of them cannot work together.
    """

    # interval 10, timeout 5, fall 3, rise 2: between Kubernetes (10, 1, 3, 1) and HAProxy (2, -, 3, 2).
    interval: float = attrs.field(default=10.0, converter=seconds)
    fast_interval: float = attrs.field(default=None, converter=_or_derived)
    timeout: float = attrs.field(default=5.0, converter=seconds)
    action_timeout: float = attrs.field(default=60.0, converter=seconds)
    jitter: float = 0.1
    startup_grace: float = attrs.field(default=0.0, converter=seconds)
    stale_after: float = attrs.field(default=None, converter=_or_derived)
    fall: int = 3
    fall_window: int = attrs.field(default=None, converter=_or_zero)
    fall_for: float = attrs.field(default=0.0, converter=seconds)
    rise: int = 2
    verify_within: float = attrs.field(default=30.0, converter=seconds)
    probation: float = attrs.field(default=60.0, converter=seconds)
    max_actions: int = 20
    max_incident_age: float = attrs.field(default=3600.0, converter=seconds)
    retry_after: float = attrs.field(default=1800.0, converter=seconds)
    heal_degraded: bool = False

    def __attrs_post_init__(self) -> None:
        if math.isnan(self.fast_interval):
            object.__setattr__(self, "fast_interval", min(1.0, self.interval))
        if math.isnan(self.stale_after):
            object.__setattr__(self, "stale_after", 3 * self.interval)
        if self.fall_window == 0:
            object.__setattr__(self, "fall_window", self.fall + 2)
        require(self, positive, *_POSITIVE)
        require(self, not_negative, "startup_grace", "fall_for", "probation")
        require(self, share, "jitter")
        require(self, at_least_one, "fall", "fall_window", "rise", "max_actions")
        if self.fast_interval > self.interval:
            msg = (
                f"fast_interval={self.fast_interval} is longer than interval={self.interval}: "
                "it is for looking more often while something is wrong. Lower it or leave it out."
            )
            raise ConfigError(msg)
        if self.fall > self.fall_window:
            msg = (
                f"fall={self.fall} bad results never fit into fall_window={self.fall_window}. "
                "Raise fall_window or leave it out."
            )
            raise ConfigError(msg)
        self.require_provable()

    def require_provable(self, *, settle: float = 0.0, verify_within: float | None = None) -> None:
        """
        Refuse a verification that could never succeed.

        ``rise`` good results need ``(rise - 1) x fast_interval + timeout`` after the action has settled.

        Raises:
            ConfigError: If *verify_within* (default: the policy's) is shorter than that.
        """
        given = self.verify_within if verify_within is None else verify_within
        needed = settle + (self.rise - 1) * self.fast_interval + self.timeout
        if given < needed:
            msg = (
                f"verify_within={given} can never be met: settle={settle} and rise={self.rise} good results "
                f"{self.fast_interval} s apart with timeout={self.timeout} need {needed:g} s. "
                f"Set verify_within to {needed:g} or more, or lower timeout."
            )
            raise ConfigError(msg)


@attrs.frozen
class Budget:
    """
    At most *limit* actions start within any *per* seconds.

    Only a healing that survived its probation gives its actions back.

    Args:
        limit: Actions, 1 or more.
        per: Length of the sliding window in seconds.

    Raises:
        ConfigError: If a number is out of range.
    """

    # Erlang/OTP: 1 restart per 5 s; systemd: 5 per 10 s; process default here: 10 per 10 min.
    limit: int
    per: float = attrs.field(kw_only=True, converter=seconds)

    def __attrs_post_init__(self) -> None:
        require(self, at_least_one, "limit")
        require(self, positive, "per")

    def require_closable(self, *, spacing: float, what: str) -> None:
        """
        Refuse a budget that could never close.

        Args:
            spacing: Shortest time in seconds from the start of one action to the start of the next.
            what: Whose actions, for the message.

        Raises:
            ConfigError: If *limit* actions never fall within *per* seconds.
        """
        needed = self.limit * spacing
        if self.per < needed:
            msg = (
                f"Budget({self.limit}, per={self.per:g}) could never close for {what}: its actions are at least "
                f"{spacing:g} s apart, so {self.limit} of them take {needed:g} s. "
                f"Lower the limit, or set per to {needed:g} or more."
            )
            raise ConfigError(msg)
