"""
A trio service with a cache that gets slow. Its real traffic is what is watched: the check has no probe at all.

    pip install selfheal-core trio
    python examples/trio_service.py
"""

from __future__ import annotations

import trio

from selfheal import Healer, HealingPolicy, HealthCheck, LatencyMonitor, RecoveryContext, recovery_action
from selfheal.records import tell


class Cache:
    """Keeps answers in the order in which they came, and forgets to forget: each look walks over all of them."""

    def __init__(self) -> None:
        self.entries: list[tuple[int, str]] = [(number, f"answer {number}") for number in range(100)]

    async def get(self, wanted: int) -> str | None:
        await trio.lowlevel.checkpoint()
        return next((answer for number, answer in self.entries if number == wanted), None)

    def fill_with_garbage(self) -> None:
        self.entries = [(-1, "expired")] * 1_000_000 + self.entries

    def sweep(self) -> int:
        kept = [entry for entry in self.entries if entry[0] >= 0]
        swept, self.entries = len(self.entries) - len(kept), kept
        return swept


async def main() -> None:
    cache = Cache()
    latency = LatencyMonitor(window_size=20, threshold_ms=5, statistic="p50")
    get = latency.timed(cache.get)  # one append for each call; the check does the sums

    @recovery_action
    def sweep_cache(ctx: RecoveryContext) -> None:
        ctx.log(f"{cache.sweep()} expired entries are gone")

    # Seconds instead of the defaults' minutes, because somebody is watching.
    policy = HealingPolicy(interval=0.5, fast_interval=0.2, timeout=1, fall=2, verify_within=5, probation=1)
    check = HealthCheck(name="cache", monitors=[latency], policy=policy, recovery=sweep_cache)

    async def traffic() -> None:
        while True:
            await get(99)
            await trio.sleep(0.005)

    async with trio.open_nursery() as nursery, Healer([check]) as healer:
        nursery.start_soon(traffic)
        await healer.await_healthy("cache", timeout=10)
        print("fast:", latency.assess(now=0).reason)

        cache.fill_with_garbage()
        while not healer.incidents():
            await trio.sleep(0.05)
        print("fast again:", latency.assess(now=0).reason)
        nursery.cancel_scope.cancel()

    print(tell(healer.incidents()[0]))


if __name__ == "__main__":
    trio.run(main)
