"""
What `LatencyMonitor` promises, by example.
"""

from __future__ import annotations

import asyncio
import inspect
import math
import threading

import pytest

from selfheal.clock import perf_counter
from selfheal.errors import ConfigError
from selfheal.model import Assessment, HealthStatus, Monitor
from selfheal.monitors import LatencyMonitor


class Hands:
    """
    A clock that is turned by hand.
    """

    def __init__(self) -> None:
        self.time = 100.0

    def __call__(self) -> float:
        return self.time


def fed(monitor: LatencyMonitor, *samples: float) -> LatencyMonitor:
    for ms in samples:
        monitor.add_sample(ms)
    return monitor


class TestVerdict:
    def test_few_samples_are_never_unhealthy(self):
        """
        Below min_samples, which is the window size unless said otherwise, nothing is unhealthy.
        """
        monitor = fed(LatencyMonitor(3, 100), 9_000, 9_000)

        assert monitor.is_unhealthy() is False
        assert monitor.assess(now=0.0) is None
        assert fed(monitor, 9_000).is_unhealthy() is True

    def test_fewer_samples_can_be_enough(self):
        """
        min_samples lets a verdict come before the window is full.
        """
        assert fed(LatencyMonitor(50, 100, min_samples=2), 100, 100).is_unhealthy() is True

    def test_it_trips_at_the_threshold_and_not_below(self):
        """
        The threshold itself is slow; the next smaller number is not.
        """
        assert fed(LatencyMonitor(3, 0.1), 0.1, 0.1, 0.1).is_unhealthy() is True
        assert fed(LatencyMonitor(1, 0.1), math.nextafter(0.1, 0)).is_unhealthy() is False

    def test_it_clears_only_when_clearly_faster(self):
        """
        Between clear_ms and threshold_ms the verdict stays what it was.
        """
        monitor = LatencyMonitor(1, 100, clear_ms=50)
        seen = [fed(monitor, ms).is_unhealthy() for ms in (99, 100, 99, 50.5, 50, 99, 100)]

        assert seen == [False, True, True, True, False, False, True]
        assert monitor.breaches == 2

    def test_it_clears_at_four_fifths_by_default(self):
        """
        Without clear_ms it is 80 % of the threshold.
        """
        monitor = LatencyMonitor(1, 500)

        assert monitor.clear_ms == 400.0
        assert [fed(monitor, ms).is_unhealthy() for ms in (500, 401, 400)] == [True, True, False]

    @pytest.mark.parametrize(
        ("statistic", "expected"),
        [("mean", 50.5), ("p50", 50.0), ("p95", 95.0), ("p99", 99.0), ("max", 100.0)],
    )
    def test_statistics_of_one_to_a_hundred(self, statistic, expected):
        """
        Quantiles are nearest-rank: a number that was measured.
        """
        monitor = fed(LatencyMonitor(100, 1_000, statistic=statistic), *range(100, 0, -1))

        assert monitor.value == expected

    def test_only_the_window_counts(self):
        """
        What has left the window has no influence.
        """
        monitor = fed(LatencyMonitor(3, 100), 1e9, 1, 2, 3)

        assert (monitor.value, monitor.samples, monitor.accepted) == (2.0, 3, 4)

    def test_an_empty_window_has_no_value(self):
        """
        No number is made up for a window without samples.
        """
        monitor = LatencyMonitor(3, 100)

        assert monitor.value is None
        assert monitor.samples == 0

    def test_zero_is_a_duration(self):
        """
        A call that took no measurable time counts.
        """
        assert fed(LatencyMonitor(2, 100), 0, 0.0).value == 0.0


