"""
An asyncio application that blocks its event loop for ten seconds, and whoever asks meanwhile whether it lives.
"""

import asyncio
import http.client
import threading
import time

import pytest

from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from selfheal import Healer, HealthCheck
from selfheal.export.http import listen


BLOCKED = 10.0  # seconds
REQUESTS = 100
IN_TIME = 0.1  # seconds


def ask(address, path):
    """Seconds until the answer was there, and the answer, over a connection of its own."""
    connection = http.client.HTTPConnection(address.removeprefix("http://"), timeout=10)
    began = time.monotonic()
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        body = answer.read().decode()
        return time.monotonic() - began, answer.status, answer.headers["X-SelfHeal-Status"], body
    finally:
        connection.close()


def lag(exposition):
    """How often the loop's lag was observed to be five seconds or more, and the sum of what was observed."""
    samples = {
        (sample.name, sample.labels.get("le")): sample.value
        for family in text_string_to_metric_families(exposition)
        for sample in family.samples
        if sample.name.startswith("selfheal_event_loop_lag_seconds")
    }
    name = "selfheal_event_loop_lag_seconds"
    return samples[f"{name}_count", None] - samples[f"{name}_bucket", "5.0"], samples[f"{name}_sum", None]


@pytest.mark.timed
def test_liveness_is_told_in_time_while_the_loop_is_blocked_and_the_next_scrape_shows_it():
    """
    Of 100 requests during ten seconds 99 are answered within a tenth of a second, all say what is the matter once it is.
    """
    answers, scrapes = [], []

    async def application():
        healer = Healer([HealthCheck(lambda: None, name="db", interval=0.5, timeout=0.4)], registry=CollectorRegistry())
        async with healer:
            assert await healer.await_healthy("db", timeout=30)
            with listen(healer, port=0) as listener:

                def look():
                    began = time.monotonic()
                    for number in range(REQUESTS):
                        time.sleep(max(0.0, began + number * BLOCKED / REQUESTS - time.monotonic()))
                        asked = time.monotonic() - began
                        answers.append((asked, *ask(listener.address, "/livez?verbose")))

                scrapes.append(await asyncio.to_thread(ask, listener.address, "/metrics"))
                looking = threading.Thread(target=look)
                looking.start()
                time.sleep(BLOCKED)  # noqa: ASYNC251 - that is the fault
                await asyncio.sleep(2)  # Prometheus comes by
                scrapes.append(await asyncio.to_thread(ask, listener.address, "/metrics"))
                await asyncio.to_thread(looking.join)

    asyncio.run(application())
    blocked = [words for asked, _, *words in answers if 3 <= asked < BLOCKED - 1]

    assert REQUESTS == len(answers)
    assert {200} == {status for _, _, status, _, _ in answers}
    assert REQUESTS - 1 <= sum(took < IN_TIME for _, took, *_ in answers)
    assert {"warn"} == {word for _, word, _ in blocked}
    assert all("its loop has not turned for" in body for _, _, body in blocked)
    (often_before, before), (often_after, after) = (lag(body) for *_, body in scrapes)
    assert (0, 1) == (often_before, often_after)
    assert after - before > BLOCKED - 2
