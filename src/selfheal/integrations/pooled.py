"""
What is wrong with a pooled client, told apart by two views of it: one contract and one decision table for all drivers.

A driver says what each view has shown, and who holds what. What that means is said here, once.
"""

from __future__ import annotations

import enum

from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any, Final, Generic, Literal, Protocol, TypeVar, cast

import attrs

from selfheal.clock import SystemClock
from selfheal.errors import ConfigError, Unhealthy
from selfheal.integrations.colours import run
from selfheal.model import CheckResult, Fault, HealthStatus
from selfheal.model.settings import seconds


if TYPE_CHECKING:
    import datetime as dt


R = TypeVar("R")
_now = SystemClock.now

#: Shares of the timeout: for the first look through the pool, and for a fresh connection of what is left then.
_POOLED_SHARE: Final = 0.5
_DIRECT_SHARE: Final = 0.8

#: Seconds that a pool in back-off gets to hand out a connection: enough for a try that is under way.
_UNDER_WAY: Final = 0.05


class Failure(enum.Enum):
    """
    How a way to the server has failed.
    """

    #: It refused us for who we are.
    REFUSED = "refused"
    #: It answered that it takes no more connections.
    FULL = "full"
    #: The connection was dead, or none could be made: at once.
    DEAD = "dead"
    #: It took our question, and no answer came in time.
    SILENT = "silent"
    #: The pool had no connection to give.
    NONE = "none"
    #: It answered that nothing can be written.
    READ_ONLY = "read_only"
    #: Anything else.
    ERROR = "error"


@attrs.frozen(kw_only=True)
class View:
    """
    What one way to the server has shown.

    Args:
        failure: How it has failed, or `None`.
        error: What was raised, or `None`.
        read_only: It answers, and nothing can be written over it.
        connecting: It has failed to make a connection, rather than over one that was there.
        hung: Connections of the pool that wait for an answer which this server is not working on.
        free: Connections that the server could still take, asked over a fresh one; `None`: not known.
    """

    failure: Failure | None = None
    error: Exception | None = None
    read_only: bool = False
    connecting: bool = False
    hung: tuple[Any, ...] = ()
    free: int | None = None

    @property
    def good(self) -> bool:
        """
        Whether there is nothing that a second look could explain.
        """
        return self.failure is None and not self.hung


@attrs.frozen(kw_only=True)
class Usage:
    """
    What has become of the pool's connections.

    Args:
        leased: Given out.
        leaked: Given out, and silent for longer than anybody needs.
        missing: Counted by the pool as its own, and not there: it waits to connect.
        closed: The pool is closed.
        opens: Connections that another such pool opens at once.
    """

    leased: int = 0
    leaked: int = 0
    missing: int = 0
    closed: bool = False
    opens: int = 0


class Pooled(Protocol):
    """
    A pool, as one look sees it. All that is waited for ends within its *timeout*; failures are views, never raised.

    A driver for a blocking pool has the same coroutine methods, which then never wait for a loop.
    """

    def reconnecting(self) -> bool:
        """
        Whether the pool has nothing to give and waits to connect: a request of ours would only join its queue.
        """
        ...

    async def pooled(self, timeout: float, *, wait: float | None = None) -> View:
        """
        What the pool's users see.

        Args:
            timeout: Seconds for all of it.
            wait: Seconds among them to wait for a connection. Default: half of them.
        """
        ...

    async def direct(self, timeout: float) -> View:
        """
        What a newcomer sees: a connection of its own, opened and closed.
        """
        ...

    def usage(self) -> Usage:
        """
        What has become of the pool's connections.
        """
        ...


