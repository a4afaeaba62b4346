"""
Probes of caches: whether one is corrupt, poisoned, grown, cold or gone, and whether a Redis runs out of memory.
"""

from __future__ import annotations

import inspect

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

from selfheal.errors import ConfigError, Unhealthy
from selfheal.model.health import CheckResult, Fault, HealthStatus
from selfheal.resources.cache_fetching import CacheStatistics, GateMode
from selfheal.resources.cache_gate import CacheGate
from selfheal.resources.steps import Plan, adrive, drive


class CacheHealth:
    """
    A probe of a `CacheGate` and the cache behind it. Asking costs one read of a shared cache, and nothing of others.

    It tells, the worst first:

    ============ ===========================================================================================
    kind         what was seen
    ============ ===========================================================================================
    ``down``     a shared cache does not answer
    ``corrupt``  the mapping raises when asked for its size, or when it was read or written since the last look
    ``poisoned`` more than *max_invalid* values since the last look were refused by the validator
    ``grown``    the mapping has more than *max_entries*
    ``cold``     the cache had less than *min_hit_ratio* of what was asked for since the last look
    ============ ===========================================================================================

    During a bypass the cache does not matter to anybody: it is *degraded*, of
    kind ``down``. What is counted since the last look begins anew with every epoch.

    Args:
        gate: What to look at.
        max_entries: Entries that a mapping may have; `None`: any number. Bounded caches bound themselves.
        max_invalid: Refused values between two looks that are no reason to worry: each was dropped already.
        min_hit_ratio: From 0 to 1; 0 to not look.
        min_reads: Values asked for since the last look, without which the ratio says nothing.

    Raises:
        ConfigError: If a number is out of range.

    .. versionadded:: 26.1.0
    """

    def __init__(
        self,
        gate: CacheGate[Any, Any],
        *,
        max_entries: int | None = None,
        max_invalid: int = 0,
        min_hit_ratio: float = 0.0,
        min_reads: int = 100,
    ) -> None:
        numbers = {"max_entries": max_entries or 0, "max_invalid": max_invalid, "min_reads": min_reads}
        for what, number in {**numbers, "min_hit_ratio": min_hit_ratio}.items():
            if not 0 <= number <= (1 if what == "min_hit_ratio" else float("inf")):
                msg = f"{what}={number!r} is out of range: counts are 0 or more, a ratio is from 0 to 1."
                raise ConfigError(msg)
        self.gate: Final = gate
        self.is_async: Final = gate.is_async
        self._max_entries = max_entries
        self._max_invalid = max_invalid
        self._min_hit_ratio = min_hit_ratio
        self._min_reads = max(1, min_reads)
        self._last = gate.statistics()

    def __call__(self) -> Awaitable[CheckResult | None] | CheckResult | None:
        """
        Look.

        Raises:
            Unhealthy: As the table says.
        """
        return adrive(self._looking()) if self.is_async else drive(self._looking())

    def _looking(self) -> Plan[CheckResult | None]:
        gate, before, now = self.gate, self._last, self.gate.statistics()
        self._last = now
        if now.mode is GateMode.BYPASS:
            return CheckResult(HealthStatus.DEGRADED, fault=Fault("down", message=f"{gate.name} is bypassed"))
        try:
            yield from gate.looking()
        except Exception as exc:
            error = type(exc).__name__  # its text may hold addresses
            if gate.is_shared:
                msg = f"{gate.name} does not answer ({error}). Bypass it: CacheMode(gate, GateMode.BYPASS)."
                raise Unhealthy("down", msg) from exc
            raise Unhealthy("corrupt", f"{gate.name} raises {error} when asked for its size. {_LOCK}") from exc
        if before.epoch == now.epoch:
            self._compare(before, now)
        size = gate.size()
        if self._max_entries is not None and size is not None and size > self._max_entries:
            msg = f"{gate.name} has {size} entries, {self._max_entries} are allowed. Use a cache with a bound."
            raise Unhealthy("grown", msg)
        if before.epoch == now.epoch:
            self._weigh(before, now)
        return None

    def _compare(self, before: CacheStatistics, now: CacheStatistics) -> None:
        errors, invalid = now.store_errors - before.store_errors, now.invalid - before.invalid
        if errors and not self.gate.is_shared:
            msg = f"{errors} reads and writes of {self.gate.name} raised since the last look. {_LOCK}"
            raise Unhealthy("corrupt", msg)
        if invalid > self._max_invalid:
            msg = (
                f"{invalid} values of {self.gate.name} were refused since the last look, {self._max_invalid} are "
                "allowed. Each was dropped; begin a new epoch if there are more."
            )
            raise Unhealthy("poisoned", msg)

    def _weigh(self, before: CacheStatistics, now: CacheStatistics) -> None:
        hits = now.hits - before.hits
        reads = hits + now.misses - before.misses
        if reads >= self._min_reads and hits < self._min_hit_ratio * reads:
            msg = (
                f"{self.gate.name} had {hits / reads:.0%} of {reads} values, {self._min_hit_ratio:.0%} are wanted. "
                "Warm it up, or make it larger."
            )
            raise Unhealthy("cold", msg)


#: What is nearly always behind a mapping that raises.
_LOCK: Final = (
    "Somebody uses it without the lock: give the gate the lock= that everybody holds. ClearCache(gate) mends it."
)


class RedisMemory:
    """
    A probe of the memory of a Redis or Valkey that is used as a cache.

    It is ``full`` when more than *max_share* of ``maxmemory`` is used and the
    server may refuse writes then. A server that evicts any key as it likes
    (``allkeys-…``) is always full, and well. Without ``maxmemory`` nothing can be said.

    Args:
        info: Gives what ``INFO memory`` says, sync or async, such as ``functools.partial(client.info, "memory")``.
        max_share: From 0 to 1.

    Raises:
        ConfigError: If the share is out of range.

    .. versionadded:: 26.1.0
    """

    def __init__(self, info: Callable[[], Any], *, max_share: float = 0.9) -> None:
        if not 0 < max_share <= 1:
            msg = f"max_share={max_share}: must be above 0, and 1 at most."
            raise ConfigError(msg)
        self._info = info
        self._max_share = max_share

    def __call__(self) -> Awaitable[None] | None:
        """
        Look.

        Raises:
            Unhealthy: ``full``.
        """
        answer: Any = self._info()
        if inspect.isawaitable(answer):
            return self._await(answer)
        self._judge(answer)
        return None

    async def _await(self, answer: Awaitable[Any]) -> None:
        self._judge(await answer)

    def _judge(self, memory: Mapping[str, Any]) -> None:
        used, limit, policy = memory["used_memory"], memory.get("maxmemory", 0), memory.get("maxmemory_policy", "")
        if limit and used > self._max_share * limit and not str(policy).startswith("allkeys"):
            msg = (
                f"{used} of {limit} bytes are used, and the policy is {policy}: writes will be refused. Set "
                "maxmemory-policy to allkeys-lru, let entries expire, or give it more memory. Nothing is flushed."
            )
            raise Unhealthy("full", msg)
