"""
Rebuildable under real load, in real threads and forked children.
"""

import asyncio
import os
import subprocess
import sys
import textwrap
import threading
import time

import pytest

from selfheal import Rebuildable


class Pool:
    """Fails whoever uses it after it was closed."""

    def __init__(self) -> None:
        self.is_closed = False

    def query(self) -> None:
        assert not self.is_closed
        time.sleep(0.001)
        assert not self.is_closed

    def close(self) -> None:
        self.is_closed = True


def test_ten_rebuilds_under_load_fail_no_use():
    """
    Four threads use the pool all the time while it is rebuilt ten times: no use fails, ten pools are closed.
    """
    pools = Rebuildable(Pool, close=Pool.close, verify=Pool.query, name="pools")
    stop = threading.Event()
    uses, errors = [0] * 4, []

    def work(index):
        while not stop.is_set():
            try:
                with pools.use() as pool:
                    pool.query()
                uses[index] += 1
            except BaseException as exc:
                errors.append(exc)

    threads = [threading.Thread(target=work, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for _ in range(10):
        time.sleep(0.02)
        pools.rebuild()
    time.sleep(0.02)
    stop.set()
    for thread in threads:
        thread.join(5)
    pools.close()
    assert [] == errors
    assert all(uses)
    assert (0, 0, 0, 11, 0, 0, 0) == pools.statistics()


def test_uses_and_rebuilds_race_without_a_pause():
    """
    Three hundred rebuilds against threads that only take and return leases: none gets a closed one, none is lost.
    """
    pools = Rebuildable(Pool, close=Pool.close, name="pools", grace=30)
    stop = threading.Event()
    errors = []

    def work():
        while not stop.is_set():
            with pools.use() as pool:
                if pool.is_closed:
                    errors.append(pool)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        threads = [threading.Thread(target=work) for _ in range(3)]
        for thread in threads:
            thread.start()
        for _ in range(300):
            pools.rebuild()
        stop.set()
        for thread in threads:
            thread.join(5)
    finally:
        sys.setswitchinterval(interval)
        stop.set()
    pools.close()
    assert [] == errors
    assert (0, 0, 0, 301, 0, 0, 0) == pools.statistics()


def test_ten_rebuilds_under_load_fail_no_use_on_a_loop():
    """
    The same with tasks and async functions: no use fails, every old pool is closed on the loop.
    """

    class AsyncPool(Pool):
        async def aquery(self):
            assert not self.is_closed
            await asyncio.sleep(0.001)
            assert not self.is_closed

        async def aclose(self):
            await asyncio.sleep(0)
            self.is_closed = True

    async def make():
        await asyncio.sleep(0.001)
        return AsyncPool()

    async def main():
        pools = Rebuildable(make, close=AsyncPool.aclose, verify=AsyncPool.aquery, name="pools")
        uses = 0
        is_on = True

        async def work():
            nonlocal uses
            while is_on:
                async with pools.use() as pool:
                    await pool.aquery()
                uses += 1

        tasks = [asyncio.create_task(work()) for _ in range(4)]
        for _ in range(10):
            await asyncio.sleep(0.01)
            await pools.arebuild()
        is_on = False
        await asyncio.gather(*tasks)
        await pools.aclose()
        return uses, pools.statistics()

    uses, statistics = asyncio.run(main())
    assert uses > 40
    assert (0, 0, 0, 11, 0, 0, 0) == statistics


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform does not fork")
def test_children_forked_in_the_middle_of_everything_build_for_themselves():
    """
    Forks at random moments of rebuilds and uses: every child works with a new object and ends, the parent's live on.
    """
    script = textwrap.dedent(
        """
        import os, signal, sys, threading, warnings
        from selfheal import Rebuildable
        warnings.simplefilter("ignore", DeprecationWarning)

        class Pool:
            def __init__(self): self.pid = os.getpid()
            def close(self): assert self.pid == os.getpid(), "closed in another process"

        pools = Rebuildable(Pool, close=Pool.close, name="pools")
        stop = threading.Event()

        def use():
            while not stop.is_set():
                with pools.use() as pool:
                    assert pool.pid == os.getpid()

        def rebuild():
            while not stop.is_set():
                pools.rebuild()

        threads = [threading.Thread(target=target) for target in (use, use, rebuild)]
        for thread in threads:
            thread.start()
        for _ in range(40):
            with pools.use() as parents:
                pid = os.fork()
                if not pid:
                    signal.alarm(10)
                    ok = pools.current.pid == os.getpid() and pools.rebuild().pid == os.getpid()
                    pools.close()
                    os._exit(0 if ok and pools.statistics().close_errors == 0 else 3)
            status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            assert status == 0, status
        stop.set()
        for thread in threads:
            thread.join()
        pools.close()
        assert pools.statistics().close_errors == 0
        print("fine")
        """
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=100, check=False)
    assert ("fine\n", "", 0) == (run.stdout, run.stderr, run.returncode)


def test_a_process_ends_although_a_close_and_a_factory_hang():
    """
    Neither a close nor a factory that hangs for ever keeps the process from ending.
    """
    script = textwrap.dedent(
        """
        import asyncio, threading
        from selfheal import Rebuildable
        never = threading.Event()
        hanging = Rebuildable(object, close=lambda pool: never.wait(), name="hanging", close_deadline=0.1)
        hanging.current; hanging.rebuild()
        slow = Rebuildable(never.wait, close=print, name="slow")

        async def main():
            async with asyncio.timeout(0.1):
                await slow.arebuild()

        try:
            asyncio.run(main())
        except TimeoutError:
            print("fine")
        """
    )
    began = time.monotonic()
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=30, check=False)
    assert ("fine\n", "", 0) == (run.stdout, run.stderr, run.returncode)
    assert time.monotonic() - began < 5


def test_a_lease_costs_little():
    """
    Taking and returning a lease costs less than a lock-guarded counter in a generator-based context manager.
    """
    import contextlib

    pools = Rebuildable(Pool, close=Pool.close, name="pools")
    lock, count = threading.Lock(), [0]

    @contextlib.contextmanager
    def guarded():
        with lock:
            count[0] += 1
        try:
            yield pools.current
        finally:
            with lock:
                count[0] -= 1

    def cost(use):
        rounds = []
        for _ in range(7):
            began = time.thread_time()
            for _ in range(20_000):
                with use():
                    pass
            rounds.append(time.thread_time() - began)
        return sorted(rounds)[3] / 20_000

    ours, theirs = cost(pools.use), cost(guarded)
    print(f"lease {ours * 1e9:.0f} ns, guarded counter {theirs * 1e9:.0f} ns")
    assert ours < theirs
    pools.close()
