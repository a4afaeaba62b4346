"""
The decision table of pooled clients, on views that are made up; `tests/real` has those of real servers.
"""

from __future__ import annotations

import contextlib

from collections.abc import AsyncIterator

import pytest

from selfheal.errors import Unhealthy
from selfheal.integrations.pooled import Failure, PooledHealth, Usage, View
from selfheal.model import HealthStatus


GOOD = View()
IDLE = Usage()


def failed(failure: Failure, *, connecting: bool = False) -> View:
    """A view that has shown a failure."""
    return View(failure=failure, error=ConnectionError(failure.value), connecting=connecting)


class Scripted:
    """A pool that shows one view after the other."""

    def __init__(self, *pooled: View, direct: View = GOOD, waits: bool = False, usage: Usage = IDLE) -> None:
        self._pooled, self._direct, self._waits, self._usage = list(pooled), direct, waits, usage

    def reconnecting(self) -> bool:
        return self._waits

    async def pooled(self, timeout: float, *, wait: float | None = None) -> View:
        return self._pooled.pop(0)

    async def direct(self, timeout: float) -> View:
        return self._direct

    def usage(self) -> Usage:
        return self._usage


class Health(PooledHealth[object]):
    """Looks at what it was given."""

    @contextlib.asynccontextmanager
    async def looking(self) -> AsyncIterator[Scripted]:
        yield self.source


def kind(pool: Scripted) -> str:
    """What one look calls it."""
    try:
        result = Health(pool)()
    except Unhealthy as exc:
        return exc.kind
    return "healthy" if result.status is HealthStatus.HEALTHY else result.fault.kind


@pytest.mark.parametrize(
    ("pool", "expected"),
    [
        (Scripted(GOOD), "healthy"),
        (Scripted(failed(Failure.DEAD)), "stale"),
        (Scripted(failed(Failure.DEAD, connecting=True), GOOD), "healthy"),
        (Scripted(failed(Failure.DEAD, connecting=True), failed(Failure.DEAD, connecting=True)), "stale"),
        (Scripted(failed(Failure.DEAD, connecting=True), direct=failed(Failure.DEAD)), "down"),
        (Scripted(failed(Failure.DEAD, connecting=True), direct=failed(Failure.REFUSED)), "auth"),
        (Scripted(GOOD, waits=True), "healthy"),
        (Scripted(failed(Failure.NONE), waits=True, usage=Usage(missing=2)), "backoff"),
        (Scripted(failed(Failure.NONE), usage=Usage(leased=2)), "slow"),
        (Scripted(failed(Failure.NONE), usage=Usage(leased=2, leaked=1)), "exhausted"),
        (Scripted(failed(Failure.SILENT)), "stuck"),
        (Scripted(View(hung=("one",))), "stuck"),
        (Scripted(View(read_only=True)), "read_only"),
        (Scripted(View(read_only=True), direct=View(read_only=True)), "down"),
        (Scripted(failed(Failure.NONE), direct=failed(Failure.FULL), usage=Usage(leased=2, leaked=2)), "exhausted"),
        (Scripted(failed(Failure.ERROR)), "error"),
    ],
)
def test_two_views_together_name_the_fault(pool: Scripted, expected: str) -> None:
    """
    Each row of the table has its kind; a server that has come back between the two looks is none.
    """
    assert expected == kind(pool)
