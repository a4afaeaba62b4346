"""
Two views of a client, each on its own deadline: through its pool, and over a fresh connection.
"""

from __future__ import annotations

from typing import Any, Final, Literal, TypeAlias

import attrs

from selfheal.clock import SystemClock
from selfheal.integrations.pooled import Failure, Usage, View
from selfheal.integrations.redis.connections import has_room, in_use, is_listening, replaces_dead, silent_for, take_idle
from selfheal.integrations.redis.io import IO


#: The role that a server has to have.
Role: TypeAlias = Literal["master", "replica"] | None

#: What is asked. To write nothing into a key that is not there changes nothing, but a server refuses it as it refuses
#: any write: as a replica, with its memory full, or when it cannot save.
_QUESTIONS: Final[dict[Role, tuple[Any, ...]]] = {
    "master": ("SETRANGE", "selfheal:probe", 0, ""),
    "replica": ("ROLE",),
    None: ("PING",),
}

#: Seconds between two looks for a connection that comes back to a pool which has given out all.
_NAP: Final = 0.01

_now = SystemClock.now


@attrs.frozen(kw_only=True)
class Viewer:
    """
    One client's pool, as `selfheal.integrations.pooled.Pooled` wants to see it.

    Args:
        pool: The pool.
        io: How to reach it.
        expect_role: What its server has to be.
        hung_after: A call that has waited for so many seconds hangs; `None`: it is not known which do.
        leak_after: A connection that is given out and silent for so many seconds has leaked.
    """

    pool: Any
    io: IO
    expect_role: Role = "master"
    hung_after: float | None = None
    leak_after: float = 10.0

    def reconnecting(self) -> bool:
        """
        Never: each call connects for itself.
        """
        return False

    async def pooled(self, timeout: float, *, wait: float | None = None) -> View:
        """
        What the pool's users see: an idle connection; a fresh one where there is none, or the pool replaces a dead one.
        """
        until = _now() + timeout
        patience = _now() + (timeout / 2 if wait is None else wait)
        while (connection := take_idle(self.pool)) is None and not has_room(self.pool) and _now() < patience:
            await self.io.nap(_NAP)
        hung = self.hung()
        if connection is not None:
            try:
                view = await self._ask(connection, until - _now())
            finally:
                await self.io.call(self.pool.release, connection)
            if view.failure is not Failure.DEAD or not replaces_dead(self.pool, connection):
                return attrs.evolve(view, hung=hung)
        elif not has_room(self.pool):
            error = ConnectionError(f"all {self.pool.max_connections} connections are given out")
            return View(failure=Failure.NONE, error=error, hung=hung)
        # There a user's call connects anew, so it sees what a fresh connection shows.
        return attrs.evolve(await self.direct(until - _now()), connecting=True, hung=hung)

    async def direct(self, timeout: float) -> View:
        """
        What a newcomer sees: a connection of its own, opened and closed.
        """
        until = _now() + timeout
        try:
            connection = await self.io.connect(self.pool, max(0.001, timeout))
        except Exception as exc:  # noqa: BLE001 - whatever a newcomer gets
            view = _view_of(exc)  # an answer, such as that there is no such database, lets nobody in either
            return attrs.evolve(view, failure=Failure.REFUSED, error=exc) if view.failure is None else view
        try:
            return await self._ask(connection, until - _now())
        finally:
            await self.io.close(connection)

    def usage(self) -> Usage:
        """
        What has become of the pool's connections.
        """
        leased = in_use(self.pool)
        silences = [silent_for(connection) for connection in leased if not is_listening(connection)]
        leaked = sum(silence is not None and silence[0] >= self.leak_after and not silence[1] for silence in silences)
        return Usage(leased=len(leased), leaked=leaked)

    def hung(self) -> tuple[Any, ...]:
        """
        Connections in use on which a call has waited too long for its answer.
        """
        if self.hung_after is None:
            return ()
        waiting = [(each, silent_for(each)) for each in in_use(self.pool) if not is_listening(each)]
        return tuple(
            connection
            for connection, silence in waiting
            if silence is not None and silence[1] and silence[0] >= self.hung_after
        )

    async def _ask(self, connection: Any, timeout: float) -> View:
        try:
            answer = await self.io.ask(connection, _QUESTIONS[self.expect_role], max(0.001, timeout))
        except Exception as exc:  # noqa: BLE001 - a view is a value, whatever it shows
            return _view_of(exc)
        if self.expect_role == "replica" and answer[0] in {b"master", "master"}:
            return View(failure=Failure.ERROR, error=WrongRoleError("a master answers, and a replica is expected"))
        return View()


class WrongRoleError(Exception):
    """
    The server answers, and is not what it has to be.
    """


def is_full(error: Exception | None) -> bool:
    """
    Whether the server has refused to write for want of memory, or because it cannot save to its disk.
    """
    from redis import exceptions

    return isinstance(error, exceptions.OutOfMemoryError) or str(error).startswith("MISCONF")


def _view_of(error: Exception) -> View:
    from redis import exceptions

    if isinstance(error, exceptions.ReadOnlyError):
        return View(read_only=True, error=error)
    return View(failure=_failure(error), error=error)


def _failure(error: Exception) -> Failure | None:
    from redis import exceptions

    if isinstance(error, TimeoutError):
        return Failure.SILENT
    if isinstance(error, (exceptions.AuthenticationError, exceptions.AuthenticationWrongNumberOfArgsError)):
        return Failure.REFUSED
    if isinstance(error, exceptions.ConnectionError) and "max number of clients" in str(error):
        return Failure.FULL
    if isinstance(error, (exceptions.ConnectionError, exceptions.MasterDownError, OSError)):
        return Failure.DEAD
    # It answers. What it says about our question, say that we may not ask it, is no failure of the server.
    is_answer = isinstance(error, exceptions.ResponseError) and not is_full(error)
    return None if is_answer else Failure.ERROR
