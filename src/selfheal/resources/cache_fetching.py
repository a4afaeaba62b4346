"""
How a `CacheGate` gets a value: read it, or load it once for all who want it. Plans, driven by threads and tasks.

What a value may be given to is decided by its epoch: a number that grows. What
was read or loaded in an older one than the present is got again.
"""

from __future__ import annotations

import enum
import functools
import math
import threading

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from selfheal.errors import ConfigError, IllegalTransitionError, InvalidValueError
from selfheal.resources.cache_stores import MISSING, UNREADABLE, Bounded, Store
from selfheal.resources.loops import Signal
from selfheal.resources.steps import Plan, Wait


if TYPE_CHECKING:
    from selfheal.clock import Clock


class GateMode(enum.IntEnum):
    """
    How much of a cache is used. A larger one gives up more.
    """

    #: Read it; load what is not there.
    NORMAL = 0
    #: And give the last good value if a load fails, or is under way.
    STALE_ON_ERROR = 1
    #: Neither read nor write it: every value is loaded, each by one caller for all who want it.
    BYPASS = 2


class CacheStatistics(NamedTuple):
    """
    Numbers of one `CacheGate` since it was made.

    Attributes:
        mode: The present mode.
        epoch: The present epoch; `None`: the shared cache has not told it yet.
        kept: Last good values that are kept.
        hits: Values that the cache had.
        misses: Values that it did not have.
        loads: Calls of the loader.
        load_errors: Those among them that raised.
        joined: Callers that waited for the load of another.
        stale: Last good values that were given instead of an error.
        sampled: Values of the cache that the validator was asked about.
        invalid: Those among them that it refused, and what could not be decoded. Dropped, and loaded anew.
        outdated: Times that a value arrived too late to be kept, for the epoch had changed or its key was dropped.
        store_errors: Reads and writes of the cache that raised.
    """

    mode: GateMode
    epoch: int | None
    kept: int
    hits: int = 0
    misses: int = 0
    loads: int = 0
    load_errors: int = 0
    joined: int = 0
    stale: int = 0
    sampled: int = 0
    invalid: int = 0
    outdated: int = 0
    store_errors: int = 0


class Flight:
    """
    One fetch of one key, for all who want it.
    """

    __slots__ = ("ended", "epoch", "error", "is_dropped", "key", "task", "thread", "value")

    def __init__(self, key: Any, epoch: int | None, task: object) -> None:
        self.key = key
        self.epoch = epoch
        self.task = task
        self.thread = threading.get_ident()
        self.ended = Signal()
        self.is_dropped = False
        self.value: Any = MISSING
        self.error: Exception | None = None


