"""
A healer in each process of a Celery worker (extra ``celery``).
"""

from __future__ import annotations

import os

from typing import TYPE_CHECKING, Any

from selfheal.export.http import Handler, StatusFile
from selfheal.integrations import require


if TYPE_CHECKING:
    from collections.abc import Callable

    from selfheal.healer import Healer


def attach(healer: Healer, *, file: str | None = None) -> Callable[[], None]:
    """
    Start *healer* in each process that runs tasks, and stop it there. For the pools prefork, which is the default, and
    solo; with others start it yourself, at the signal ``worker_ready``.

    Call it in the module of the application, which only builds the healer::

        app = Celery("shop")
        attach(healer, file="/run/shop/worker-{pid}")

    Args:
        healer: The healer.
        file: Where each process says every second whether it is to be restarted, as `StatusFile`. Where there are
            several processes, ``{pid}`` stands for the number of each.

    Returns:
        A function that takes it back, for processes to come.

    Raises:
        MissingExtraError: If Celery is not installed.

    .. versionadded:: 26.1.0
    """
    signals = require("celery.signals", who=__name__, package="celery", extra="celery")
    files: dict[int, StatusFile] = {}

    def begin(**_signal: Any) -> None:
        healer.start()
        if file is not None:
            files[os.getpid()] = told = StatusFile(Handler(healer), file.replace("{pid}", str(os.getpid())))
            told.start()

    def end(**_signal: Any) -> None:
        told = files.pop(os.getpid(), None)
        if told is not None:
            told.stop()
        healer.stop()

    # Strongly: nobody else keeps them. The last one is for solo, where tasks run in the worker itself.
    ends = (signals.worker_process_shutdown, signals.worker_shutdown)
    signals.worker_process_init.connect(begin, weak=False)
    for signal in ends:
        signal.connect(end, weak=False)

    def take_back() -> None:
        signals.worker_process_init.disconnect(begin)
        for signal in ends:
            signal.disconnect(end)

    return take_back
