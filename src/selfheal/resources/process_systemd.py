"""
`SdNotify`: tells systemd that the service is ready, what it does, and that its healer turns.
"""

from __future__ import annotations

import os
import socket
import weakref

from typing import TYPE_CHECKING, Final

from selfheal.checks import HealthCheck
from selfheal.model.policy import HealingPolicy
from selfheal.model.settings import seconds


if TYPE_CHECKING:
    import datetime as dt

    from collections.abc import Callable, Mapping

# sd_watchdog_enabled(3): "it is recommended that a daemon sends a keep-alive notification every half of the time".
_SIGNS: Final = 2

#: Seconds between two looks where no watchdog is asked for: nothing is sent then.
_IDLE_INTERVAL: Final = 60.0


class SdNotify:
    """
    The notifications of a systemd service. Where there is no systemd, nothing happens.

    ``check()`` sends the signs of life, from the loop of the healer itself and at half of the unit's ``WatchdogSec=``:
    an engine that hangs gets the service restarted. The others are for the application to call::

        systemd = SdNotify()
        with Healer([systemd.check(), ...]):
            systemd.ready()
            serve()
            systemd.stopping()

    Every method returns whether the message was handed over. None raises or waits: a full queue loses the message.

    Args:
        environ: Where to find ``NOTIFY_SOCKET``, ``WATCHDOG_USEC`` and ``WATCHDOG_PID``. Default: the environment.

    .. versionadded:: 26.1.0
    """

    def __init__(self, environ: Mapping[str, str] | None = None) -> None:
        environ = os.environ if environ is None else environ
        self._address = environ.get("NOTIFY_SOCKET", "")
        self._alive: Callable[[], bool] | None = None
        self._kept: tuple[socket.socket, tuple[int, int] | None] | None = None
        microseconds, pid = environ.get("WATCHDOG_USEC", ""), environ.get("WATCHDOG_PID", "")
        meant = not pid or pid == str(os.getpid())
        #: Seconds within which systemd wants a sign of life; `None`: it wants none.
        self.watchdog: Final = (
            int(microseconds) / 1e6
            if self._address and meant and microseconds.isdecimal() and int(microseconds) > 0
            else None
        )

    def check(self, *, alive: Callable[[], bool] | None = None) -> HealthCheck:
        """
        Its signs of life as a check for the healer. It is always healthy, while it runs.

        Args:
            alive: Asked on the loop before each sign, which is left out if it says no; so it must not wait.
        """
        self._alive = alive
        interval = _IDLE_INTERVAL if self.watchdog is None else self.watchdog / _SIGNS
        # Nothing heals it, but every policy has to leave room for a proof.
        policy = HealingPolicy(interval=interval, timeout=interval, jitter=0, rise=1, verify_within=2 * interval)
        return HealthCheck(self._sign, name="systemd", policy=policy)

    def ready(self) -> bool:
        """
        The service is up (``Type=notify``).
        """
        return self._send("READY=1")

    def status(self, text: str) -> bool:
        """
        What it does, in one line, for ``systemctl status``.
        """
        return self._send("STATUS=" + " ".join(text.splitlines()))

    def stopping(self) -> bool:
        """
        It goes down.
        """
        return self._send("STOPPING=1")

    def extend_timeout(self, by: float | dt.timedelta) -> bool:
        """
        It needs longer to start or to stop.

        Args:
            by: Seconds from now until it says so again, or is done.
        """
        return self._send(f"EXTEND_TIMEOUT_USEC={round(seconds(by) * 1e6)}")

    # On the loop, not in a thread: a busy thread pool does not mean that the engine hangs.
    async def _sign(self) -> None:
        if self.watchdog is not None and (self._alive is None or self._alive()):
            self._send("WATCHDOG=1")

    def _send(self, message: str) -> bool:
        # A leading @ stands for the NUL of Linux' abstract addresses. Others, as vsock, are for virtual machines.
        if not self._address.startswith(("/", "@")) or not hasattr(socket, "AF_UNIX"):
            return False
        address = "\0" + self._address[1:] if self._address[0] == "@" else self._address
        try:
            self._sender().sendto(message.encode(errors="backslashreplace"), address)
        except OSError:  # nobody reads, or not fast enough
            return False
        return True

    def _sender(self) -> socket.socket:
        # One for all messages, as there may be no descriptor left when the next one is due. It is not connected, so a
        # child may use it too, and systemd may be another one by then.
        if self._kept is not None:
            sender, identity = self._kept
            if identity and _identity(sender) == identity:
                return sender
            sender.detach()  # somebody has closed all descriptors, and this number may be theirs by now
        sender = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        weakref.finalize(self, sender.close)
        sender.setblocking(False)
        self._kept = sender, _identity(sender)
        return sender


def _identity(sender: socket.socket) -> tuple[int, int] | None:
    try:
        status = os.fstat(sender.fileno())
    except OSError:
        return None
    return status.st_dev, status.st_ino