class TestAssessment:
    def test_it_is_a_monitor(self):
        """
        Checks accept it as a monitor.
        """
        assert isinstance(LatencyMonitor(1, 1), Monitor)

    def test_slow(self):
        """
        The assessment has the status, the milliseconds, the kind 'slow' and a sentence.
        """
        monitor = fed(LatencyMonitor(2, 500, statistic="max", name="orders"), 20, 612.5)

        assert monitor.assess(now=1.0) == Assessment(
            HealthStatus.UNHEALTHY,
            value=612.5,
            reason="orders: max of the last 2 calls is 612.5 ms; 500 ms or more is slow",
            kind="slow",
        )

    def test_not_yet_fast(self):
        """
        While it has not cleared, the reason says what it waits for.
        """
        monitor = fed(LatencyMonitor(1, 500), 600)
        monitor.is_unhealthy()
        assessment = fed(monitor, 450).assess(now=1.0)

        assert assessment is not None
        assert assessment.status is HealthStatus.UNHEALTHY
        assert assessment.reason.endswith("is 450 ms; it was slow and is not yet down to 400 ms")

    def test_fast(self):
        """
        Enough fast samples are HEALTHY, not silence.
        """
        assessment = fed(LatencyMonitor(1, 500), 12).assess(now=1.0)

        assert assessment == Assessment(
            HealthStatus.HEALTHY, value=12.0, reason="latency: mean of the last 1 calls is 12 ms", kind="slow"
        )


class TestForget:
    def test_it_starts_anew(self):
        """
        After forget there is no verdict until there are enough new samples; totals stay.
        """
        monitor = fed(LatencyMonitor(2, 100), 500, 500, math.nan)
        assert monitor.is_unhealthy() is True
        monitor.forget()

        assert monitor.is_unhealthy() is False
        assert monitor.assess(now=0.0) is None
        assert (monitor.value, monitor.samples) == (None, 0)
        assert (monitor.accepted, monitor.rejected, monitor.breaches) == (2, 1, 1)
        assert fed(monitor, 1, 2).value == 1.5

    def test_samples_that_nobody_has_looked_at_are_forgotten_too(self):
        """
        A sample that was recorded before is no evidence, whether or not it had been taken in.
        """
        monitor = fed(LatencyMonitor(1, 100), 500)
        monitor.forget()

        assert monitor.is_unhealthy() is False

    def test_a_call_in_flight_is_forgotten(self):
        """
        A call that began before the healing says nothing about the time after it.
        """
        clock = Hands()
        monitor = LatencyMonitor(1, 100, clock=clock)

        @monitor.timed
        def healed_meanwhile() -> None:
            clock.time += 30
            monitor.forget()

        healed_meanwhile()
        with monitor.timing():
            monitor.forget()

        assert (monitor.samples, monitor.is_unhealthy()) == (0, False)


