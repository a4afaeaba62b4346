"""
What heals a cache: a new epoch, an empty mapping, values loaded in good time, or doing without it for a while.
"""

from __future__ import annotations

import functools

from collections.abc import Awaitable, Callable, Iterable, Iterator
from typing import Any, ClassVar

import attrs

from selfheal.errors import ConfigError, Escalate, SelfHealError
from selfheal.model.ladder import Ladder, RecoveryContext
from selfheal.model.settings import positive, require
from selfheal.recovery import RecoveryAction, rung
from selfheal.recovery.paced import Paced, Part
from selfheal.resources.cache_fetching import GateMode
from selfheal.resources.cache_gate import CacheGate
from selfheal.resources.cache_stores import MISSING
from selfheal.resources.steps import Plan, adrive, drive


def _carry_out(gate: CacheGate[Any, Any], plan: Plan[None]) -> Awaitable[None] | None:
    return adrive(plan) if gate.is_async else drive(plan)


# By identity: each has its own hold on the gate.
@attrs.frozen(repr=False, eq=False)
class CacheMode(RecoveryAction):
    """
    Use less of a cache, until it is well again.

    It is *held*, and its revert takes back what it has set and nothing else:
    the mode before comes back, unless somebody else still wants more. From a
    bypass it goes back once the cache itself has worked for the whole
    probation, and then a new epoch begins, so nothing that is outdated comes back with it.

    Args:
        gate: Of the cache.
        to: `GateMode.BYPASS` if the cache is to blame. `GateMode.STALE_ON_ERROR` in the ladder of what the values
            are loaded from: its faults are then bridged with the last good values.
        name: Of the action: a metric label. Default: ``cache_bypass`` or ``cache_stale_on_error``.

    .. versionadded:: 26.1.0
    """

    gate: CacheGate[Any, Any]
    to: GateMode = attrs.field(converter=GateMode)
    name: str = attrs.field(
        default=attrs.Factory(lambda self: f"cache_{self.to.name.lower()}", takes_self=True), kw_only=True
    )

    def recover(self, ctx: RecoveryContext) -> None:
        """
        Change the mode.
        """
        before = self.gate.mode
        self.gate.hold(self, self.to)
        ctx.log(f"{self.gate.name} goes from {before.name} to {self.gate.mode.name}")

    def revert(self, ctx: RecoveryContext) -> None:
        """
        Give the mode before back. In a process that has just started nothing is to be done.
        """
        self.gate.release(self)
        ctx.log(f"{self.gate.name} is at {self.gate.mode.name}")

    def revert_when(self) -> Awaitable[None] | None:
        """
        Whether the cache works, if it is bypassed. Raises what it raises.
        """
        return _carry_out(self.gate, self.gate.looking()) if self.to is GateMode.BYPASS else None

    def plan(self) -> str:
        """
        What it would do.
        """
        return f"use no more of {self.gate.name} than {self.to.name} allows; it is at {self.gate.mode.name}"


@attrs.frozen(repr=False)
class BumpEpoch(RecoveryAction):
    """
    Begin a new epoch: all that is in the cache becomes invisible at once, and nothing is flushed.

    Against ``poisoned``. What has been loaded meanwhile is loaded again. To
    do it twice does no harm but to the hit ratio.

    Args:
        gate: Of the cache.
        name: Of the action: a metric label.

    .. versionadded:: 26.1.0
    """

    kinds: ClassVar = frozenset({"poisoned"})

    gate: CacheGate[Any, Any]
    name: str = attrs.field(default="bump_epoch", kw_only=True)

    def recover(self, ctx: RecoveryContext) -> Awaitable[None] | None:
        """
        Begin one.

        Raises:
            Exception: What a shared cache raised: it is in force here, and the other processes do not know yet.
        """
        return _carry_out(self.gate, self._bumping(ctx))

    def plan(self) -> str:
        """
        What it would do.
        """
        return f"make all that {self.gate.name} has older than a new epoch (now {self.gate.epoch})"

    def _bumping(self, ctx: RecoveryContext) -> Plan[None]:
        yield from self.gate.bumping()
        ctx.log(f"{self.gate.name} is in epoch {self.gate.epoch}", epoch=self.gate.epoch)


@attrs.frozen(repr=False)
class ClearCache(RecoveryAction):
    """
    Empty a mapping, under its lock. This mends a cache of cachetools that was corrupted by threads without a lock.

    Against ``corrupt`` and ``grown``.

    Args:
        gate: Of the cache.
        name: Of the action: a metric label.

    Raises:
        ConfigError: If the cache is shared: it may hold what is not ours, and is never emptied.

    .. versionadded:: 26.1.0
    """

    kinds: ClassVar = frozenset({"corrupt", "grown"})

    gate: CacheGate[Any, Any]
    name: str = attrs.field(default="clear_cache", kw_only=True)

    def __attrs_post_init__(self) -> None:
        if self.gate.is_shared:
            msg = f"{self.gate.name} is a shared cache, which is never emptied. Use BumpEpoch: old entries expire."
            raise ConfigError(msg)

    def recover(self, ctx: RecoveryContext) -> None:
        """
        Empty it, and see that it works.

        Raises:
            Exception: What it raises even then.
        """
        self.gate.clear()
        drive(self.gate.looking())
        ctx.log(f"{self.gate.name} is empty")

    def plan(self) -> str:
        """
        What it would do.
        """
        return f"empty {self.gate.name}"


