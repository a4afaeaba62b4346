"""
Tells from a sliding window of durations whether calls have become slow.

Whoever is timed pays for one append. Whoever asks pays for the arithmetic.
"""

from __future__ import annotations

import functools
import inspect

from _thread import allocate_lock  # as functools does: `threading` is a room that waits, and this one does not
from collections import deque
from typing import TYPE_CHECKING, Any, Final, Literal, ParamSpec, TypeVar, cast

from selfheal.clock import perf_counter
from selfheal.errors import ConfigError
from selfheal.model.settings import require_name
from selfheal.monitors.running import STATISTICS


if TYPE_CHECKING:
    from collections.abc import Callable

    from selfheal.model.health import Assessment


P = ParamSpec("P")
R = TypeVar("R")

#: Samples that may wait for the reader; more than the window holds, so that they can be counted. 32 KiB when full.
_BACKLOG: Final = 1024

#: Milliseconds. No clock says more, and a window full of them can still be summed.
_ABSURD: Final = 1e300


class LatencyMonitor:
    """
    Unhealthy when calls have become slow, healthy again when they have become clearly faster.

    Feed it with `timed`, `timing` or `add_sample`, from any thread and any loop: that is one bounded append, without
    a lock. `is_unhealthy`, `assess` and the numbers take in what has been appended since the last question, at most
    one backlog of it; several threads may ask at once. Memory: one float for each sample of the window and of the
    backlog, and for a quantile one pointer more.

    It trips when the statistic reaches *threshold_ms* and clears when it is down to *clear_ms*; between the two it
    stays what it was. With fewer than *min_samples* it is never unhealthy. It looks when it is asked: a peak that
    has come and gone between two questions was never seen.

    Args:
        window_size: The last so many samples count, 1 or more.
        threshold_ms: Slow is this many milliseconds or more.
        statistic: What is compared: ``mean``, ``p50``, ``p95``, ``p99`` (nearest rank) or ``max``.
        min_samples: Below this there is no verdict, from 1 to *window_size*. Default: *window_size*.
        clear_ms: Fast again is this many milliseconds or fewer, at most *threshold_ms*. Default: 0.8 x *threshold_ms*.
        name: For reasons and records; a metric label.
        clock: Seconds, for `timed` and `timing`.

    Raises:
        ConfigError: If an argument cannot work.

    Examples:
        >>> latency = LatencyMonitor(window_size=3, threshold_ms=500)
        >>> for ms in (400, 600, 800):
        ...     latency.add_sample(ms)
        >>> latency.is_unhealthy(), latency.value
        (True, 600.0)

    .. versionadded:: 26.1.0
    """

    __slots__ = (
        "__weakref__",
        "_backlog",
        "_bound",
        "_breaches",
        "_clock",
        "_lock",
        "_overflowed",
        "_record",
        "_rejected",
        "_running",
        "_taken",
        "_tripped",
        "_value",
        "_window",
        "clear_ms",
        "min_samples",
        "name",
        "statistic",
        "threshold_ms",
        "window_size",
    )

    def __init__(
        self,
        window_size: int,
        threshold_ms: float,
        *,
        statistic: Literal["mean", "p50", "p95", "p99", "max"] = "mean",
        min_samples: int | None = None,
        clear_ms: float | None = None,
        name: str | None = None,
        clock: Callable[[], float] = perf_counter,
    ) -> None:
        self.window_size: Final = _count("window_size", window_size)
        self.threshold_ms: Final = _milliseconds("threshold_ms", threshold_ms)
        self.clear_ms: Final = 0.8 * self.threshold_ms if clear_ms is None else _milliseconds("clear_ms", clear_ms)
        self.min_samples: Final = self.window_size if min_samples is None else _count("min_samples", min_samples)
        self.statistic: Final = statistic
        self.name: Final = None if name is None else require_name(name)
        if self.clear_ms > self.threshold_ms:
            msg = (
                f"clear_ms={clear_ms} is more than threshold_ms={threshold_ms}: latency would be slow and fast at once. "
                "Lower clear_ms, or leave it out for 80 % of the threshold."
            )
            raise ConfigError(msg)
        if self.min_samples > self.window_size:
            msg = (
                f"min_samples={min_samples} never fit into window_size={window_size}, so there would never be a verdict. "
                "Lower min_samples or leave it out."
            )
            raise ConfigError(msg)
        if statistic not in STATISTICS:
            msg = f"statistic={statistic!r} is not known. Use one of: {', '.join(STATISTICS)}."
            raise ConfigError(msg)
        self._bound = max(_BACKLOG, self.window_size)
        self._clock = clock
        self._lock = allocate_lock()  # writers never take it
        self._taken = self._rejected = self._overflowed = self._breaches = 0
        self._clear()

    def _clear(self) -> None:
        # A new backlog, not an emptied one: calls that are in flight record into the old one, which nobody reads.
        self._backlog: deque[float] = deque(maxlen=self._bound)
        self._record = self._backlog.append
        self._window: deque[float] = deque()
        self._running = STATISTICS[self.statistic]()
        self._value: float | None = None
        self._tripped = False

    def __repr__(self) -> str:
        name = "" if self.name is None else f", name={self.name!r}"
        return f"LatencyMonitor({self.window_size}, {self.threshold_ms:g}, statistic={self.statistic!r}{name})"

    def add_sample(self, ms: float) -> None:
        """
        Take in one duration.

        What is not a finite number of 0 or more is dropped, and counted as `rejected`, when somebody asks.

        Args:
            ms: Milliseconds.
        """
        self._record(ms)

    def timed(self, func: Callable[P, R]) -> Callable[P, R]:
        """
        Decorate a function, sync or async: each of its calls becomes a sample, also one that fails or is cancelled.

        Raises:
            ConfigError: If *func* is not callable, or is a generator function, whose call returns before it has begun.
        """
        _require_measurable(func)
        now = self._clock

        if inspect.iscoroutinefunction(func):

            @functools.wraps(func)
            async def async_inner(*args: P.args, **kwargs: P.kwargs) -> Any:
                record = self._record
                start = now()
                try:
                    return await func(*args, **kwargs)
                finally:
                    record((now() - start) * 1000.0)

            return cast("Callable[P, R]", async_inner)

        @functools.wraps(func)
        def inner(*args: P.args, **kwargs: P.kwargs) -> R:
            record = self._record
            start = now()
            try:
                return func(*args, **kwargs)
            finally:
                record((now() - start) * 1000.0)

        return inner

    def timing(self) -> Timing:
        """
        A context manager: what runs inside it becomes a sample, also when it raises.

        Four times as dear as `timed`; use it for what is not a function.
        """
        return Timing(self._record, self._clock)

    def forget(self) -> None:
        """
        Start anew: samples so far, and calls that are in flight, are no evidence. What was counted stays counted.
        """
        with self._lock:
            self._take_in()
            self._clear()

    def is_unhealthy(self) -> bool:
        """
        Whether calls are slow; with fewer than *min_samples* they are not.
        """
        self._lock.acquire()  # a tenth cheaper than `with`, for those who ask after each call
        try:
            self._take_in()
            return self._tripped
        finally:
            self._lock.release()

    def assess(self, *, now: float) -> Assessment | None:
        """
        The verdict for a check, with the statistic in milliseconds; `None` with fewer than *min_samples*.
        """
        with self._lock:
            self._take_in()
            value, tripped, count = self._value, self._tripped, len(self._window)
        if value is None or count < self.min_samples:
            return None
        from selfheal.model.health import Assessment, HealthStatus  # whoever only times calls does not need them

        reason = f"{self.name or 'latency'}: {self.statistic} of the last {count} calls is {value:g} ms"
        if value >= self.threshold_ms:
            reason += f"; {self.threshold_ms:g} ms or more is slow"
        elif tripped:
            reason += f"; it was slow and is not yet down to {self.clear_ms:g} ms"
        status = HealthStatus.UNHEALTHY if tripped else HealthStatus.HEALTHY
        return Assessment(status, value=value, reason=reason, kind="slow")

    @property
    def value(self) -> float | None:
        """
        The statistic of the window in milliseconds, or `None` while it is empty.
        """
        with self._lock:
            self._take_in()
            return self._value

    @property
    def samples(self) -> int:
        """
        Samples in the window now.
        """
        with self._lock:
            self._take_in()
            return len(self._window)

    @property
    def accepted(self) -> int:
        """
        Samples that have come into the window since the monitor was made.
        """
        with self._lock:
            self._take_in()
            return self._taken - self._rejected

    @property
    def rejected(self) -> int:
        """
        Samples that were dropped: not finite, negative, or not a number.
        """
        with self._lock:
            self._take_in()
            return self._rejected

    @property
    def overflowed(self) -> int:
        """
        How often the backlog was found full. Of each such time it is known only *that* older samples may be lost.
        """
        with self._lock:
            self._take_in()
            return self._overflowed

    @property
    def breaches(self) -> int:
        """
        How often it has tripped.
        """
        with self._lock:
            self._take_in()
            return self._breaches

    def _take_in(self) -> None:
        # Only ever called under the lock, so what is counted here is there to be popped: writers only add.
        # Plain loops and lists: for the one sample that there often is they are the cheapest.
        backlog, window, size = self._backlog, self._window, self.window_size
        waiting = len(backlog)
        self._taken += waiting
        if waiting == self._bound:
            self._overflowed += 1
        fresh: list[float] = []
        gone: list[float] = []
        while waiting:  # not "until the backlog is empty": writers might be faster for ever
            waiting -= 1
            ms = backlog.popleft()
            try:
                usable = 0.0 <= ms < _ABSURD  # false for NaN
            except TypeError:  # no number at all
                usable = False
            if not usable:
                self._rejected += 1
                continue
            if len(window) == size:
                gone.append(window.popleft())
            window.append(ms)
            fresh.append(ms)
        if not fresh:
            return
        self._value = value = self._running.update(fresh, gone, window)
        if self._tripped:
            self._tripped = value > self.clear_ms
        elif value >= self.threshold_ms and len(window) >= self.min_samples:
            self._tripped = True
            self._breaches += 1


