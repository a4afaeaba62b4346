"""
What an asyncpg pool has given out, to whom and for how long: its holders know, and nobody else does.

All that is used of the pool's insides is named here. It is touched on the pool's own loop, between two of its steps.
"""

from __future__ import annotations

import gc
import weakref

from types import CoroutineType
from typing import Any, Final

import attrs

from selfheal.clock import SystemClock
from selfheal.integrations import require
from selfheal.integrations.tcp import tcp_ages
from selfheal.integrations.waiting import waits_in_asyncpg


@attrs.frozen(kw_only=True)
class Session:
    """
    One connection that a pool has given out, as it is at one moment.

    Args:
        connection: asyncpg's own, not the pool's stand-in for it.
        pid: Of the server process that serves it.
        address: The server's, as its socket has it.
        busy: A query was sent, and its answer has not been taken in completely.
        held_for: Seconds since it was first seen to be given out.
        silent_for: Seconds since anything was sent or received. Where the system does not count them: since a look
            first found it doing nothing.
        waiting_for: Seconds since its query was sent, if it is busy and nothing at all has been received since. `None`
            as well where the system does not count them: only Linux does, for TCP.
    """

    connection: Any = attrs.field(repr=False)
    pid: int
    address: Any
    busy: bool
    held_for: float
    silent_for: float
    waiting_for: float | None


@attrs.define(eq=False)
class _Seen:
    # A holder makes a new future for each lease, and a connection counts its queries: both tell that it goes on.
    lease: Any
    since: float
    queries: int
    quiet_since: float


#: When each holder was first seen to have its present lease; as many entries as there are live holders.
_seen: Final[weakref.WeakKeyDictionary[Any, _Seen]] = weakref.WeakKeyDictionary()


def driver() -> Any:
    """
    The module *asyncpg*, imported when it is first needed; it brings no types.

    Raises:
        MissingExtraError: If it is not installed.
    """
    return require("asyncpg", who="selfheal.integrations.asyncpg", package="asyncpg", extra="asyncpg")


def sessions(pool: Any) -> list[Session]:
    """
    The connections that *pool* has given out and that are open.
    """
    return [_look(holder) for holder in _out(pool) if holder.is_connected()]


def holders(pool: Any) -> dict[Session, tuple[str, ...]]:
    """
    Who has what *pool* has given out: for each connection the coroutines, or else the containers, that refer to it.

    For people: it searches all objects of the interpreter, some 10 ms for each 100 000 of them. Call it on the pool's
    loop.

    Examples:
        >>> for session, names in holders(pool).items():  # doctest: +SKIP
        ...     print(f"{session.held_for:.0f} s", *names)
        312 s place_order:87

    .. versionadded:: 26.1.0
    """
    return {_look(holder): _who(holder._proxy) for holder in _out(pool) if holder.is_connected()}


def leased(pool: Any) -> int:
    """
    How many connections are given out, broken ones as well.
    """
    return sum(holder._in_use is not None or holder.is_connected() for holder in _out(pool))


def connecting(pool: Any) -> int:
    """
    How many holders are out of the pool to get themselves a connection.
    """
    return len(_out(pool)) - leased(pool)


def free(pool: Any) -> list[Any]:
    """
    The holders that wait for a user; not all of them have a connection.
    """
    return [] if pool._queue is None else list(pool._queue._queue)


def _out(pool: Any) -> list[Any]:
    """
    The holders that are out of the pool. One whose connection is still being set up is not in use yet, by its own word.
    """
    waiting = free(pool)
    return [holder for holder in pool._holders if holder not in waiting]


async def expire(pool: Any) -> None:
    """
    Replace every connection: idle ones at once, those given out when they come back.
    """
    await pool.expire_connections()
    for holder in free(pool):
        holder.terminate()


async def connect(pool: Any, **where: Any) -> Any:
    """
    A connection as the pool makes them, but for its ``init``.
    """
    return await pool._connect(
        *pool._connect_args,
        loop=pool._loop,
        connection_class=pool._connection_class,
        record_class=pool._record_class,
        **{**pool._connect_kwargs, **where},
    )


def address_of(connection: Any) -> Any:
    """
    The server's address: host and port, or the path of its socket.
    """
    return connection._transport.get_extra_info("peername")


def _look(holder: Any) -> Session:
    connection, now = holder._con, SystemClock.now()
    protocol = connection._protocol
    busy = waits_in_asyncpg(connection)
    seen = _seen.get(holder)
    if seen is None or seen.lease is not holder._in_use:
        seen = _seen[holder] = _Seen(holder._in_use, now, protocol.queries_count, now)
    if busy or seen.queries != protocol.queries_count:
        seen.queries, seen.quiet_since = protocol.queries_count, now
    silent_for, waiting_for = now - seen.quiet_since, None
    sock = connection._transport.get_extra_info("socket")
    ages = None if sock is None else tcp_ages(sock)
    if ages is not None:
        # Whoever took it a moment ago is not to blame for the hours in which nobody had use for it.
        silent_for = min(ages.sent, ages.received, now - seen.since)
        # Where the kernel cannot tell, it is as the driver says: what comes is taken in at once.
        waiting_for = ages.sent if busy and ages.unanswered is not False else None
    return Session(
        connection=connection,
        pid=connection.get_server_pid(),
        address=address_of(connection),
        busy=busy,
        held_for=now - seen.since,
        silent_for=silent_for,
        waiting_for=waiting_for,
    )


def _who(proxy: Any) -> tuple[str, ...]:
    names: list[str] = []
    things = gc.get_referrers(proxy)
    for thing in things:
        # ``async with pool.acquire()`` has it in the context manager, too.
        owners = gc.get_referrers(thing) if type(thing).__name__ == "PoolAcquireContext" else ()
        for owner in (thing, *owners):
            if isinstance(owner, CoroutineType) and owner.cr_frame is not None:
                names.append(f"{owner.cr_code.co_qualname}:{owner.cr_frame.f_lineno}")
            elif isinstance(owner, (list, dict, set)) and owner is not things:
                names.append(type(owner).__name__)
    return tuple(dict.fromkeys(names))
