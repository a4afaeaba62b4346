"""
The connections of a redis-py pool: who has them, and since when they are silent.

redis-py has no word of its own for most of it, so this is the one place that
reads its pools' private fields; they are the same from version 6 on.
"""

from __future__ import annotations

import contextlib
import os
import socket

from collections.abc import Iterator
from typing import Any

from selfheal.integrations.tcp import tcp_ages


def take_idle(pool: Any) -> Any | None:
    """
    Take the idle connection that the pool would give out next, among those that are open.

    The pool's own way would connect if there is none, again and again, for up to a minute.

    Returns:
        ``None`` if there is none. Give it back with the pool's ``release``.
    """
    with _locked(pool):
        free = _free(pool)
        # Callers of a pool that does not wait would fail for a connection that we have only borrowed.
        if not _is_queue(pool) and 1 < int(pool.max_connections) <= len(pool._in_use_connections) + 1:
            return None
        connection = next((each for each in reversed(free) if each is not None and is_open(each)), None)
        if connection is not None:
            free.remove(connection)
            if not _is_queue(pool):
                pool._in_use_connections.add(connection)
        return connection


def has_room(pool: Any) -> bool:
    """
    Whether the pool has, or may open, a connection for the next caller.
    """
    with _locked(pool):
        if _is_queue(pool) or _free(pool):
            return bool(_free(pool))
        made = getattr(pool, "_created_connections", None)  # what a sync pool goes by
        return (len(pool._in_use_connections) if made is None else made) < int(pool.max_connections)


def in_use(pool: Any) -> list[Any]:
    """
    The connections that are given out.
    """
    with _locked(pool):
        if not _is_queue(pool):
            return list(pool._in_use_connections)
        return [connection for connection in pool._connections if connection not in _free(pool)]


def is_listening(connection: Any) -> bool:
    """
    Whether it belongs to a subscriber, who rightly says nothing and waits for ever.
    """
    callbacks = getattr(_innermost(connection), "_connect_callbacks", ())
    return any(callback() is not None for callback in callbacks)


def is_open(connection: Any) -> bool:
    """
    Whether it has a socket. The other end may be gone.
    """
    sock = _socket(connection)
    return sock is not None and bool(sock.fileno() >= 0)


def replaces_dead(pool: Any, connection: Any) -> bool:
    """
    Whether a user of the pool who is given a dead connection does not notice.
    """
    # A sync pool looks for the end of a connection before it gives it out. An async one that listens to notices of
    # maintenance cannot tell it from such a notice, and a client without retries (`Redis.from_url`) then fails.
    retries = getattr(_innermost(connection).retry, "_retries", 0)
    listens = getattr(pool, "maint_notifications_enabled", None)
    return retries != 0 or _is_threaded(pool) or listens is None or not listens()


def silent_for(connection: Any) -> tuple[float, bool] | None:
    """
    Seconds since anything was sent or received, and whether what was sent last has not been answered.

    Returns:
        `None` if it is closed, or where the system does not count: only Linux does, for TCP.
    """
    with _duplicate(connection) as duplicate:
        return None if duplicate is None else _silence(duplicate)


def sever(connection: Any, *, older_than: float) -> bool:
    """
    Shut its socket down, if a call has still been waiting on it for *older_than* seconds; the caller gets an error.
    """
    with _duplicate(connection) as duplicate:
        silence = None if duplicate is None else _silence(duplicate)
        if duplicate is None or silence is None or silence[0] < older_than or not silence[1]:
            return False
        with contextlib.suppress(OSError):  # the other end was faster
            duplicate.shutdown(socket.SHUT_RDWR)
        return True


def _silence(sock: socket.socket) -> tuple[float, bool] | None:
    ages = tcp_ages(sock)
    if ages is None:
        return None
    return min(ages.sent, ages.received), ages.unanswered is True


@contextlib.contextmanager
def _duplicate(connection: Any) -> Iterator[socket.socket | None]:
    """
    A second descriptor of its socket, which nobody can close under us; ``None`` if it is closed.
    """
    sock = _socket(connection)
    number = -1 if sock is None else sock.fileno()
    try:
        descriptor = os.dup(number)
    except OSError:
        yield None
        return
    with socket.socket(fileno=descriptor) as duplicate:
        # Numbers are reused at once. A socket that still has its own now has had it all the time.
        yield duplicate if sock is not None and sock.fileno() == number else None


def _socket(connection: Any) -> Any | None:
    connection = _innermost(connection)
    writer = getattr(connection, "_writer", None)
    return getattr(connection, "_sock", None) if writer is None else writer.get_extra_info("socket")


def _innermost(connection: Any) -> Any:
    return getattr(connection, "_conn", connection)  # one with a cache on the client's side is wrapped


def _is_threaded(pool: Any) -> bool:
    """
    Whether it is a sync pool.
    """
    return hasattr(pool, "_checkpid")


def _is_queue(pool: Any) -> bool:
    """
    Whether it is a sync ``BlockingConnectionPool``; the async one is like any other.
    """
    return hasattr(pool, "pool")


def _free(pool: Any) -> Any:
    return pool.pool.queue if _is_queue(pool) else pool._available_connections


@contextlib.contextmanager
def _locked(pool: Any) -> Iterator[None]:
    """
    Nobody else changes the pool meanwhile. On a loop nobody else runs.
    """
    if _is_threaded(pool):
        pool._checkpid()  # in a forked child its connections are those of the parent
    if _is_queue(pool):
        with pool.pool.mutex:
            yield
    elif _is_threaded(pool):
        with pool._lock:
            yield
    else:
        yield