def _keys(given: Callable[[], Iterable[Any]] | Iterable[Any]) -> Callable[[], Iterable[Any]]:
    if callable(given):
        return given
    keys = tuple(given)
    return lambda: keys


@attrs.frozen(repr=False)
class WarmCache(Paced):
    """
    Get values that will be wanted, so many a second and no faster.

    Against ``cold``, or after something else: ``BumpEpoch(gate) + WarmCache(gate, keys, per_second=10)``. What is
    there already is not loaded again. It stops early when its time is up, which is no failure: whether it was
    enough is seen by the next looks. When the incident is over or the healer stops, it stops as well. No thread
    waits between two values, and virtual time covers that.

    It has failed if not a single value could be loaded, and cannot help if the cache is bypassed.

    Args:
        gate: Of the cache.
        keys: Which, the most wanted first: a few, or a function that gives them.
        per_second: At most.
        name: Of the action: a metric label.

    Raises:
        ConfigError: If *per_second* is no finite number above 0.

    .. versionadded:: 26.1.0
    """

    gate: CacheGate[Any, Any]
    keys: Callable[[], Iterable[Any]] = attrs.field(converter=_keys)
    per_second: float = attrs.field(kw_only=True)
    name: str = attrs.field(default="warm_cache", kw_only=True)

    def __attrs_post_init__(self) -> None:
        require(self, positive, "per_second")

    def plan(self) -> str:
        """
        What it would do.
        """
        return f"get values of {self.gate.name}, {self.per_second:g} a second at most"

    def parts(self) -> Part:
        """
        Begin with the first value.
        """
        return _Warming(self)


class _Warming(Part):
    """
    One warm-up: a value in each part.
    """

    def __init__(self, action: WarmCache) -> None:
        self.name = action.name
        self._action = action
        self._keys: Iterator[Any] | None = None
        self._key: Any = MISSING
        self._got = self._failed = 0

    def recover(self, ctx: RecoveryContext) -> Awaitable[None] | None:
        return _carry_out(self._action.gate, self._warming(ctx))

    def _warming(self, ctx: RecoveryContext) -> Plan[None]:
        gate = self._action.gate
        if gate.mode is GateMode.BYPASS:
            msg = f"{gate.name} is bypassed: nothing can be stored in it"
            raise Escalate(msg)
        if self._keys is None:
            self._keys = iter((yield self._action.keys))
            self._key = next(self._keys, MISSING)
        if self._key is not MISSING:
            yield from self._getting(self._key)
            self._key = next(self._keys, MISSING)
        pause = 1 / self._action.per_second
        if self._key is not MISSING and ctx.remaining() > 2 * pause:  # that one needs a moment too
            self.pause = pause
            return
        self.pause = None
        ctx.log(f"{self._got} values of {gate.name} are there", got=self._got, failed=self._failed)
        if self._failed and not self._got:
            msg = f"none of {self._failed} values of {gate.name} could be loaded"
            raise SelfHealError(msg)

    def _getting(self, key: Any) -> Plan[None]:
        gate = self._action.gate
        try:
            yield functools.partial(gate.aget if gate.is_async else gate.get, key)
            self._got += 1
        except Exception:  # noqa: BLE001 - one value that cannot be had is no reason to leave the others out
            self._failed += 1


#: What a bypass helps against: the cache, not what the values are loaded from.
_BYPASS_KINDS = frozenset({"corrupt", "poisoned", "down", "timeout", "slow", "stuck", "error", "auth"})


def cache_ladder(
    gate: CacheGate[Any, Any],
    *,
    keys: Callable[[], Iterable[Any]] | Iterable[Any] | None = None,
    per_second: float = 10.0,
) -> Ladder:
    """
    The ladder for the faults that `CacheHealth` tells apart, ready to use.

    ============ ==============================================
    kind         rungs, the cheapest first
    ============ ==============================================
    ``corrupt``  `ClearCache`, then a bypass
    ``grown``    `ClearCache`
    ``poisoned`` `BumpEpoch`, then a bypass
    ``cold``     `WarmCache`, if *keys* are given
    ``down``     a bypass, also for ``timeout``, ``slow``,
                 ``stuck``, ``error`` and ``auth``
    ``full``     none: that is for whoever runs the server
    ============ ==============================================

    A bypass is a held `CacheMode`. Nothing is ever flushed.

    Args:
        gate: Of the cache.
        keys: As for `WarmCache`.
        per_second: As for `WarmCache`.

    .. versionadded:: 26.1.0
    """
    ladder = rung(BumpEpoch(gate), attempts=2, cooldown=1.0)
    if not gate.is_shared:
        ladder = rung(ClearCache(gate), attempts=2, cooldown=1.0) >> ladder
    if keys is not None:
        ladder = ladder >> WarmCache(gate, keys, per_second=per_second).when(kinds={"cold"})
    return ladder >> CacheMode(gate, GateMode.BYPASS).when(kinds=_BYPASS_KINDS)
