"""
`Succession`: which object is in service, and how the next one gets there.

Rule 1: user code (factory, verify, close) never runs under a lock.
Rule 2: at most two are alive: the one in service, and one that is being made or put out of service.
Rule 3: whatever fails or is cancelled, the one in service stays in service.
"""

from __future__ import annotations

import functools
import threading

from collections.abc import Callable
from typing import Final, Generic, TypeVar, cast

from selfheal.errors import IllegalTransitionError, RebuildError
from selfheal.resources.loops import Signal, running
from selfheal.resources.retirement import Generation, Retirement
from selfheal.resources.steps import Plan, Wait


T = TypeVar("T")

# More closes than this that were given up and still hang are a leak that only a restart of the process ends.
HANGING_MAX: Final = 16


class _Flight(Generic[T]):
    """One attempt to build, shared by all who want it."""

    __slots__ = ("built", "error", "landed", "pilot")

    def __init__(self) -> None:
        self.pilot = threading.get_ident()
        self.built: Generation[T] | None = None
        self.error: Exception | None = None  # both `None` after landing: it was cancelled
        self.landed = Signal()


class _DroppedError(Exception):
    """The task that wanted it was cancelled while a thread built it."""


def always() -> bool:
    """
    Still wanted.
    """
    return True


class Succession(Generic[T]):
    """
    The object in service, its predecessor on the way out, its successor on the way in.

    Args:
        factory: Makes an object.
        verify: Raises if it does not work.
        retirement: Takes what is replaced.
        is_async: Whether objects are bound to the loop on which they are made.
        name: For error texts.
    """

    def __init__(
        self,
        factory: Callable[[], object],
        verify: Callable[[T], object] | None,
        retirement: Retirement[T],
        *,
        is_async: bool,
        name: str,
    ) -> None:
        self._factory = factory
        self._verify = verify
        self._retirement = retirement
        self._is_async = is_async
        self._name = name
        self.in_service: Generation[T] | None = None
        self.is_closed = False
        self._flight: _Flight[T] | None = None
        self._built = 0
        self._lock = threading.Lock()

    def alive(self) -> tuple[Generation[T], ...]:
        """
        What exists: those on their way out, then the one in service.
        """
        with self._lock:
            live, retiring = self.in_service, self._retirement.under_way
        return retiring if live is None else (*retiring, live)

    def plan(self, *, first: bool = False, is_wanted: Callable[[], bool] = always) -> Plan[T]:
        """
        The plan of a rebuild, or of having a *first* object, which is not verified: there is no better alternative.

        Raises (when driven):
            RebuildError: If the factory or verify of a rebuild raised, which is the cause.
            IllegalTransitionError: If this is closed, or the factory needs what it is to make.
            Exception: What the factory raised, for a *first* object.
        """
        while True:
            with self._lock:
                if self.is_closed:
                    raise self._closed_error()
                if first and self.in_service is not None:
                    return self.in_service.value
                flight = self._flight
                if is_pilot := flight is None:
                    flight = self._flight = _Flight()
            if is_pilot:
                yield from self._fly(flight, is_wanted, verify=None if first else self._verify)
            elif flight.pilot == threading.get_ident() and not self._is_async:
                msg = f"{self._name}: its factory or verify uses {self._name} itself, which is being built."
                raise IllegalTransitionError(msg)
            else:
                yield Wait(flight.landed, None)
            if flight.built is not None:
                return flight.built.value
            if flight.error is not None:
                raise self._failure(flight.error, first=first)

    def plan_close(self) -> Plan[None]:
        """
        The plan of putting everything out of service for good.
        """
        with self._lock:
            self.is_closed = True
            old, self.in_service = self.in_service, None
            if old is not None:
                self._retirement.enlist(old)
        if old is not None:
            self._retirement.begin(old)
        for generation in self._retirement.under_way:
            yield Wait(generation.gone, self._retirement.patience)

    def forget(self) -> tuple[Generation[T], ...]:
        """
        Drop what belongs to a parent process, and return it.
        """
        self._lock = threading.Lock()  # a thread that does not exist here may hold the old one
        live, self.in_service, self._flight = self.in_service, None, None
        inherited = self._retirement.forget()
        return inherited if live is None else (*inherited, live)

    def _fly(
        self, flight: _Flight[T], is_wanted: Callable[[], bool], verify: Callable[[T], object] | None
    ) -> Plan[None]:
        fresh: Generation[T] | None = None
        try:
            yield from self._make_room()
            value = cast("T", (yield self._factory))
            fresh = Generation(value, self._next_number(), running() if self._is_async else None)
            if verify is not None:
                yield functools.partial(verify, value)
            self._swap(flight, fresh, is_wanted)
        except _DroppedError:
            raise
        except Exception as exc:  # noqa: BLE001 - user code; everyone who waits for the flight is told
            flight.error = exc
        finally:
            leftover = fresh if flight.built is None else None
            with self._lock:
                if self._flight is flight:
                    self._flight = None
                if leftover is not None:
                    self._retirement.enlist(leftover)
            if leftover is not None:
                self._retirement.begin(leftover)
            flight.landed.set()

    def _make_room(self) -> Plan[None]:
        if (hanging := self._retirement.hanging) >= HANGING_MAX:
            msg = (
                f"{self._name}: the closing of {hanging} old objects hangs, a leak that another one would add to. "
                "Find out what its close waits for; restart the process."
            )
            raise RebuildError(msg)
        patience = self._retirement.patience
        for old in self._retirement.under_way:
            if not (yield Wait(old.gone, patience)):
                msg = (
                    f"{self._name}: generation {old.number} is still being retired after {patience:g} s, and at most "
                    "two objects may be alive. Try again later, or lower grace and close_deadline."
                )
                raise RebuildError(msg)

    def _swap(self, flight: _Flight[T], fresh: Generation[T], is_wanted: Callable[[], bool]) -> None:
        with self._lock:
            if self.is_closed:
                raise self._closed_error()
            if not is_wanted():
                raise _DroppedError
            old, self.in_service = self.in_service, fresh
            flight.built = fresh
            if old is not None:
                self._retirement.enlist(old)
        if old is not None:
            self._retirement.begin(old)

    def _next_number(self) -> int:
        with self._lock:
            self._built += 1
            return self._built

    def _closed_error(self) -> IllegalTransitionError:
        return IllegalTransitionError(f"{self._name} was closed and cannot be used again. Make a new Rebuildable.")

    def _failure(self, error: Exception, *, first: bool) -> Exception:
        if first or isinstance(error, RebuildError | IllegalTransitionError):
            return error
        live = self.in_service
        stays = "nothing is in service yet" if live is None else f"generation {live.number} stays in service"
        failure = RebuildError(
            f"{self._name}: the new object could not be built or verified ({type(error).__name__}); {stays}. "
            "The cause says why."
        )
        failure.__cause__ = error
        return failure
