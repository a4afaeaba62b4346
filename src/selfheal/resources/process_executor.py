"""
`ExecutorDelay`: a probe of how long a call has to wait for a free thread of an executor.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from concurrent.futures import Executor
from typing import Any, Final

import attrs

from selfheal.clock import perf_counter
from selfheal.errors import ConfigError, Unhealthy
from selfheal.model.health import CheckResult
from selfheal.model.settings import positive, seconds


# What a person, or a probe from outside, begins to notice. The runner's own limit for a probe is 5 s by default.
_MAX_DELAY: Final = 1.0


@attrs.frozen
class ExecutorDelay:
    """
    A probe of an executor that starves: it hands in a call that does nothing, and measures how long that had to wait.

    All of an application that needs the executor waits as long: `asyncio.to_thread` and the resolver of names for
    asyncio's default one, sync endpoints of FastAPI and Starlette for anyio's 40 threads.

    Args:
        runs: An executor, such as a `ThreadPoolExecutor`; or an async function that runs a call in a thread, such as
            `asyncio.to_thread`, ``anyio.to_thread.run_sync`` or ``trio.to_thread.run_sync``. What the latter use belongs
            to a loop: the healer has to be entered on that one, by ``async with``.
        max_delay: Seconds. A call that has not run by then is taken back. Less than the check's ``timeout=``.

    Raises:
        ConfigError: If *runs* cannot run anything, or *max_delay* is not a finite number greater than 0.

    .. versionadded:: 26.1.0
    """

    runs: Executor | Callable[[Callable[[], float]], Awaitable[float]]
    max_delay: float = attrs.field(default=_MAX_DELAY, kw_only=True, converter=seconds, validator=positive)

    def __attrs_post_init__(self) -> None:
        if not isinstance(self.runs, Executor) and not callable(self.runs):
            msg = f"{self.runs!r} is neither an executor nor an async function such as asyncio.to_thread."
            raise ConfigError(msg)

    def __call__(self) -> CheckResult | Awaitable[CheckResult]:
        """
        Look. The data has ``delay``, in seconds.

        Raises:
            Unhealthy: ``exhausted``.
            RuntimeError: If the executor is shut down.
        """
        if not isinstance(self.runs, Executor):
            return self._arun(self.runs)
        began = perf_counter()
        waiting = self.runs.submit(perf_counter)
        try:
            ran = waiting.result(self.max_delay)
        except TimeoutError:
            waiting.cancel()
            raise self._starved() from None
        return self._after(ran - began)

    async def _arun(self, run: Callable[[Callable[[], float]], Awaitable[Any]]) -> CheckResult:
        import anyio

        began = perf_counter()
        with anyio.move_on_after(self.max_delay):
            return self._after(await run(perf_counter) - began)
        raise self._starved()

    def _after(self, delay: float) -> CheckResult:
        if delay > self.max_delay:  # it ran late, just before it was taken back
            raise self._starved()
        return CheckResult.healthy(data={"delay": max(0.0, delay)})

    def _starved(self) -> Unhealthy:
        return Unhealthy("exhausted", f"a call has waited for a free thread for {self.max_delay:g} s")