class TestTimed:
    def test_sync(self):
        """
        A call becomes a sample in milliseconds, and its answer and arguments pass through.
        """
        clock = Hands()
        monitor = LatencyMonitor(1, 100, clock=clock)

        @monitor.timed
        def add(a: int, *, b: int) -> int:
            clock.time += 0.25
            return a + b

        assert add(1, b=2) == 3
        assert monitor.value == 250.0

    def test_real_clock(self):
        """
        Without a clock of its own it reads the precise one.
        """
        monitor = LatencyMonitor(1, 100)
        before = perf_counter()
        monitor.timed(lambda: None)()
        spent = (perf_counter() - before) * 1000

        assert monitor.value is not None
        assert 0 <= monitor.value <= spent

    def test_async(self):
        """
        A coroutine function is timed to its end and stays one.
        """
        clock = Hands()
        monitor = LatencyMonitor(1, 100, clock=clock)

        @monitor.timed
        async def add(a: int, *, b: int) -> int:
            await asyncio.sleep(0)
            clock.time += 0.25
            return a + b

        assert inspect.iscoroutinefunction(add)
        assert asyncio.run(add(1, b=2)) == 3
        assert monitor.value == 250.0

    def test_methods(self):
        """
        It decorates methods like any function decorator.
        """
        monitor = LatencyMonitor(2, 100)

        class Shop:
            @monitor.timed
            def order(self) -> Shop:
                return self

            @classmethod
            @monitor.timed
            def open(cls) -> type[Shop]:
                return cls

        shop = Shop()

        assert shop.order() is shop
        assert Shop.open() is Shop
        assert monitor.samples == 2

    def test_metadata_is_kept(self):
        """
        Name, docstring, signature and attributes are those of the function.
        """
        monitor = LatencyMonitor(1, 100)

        def order(item: str, count: int = 1) -> bool:
            """Order it."""
            return bool(item) and count > 0

        order.mark = "kept"
        timed = monitor.timed(order)

        assert (timed.__name__, timed.__doc__, timed.mark) == ("order", "Order it.", "kept")
        assert inspect.signature(timed) == inspect.signature(order)
        assert timed.__wrapped__ is order

    def test_a_failing_call_is_recorded(self):
        """
        How long it took to fail is latency too, and the error is the function's own.
        """
        monitor = LatencyMonitor(1, 100)
        error = LookupError("no such order")

        @monitor.timed
        def fail() -> None:
            raise error

        @monitor.timed
        async def afail() -> None:
            raise error

        with pytest.raises(LookupError) as caught:
            fail()
        with pytest.raises(LookupError) as acaught:
            asyncio.run(afail())

        assert caught.value is acaught.value is error
        assert monitor.accepted == 2

    def test_a_cancelled_call_is_recorded(self):
        """
        A call that is given up after a long wait is the slowest of all, so it counts; the cancellation passes.
        """
        clock = Hands()
        monitor = LatencyMonitor(1, 100, clock=clock)

        @monitor.timed
        async def hang() -> None:
            await asyncio.Event().wait()

        async def give_up() -> bool:
            task = asyncio.ensure_future(hang())
            await asyncio.sleep(0)
            clock.time += 5
            task.cancel()
            await asyncio.wait([task])
            return task.cancelled()

        assert asyncio.run(give_up()) is True
        assert monitor.value == 5_000.0

    def test_concurrent_calls_do_not_mix(self):
        """
        Each of many overlapping calls is measured for itself.
        """
        clock = Hands()
        monitor = LatencyMonitor(2, 100, statistic="max", clock=clock)

        async def story() -> None:
            gate = asyncio.Event()

            @monitor.timed
            async def call() -> None:
                await gate.wait()

            first = asyncio.ensure_future(call())
            await asyncio.sleep(0)
            clock.time += 1
            second = asyncio.ensure_future(call())
            await asyncio.sleep(0)
            clock.time += 1
            gate.set()
            await asyncio.gather(first, second)

        asyncio.run(story())

        assert monitor.value == 2_000.0
        assert monitor.samples == 2

    def test_generator_functions_are_refused(self):
        """
        Calling a generator function measures nothing, so it is refused with a way out.
        """
        monitor = LatencyMonitor(1, 100)

        def rows():
            yield 1

        async def arows():
            yield 1

        for func in (rows, arows):
            with pytest.raises(ConfigError, match=r"with monitor\.timing\(\):"):
                monitor.timed(func)

    def test_what_cannot_be_called_is_refused(self):
        """
        The message says how the decorator is written.
        """
        with pytest.raises(ConfigError, match="without parentheses"):
            LatencyMonitor(1, 100).timed(classmethod(len))


class TestTiming:
    def test_a_block_becomes_a_sample(self):
        """
        What runs inside the block is measured, nested blocks each for themselves.
        """
        clock = Hands()
        monitor = LatencyMonitor(2, 100, statistic="max", clock=clock)
        with monitor.timing():
            clock.time += 1
            with monitor.timing():
                clock.time += 1

        assert (monitor.value, monitor.samples) == (2_000.0, 2)

    def test_a_block_that_raises_becomes_a_sample(self):
        """
        The error passes, and the time it took is recorded.
        """
        monitor = LatencyMonitor(1, 100)
        with pytest.raises(LookupError), monitor.timing():
            raise LookupError

        assert monitor.samples == 1


class TestSamples:
    @pytest.mark.parametrize("nonsense", [math.nan, math.inf, -math.inf, -0.001, 1e300, 10**400, "5", None, 1j])
    def test_nonsense_is_dropped_and_counted(self, nonsense):
        """
        What is not a finite number of 0 or more changes nothing but its own count.
        """
        monitor = fed(LatencyMonitor(2, 100), 10, nonsense, 20)

        assert (monitor.value, monitor.samples, monitor.rejected) == (15.0, 2, 1)

    def test_nothing_is_lost_below_the_bound(self):
        """
        One sample fewer than the backlog holds: all are counted and nothing has overflowed.
        """
        monitor = fed(LatencyMonitor(5, 1e6), *range(1023))

        assert (monitor.accepted, monitor.overflowed, monitor.value) == (1023, 0, 1020.0)

    def test_an_overflow_is_counted_once(self):
        """
        However many samples fell off between two questions, it is known only that some did; the newest are kept.
        """
        monitor = fed(LatencyMonitor(5, 1e6), *range(5_000))

        assert (monitor.accepted, monitor.overflowed, monitor.value) == (1024, 1, 4997.0)
        assert fed(monitor, *range(5_000)).overflowed == 2

    def test_a_large_window_fills_from_one_backlog(self):
        """
        The backlog holds at least a window of samples.
        """
        monitor = fed(LatencyMonitor(3_000, 1e6), *range(3_000))

        assert (monitor.samples, monitor.value) == (3_000, 1499.5)


