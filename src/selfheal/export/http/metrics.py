"""
A registry of prometheus-client as an answer.
"""

from __future__ import annotations

import os

from typing import TYPE_CHECKING, Any, Final

from selfheal.export.http.messages import NOT_FOUND, Response, refused


if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry


PATH: Final = "/metrics"


def scrape(registry: object, accept: str) -> Response:
    """
    All metrics of *registry*, in the format that *accept* asks for; of all processes where there are several.

    Args:
        registry: As of the healer: a registry, `True` for the default one, or anything else: there are no metrics.
        accept: The header of this name.
    """
    from prometheus_client import REGISTRY, CollectorRegistry  # here: it takes 40 ms
    from prometheus_client.exposition import choose_encoder

    found = REGISTRY if registry is True else registry
    if not isinstance(found, CollectorRegistry):
        return NOT_FOUND
    encode, content_type = choose_encoder(accept)
    try:
        if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
            found = _of_all_processes()
        return Response(200, encode(found), content_type=content_type)
    except Exception as exc:  # noqa: BLE001 - a file that another process has left half written, a collector of yours
        why = f"the metrics cannot be collected: {type(exc).__name__}"
        return refused(f"{why}; see whether a file in PROMETHEUS_MULTIPROC_DIR is empty or damaged", 500)


def _of_all_processes() -> CollectorRegistry:
    # A registry of its own for each request: in the one that counts every series would come twice.
    from prometheus_client import CollectorRegistry, multiprocess

    registry = CollectorRegistry()
    collector: Any = multiprocess.MultiProcessCollector  # which has no types
    collector(registry)
    return registry
