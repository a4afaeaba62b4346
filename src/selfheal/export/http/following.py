"""
Tells others how a healer is who cannot ask: every second, from a thread of its own.
"""

from __future__ import annotations

import contextlib
import threading

from collections.abc import Callable
from types import TracebackType
from typing import Self

from selfheal.errors import ConfigError, IllegalTransitionError


class Following:
    """
    Calls *tell* at once, and then every *interval* seconds. ``with`` starts and stops it.

    Args:
        tell: What it raises is dropped: the next call is another try.
        interval: Seconds between two calls.

    Raises:
        ConfigError: If *interval* is not above 0.
    """

    def __init__(self, tell: Callable[[], object], interval: float) -> None:
        if not 0 < interval < float("inf"):
            msg = f"interval={interval}: must be more than 0 seconds."
            raise ConfigError(msg)
        self._tell = tell
        self._interval = interval
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """
        Tell once, and go on in a thread.

        Raises:
            IllegalTransitionError: If it has been started.
            Exception: Whatever the first call raises: what cannot be told at all is better known now.
        """
        if self._thread is not None:
            msg = "this has been started already."
            raise IllegalTransitionError(msg)
        self._tell()
        self._ended.clear()
        self._thread = threading.Thread(target=self._run, name="selfheal-tells", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """
        Tell no more.
        """
        thread, self._thread = self._thread, None
        self._ended.set()
        if thread is not None:
            thread.join()

    def _run(self) -> None:
        while not self._ended.wait(self._interval):
            with contextlib.suppress(Exception):
                self._tell()