class TestThreads:
    def test_four_writers_and_a_reader_lose_nothing(self):
        """
        Samples from several threads are all there, each once, while a reader is draining.
        """
        monitor = LatencyMonitor(40_000, 1e9)
        done = threading.Event()

        def write() -> None:
            for ms in range(10_000):
                monitor.add_sample(ms)

        def read() -> None:
            while not done.is_set():
                monitor.is_unhealthy()

        writers = [threading.Thread(target=write) for _ in range(4)]
        reader = threading.Thread(target=read)
        for thread in (reader, *writers):
            thread.start()
        for thread in writers:
            thread.join()
        done.set()
        reader.join()

        assert (monitor.accepted, monitor.overflowed, monitor.rejected) == (40_000, 0, 0)
        assert monitor.value == 4999.5

    @pytest.mark.parametrize("statistic", ["mean", "p99", "max"])
    def test_several_readers_do_not_disturb_each_other(self, statistic):
        """
        With four threads asking, the statistic is still that of the window.
        """
        monitor = LatencyMonitor(1_000, 1e9, statistic=statistic)

        def ask() -> None:
            for ms in range(1_000):
                monitor.add_sample(7.0)
                if ms % 100 == 0:
                    monitor.forget()
                monitor.is_unhealthy()

        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        assert fed(monitor, 7.0).value == 7.0

    def test_a_reader_ends_while_writers_go_on(self):
        """
        A question takes in at most one backlog, however fast samples come.
        """

        class Insatiable:
            """A sample that adds another one whenever it is looked at."""

            def __le__(self, _other: object) -> bool:
                return NotImplemented

            def __ge__(self, _other: object) -> bool:
                monitor.add_sample(self)
                return False

        monitor = LatencyMonitor(1, 100)
        monitor.add_sample(Insatiable())

        assert monitor.rejected == 1
        assert monitor.rejected == 2


class TestConfiguration:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"window_size": 0}, "window_size=0: must be a whole number of samples, 1 or more"),
            ({"window_size": 2.5}, "window_size=2.5: must be a whole number"),
            ({"window_size": True}, "window_size=True: must be a whole number"),
            ({"threshold_ms": 0}, "threshold_ms=0: must be a finite number of milliseconds"),
            ({"threshold_ms": math.nan}, "threshold_ms=nan: must be a finite number"),
            ({"threshold_ms": math.inf}, "threshold_ms=inf: must be a finite number"),
            ({"threshold_ms": "500"}, "threshold_ms='500': must be a finite number"),
            ({"clear_ms": -1}, "clear_ms=-1: must be a finite number"),
            ({"clear_ms": 501}, "clear_ms=501 is more than threshold_ms=500"),
            ({"min_samples": 0}, "min_samples=0: must be a whole number"),
            ({"min_samples": 51}, "min_samples=51 never fit into window_size=50"),
            ({"statistic": "p42"}, "statistic='p42' is not known. Use one of: mean, p50, p95, p99, max"),
            ({"name": "Orders DB"}, "name 'Orders DB' is not usable"),
        ],
    )
    def test_what_cannot_work_is_refused(self, arguments, message):
        """
        The message names the argument, its value and what to do.
        """
        with pytest.raises(ConfigError) as caught:
            LatencyMonitor(**{"window_size": 50, "threshold_ms": 500, **arguments})

        assert message in str(caught.value)

    def test_settings_can_be_read(self):
        """
        What it was made with is there to be shown.
        """
        monitor = LatencyMonitor(50, 500, statistic="p95", min_samples=10, clear_ms=300, name="orders")

        assert (monitor.window_size, monitor.threshold_ms, monitor.clear_ms) == (50, 500.0, 300.0)
        assert (monitor.statistic, monitor.min_samples, monitor.name) == ("p95", 10, "orders")
        assert repr(monitor) == "LatencyMonitor(50, 500, statistic='p95', name='orders')"
