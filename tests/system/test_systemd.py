"""
A service under a real systemd: one of our own, as process 1 of a namespace. Needs root.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import shutil
import subprocess
import sys
import time

from collections.abc import Generator, Iterator

import attrs
import pytest


SYSTEMD = "/lib/systemd/systemd"

#: Seconds without a sign of life. A healthy service gives one each half of it, on slow machines too.
WATCHDOG = 4

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux") or os.geteuid() != 0 or not os.access(SYSTEMD, os.X_OK),
    reason="needs Linux, root, and systemd, which need not run",
)

SERVICE = """
    import asyncio, os, sys
    from selfheal import Healer
    from selfheal.resources import SdNotify

    async def main():
        systemd = SdNotify()
        async with Healer([systemd.check()], phase=0):
            await asyncio.sleep(0.1)
            systemd.ready()
            systemd.status("turns")
            if sys.argv[1] == "hangs" and not os.path.exists("/run/hung"):
                open("/run/hung", "w").close()
                while True:
                    pass  # the loop, and the engine on it, does not turn any more
            await asyncio.sleep(1000)

    asyncio.run(main())
"""

#: Has a check whose ladder is climbed in vain, until the process is another one.
ILL = """
    import asyncio, os
    from selfheal import Healer, HealingPolicy, HealthCheck, Unhealthy, recovery_action
    from selfheal.export.systemd import follow
    from selfheal.resources import SdNotify

    first = not os.path.exists("/run/ill")
    open("/run/ill", "w").close()

    @recovery_action
    def rebuild(ctx):
        pass

    def look():
        if first:
            raise Unhealthy("stale")

    async def main():
        systemd = SdNotify()
        policy = HealingPolicy(interval=0.2, fast_interval=0.1, timeout=1, fall=2, verify_within=3)
        healer = Healer([HealthCheck(look, name="db", policy=policy, recovery=rebuild)], phase=0)
        follow(healer, systemd)
        async with healer:
            systemd.ready()
            await asyncio.sleep(1000)

    asyncio.run(main())
"""

UNIT = """
[Unit]
DefaultDependencies=no

[Service]
Type=notify
ExecStart={python} {script} {how}
WatchdogSec={watchdog}
Restart=on-failure
LimitCORE=0
"""

# $1 is a cgroup of ours, $2 the folder of our units: the only ones that this systemd knows, and all of the machine that
# it may change. The host's folders are read-only for it, its devices and its /run are its own.
BOOT = f"""
    echo $$ > "$1/cgroup.procs"
    exec unshare --mount --pid --uts --ipc --cgroup --fork --kill-child --mount-proc sh -ec '
        mount --make-rprivate /
        for folder in / /sys; do mount -o remount,bind,ro $folder; done
        mount --bind /proc/sys /proc/sys
        mount -o remount,bind,ro /proc/sys
        mount -t tmpfs -o mode=755 tmpfs /run
        mkdir /run/units
        mount --bind "$0" /run/units
        mount -t tmpfs -o mode=755 tmpfs /dev
        mknod -m 666 /dev/null c 1 3
        mknod -m 666 /dev/urandom c 1 9
        mount -t cgroup2 cgroup2 /sys/fs/cgroup
        exec env -i PATH="$PATH" container=selfheal SYSTEMD_UNIT_PATH=/run/units \\
            {SYSTEMD} --system --unit=selfheal.target --log-target=console
    ' "$2"
"""


@attrs.frozen
class Systemd:
    """One that runs."""

    unshare: subprocess.Popen[bytes]
    said: pathlib.Path

    def shows(self, service: str) -> dict[str, str]:
        """What it says of a service; nothing while it is not up."""
        children = pathlib.Path(f"/proc/{self.unshare.pid}/task/{self.unshare.pid}/children").read_text().split()
        if not children:
            return {}
        command = ("systemctl", "show", "--property=ActiveState,NRestarts,Result,StatusText", service)
        done = subprocess.run(
            ["nsenter", f"--target={children[0]}", "--all", *command], capture_output=True, text=True, check=False
        )
        return dict(line.split("=", 1) for line in done.stdout.splitlines())

    def until(self, service: str, **wanted: str) -> dict[str, str]:
        """What it says as soon as that is what is wanted, or after a time in which it should have been."""
        deadline = time.monotonic() + 60
        while True:
            shown = self.shows(service)
            if wanted.items() <= shown.items() or time.monotonic() > deadline:
                return shown
            assert self.unshare.poll() is None, self.said.read_text()
            time.sleep(0.1)


@contextlib.contextmanager
def cgroup() -> Iterator[pathlib.Path]:
    """A cgroup v2 of our own, which is removed when those in it have ended."""
    mounts = pathlib.Path("/proc/self/mountinfo").read_text().splitlines()
    points = [line.split()[4] for line in mounts if " - cgroup2 " in line]
    if not points:
        pytest.skip("no cgroup v2 is mounted")
    path = pathlib.Path(points[0]) / f"selfheal-{os.getpid()}"
    path.mkdir()
    try:
        yield path
    finally:
        deadline = time.monotonic() + 10
        while path.exists():
            try:
                for folder, _, _ in os.walk(path, topdown=False):
                    os.rmdir(folder)
            except OSError:  # it takes a moment until killed processes have left
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)


@pytest.fixture
def systemd(tmp_path: pathlib.Path) -> Generator[Systemd]:
    """A systemd that has started a service that is well, one that hangs the first time, and one that is ill then."""
    units, said = tmp_path / "units", tmp_path / "said"
    units.mkdir()
    services = {"turns": SERVICE, "hangs": SERVICE, "ill": ILL}
    wants = " ".join(f"{how}.service" for how in services)
    (units / "selfheal.target").write_text(f"[Unit]\nDefaultDependencies=no\nWants={wants}\n")
    for how, source in services.items():
        script = tmp_path / f"{how}.py"
        script.write_text("if True:\n" + source)
        text = UNIT.format(python=sys.executable, script=script, how=how, watchdog=WATCHDOG)
        (units / f"{how}.service").write_text(text)
    with cgroup() as group, said.open("wb") as output:
        command = [shutil.which("sh") or "sh", "-ec", BOOT, "sh", str(group), str(units)]
        unshare = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT)
        try:
            yield Systemd(unshare, said)
        finally:
            unshare.kill()  # and the kernel kills process 1, and with it all that it has started
            unshare.wait()


def test_a_service_that_hangs_or_was_healed_in_vain_is_restarted_and_a_healthy_one_never(systemd):
    """
    All say that they are ready; the watchdog restarts the one that stops turning and the one whose own ladder was
    climbed in vain, each once, and leaves the other alone.
    """
    well = {"ActiveState": "active", "NRestarts": "0", "Result": "success", "StatusText": "turns"}
    assert well == systemd.until("turns.service", **well)
    began = time.monotonic()
    restarted = well | {"NRestarts": "1"}
    assert restarted == systemd.until("hangs.service", **restarted)
    healed = restarted | {"StatusText": "1 of 1 checks are well"}
    assert healed == systemd.until("ill.service", **healed)
    time.sleep(max(0.0, began + 1.5 * WATCHDOG - time.monotonic()))
    assert well == systemd.shows("turns.service")
    assert restarted == systemd.shows("hangs.service")
    assert healed == systemd.shows("ill.service")
