"""
A plain script whose log overflows a small disk. Beside it a twin that nobody heals.

    python examples/log_overflow.py

As root it mounts two disks of 1 MB; else no file may have more than half a megabyte.
"""

from __future__ import annotations

import contextlib
import logging
import os
import pathlib
import resource
import shutil
import subprocess
import tempfile
import time

from collections.abc import Iterator

from selfheal import Healer, HealingPolicy, HealthCheck
from selfheal.records import tell
from selfheal.resources.log_files import LogOverflow, log_ladder
from selfheal.resources.log_handlers import count_log_errors


# Seconds instead of the defaults' minutes, because somebody is watching.
POLICY = HealingPolicy(interval=0.5, fast_interval=0.5, timeout=1, fall=2, rise=2, verify_within=5, probation=1)


@contextlib.contextmanager
def small_disk(folder: pathlib.Path) -> Iterator[pathlib.Path]:
    """A folder without much room, and with the archives of five days in it."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder]
    is_root = hasattr(os, "geteuid") and os.geteuid() == 0 and shutil.which("mount") is not None
    mounted = is_root and not subprocess.run(command, capture_output=True).returncode
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    if not mounted:
        resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, before[1]))
    for day in range(1, 6):
        archive = folder / f"orders.log.2020010{day}T000000Z-0.gz"
        archive.write_bytes(os.urandom(100_000))
        os.utime(archive, (day, day))
    try:
        yield folder
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        if mounted:
            subprocess.run(["umount", folder], check=True)


class Orders:
    """What the script does: it takes orders, and has a log of them."""

    def __init__(self, name: str, folder: pathlib.Path) -> None:
        self.handler = logging.FileHandler(folder / "orders.log")
        self.errors = count_log_errors(self.handler)  # instead of a traceback for each line that finds no room
        self.log = logging.getLogger(f"orders.{name}")
        self.log.propagate = False
        self.log.addHandler(self.handler)

    def take(self, number: int) -> bool:
        """Whether it is in the log."""
        lost = self.errors.count
        self.log.warning("order %d", number)
        return self.errors.count == lost

    def run_wild(self) -> None:
        """A bug writes without end."""
        while not self.errors.count:
            self.log.error("%s", 1_000 * "!")


def run(disks: dict[str, pathlib.Path]) -> None:
    scripts = {name: Orders(name, folder) for name, folder in disks.items()}
    healed = scripts["healed"]
    check = HealthCheck(
        LogOverflow(healed.handler, max_bytes=400_000, min_free_bytes=100_000, min_free_inodes=0),
        name="orders_log",
        policy=POLICY,
        recovery=log_ladder(healed.handler, max_total_bytes=700_000, min_free_bytes=200_000),
    )

    def an_order(number: int) -> str:
        return ", ".join(f"{name}: {'logged' if each.take(number) else 'lost'}" for name, each in scripts.items())

    with Healer([check]) as healer:
        healer.wait_healthy("orders_log", timeout=10)
        print("an order;", an_order(1))

        for each in scripts.values():
            each.run_wild()
        print("the log has overflowed; an order;", an_order(2))

        overflowed = time.monotonic()
        while not healed.take(3):
            time.sleep(0.02)
        print(f"{time.monotonic() - overflowed:.1f} s later; an order;", an_order(4))

        for number in range(1_000, 2_000):
            an_order(number)
        for name, each in scripts.items():
            lines = pathlib.Path(each.handler.baseFilename).read_text().splitlines()
            found = len({f"order {number}" for number in range(1_000, 2_000)} & set(lines))
            print(f"of 1000 orders more, {name}: {found} are in the log")

        while not healer.incidents():
            time.sleep(0.02)

    print(tell(healer.incidents()[0]))
    for name, each in scripts.items():
        each.log.removeHandler(each.handler)
        with contextlib.suppress(OSError):  # what is in its buffer finds no room either
            each.handler.close()
        print(f"archives, {name}: {len(list(disks[name].glob('orders.log.*')))}")


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        names = ("healed", "unhealed")
        run({name: stack.enter_context(small_disk(pathlib.Path(folder, name))) for name in names})


if __name__ == "__main__":
    main()
