"""
The examples, run as a reader runs them.
"""

from __future__ import annotations

import pathlib
import re
import subprocess
import sys

import pytest


EXAMPLES = pathlib.Path(__file__).parents[2] / "examples"

#: What each one prints, in this order; all of it on lines of their own.
PRINTED = {
    "article.py": [
        "payments crashes",
        r"orders: idle  payments: detecting  stock: idle",
        r"payments, incident 1: error, healed in \d\.\d s",
        r".* restart: payments listens on port \d+ again",
        r".* restart has helped: health is proved",
        r".* closed: healed",
        r"healing_total 1\.0",
    ],
    "sync_script.py": [
        "an order: True",
        "the server is gone, the log is full; an order: False",
        r"the server is back; an order \d+\.\d s later: True",
        r"orders_log, incident 1: full, healed in \d\.\d s",
        r".* was rotated \(\d+ bytes\)",
        r"orders_db, incident 1: down, healed in \d\.\d s",
        r".* nothing is done now, gate precondition: no rung applies to the fault",
        r".* kick_pool has helped: health is proved",
        r".* closed: healed",
        r"in the folder of the log: \.gz \.log",
    ],
    "asyncio_service.py": [
        "a request got lost; that connection stays mute, only a new one works",
        "a request: hello",
        r"upstream_answers, incident 1: timeout, healed in \d\.\d s",
        r".* rebuild: generation 2 of upstream is in service",
        r".* closed: healed",
    ],
    "trio_service.py": [
        r"fast: latency: p50 of the last 20 calls is [0-4]\.\d+ ms",
        r"fast again: latency: p50 of the last 20 calls is [0-4]\.\d+ ms",
        r"cache, incident 1: slow, healed in \d\.\d s",
        r".* sweep_cache: 1000000 expired entries are gone",
        r".* closed: healed",
    ],
    "held_action.py": [
        "reads come from the primary",
        "the primary is down; reads come from the standby",
        "the primary is back; reads come from the primary",
        r"reads, incident 1: error, healed in \d\.\d s",
        r".* divert_reads stays in force until it is stepped down",
        r".* gate precondition: what divert_reads names as revert_when has not been good for the whole probation",
        r".* divert_reads: reads go to the primary",
        r".* closed: healed",
    ],
    "config_push.py": [
        "healed: open, unhealed: open",
        "a push; healed: closed, unhealed: closed",
        r"\d\.\d s later; healed: open, unhealed: closed",
        "the file is what it was: True -rw-r-----",
        "the push is kept: port = 1  # a slip of the finger",
        r"shop, incident 1: error, healed in \d\.\d s",
        r".* rollback_config: shop_toml is the last known good version again; what it was is kept",
        r".* rollback_config has helped: health is proved",
        r".* closed: healed",
    ],
    "log_overflow.py": [
        "an order; healed: logged, unhealed: logged",
        "the log has overflowed; an order; healed: lost, unhealed: lost",
        r"\d+\.\d s later; an order; healed: logged, unhealed: lost",
        "of 1000 orders more, healed: 1000 are in the log",
        "of 1000 orders more, unhealed: 0 are in the log",
        r"orders_log, incident 1: full, healed in \d\.\d s",
        r".*orders\.log was rotated \(\d+ bytes\)",
        r".* \d of 6 archives were deleted",
        r".* rotate_log_then_prune_archives has helped: health is proved",
        r".* closed: healed",
    ],
    "poisoned_cache.py": [
        "healed: 0 % wrong, unhealed: 0 % wrong",
        "an old release writes; the gate is at BYPASS; healed: 0 % wrong, unhealed: 100 % wrong",
        "it is stopped; the gate is at NORMAL; healed: 0 % wrong, unhealed: 100 % wrong",
        "all of it from the cache: True",
        r"prices_cache, incident 1: poisoned, healed in \d\.\d s",
        r".* bump_epoch has not helped: still bad",
        r".* cache_bypass has helped: health is proved",
        r".* closed: healed",
    ],
    "flask_gunicorn.py": [
        "an order at each worker: taken taken taken taken",
        "the database is read-only; an order at each worker:" + 4 * " ReadOnlySqlTransaction",
        "it is as before; an order at each worker: taken taken taken taken",
        "workers that have healed their own: 4",
        r"orders_db, incident \d: read_only, healed in \d\.\d s",
        r".* rotate_engine has helped: health is proved",
        r".* closed: healed",
    ],
    "fastapi_service.py": [
        "an order: 200",
        "the server is gone; an order: 503",
        "to its users it is recovering",
        r"the server is back; an order \d\.\d s later: 200",
        r"orders_db, incident 1: down, healed in \d\.\d s",
        r".* nothing is done now, gate precondition: no rung applies to the fault",
        r".* kick_pool has helped: health is proved",
        r".* closed: healed",
    ],
    "django_service.py": [
        "an order: 200",
        "server processes that freeze: 2",
        r"an order, \d\.\d s later: 503",
        "an order: 200",
        r"orders_db, incident 1: stuck, healed in \d\.\d s",
        r".* sever_hung: severed 1 connections",
        r".* sever_hung has helped: health is proved",
        r".* closed: healed",
    ],
    "redis_worker.py": [
        "job 1 is done",
        "a failover; no job: ReadOnlyError",
        r"job 2 is done \d\.\d s later",
        r"jobs, incident 1: read_only, healed in \d\.\d s",
        r".* soft_drain has helped: health is proved",
        r".* closed: healed",
    ],
}


def test_every_example_is_run() -> None:
    """
    No example is left out here.
    """
    assert set(PRINTED) == {path.name for path in EXAMPLES.glob("*.py")}


@pytest.mark.at_length
@pytest.mark.parametrize("name", PRINTED)
def test_example_tells_how_it_was_healed(name: str) -> None:
    """
    It ends well within a minute, warns of nothing, and prints the incident's story.
    """
    done = subprocess.run(
        [sys.executable, "-W", "error", str(EXAMPLES / name)], capture_output=True, text=True, timeout=60
    )
    assert (0, "") == (done.returncode, done.stderr)
    lines = iter(done.stdout.splitlines())
    # Each pattern is searched for from where the one before was found.
    missing = [pattern for pattern in PRINTED[name] if not any(re.fullmatch(pattern, line) for line in lines)]
    assert [] == missing, done.stdout
