"""
An old release that was never stopped writes nonsense into a shared cache. Beside it a twin that nobody heals.

    python examples/poisoned_cache.py
"""

from __future__ import annotations

import json
import threading
import time

from collections.abc import Callable
from typing import Any

from selfheal import Healer, HealingPolicy, HealthCheck
from selfheal.records import tell
from selfheal.resources import CacheGate, CacheHealth, GateMode, SharedCache, cache_ladder


ARTICLES = [f"article-{number}" for number in range(20)]

#: Stands for a Redis: the one for the shop with a gate, the other for its twin.
server: dict[str, str] = {}
other_server: dict[str, str] = {}


def load(article: str) -> dict[str, Any]:
    """The database."""
    time.sleep(0.001)
    return {"article": article, "price": 42}


def is_right(article: str, found: Any) -> bool:
    return bool(found["article"] == article)


gate: CacheGate[str, Any] = CacheGate(
    SharedCache(
        get=server.get,
        set=server.__setitem__,
        delete=lambda key: server.pop(key, None),
        encode=json.dumps,
        decode=json.loads,
    ),
    load,
    validator=is_right,
    sample=0.1,  # one read in ten is looked at
    name="prices",
)


def unhealed(article: str) -> Any:
    """What one writes without a gate."""
    if article not in other_server:
        other_server[article] = json.dumps(load(article))
    return json.loads(other_server[article])


class OldRelease:
    """Writes the wrong article under every key, again and again, until somebody stops it."""

    def __init__(self) -> None:
        self.stopped = threading.Event()
        self.thread = threading.Thread(target=self.run)

    def run(self) -> None:
        nonsense = json.dumps({"article": "article-99", "price": 1})
        while not self.stopped.wait(0.01):
            for article in ARTICLES:
                server[f"prices:{server['prices:epoch']}:{article}"] = other_server[article] = nonsense


class Customers:
    """Ask both shops for prices, all the time."""

    def __init__(self) -> None:
        self.gone = threading.Event()
        self.thread = threading.Thread(target=self.ask)
        self.answers: list[tuple[bool, bool]] = []

    def ask(self) -> None:
        while not self.gone.wait(0.001):
            for article in ARTICLES:
                answers = self.answers  # what was asked for earlier is not counted as of now
                answers.append((is_right(article, gate.get(article)), is_right(article, unhealed(article))))

    def served(self) -> str:
        """How a third of a second is to them."""
        self.answers = []
        time.sleep(0.3)
        wrong = [round(100 * column.count(False) / len(column)) for column in zip(*self.answers, strict=True)]
        return "healed: {} % wrong, unhealed: {} % wrong".format(*wrong)


# Seconds instead of the defaults' minutes, because somebody is watching.
POLICY = HealingPolicy(interval=0.2, fast_interval=0.1, timeout=1, fall=2, rise=2, verify_within=2, probation=0.7)


def wait_until(claim: Callable[[], bool], within: float = 30) -> None:
    deadline = time.monotonic() + within
    while not claim():
        if time.monotonic() > deadline:
            raise TimeoutError
        time.sleep(0.01)


def main() -> None:
    check = HealthCheck(CacheHealth(gate), name="prices_cache", policy=POLICY, recovery=cache_ladder(gate))
    customers, old_release = Customers(), OldRelease()
    with Healer([check]) as healer:
        customers.thread.start()
        print(customers.served())

        old_release.thread.start()
        wait_until(lambda: gate.mode is GateMode.BYPASS)
        print(f"an old release writes; the gate is at {gate.mode.name};", customers.served())

        old_release.stopped.set()
        old_release.thread.join()
        wait_until(lambda: gate.mode is GateMode.NORMAL)
        print(f"it is stopped; the gate is at {gate.mode.name};", customers.served())

        before = gate.statistics()
        time.sleep(0.2)
        after = gate.statistics()
        print("all of it from the cache:", after.hits > before.hits and after.loads == before.loads)
        customers.gone.set()
        customers.thread.join()
        wait_until(lambda: bool(healer.incidents()))
    print(tell(healer.incidents()[0]))


if __name__ == "__main__":
    main()
