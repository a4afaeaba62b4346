"""
What has changed, for clients that stay: server-sent events.

A client costs a set of names, however slow it is: what changes twice before it
has read is sent once.
"""

from __future__ import annotations

import json
import threading

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from selfheal import names
from selfheal.export.http import bodies
from selfheal.export.http.messages import refused


if TYPE_CHECKING:
    from selfheal.export.http.handler import Handler
    from selfheal.model import Event

PATH: Final = "/events"

#: Clients at the same time. More get a 429.
CLIENTS: Final = 128

#: Seconds after which a comment is sent, so that a connection that is gone is noticed, and none in between cuts it.
HEARTBEAT: Final = 15.0

#: Seconds between two messages to one client at least: a screen is not read faster, and a storm is one message.
PAUSE: Final = 0.05

#: What a stream begins with; a client that is cut off comes back after two seconds.
OPENING: Final = b"retry: 2000\n\n"

BEAT: Final = b": still here\n\n"

#: The headers before a stream; the last keeps nginx from collecting it first.
FIELDS: Final = (
    ("Content-Type", "text/event-stream"),
    ("Cache-Control", "no-store"),
    ("X-Content-Type-Options", "nosniff"),
    ("X-Accel-Buffering", "no"),
)

TOO_MANY: Final = refused(f"{CLIENTS} clients listen already", 429)

#: Where no stream is to be had; the page then asks every two seconds.
NO_STREAM: Final = refused("there is no stream here: ask /state instead", 406)


class Changes:
    """
    Follows one healer while anybody listens.

    Args:
        handler: Makes the messages.
    """

    def __init__(self, handler: Handler) -> None:
        self._handler = handler
        self._lock = threading.Lock()
        self._clients: set[Client] = set()
        self._remove: Callable[[], None] | None = None

    def join(self, wake: Callable[[], object]) -> Client | None:
        """
        Listen from now on; `None`: too many do.

        Args:
            wake: Called from another thread when there is something to `Client.take`.
        """
        client = Client(self, wake)
        with self._lock:
            if len(self._clients) >= CLIENTS:
                return None
            self._clients.add(client)
            if self._remove is None:
                self._remove = self._handler.healer.on_event(self._heard)
        return client

    def leave(self, client: Client) -> None:
        """
        Listen no more.
        """
        with self._lock:
            self._clients.discard(client)
            remove = None if self._clients else self._remove
            if remove is not None:
                self._remove = None
        if remove is not None:
            remove()

    def _heard(self, event: Event) -> None:
        self._handler.renew()
        with self._lock:
            clients = tuple(self._clients)
        for client in clients:
            client.mark(event)

    def message(self, changed: set[str], *, closed: bool) -> bytes:
        """
        The states of the *changed* checks and of the healer; and a word that an incident was *closed*.
        """
        handler = self._handler
        view = handler.view()
        for check in view.checks:
            status = view.snapshot.checks.get(check.name)
            if check.name in changed and check.name not in view.told and status is not None:
                view.told[check.name] = _json(bodies.check_state(check, status, view.snapshot, show=handler.show))
        some = ",".join(view.told[name] for name in changed if name in view.told)
        # Each check is written once for all clients, and put in where none was.
        data = _json({**handler.state(view, ()), "closed": closed}).replace('"checks":[]', f'"checks":[{some}]', 1)
        return f"event: change\ndata: {data}\n\n".encode()


def _json(value: object) -> str:
    return json.dumps(value, allow_nan=False, separators=(",", ":"))


class Client:
    """
    Somebody who listens.
    """

    def __init__(self, changes: Changes, wake: Callable[[], object]) -> None:
        self._changes = changes
        self._wake = wake
        self._lock = threading.Lock()
        self._changed: set[str] = set()
        self._closed = False
        self._any = False

    def mark(self, event: Event) -> None:
        """
        Remember what *event* has changed.
        """
        with self._lock:
            first, self._any = not self._any, True
            if event.check:
                self._changed.add(event.check)
            self._closed = self._closed or event.name == names.INCIDENT_CLOSED
        if first:  # who has not taken the last one yet knows already
            self._wake()

    def take(self) -> bytes | None:
        """
        The message about everything that has changed since the last one; `None`: nothing has.
        """
        with self._lock:
            changed, closed, any_change = self._changed, self._closed, self._any
            self._changed, self._closed, self._any = set(), False, False
        return self._changes.message(changed, closed=closed) if any_change else None

    def leave(self) -> None:
        """
        Listen no more.
        """
        self._changes.leave(self)
