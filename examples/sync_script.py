"""
A sync script with a PostgreSQL pool and a log file. The server goes away for four seconds, and the log overflows.

    pip install 'selfheal-core[demo]'        # brings a PostgreSQL of its own
    python examples/sync_script.py
"""

from __future__ import annotations

import logging
import pathlib
import tempfile
import time

from psycopg_pool import ConnectionPool

from selfheal import Healer, HealingPolicy, HealthCheck, Rebuildable
from selfheal.integrations.psycopg import PoolHealth, pool_ladder
from selfheal.records import tell
from selfheal.resources.log_files import LogOverflow, log_ladder
from selfheal.testing import Postgres


MEGABYTE = 2**20

# Seconds instead of the defaults' minutes, because somebody is watching.
POLICY = HealingPolicy(interval=1, fast_interval=0.2, timeout=1, fall=2, rise=2, verify_within=5, probation=1)


def run(server: Postgres, folder: pathlib.Path) -> None:
    handler = logging.FileHandler(folder / "orders.log")
    log = logging.getLogger("orders")
    log.addHandler(handler)
    log.propagate = False

    pool = Rebuildable(
        lambda: ConnectionPool(server.dsn, min_size=2, max_size=2, timeout=1, open=True),
        close=ConnectionPool.close,
        name="orders_db",
    )
    pool_check = HealthCheck(PoolHealth(pool), name="orders_db", policy=POLICY, recovery=pool_ladder(pool))
    overflow = LogOverflow(handler, max_bytes=MEGABYTE)
    log_check = HealthCheck(
        overflow, name="orders_log", policy=POLICY, recovery=log_ladder(handler, max_total_bytes=MEGABYTE)
    )

    def order() -> bool:
        try:
            with pool.use() as connections, connections.connection() as connection:
                connection.execute("SELECT 1")
        except Exception:
            log.exception("no order")
            return False
        log.warning("an order")
        return True

    with Healer([pool_check, log_check]) as healer:
        for check in healer.checks:
            healer.wait_healthy(check.name, timeout=10)
        print("an order:", order())

        server.stop("immediate")
        log.error("x" * 2 * MEGABYTE)
        print("the server is gone, the log is full; an order:", order())
        time.sleep(5)  # psycopg_pool has tried after 1 and 3 s, and waits for the seventh, give or take one
        server.start()
        returned = time.monotonic()
        while not order():
            pass
        print(f"the server is back; an order {time.monotonic() - returned:.1f} s later: True")

        while len(healer.incidents()) < 2:
            time.sleep(0.1)

    for incident in healer.incidents():
        print(tell(incident))
    print("in the folder of the log:", *sorted(path.suffix for path in folder.iterdir()))
    pool.close()
    log.removeHandler(handler)
    handler.close()


def main() -> None:
    logging.getLogger("psycopg").setLevel(logging.CRITICAL)  # it would report each connection that it loses
    with Postgres() as server, tempfile.TemporaryDirectory() as folder:
        run(server, pathlib.Path(folder))


if __name__ == "__main__":
    main()
