"""
What the kernel knows about a TCP connection.
"""

from __future__ import annotations

import array
import socket
import struct
import sys

from typing import Final

import attrs


#: ``struct tcp_info`` of Linux: 8 bytes, then u32s. These five are segments sent and not acknowledged, and milliseconds
#: since data was sent, an ack was sent (never counted), data was received and an ack was received.
_TCP_INFO: Final = struct.Struct("=24xI16x4I")

#: Seconds within which a kernel has acknowledged what it got: Linux waits for 0.2 at most. Later acks answer probes that
#: keep an idle connection alive.
_ACKNOWLEDGED: Final = 1.0


@attrs.frozen
class Ages:
    """
    When a connection was last used.

    Args:
        sent: Seconds since data was last sent.
        received: Seconds since data was last received.
        unanswered: Whether nothing was received since; `None`: both came within one step of the kernel's clock, often
            4 ms, and it cannot be told which came first.
    """

    sent: float
    received: float
    unanswered: bool | None


def tcp_ages(sock: socket.socket) -> Ages | None:
    """
    When *sock* was last used, as the kernel counts it: only Linux does, for TCP.
    """
    if sys.platform != "linux" or sock.family not in {socket.AF_INET, socket.AF_INET6}:
        return None
    try:
        info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO.size)
    except OSError:
        return None
    in_flight, *milliseconds = _TCP_INFO.unpack(info)
    sent, _, received, acknowledged = (count / 1000 for count in milliseconds)
    unanswered: bool | None = sent < received
    if sent == received:
        # An answer acknowledges what it answers: what is not acknowledged, or was so alone, has none.
        alone = acknowledged < received and sent - acknowledged < _ACKNOWLEDGED
        unanswered = True if in_flight or alone else False if _unread(sock) else None
    return Ages(sent, received, unanswered)


def _unread(sock: socket.socket) -> int:
    """
    Bytes that have come and lie in the kernel.
    """
    import fcntl
    import termios

    count = array.array("i", [0])
    fcntl.ioctl(sock, termios.FIONREAD, count)
    return count[0]