class PooledHealth(Generic[R]):
    """
    A probe of a pooled client that says which of eight things is wrong.

    It looks through the pool first. Only if that shows anything bad does it open
    a connection of its own, and the two views together name the fault:

    ============= ==========================================================================
    kind          what is seen
    ============= ==========================================================================
    ``down``      no fresh connection, or none that can write: nothing of ours is broken
    ``auth``      a fresh connection is refused for who it is
    ``stale``     fresh ones work, the pool's fail at once
    ``backoff``   fresh ones work, the pool has none and waits to reconnect
    ``read_only`` fresh ones can write, the pool's cannot (certain: *fatal*)
    ``stuck``     queries wait for an answer that the server does not work on
    ``exhausted`` most connections are given out and long silent, or the pool is closed
    ``slow``      all are given out and busy: overload, DEGRADED; healing would hurt
    ============= ==========================================================================

    It raises `Unhealthy`, or returns a `CheckResult`; for an async pool it
    returns an awaitable. It ends by itself within *timeout*.

    A driver derives from it and says in `looking` how its pool is looked at.

    Args:
        source: What is looked at: a client, or the `Rebuildable` that makes it.
        role: ``"primary"``: connections must be able to write. ``"any"``: reading is enough.
        timeout: Seconds for one run, all of it; keep it below the check's timeout.

    Raises:
        ConfigError: If an argument cannot work.

    .. versionadded:: 26.1.0
    """

    #: Whether it has to be awaited.
    is_async: bool = False

    def __init__(
        self, source: Any, *, role: Literal["primary", "any"] = "primary", timeout: float | dt.timedelta = 0.8
    ) -> None:
        if role not in {"primary", "any"}:
            msg = f"role={role!r}: must be 'primary' or 'any'."
            raise ConfigError(msg)
        self.source = source
        self._role = role
        self._timeout = seconds(timeout)
        if not self._timeout > 0:
            msg = f"timeout={timeout}: must be greater than 0 seconds."
            raise ConfigError(msg)

    def __call__(self) -> R:
        """
        Look once.

        Returns:
            A healthy result, or a degraded one of kind ``slow``; an awaitable of it for an async pool.

        Raises:
            Unhealthy: With one of the kinds above.
        """
        looking: Any = self._look() if self.is_async else run(self._look())
        return cast("R", looking)

    def looking(self) -> AbstractAsyncContextManager[Pooled]:
        """
        The pool, as one look sees it; leased as long as it is looked at.
        """
        raise NotImplementedError

    async def _look(self) -> CheckResult:
        until = _now() + self._timeout
        async with self.looking() as pool:
            pooled = None
            if not pool.reconnecting():
                pooled = await pool.pooled(_POOLED_SHARE * self._timeout)
                if pooled.good and not self._cannot_write(pooled):
                    return CheckResult.healthy()
            direct = await pool.direct(max(0.05, _DIRECT_SHARE * (until - _now())))
            if direct.failure is None and pooled is None:
                # The sooner it is kicked, the shorter the outage.
                pooled = await pool.pooled(until - _now(), wait=_UNDER_WAY)
            elif direct.failure is None and pooled is not None and pooled.connecting:
                # The server may have come back between the two looks, and the pool with it.
                pooled = await pool.pooled(until - _now())
            fault = self._fault(pooled, direct, pool.usage())
        if fault is None:
            return CheckResult.healthy()
        if fault.kind == "slow":
            return CheckResult(HealthStatus.DEGRADED, fault=fault)
        raise Unhealthy(fault.kind, fault.message, fatal=fault.fatal) from fault.error

    def _cannot_write(self, view: View) -> bool:
        return self._role == "primary" and (view.read_only or view.failure is Failure.READ_ONLY)

    def _fault(self, pooled: View | None, direct: View, usage: Usage) -> Fault | None:
        """
        The decision table, from the top down.
        """
        if direct.failure is not None or self._cannot_write(direct):
            return self._why_nobody(pooled, direct, usage)
        if pooled is None:
            return None
        if self._cannot_write(pooled):
            message = "the pool's connections are read-only, a fresh one is not"
            return Fault("read_only", message=message, error=pooled.error, fatal=True)
        hung = direct.hung or pooled.hung
        if hung:
            return Fault("stuck", message=f"{len(hung)} queries wait, and the server does not work on them")
        match pooled.failure:
            case None:
                return None
            case Failure.SILENT:
                return Fault("stuck", message="a pooled connection does not answer, a fresh one does")
            case Failure.DEAD:
                message = f"a pooled connection is dead, a fresh one works: {pooled.error}"
                return Fault("stale", message=message, error=pooled.error)
            case Failure.NONE:
                return _why_none(usage, pooled.error)
            case _:
                return Fault("error", message=str(pooled.error), error=pooled.error)

    def _why_nobody(self, pooled: View | None, direct: View, usage: Usage) -> Fault:
        """
        Why a newcomer has no luck.
        """
        if self._cannot_write(direct):
            return Fault("down", message="not writable anywhere: a fresh connection leads to a read-only server")
        if direct.failure is Failure.FULL:  # it answers, so it is not down, and there is nowhere better to go
            if pooled is not None and pooled.failure is Failure.NONE:
                return _why_none(usage, pooled.error)
            return Fault("error", message="the server takes no more connections", error=direct.error)
        kind = "auth" if direct.failure is Failure.REFUSED else "down"
        return Fault(kind, message=f"no fresh connection: {_said(direct.error)}", error=direct.error)


def _said(error: Exception | None) -> str:
    # What cannot make sense of an address repeats it, and there may be a password in it.
    is_about_text = isinstance(error, ValueError) or type(error).__name__ == "ProgrammingError"
    return f"{type(error).__name__}, the address cannot be read" if is_about_text else str(error)


def _why_none(usage: Usage, error: Exception | None) -> Fault:
    """
    Why the pool gave no connection.
    """
    if usage.closed:
        return Fault("exhausted", message=f"the pool gives no connections: {error}", error=error)
    if usage.leaked and 2 * usage.leaked >= usage.leased:
        message = f"{usage.leaked} of {usage.leased} connections are given out and silent"
        return Fault("exhausted", message=message, error=error)
    # One that is being replaced, or on its way between two hands, is nothing to wait for.
    if usage.missing > 0 and usage.missing >= usage.leased:
        return Fault("backoff", message="the pool waits to reconnect, a fresh connection works", error=error)
    return Fault("slow", message=f"all {usage.leased} connections are in use", error=error)
