"""
The metrics of `selfheal.names.METRICS` in somebody's registry: once, whoever asks, and safe to fork.

It knows prometheus_client and nothing of healing.
"""

from __future__ import annotations

import functools
import os
import threading
import weakref

from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING, Any

from selfheal import names
from selfheal.errors import ConfigError


if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry
    from prometheus_client.metrics import MetricWrapperBase
    from prometheus_client.metrics_core import Metric

    from selfheal.export.feed import Feed


class Guard:
    """
    Lets no fork happen in the middle of a write.

    prometheus_client has a lock in every value and knows nothing of forks: a
    child forked while one is held waits for it for ever. So writes happen
    under *lock*, and a fork waits for it.
    """

    def __init__(self) -> None:
        self.lock = threading.RLock()
        #: Forks between the first process and this one.
        self.forks = 0
        self.known: weakref.WeakKeyDictionary[CollectorRegistry, Metrics] = weakref.WeakKeyDictionary()

    def before_fork(self) -> None:
        """
        Wait for the write that is going on.
        """
        self.lock.acquire()

    def after_in_parent(self) -> None:
        """
        Go on.
        """
        self.lock.release()

    def after_in_child(self) -> None:
        """
        Begin anew: whoever scraped at that moment has left its locks behind, locked.
        """
        self.lock = threading.RLock()
        self.forks += 1


@functools.cache
def guard() -> Guard:
    """
    The guard of this process, made at the first call: importing starts nothing.
    """
    made = Guard()
    if hasattr(os, "register_at_fork"):  # not on Windows
        os.register_at_fork(
            before=made.before_fork, after_in_parent=made.after_in_parent, after_in_child=made.after_in_child
        )
    return made


def metrics_in(registry: CollectorRegistry) -> Metrics:
    """
    The metrics in *registry*, put there by the first call. Call it under the guard's lock.

    Raises:
        ConfigError: If another library or the application has a metric of one of these names there.
    """
    shared = guard()
    metrics = shared.known.get(registry)
    if metrics is None:
        metrics = Metrics(shared.forks)
        try:
            registry.register(metrics)
        except ValueError as exc:
            msg = f"the registry has a metric of the same name already: {exc}. Pass a CollectorRegistry() of its own."
            raise ConfigError(msg) from exc
        shared.known[registry] = metrics
    elif metrics.forks != shared.forks:
        metrics.renew(shared.forks)
    return metrics


class Metrics:
    """
    All metrics of the table, as one collector, with every child bound once.

    One collector instead of forty: it is registered whole or not at all, and
    after a fork its content is replaced without touching the registry, whose
    lock may have been held.

    Args:
        forks: `Guard.forks` at this moment.
    """

    def __init__(self, forks: int) -> None:
        #: Who writes here. A healer holds its feed, so nothing that lives longer may hold one.
        self.feeds: weakref.WeakSet[Feed] = weakref.WeakSet()
        self.renew(forks)

    def renew(self, forks: int) -> None:
        """
        Begin at zero, with locks that nobody holds.
        """
        self._made: dict[str, Any] = {name: _make(name, spec) for name, spec in names.METRICS.items()}
        self._children: dict[tuple[str, ...], Any] = {}
        self.forks = forks

    def collect(self) -> Iterator[Metric]:
        """
        For the registry: what a scrape sees.
        """
        with guard().lock:
            for feed in tuple(self.feeds):
                feed.look()
        for metric in self._made.values():
            yield from metric.collect()

    def describe(self) -> Iterator[Metric]:
        """
        For the registry: the names that are taken.
        """
        for metric in self._made.values():
            yield from metric.describe()

    def child(self, name: str, *labels: str) -> Any:
        """
        The counter, gauge or histogram of this name and these labels, 0 until something happens.
        """
        key = (name, *labels)
        found = self._children.get(key)
        if found is None:
            metric = self._made[name]
            found = self._children[key] = metric.labels(*labels) if labels else metric
        return found

    def drop(self, gone: Collection[str]) -> None:
        """
        Take away the series of checks and budgets of these names that no feed shows, lest their old times raise alarms.

        The files that several processes share cannot forget: there they stay until the directory is emptied.
        """
        if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
            return
        for key in [key for key in self._children if key[1:2] and key[1] in gone and not self._is_shown(*key)]:
            del self._children[key]
            self._made[key[0]].remove(*key[1:])

    def _is_shown(self, name: str, *labels: str) -> bool:
        opened = names.METRICS[name].open
        if opened[:1] not in {("check",), ("budget",)}:
            return True  # of a resource, or of the healer: they stay
        return any(feed.shows(opened, labels[: len(opened)]) for feed in self.feeds)


def _make(name: str, spec: names.MetricName) -> MetricWrapperBase:
    # Imported here: it takes 40 ms, and who exports nothing should not pay for it.
    from prometheus_client import Counter, Gauge, Histogram

    match spec.type:
        case "counter":
            return Counter(name, spec.meaning, spec.labels, registry=None)
        case "histogram":
            return Histogram(name, spec.meaning, spec.labels, registry=None, buckets=spec.buckets)
        case _:
            mode: Any = spec.mode
            return Gauge(name, spec.meaning, spec.labels, registry=None, multiprocess_mode=mode)
