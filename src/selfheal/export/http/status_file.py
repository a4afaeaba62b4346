"""
How a healer is, as a file: for probes that run a command, in workers without HTTP.
"""

from __future__ import annotations

import contextlib
import os

from typing import TYPE_CHECKING, Final, Literal

from selfheal.errors import ConfigError
from selfheal.export.http import groups
from selfheal.export.http.following import Following
from selfheal.export.http.messages import Request


if TYPE_CHECKING:
    from selfheal.export.http.handler import Handler

#: Seconds between two writings; ``python -m selfheal check file:`` believes a file for 15.
EVERY: Final = 1.0


class StatusFile(Following):
    """
    Writes the answer to one of the groups into a file, again and again, from a thread of its own. ``with`` starts and
    stops it; stopped, it takes the file away.

    The first line is "ok" or "fail", the others say why, as ``?verbose`` does. The file is replaced as a whole and only
    this user can read it. A process that hangs or is killed leaves one that grows old::

        python -m selfheal check file:/run/shop/live

    Args:
        handler: Who answers.
        path: The file, in a folder that exists. Workers of one service need one each.
        group: "livez", "readyz" or "startupz".
        interval: Seconds between two writings.

    Raises:
        ConfigError: If the file cannot be written when it starts, or *interval* is not above 0.

    .. versionadded:: 26.1.0
    """

    def __init__(
        self,
        handler: Handler,
        path: str | os.PathLike[str],
        *,
        group: Literal["livez", "readyz", "startupz"] = "livez",
        interval: float = EVERY,
    ) -> None:
        super().__init__(self._write, interval)
        self.handler = handler
        self.path = os.fspath(path)
        self._group = group
        self._request = Request(method="GET", path=f"/{group}", query={"verbose": ""}, direct=True)

    def start(self) -> None:
        """
        Write it, and go on in a thread.

        Raises:
            ConfigError: If it cannot be written.
            IllegalTransitionError: If it has been started.
        """
        try:
            super().start()
        except OSError as exc:
            msg = f"{self.path} cannot be written: {exc}. Make its folder, and let this user write there."
            raise ConfigError(msg) from exc

    def stop(self) -> None:
        """
        Take the file away.
        """
        super().stop()
        with contextlib.suppress(OSError):
            os.unlink(self.path)

    def _write(self) -> None:
        answer = self.handler.handle(self._request)
        # Not by the HTTP status: a warning may have one that says no, for others.
        word = b"ok\n" if groups.is_well(self._group, dict(answer.headers)["X-SelfHeal-Status"]) else b"fail\n"
        beside = f"{self.path}.{os.getpid()}"
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | getattr(os, "O_NOFOLLOW", 0)
        try:
            # No fsync: after a crash of the machine nobody asks this file.
            with open(os.open(beside, flags, 0o600), "wb") as file:
                file.write(word + answer.body)
            os.replace(beside, self.path)
        except OSError:
            with contextlib.suppress(OSError):
                os.unlink(beside)
            raise
