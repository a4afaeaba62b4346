"""
A worker that takes jobs from a list in Valkey. After a failover its connections stay with the old server, which is a
replica now: it answers pings, gives out no job, and redis-py sees no reason to leave it.

    python examples/redis_worker.py
"""

from __future__ import annotations

import queue
import sys
import threading
import time

import redis

from selfheal import Healer, HealingPolicy, HealthCheck, Rebuildable
from selfheal.integrations.redis import RedisHealth, redis_ladder
from selfheal.records import tell
from selfheal.testing import FaultProxy, Valkey


# Seconds instead of the defaults' minutes, because somebody is watching.
POLICY = HealingPolicy(interval=1, fast_interval=0.2, timeout=1, fall=2, rise=2, verify_within=5, probation=1)


def work(jobs: Rebuildable[redis.Redis], done: queue.Queue[str], stopping: threading.Event) -> None:
    while not stopping.is_set():
        try:
            with jobs.use() as client:
                job = client.lpop("jobs")
        except redis.RedisError as exc:
            done.put(f"no job: {type(exc).__name__}")
            job = None
        if job is None:
            stopping.wait(0.05)
        else:
            done.put(f"{job} is done")


def run(server: Valkey, replica: Valkey, address: FaultProxy) -> bool:
    jobs = Rebuildable(
        lambda: redis.Redis(port=address.port, socket_timeout=2, socket_connect_timeout=1, decode_responses=True),
        close=redis.Redis.close,
        name="jobs",
    )
    check = HealthCheck(RedisHealth(jobs), name="jobs", policy=POLICY, recovery=redis_ladder(jobs))
    done: queue.Queue[str] = queue.Queue()
    stopping = threading.Event()
    worker = threading.Thread(target=work, args=(jobs, done, stopping))

    with Healer([check]) as healer, redis.Redis(port=replica.port) as shop:
        worker.start()
        with redis.Redis(port=server.port) as early_shop:
            early_shop.rpush("jobs", "job 1")
        print(done.get(timeout=10))
        healer.wait_healthy("jobs", timeout=10)

        replica.promote()
        address.retarget(replica.port)
        server.demote(replica)
        while "ReadOnlyError" not in (refused := done.get(timeout=10)):
            pass
        print("a failover;", refused)
        failed_over = time.monotonic()
        shop.rpush("jobs", "job 2")
        while "no job" in (last := done.get(timeout=10)):
            pass
        print(f"{last} {time.monotonic() - failed_over:.1f} s later")

        while not healer.incidents():
            time.sleep(0.05)
        (incident,) = healer.incidents()
        stopping.set()
        worker.join()
    jobs.close()
    print(tell(incident))
    return incident.result is not None and incident.result.value == "healed"


def main() -> None:
    with Valkey() as server, Valkey.replica_of(server) as replica, FaultProxy(server.port) as address:
        sys.exit(not run(server, replica, address))


if __name__ == "__main__":
    main()
