"""
What others get to see: metrics and log lines. Leaves of the house: nothing below knows them.
"""

from __future__ import annotations

import weakref

from typing import TYPE_CHECKING, Final

from selfheal.errors import ConfigError


if TYPE_CHECKING:
    from selfheal.healer import Healer

#: Healers that write to the log.
_logged: Final[weakref.WeakSet[Healer]] = weakref.WeakSet()


def attach(healer: Healer, *, registry: object = None) -> None:
    """
    What a healer does when it starts: write to the log and, given a *registry*, keep metrics there.

    A healer that starts again is still written and counted once.

    Args:
        healer: Its ``log_errors`` and ``redact`` hold for the log.
        registry: A registry of prometheus_client, `True` for its default one, an exporter with an ``attach`` of
            its own, or `None`: no metrics.

    Raises:
        ConfigError: If *registry* is none of these, or has a metric of the same name that is not ours.
    """
    from selfheal.export.logging import LogExporter

    if healer not in _logged:
        LogExporter(log_errors=healer.log_errors, redact=healer.redact).attach(healer)
        _logged.add(healer)
    if registry is None:
        return
    own = getattr(registry, "attach", None)
    if own is not None:
        own(healer)
        return
    from prometheus_client import REGISTRY, CollectorRegistry

    from selfheal.export.prometheus import PrometheusExporter

    registry = REGISTRY if registry is True else registry
    if not isinstance(registry, CollectorRegistry):
        msg = f"registry={registry!r}: must be a CollectorRegistry, True for the default one, or have attach(healer)."
        raise ConfigError(msg)
    PrometheusExporter(registry).attach(healer)
