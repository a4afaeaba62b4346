"""
Events in, Prometheus metrics out: `selfheal.names.METRICS` has their names.

It decides nothing. Labels are names of checks, resources and rungs and words
from closed lists; no text of an exception ever gets into one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from selfheal.clock import SystemClock
from selfheal.export.feed import Feed
from selfheal.export.registration import guard, metrics_in


if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

    from selfheal.healer import Healer


class PrometheusExporter:
    """
    Keeps the metrics of healers up to date in a registry.

    Every series of a check exists, as 0, once its healer is attached. Several
    healers may share a registry, and should give their checks different names; a healer that is attached twice counts once.
    Works with ``PROMETHEUS_MULTIPROC_DIR``. After a fork nothing is counted
    in the child until its own healer is attached there, and then from 0.

    Args:
        registry: Default: prometheus_client's own.
        wall: Tells seconds since 1970.

    Examples:
        ``PrometheusExporter(registry).attach(healer)``; ``Healer(checks, registry=registry)`` does it at start.

    .. versionadded:: 26.1.0
    """

    def __init__(
        self, registry: CollectorRegistry | None = None, *, wall: Callable[[], float] = SystemClock.wall
    ) -> None:
        self._registry = registry
        self._wall = wall

    def attach(self, healer: Healer) -> Callable[[], None]:
        """
        Follow *healer* from now on.

        Returns:
            A function that ends it.

        Raises:
            ConfigError: If the registry has a metric of the same name that is not ours.
        """
        import prometheus_client  # here: it takes 40 ms

        with guard().lock:
            metrics = metrics_in(self._registry or prometheus_client.REGISTRY)
            earlier = [feed for feed in metrics.feeds if feed.follows(healer)]
            for feed in earlier:
                feed.close()
                metrics.feeds.discard(feed)
            feed = Feed(healer, metrics, self._wall)
            feed.listen(healer)
            for before in earlier:
                metrics.drop(before.shown)  # what was removed while nobody listened
        return feed.close
