"""
Django's own psycopg pool, as something that can be looked at and rebuilt.
"""

from __future__ import annotations

import contextlib
import threading

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

from selfheal.clock import SystemClock
from selfheal.errors import ConfigError, RebuildError
from selfheal.integrations import require
from selfheal.integrations.django.wrappers import forget_inherited, is_pooled, wrapper_of
from selfheal.integrations.pooled_actions import PATIENCE
from selfheal.resources.forks import reset_in_children


if TYPE_CHECKING:
    from psycopg_pool import ConnectionPool


#: Seconds that an old pool's workers get to end.
_CLOSING: Final = 5.0
#: Seconds between two looks whether anybody still waits for a connection of an old pool.
_GLANCE: Final = 0.05


class DjangoPool:
    """
    The pool that Django keeps for an alias, to be given to `PoolHealth`, `pool_ladder` and the rest of
    `selfheal.integrations.psycopg` in place of a `Rebuildable`.

    A forked child forgets its parent's pool, and gets one of its own.

    Args:
        alias: As in ``DATABASES``; its ``OPTIONS`` have a ``pool``.

    Raises:
        MissingExtraError: If Django or psycopg_pool is not installed.
        ConfigError: If there is no such database, or it has no pool.

    .. versionadded:: 26.1.0
    """

    #: Django has no other.
    is_async: Final = False

    def __init__(self, alias: str = "default") -> None:
        if not is_pooled(alias):
            msg = f"{alias!r} has no pool: give it OPTIONS={{'pool': {{...}}}}, or use RenewConnections({alias!r})."
            raise ConfigError(msg)
        self._psycopg = require("psycopg", who=__name__, package="psycopg", extra="psycopg")
        require("psycopg_pool", who=__name__, package="psycopg-pool", extra="psycopg")
        self.alias = alias
        reset_in_children(self)

    @property
    def current(self) -> ConnectionPool[Any]:
        """
        The pool in service, opened as Django does it: by the first who needs it.
        """
        pool: ConnectionPool[Any] = wrapper_of(self.alias).pool
        with contextlib.suppress(self._psycopg.OperationalError):  # closed for good: whoever looks at it will say so
            pool.open()
        return pool

    @contextlib.contextmanager
    def use(self) -> Iterator[ConnectionPool[Any]]:
        """
        The pool in service, for a ``with`` block.
        """
        yield self.current

    def rebuild(self) -> ConnectionPool[Any]:
        """
        Put a new pool into service, connected already; the old one is closed once nobody waits for it.

        Unlike Django's ``close_pool`` this fails no request: whoever is about to
        take a connection finds an open pool, the old one or the new.

        Raises:
            RebuildError: If the new one did not connect. The old one is still in service.
        """
        wrapper = wrapper_of(self.alias)
        pools = wrapper._connection_pools
        # Django makes a pool for each alias that asks for one, and knows how: so another alias asks.
        spare = wrapper.copy(alias=f"{self.alias} (new)")
        new: ConnectionPool[Any] = spare.pool
        del pools[spare.alias]
        try:
            new.open(wait=True, timeout=PATIENCE)
        except Exception as exc:
            new.close(0)
            msg = f"no new pool for {self.alias!r}: {exc}. The old one is still in service."
            raise RebuildError(msg) from exc
        old, pools[self.alias] = pools.get(self.alias), new
        if old is not None:
            threading.Thread(target=_retire, args=(old,), name=f"selfheal-retire-{self.alias}", daemon=True).start()
        return new

    def reset_after_fork(self) -> None:
        """
        Forget the parent's pool. Called by the interpreter.
        """
        forget_inherited(self.alias)


def _retire(pool: ConnectionPool[Any]) -> None:
    """
    Close a pool once nobody waits in its queue; whoever does has given up after the pool's own timeout.
    """
    until = SystemClock.now() + pool.timeout
    while pool.get_stats().get("requests_waiting", 0) and SystemClock.now() < until:
        threading.Event().wait(_GLANCE)
    pool.close(_CLOSING)
