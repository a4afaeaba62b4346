"""
The rings keep what they promise, no more, and count the rest.
"""

import threading

import pytest

from hypothesis import given
from hypothesis import strategies as st

from selfheal.model import Fault, HealthStatus, Incident, IncidentRing, PastResult, ResultRing


def incident(number: int) -> Incident:
    """
    The smallest incident.
    """
    return Incident(number=number, trigger=Fault("error"), began=0.0, opened=1.0)


class TestIncidentRing:
    def test_keeps_the_last_ones_in_order(self) -> None:
        """
        The oldest incident makes room, and is counted.
        """
        ring = IncidentRing(2)
        for number in (1, 2, 3):
            ring.append(incident(number))

        assert [2, 3] == [kept.number for kept in ring]
        assert (2, 1) == (len(ring), ring.dropped)

    def test_can_be_read_while_it_grows(self) -> None:
        """
        An incident that closes while somebody reads does not break the reader.
        """
        ring = IncidentRing(4)
        ring.append(incident(1))
        for kept in ring:
            ring.append(kept)
            ring.append(kept)

        assert 3 == len(ring)

    def test_keeps_256_unless_told_otherwise(self) -> None:
        """
        The default bound is 256 incidents.
        """
        ring = IncidentRing()
        for number in range(300):
            ring.append(incident(number))

        assert (256, 44) == (len(ring), ring.dropped)


class TestResultRing:
    @given(
        size=st.integers(1, 5),
        results=st.lists(
            st.tuples(st.floats(0, 1e9), st.sampled_from(HealthStatus), st.none() | st.floats(0, 60, width=32))
        ),
        count=st.integers(0, 7),
    )
    def test_is_the_end_of_the_list(
        self, size: int, results: list[tuple[float, HealthStatus, float | None]], count: int
    ) -> None:
        """
        Whatever is appended, the ring shows the end of it, and counts the beginning.
        """
        ring = ResultRing(size)
        for result in results:
            ring.append(*result)

        kept = [PastResult(*result) for result in results][-size:]
        assert kept == list(ring)
        assert kept[len(kept) - min(count, len(kept)) :] == list(ring.last(count))
        assert (len(kept), len(results) - len(kept)) == (len(ring), ring.dropped)

    def test_keeps_300_unless_told_otherwise(self) -> None:
        """
        The default bound is 300 results.
        """
        ring = ResultRing()
        for second in range(1000):
            ring.append(float(second), HealthStatus.HEALTHY, 0.5)

        assert (300, 700, 1000) == (len(ring), ring.dropped, ring.total)

    def test_keeps_durations_with_seven_digits(self) -> None:
        """
        A duration is good to a ten-millionth of itself; the time of a run is exact.
        """
        ring = ResultRing()
        ring.append(123456789.123456, HealthStatus.HEALTHY, 0.123456789)

        (result,) = ring
        assert 123456789.123456 == result.at
        assert pytest.approx(0.123456789, rel=1e-7) == result.duration

    def test_success_leaves_out_what_is_not_known(self) -> None:
        """
        UNKNOWN is neither success nor failure; DEGRADED still serves.
        """
        ring = ResultRing()
        for status in (HealthStatus.HEALTHY, HealthStatus.DEGRADED, HealthStatus.UNHEALTHY, HealthStatus.UNKNOWN):
            ring.append(0.0, status, None)

        assert pytest.approx(2 / 3) == ring.success_ratio()
        assert 0.0 == ring.success_ratio(2)

    def test_success_without_a_known_result_is_no_number(self) -> None:
        """
        Nothing known is not the same as no success.
        """
        ring = ResultRing()
        ring.append(0.0, HealthStatus.UNKNOWN, None)

        assert None is ring.success_ratio()

    def test_readers_in_other_threads_see_whole_results(self) -> None:
        """
        A reader never sees the time of one run with the duration of another, nor a run out of order.
        """
        ring = ResultRing(8)
        ring.append(0.0, HealthStatus.HEALTHY, 0.0)
        done = threading.Event()

        def write() -> None:
            for second in range(1, 20_000):
                ring.append(float(second), HealthStatus.HEALTHY, float(second))
            done.set()

        writer = threading.Thread(target=write)
        writer.start()
        torn: list[tuple[PastResult, ...]] = []
        while not done.is_set():
            seen = ring.last(8)
            times = [result.at for result in seen]
            if times != [result.duration for result in seen] or times != sorted(times):
                torn.append(seen)
        writer.join()

        assert [] == torn
