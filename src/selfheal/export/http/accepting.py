"""
Accepts connections, at an address or a path.
"""

from __future__ import annotations

import os
import socket
import socketserver
import threading
import weakref

from typing import Any, Final


#: Seconds of pause after a connection could not be accepted.
_PAUSE: Final = 0.1


class Accepting(socketserver.TCPServer):
    """
    What a listener and an agent have in common.

    Args:
        where: A path, or a host and port.
        conversation: What is said on a connection.

    Raises:
        OSError: If it cannot listen there.
    """

    allow_reuse_address = True
    request_queue_size = 128

    def __init__(self, where: str | tuple[str, int], conversation: type[socketserver.BaseRequestHandler]) -> None:
        self.ended = threading.Event()
        self.left = False
        self.address_family = family_of(where)
        address: Any = where
        super().__init__(address, conversation)
        _OPEN.add(self)

    def leave(self) -> None:
        """
        Leave it to the parent, after a fork.

        The thread has stayed there. A copy of its socket here would take connections that nobody answers.
        """
        self.left = True
        self.socket.close()

    def end(self) -> None:
        """
        Begin nothing any more.
        """
        self.ended.set()

    def get_request(self) -> tuple[Any, Any]:
        """
        The next connection.

        Raises:
            OSError: If it cannot be accepted.
        """
        try:
            return super().get_request()
        except OSError:
            self.ended.wait(_PAUSE)  # no descriptor is left, and who waits is there at once again
            raise

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that is gone is no error of ours, and nobody is to be told on the standard error."""


_OPEN: Final[weakref.WeakSet[Accepting]] = weakref.WeakSet()


def _forked() -> None:
    for server in tuple(_OPEN):
        server.leave()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)


def family_of(where: str | tuple[str, int]) -> socket.AddressFamily:
    """
    The family of a path, or of a host and port.
    """
    if isinstance(where, str):
        return socket.AF_UNIX
    return socket.AF_INET6 if ":" in where[0] else socket.AF_INET
