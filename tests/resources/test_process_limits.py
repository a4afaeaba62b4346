"""
What a process may run out of: on this one, and on cgroups made of plain files.
"""

from __future__ import annotations

import errno
import gc
import os
import resource
import sys
import threading
import types

import descriptors
import pytest

from selfheal import ConfigError, HealthStatus, Unhealthy
from selfheal.monitors import ForecastMonitor
from selfheal.resources import DeletedFiles, DiskSpace, MemoryLimit, OpenFiles, PressureStall, ThreadCount


linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


@pytest.fixture
def cgroup(tmp_path):
    """A tree of two cgroups: the outer one with 1000 bytes, of which 500 are used, and the one of this process."""
    proc, tree = tmp_path / "proc", tmp_path / "cgroup"
    (inner := tree / "pod" / "container").mkdir(parents=True)
    proc.mkdir()
    (proc / "cgroup").write_text("12:cpu:/elsewhere\n0::/pod/container\n")
    (proc / "mountinfo").write_text(
        f"25 30 0:23 / /sys rw,nosuid - sysfs sysfs rw\n31 25 0:27 / {tree} rw,nosuid shared:9 - cgroup2 cgroup2 rw\n"
    )
    write(tree / "pod", limit="1000", used=500)
    write(inner, limit="max", used=300)
    return types.SimpleNamespace(probe=MemoryLimit(root=str(proc)), proc=proc, outer=tree / "pod", inner=inner)


def write(folder, *, limit, used, inactive=0) -> None:
    (folder / "memory.max").write_text(f"{limit}\n")
    (folder / "memory.current").write_text(f"{used}\n")
    (folder / "memory.stat").write_text(f"anon 1\ninactive_file {inactive}\n")


def test_memory_is_measured_against_the_limit_that_is_nearest(cgroup):
    """
    Of all limits above a process the one counts of which the largest share is used.
    """
    assert {"share": 0.5} == cgroup.probe().data
    write(cgroup.inner, limit="400", used=300)
    assert {"share": 0.75} == cgroup.probe().data
    write(cgroup.outer, limit="1000", used=901)
    with pytest.raises(Unhealthy, match="exhausted: 901 of 1000 bytes of memory are used, 90% are allowed"):
        cgroup.probe()


def test_the_file_cache_that_can_be_dropped_does_not_count(cgroup):
    """
    A cgroup full of cached files is well.
    """
    write(cgroup.outer, limit="1000", used=1000, inactive=800)
    assert {"share": 0.2} == cgroup.probe().data


def test_a_container_that_sees_its_own_part_of_the_tree_finds_its_limit(cgroup):
    """
    Where the mount begins at the container's own cgroup, its names are seen from there.
    """
    write(cgroup.inner, limit="400", used=300)
    (cgroup.proc / "mountinfo").write_text(f"31 25 0:27 /pod/container {cgroup.inner} rw - cgroup2 cgroup2 rw\n")
    assert {"share": 0.75} == cgroup.probe().data


@pytest.mark.parametrize("missing", ["cgroup", "mountinfo", "limits"])
def test_without_a_limit_nothing_is_known_of_memory(cgroup, missing):
    """
    Without a cgroup v2, or a limit in it, the answer is UNKNOWN, which heals nothing.
    """
    if missing == "limits":
        write(cgroup.outer, limit="max", used=500)
    else:
        (cgroup.proc / missing).unlink()
    assert HealthStatus.UNKNOWN is cgroup.probe().status


def test_a_forecast_is_told_the_share_at_each_look(cgroup):
    """
    Memory that grows towards its limit is seen by the monitor that was handed to the probe, also beyond what is allowed.
    """
    leak = ForecastMonitor(exhausted_within=60, window=10)
    probe = MemoryLimit(forecast=leak, root=str(cgroup.proc))
    for now in range(0, 11, 2):
        write(cgroup.outer, limit="1000", used=850 + 10 * now)
        if now < 6:
            probe()
        else:
            with pytest.raises(Unhealthy):
                probe()
        assessment = leak.assess(now=now)
    assert ("exhausted", 5) == (assessment.kind, round(assessment.value))


@linux
def test_open_files_tell_their_forecast_too():
    """
    Descriptors that leak are forecast from the share that the probe tells.
    """
    leak = ForecastMonitor(exhausted_within=1e9, window=10)
    probe, pipes = OpenFiles(forecast=leak), []
    try:
        for now in range(0, 11, 2):
            pipes += os.pipe()
            share = probe().data["share"]
            assessment = leak.assess(now=now)
    finally:
        for fd in pipes:
            os.close(fd)
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    assert HealthStatus.UNHEALTHY is assessment.status
    assert pytest.approx((1 - share) * limit, abs=3) == assessment.value  # one a second


@linux
def test_open_files_are_counted_against_the_soft_limit():
    """
    A few open files are healthy; more than the allowed share of the limit is exhausted.
    """
    gc.collect()  # closes what earlier tests have left open
    before = OpenFiles()().data["share"]
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    pipes = [os.pipe() for _ in range(10)]
    try:
        assert pytest.approx(20 / limit) == OpenFiles()().data["share"] - before
        with pytest.raises(Unhealthy, match=rf"exhausted: \d+ of {limit} file descriptors are open, 0% are allowed"):
            OpenFiles(max_share=before)()
    finally:
        for fd in sum(pipes, ()):
            os.close(fd)


@linux
def test_when_no_file_can_be_opened_any_more_it_is_still_told():
    """
    The probe needs a descriptor for itself, and knows what it means to get none.
    """
    OpenFiles()()  # with what it imports
    with (
        descriptors.used_up() as limit,
        pytest.raises(Unhealthy, match=f"exhausted: {limit} of {limit} file descriptors"),
    ):
        OpenFiles()()


