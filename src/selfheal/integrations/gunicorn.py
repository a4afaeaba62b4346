"""
The hooks with which gunicorn's workers have a healer each. Nothing of gunicorn is imported.
"""

from __future__ import annotations

import importlib
import os

from collections.abc import Callable
from typing import Any, NamedTuple

from selfheal.errors import ConfigError


class Hooks(NamedTuple):
    """
    In the order in which gunicorn calls them, under its own names.
    """

    post_worker_init: Callable[[Any], None]
    worker_exit: Callable[[Any, Any], None]
    child_exit: Callable[[Any, Any], None]


def hooks(target: str) -> Hooks:
    """
    Start the healer with each worker, stop it with it, and forget the gauges of a worker that has ended.

    In ``gunicorn.conf.py``::

        from selfheal.integrations.gunicorn import hooks

        post_worker_init, worker_exit, child_exit = hooks("orders.application:healer")

    Args:
        target: Where the healer is found, as ``module:name``. The module is imported in the worker, unless the
            application is preloaded, and must only build it.

    Raises:
        ConfigError: If *target* is not written like this.

    .. versionadded:: 26.1.0
    """
    module, _, name = target.partition(":")
    if not module or not name:
        msg = f"{target!r}: write where the healer is found as 'module:name', such as 'orders.application:healer'."
        raise ConfigError(msg)

    def healer() -> Any:
        return getattr(importlib.import_module(module), name)

    def post_worker_init(worker: Any) -> None:
        del worker
        healer().start()

    def worker_exit(server: Any, worker: Any) -> None:
        del server, worker
        healer().stop()

    def child_exit(server: Any, worker: Any) -> None:
        del server
        if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
            # Here, in the master: a worker that was killed cannot do it itself.
            from prometheus_client import multiprocess

            multiprocess.mark_process_dead(worker.pid)  # type: ignore[no-untyped-call]

    return Hooks(post_worker_init, worker_exit, child_exit)
