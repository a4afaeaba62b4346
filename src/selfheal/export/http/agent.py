"""
Tells HAProxy how much work to send here, over its agent-check protocol.
"""

from __future__ import annotations

import contextlib
import socketserver

from typing import TYPE_CHECKING, Any, Final

from selfheal.errors import ConfigError
from selfheal.export.http import groups
from selfheal.export.http.accepting import Accepting
from selfheal.export.http.listener import Listener


if TYPE_CHECKING:
    from selfheal.export.http.handler import Handler

#: Beside the port that answers over HTTP.
PORT: Final = 9465

_ALL: Final = 100


class Agent(Listener):
    """
    Answers HAProxy's agent checks with the readiness of a handler, from a thread of its own. ``with`` starts and stops it.

    One line for each connection: ``up 100%`` if it is ready, ``up 0%`` while it is drained (no new clients; those who
    are bound to it by a cookie may still come), ``down`` otherwise. What an operator has set by hand, drain or
    maintenance, is not touched.

    Args:
        handler: Whose ``/readyz`` is told; `Listener.handler` and `AsgiApp.handler` are drained together with it.
        port: The TCP port of ``agent-port``; 0 takes a free one.
        host: The address to bind. Whoever reaches it learns the line, and can change nothing.
        warn_weight: Percent of its weight while ``/readyz`` warns, 1 to 100.

    Raises:
        ConfigError: If *warn_weight* is none, or it cannot listen there.

    .. versionadded:: 26.1.0
    """

    def __init__(self, handler: Handler, *, port: int = PORT, host: str = "127.0.0.1", warn_weight: int = _ALL) -> None:
        if not 1 <= warn_weight <= _ALL:
            msg = f"warn_weight={warn_weight}: must be 1 to 100 percent. What is to get no work is not a warning."
            raise ConfigError(msg)
        super().__init__(handler, port=port, host=host)
        self._warn_weight = warn_weight

    @property
    def address(self) -> str:
        """
        Where it listens, as ``host:port``.
        """
        return super().address.removeprefix("http://")

    def line(self) -> str:
        """
        What HAProxy is told now.
        """
        handler = self.handler
        verdict = handler.verdict("readyz", handler.view())
        # Drained and down is down: who is bound to it by a cookie is better off elsewhere.
        status = groups.worst([line for line in verdict.lines if line.name != groups.DRAIN]).status
        if not groups.is_well("readyz", status):
            return "down"
        return f"up {0 if handler.draining else _ALL if status == 'pass' else self._warn_weight}%"

    def _serve(self, where: str | tuple[str, int]) -> Accepting:
        return _Server(where, self)


class _Server(Accepting):
    def __init__(self, where: str | tuple[str, int], agent: Agent) -> None:
        self.agent = agent
        super().__init__(where, socketserver.BaseRequestHandler)

    def finish_request(self, request: Any, client_address: Any) -> None:
        # The line fits into the buffer of a connection that is new: nobody can make this wait.
        with contextlib.suppress(OSError):  # it is gone
            request.sendall(f"{self.agent.line()}\n".encode())