@linux
@pytest.mark.parametrize(
    "probe",
    [MemoryLimit(), ThreadCount(1), PressureStall("memory"), DeletedFiles()],
    ids=lambda probe: type(probe).__name__,
)
def test_what_cannot_be_looked_at_for_want_of_a_descriptor_is_unknown(probe):
    """
    Descriptors that are used up say nothing of memory, threads, pressure or disks, so nothing of these is healed.
    """
    with descriptors.used_up():
        result = probe()
    assert HealthStatus.UNKNOWN is result.status
    assert "OpenFiles tells of" in result.fault.message


def test_another_error_of_the_system_is_not_taken_for_a_want_of_descriptors(cgroup, monkeypatch):
    """
    What fails for other reasons is an error of the probe, as before.
    """

    def broken(_path):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr("selfheal.resources.process_limits.lines", broken)
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        cgroup.probe()


def psi(some: float, full: float) -> str:
    return f"some avg10={some} avg60=1.00 avg300=1.00 total=1\nfull avg10={full} avg60=1.00 avg300=1.00 total=1\n"


def test_pressure_is_that_of_the_own_cgroup_or_of_the_machine(cgroup):
    """
    The share of the last 10 s is read for the process' cgroup; where that tells none, for the machine.
    """
    machine = cgroup.proc / ".." / "pressure"
    machine.mkdir()
    (machine / "memory").write_text(psi(40.5, 20.25))
    (cgroup.outer / "memory.pressure").write_text(psi(99, 99))
    root = str(cgroup.proc)
    assert {"share": 0.2025} == PressureStall("memory", root=root)().data
    (cgroup.inner / "memory.pressure").write_text(psi(90, 12.5))
    assert {"share": 0.125} == PressureStall("memory", root=root)().data
    with pytest.raises(Unhealthy, match="exhausted: tasks waited for memory in 90% of the last 10 s, 60% are allowed"):
        PressureStall("memory", line="some", root=root)()
    with pytest.raises(Unhealthy, match="exhausted: all tasks waited for memory in 12% of the last 10 s"):
        PressureStall("memory", max_share=0.1, root=root)()


def test_without_psi_nothing_is_known_of_pressure(cgroup, monkeypatch):
    """
    A kernel without PSI, and one that has it switched off, give the answer UNKNOWN.
    """
    probe = PressureStall("io", root=str(cgroup.proc))
    assert HealthStatus.UNKNOWN is probe().status

    def switched_off(path):
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP), path)

    monkeypatch.setattr("selfheal.resources.process_pressure.lines", switched_off)
    assert HealthStatus.UNKNOWN is probe().status


@linux
@pytest.mark.parametrize("of", ["cpu", "memory", "io"])
def test_pressure_of_this_machine_is_a_share_or_unknown(of):
    """
    On this machine each resource has a share between 0 and 1, or the kernel does not tell.
    """
    result = PressureStall(of, max_share=1)()
    if result.status is HealthStatus.HEALTHY:
        assert 0 <= result.data["share"] <= 1
    else:
        assert f"the kernel does not tell the pressure on {of}" == result.fault.message


@linux
def test_one_thread_more_than_allowed_is_exhausted():
    """
    As many threads as allowed are healthy, and one more is not.
    """
    count = ThreadCount(100_000)().data["threads"]
    ended = threading.Event()
    thread = threading.Thread(target=ended.wait)
    assert HealthStatus.HEALTHY is ThreadCount(count)().status
    thread.start()
    try:
        with pytest.raises(Unhealthy, match=f"exhausted: there are {count + 1} threads, {count} are allowed"):
            ThreadCount(count)()
    finally:
        ended.set()
        thread.join()


def test_a_disk_is_full_when_less_is_free_than_wanted(tmp_path):
    """
    Bytes and inodes are looked at, and a path that is not there is down.
    """
    assert DiskSpace(tmp_path)().data["free"] > 0
    with pytest.raises(Unhealthy, match=f"full: the disk of .* bytes free, {2**62} are wanted"):
        DiskSpace(tmp_path, min_free_bytes=2**62)()
    with pytest.raises(Unhealthy, match=r"down: .*gone is not there"):
        DiskSpace(tmp_path / "gone")()


@pytest.mark.parametrize(("inodes", "is_full"), [(1000, True), (0, False)])
def test_a_disk_without_inodes_is_full_unless_it_counts_none(tmp_path, monkeypatch, inodes, is_full):
    """
    A disk on which hardly a file can be made is full; one that counts no inodes is not.
    """
    disk = types.SimpleNamespace(f_bavail=2**40, f_frsize=1, f_files=inodes, f_favail=0)
    monkeypatch.setattr(os, "statvfs", lambda _path: disk)
    if is_full:
        with pytest.raises(Unhealthy, match=r"full: the disk of .* has 0 inodes free, 256 are wanted"):
            DiskSpace(tmp_path)()
    else:
        DiskSpace(tmp_path)()


@pytest.mark.parametrize(
    "make",
    [
        lambda: MemoryLimit(max_share=0),
        lambda: MemoryLimit(max_share=90),
        lambda: OpenFiles(max_share=float("nan")),
        lambda: PressureStall("gpu"),
        lambda: PressureStall("io", line="all"),
        lambda: PressureStall("io", max_share=60),
        lambda: ThreadCount(0),
        lambda: DiskSpace("/", min_free_bytes=-1),
        lambda: DiskSpace("/", min_free_inodes=0.5),
    ],
)
def test_limits_that_cannot_work_are_refused(make):
    """
    A share is above 0 and 1 at most, and a count is a whole number.
    """
    with pytest.raises(ConfigError):
        make()