class Timing:
    """
    One measurement with ``with``; see `LatencyMonitor.timing`.
    """

    __slots__ = ("_clock", "_record", "_start")

    def __init__(self, record: Callable[[float], None], clock: Callable[[], float]) -> None:
        self._record = record
        self._clock = clock

    def __enter__(self) -> None:
        self._start = self._clock()

    def __exit__(self, *exc: object) -> None:
        self._record((self._clock() - self._start) * 1000.0)


def _count(name: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        msg = f"{name}={value!r}: must be a whole number of samples, 1 or more."
        raise ConfigError(msg)
    return value


def _milliseconds(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < _ABSURD:
        msg = f"{name}={value!r}: must be a finite number of milliseconds greater than 0; half a second is 500."
        raise ConfigError(msg)
    return float(value)


def _require_measurable(func: object) -> None:
    if not callable(func):
        msg = (
            f"timed needs a function, not {func!r}. Write @monitor.timed without parentheses, "
            "and below @classmethod or @property."
        )
        raise ConfigError(msg)
    if inspect.isgeneratorfunction(func) or inspect.isasyncgenfunction(func):
        msg = (
            f"timed cannot measure the generator function {func!r}: calling it returns before it has begun. "
            "Use 'with monitor.timing():' inside it, around what is to be measured."
        )
        raise ConfigError(msg)