class Fetching:
    """
    The state of one gate, and the plans that work on it. The arguments are the gate's.
    """

    def __init__(
        self,
        store: Store,
        load: Callable[[Any], Any],
        *,
        lock: threading.RLock,
        validator: Callable[[Any, Any], object] | None,
        sample: float,
        stale_for: float,
        stale_limit: int,
        epoch_every: float,
        name: str,
        clock: Clock,
        uniform: Callable[[], float],
    ) -> None:
        self.mode = GateMode.NORMAL
        self.epoch: int | None = None if store.is_shared else 0
        self._store = store
        self._load = load
        self._validator = validator
        self._sample = sample
        self._stale_for = stale_for
        self._epoch_every = epoch_every
        self._name = name
        self._clock = clock
        self._uniform = uniform
        #: By key: a value and when it was loaded.
        self._last_good: Bounded[Any, tuple[Any, float]] = Bounded(stale_limit)
        self._flights: dict[Any, Flight] = {}
        self._counts = dict.fromkeys(CacheStatistics._field_defaults, 0)
        self._looked_at = -math.inf
        self._lock = lock

    def statistics(self) -> CacheStatistics:
        """
        The numbers so far.
        """
        with self._lock:
            counts = {**self._counts, "hits": self._counts["hits"] + self._store.hits}
            return CacheStatistics(self.mode, self.epoch, len(self._last_good), **counts)

    def reset_after_fork(self, lock: threading.RLock) -> None:
        """
        The loads of the parent's threads do not end here, nor do they free the lock.
        """
        self._lock = lock
        self._flights = {}

    def draw(self) -> bool:
        """
        Whether the next value that is read has to be validated. To be asked only if there is a validator.
        """
        return self._uniform() < self._sample

    def getting(self, key: Any, task: object, *, verify: bool) -> Plan[Any]:
        """
        The value of *key*, for whoever asks in *task* (`None`: in a thread, which is blocked meanwhile).
        """
        began_later = False
        while True:
            yield from self._knowing()
            value = MISSING if verify else self.peek(key)
            if value is MISSING:
                flight, leads = self._join(key, task)
                if leads:
                    yield from self._leading(flight, verify=verify)
                elif self.mode is not GateMode.STALE_ON_ERROR or (value := self._stale(key)) is MISSING:
                    yield Wait(flight.ended, None)
                if value is MISSING:
                    value = self._arrived(flight, began_later=began_later)
                    began_later = True
            if value is not MISSING:
                return value

    def peek(self, key: Any) -> Any:
        """
        The value of *key*, if a mapping has it, or `MISSING`.
        """
        epoch = self.epoch
        if epoch is None or self.mode is GateMode.BYPASS:
            return MISSING
        try:
            return self._store.peek(epoch, key)
        except Exception:  # noqa: BLE001 - a broken cache costs a load, not an answer
            return MISSING  # and is counted there

    def _join(self, key: Any, task: object) -> tuple[Flight, bool]:
        with self._lock:
            flight = self._flights.get(key)
            if flight is None:
                flight = self._flights[key] = Flight(key, self.epoch, task)
                return flight, True
            # A thread that is blocked can go on with none of its loads, in whatever task.
            if flight.thread == threading.get_ident() if task is None else flight.task == task:
                msg = f"{self._name}: the loader of {key!r} asks for {key!r} itself."
                raise IllegalTransitionError(msg)
            self._counts["joined"] += 1
            return flight, False

    def _leading(self, flight: Flight, *, verify: bool) -> Plan[None]:
        try:
            flight.value = yield from self._fetching(flight, verify=verify)
        except Exception as exc:  # noqa: BLE001 - it goes to all who wait for it
            flight.error = exc
        finally:
            with self._lock:
                if self._flights.get(flight.key) is flight:  # not in a child that was forked meanwhile
                    del self._flights[flight.key]
            flight.ended.set()  # with neither value nor error after a cancellation: then another one leads

    def _arrived(self, flight: Flight, *, began_later: bool) -> Any:
        """What a flight has brought, which *began_later* than its caller has asked; `MISSING`: fly again."""
        if flight.error is not None:
            value = self._stale(flight.key) if self.mode is GateMode.STALE_ON_ERROR else MISSING
            if value is MISSING:
                raise flight.error
            return value
        if flight.value is MISSING or self._is_current(flight):
            return flight.value
        self._count("outdated")
        # As if it had arrived at once: otherwise a key that is dropped faster than it is loaded is never given.
        return flight.value if began_later else MISSING

    def _fetching(self, flight: Flight, *, verify: bool) -> Plan[Any]:
        if self._is_used(flight):
            value = yield from self._reading(flight, verify=verify)
            if value is not MISSING:
                return value
        self._count("loads")
        try:
            value = yield functools.partial(self._load, flight.key)
        except Exception:
            self._count("load_errors")
            raise
        if not self._is_valid(flight.key, value):
            msg = f"{self._name}: the value that was loaded for {flight.key!r} is refused by the validator."
            raise InvalidValueError(msg)
        with self._lock:
            is_current = self._is_current(flight)
            if is_current and self._last_good.limit:
                self._last_good[flight.key] = value, self._clock.now()
        if is_current and self._is_used(flight):
            yield from self._writing(flight, value)
        return value

    def _reading(self, flight: Flight, *, verify: bool) -> Plan[Any]:
        try:
            value = yield from self._store.reading(flight.epoch or 0, flight.key)
        except ConfigError:
            raise
        except Exception:  # noqa: BLE001 - a broken cache costs a load, not an answer
            self._count("store_errors")
            return MISSING
        if value is MISSING:
            self._count("misses")
            return MISSING
        if verify:
            self._count("sampled")
        is_valid = value is not UNREADABLE and (not verify or self._is_valid(flight.key, value))
        if is_valid:
            self._count("hits")
            return value
        self._count("invalid")
        yield from self._removing(flight)
        return MISSING

    def _writing(self, flight: Flight, value: Any) -> Plan[None]:
        try:
            yield from self._store.writing(flight.epoch or 0, flight.key, value)
        except ConfigError:
            raise
        except Exception:  # noqa: BLE001 - as above
            self._count("store_errors")
        if flight.is_dropped:  # perhaps before it was there
            yield from self._removing(flight)

    def _removing(self, flight: Flight) -> Plan[None]:
        is_gone = False
        try:
            yield from self._store.deleting(flight.epoch or 0, flight.key)
            is_gone = True
        except Exception:  # noqa: BLE001 - as above
            self._count("store_errors")
        finally:
            if not is_gone:  # what must go and cannot is made unreachable
                self.begin(None)
                self.sweep()

    def dropping(self, key: Any) -> Plan[None]:
        """
        Forget the value of *key*, also one that is being loaded.
        """
        with self._lock:
            self._last_good.pop(key, None)
            if key in self._flights:
                self._flights[key].is_dropped = True
        if self.mode is GateMode.BYPASS:
            return  # nothing that is in the cache now is ever read after it
        if self._store.is_shared:
            yield from self.agreeing()  # others may have stored it in an epoch that is not known here yet
        yield from self._store.deleting(self.epoch or 0, key)

    def _is_used(self, flight: Flight) -> bool:
        return flight.epoch is not None and self.mode is not GateMode.BYPASS

    def _is_current(self, flight: Flight) -> bool:
        return flight.epoch == self.epoch and not flight.is_dropped

    def _is_valid(self, key: Any, value: Any) -> bool:
        try:
            return self._validator is None or bool(self._validator(key, value))
        except Exception:  # noqa: BLE001 - poison may be of any shape
            return False

    def _stale(self, key: Any) -> Any:
        with self._lock:
            value, loaded_at = self._last_good.get(key, (MISSING, -math.inf))
            if self._clock.now() - loaded_at > self._stale_for:
                return MISSING
            self._counts["stale"] += 1
            return value

    # -- epochs ------------------------------------------------------------------

    def begin(self, told: int | None) -> None:
        """
        Begin the epoch that a shared cache has told, if it is newer, or (`None`) one of our own.
        """
        with self._lock:
            known = -1 if self.epoch is None else self.epoch
            if told is None:
                # By the wall clock no number comes again, not even if a shared cache has forgotten the last one.
                told = max(known + 1, int(self._clock.wall() * 1e6) if self._store.is_shared else 0)
            if told <= known:
                return
            self.epoch = told
            freed, self._last_good = self._last_good, Bounded(self._last_good.limit)
            self._looked_at = -math.inf
        freed.clear()  # without the lock

    def sweep(self) -> None:
        """
        Give back the room of entries that nobody finds any more.
        """
        try:
            self._store.clear()
        except Exception:  # noqa: BLE001 - they only take room
            self._count("store_errors")

    def _knowing(self) -> Plan[None]:
        """Know the epoch of a shared cache, as far as it answers."""
        if not self._store.is_shared or self.mode is GateMode.BYPASS:
            return
        if self.epoch is not None and self._clock.now() - self._looked_at < self._epoch_every:
            return
        try:
            yield from self.agreeing()
        except ConfigError:
            raise
        except Exception:  # noqa: BLE001 - it goes on with what it knows; without, everything is loaded
            self._count("store_errors")

    def agreeing(self) -> Plan[None]:
        """
        Agree with a shared cache on the epoch: the larger number wins.

        Raises:
            Exception: What the cache raises.
        """
        self._looked_at = self._clock.now()
        told = yield from self._store.looking()
        if told is not None or self.epoch is None:
            self.begin(told)
            self._looked_at = self._clock.now()
        if self.epoch is not None and (told is None or told < self.epoch):
            yield from self._store.remembering(self.epoch)

    def _count(self, what: str) -> None:
        with self._lock:
            self._counts[what] += 1
