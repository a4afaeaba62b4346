"""
What the kernel knows about a TCP connection.
"""

from __future__ import annotations

import socket
import struct
import sys

from typing import Final


#: ``struct tcp_info`` of Linux: 8 bytes, then u32s; these four are milliseconds since data sent, ack sent, data received,
#: ack received.
_TCP_INFO: Final = struct.Struct("=44x4I")


def tcp_ages(sock: socket.socket) -> tuple[float, float, float] | None:
    """
    Seconds since data was last sent, received and acknowledged, as the kernel counts them: only Linux does, for TCP.
    """
    if sys.platform != "linux" or sock.family not in {socket.AF_INET, socket.AF_INET6}:
        return None
    try:
        sent, _, received, acknowledged = _TCP_INFO.unpack(
            sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO.size)
        )
    except OSError:
        return None
    return sent / 1000, received / 1000, acknowledged / 1000
