"""
`PressureStall`: a probe of the time that is lost because there is too little of a processor, of memory, or of disks.
"""

from __future__ import annotations

import errno
import os

from typing import Final, Literal

import attrs

from selfheal.errors import ConfigError, Unhealthy
from selfheal.model.health import CheckResult
from selfheal.resources.process_cgroups import cgroups, lines
from selfheal.resources.process_unknown import unknown, unknown_without_files
from selfheal.resources.settings import positive_share


# systemd-oomd kills at 60 % "full" of memory, by default.
_MAX_SHARE: Final = 0.6

_RESOURCES: Final = ("cpu", "memory", "io")
_LINES: Final = ("some", "full")


@attrs.frozen
class PressureStall:
    """
    A probe of Linux' pressure stall information (PSI): the share of the last 10 seconds in which tasks had to wait for
    a resource.

    It looks at this process' own cgroup v2, and where that tells nothing, at the whole machine. Without PSI (it may be
    switched off, or hidden from a container) the answer is UNKNOWN.

    Args:
        resource: ``cpu``, ``memory`` (waiting for what was taken away, and has to be read or freed again) or ``io``.
        max_share: Of the time, above 0 and 1 at most.
        line: ``full``: all that had something to do had to wait at once, nothing got on; of the processor that is a
            cgroup that is throttled by its ``cpu.max``. ``some``: at least one had to, which is common where there is
            much to do.
        root: Where the process' files are; another one for tests.

    Raises:
        ConfigError: If an argument is not one of these.

    .. versionadded:: 26.1.0
    """

    resource: Literal["cpu", "memory", "io"]
    max_share: float = attrs.field(default=_MAX_SHARE, kw_only=True, validator=positive_share)
    line: Literal["some", "full"] = attrs.field(default="full", kw_only=True)
    root: str = attrs.field(default="/proc/self", kw_only=True, repr=False)

    def __attrs_post_init__(self) -> None:
        if self.resource not in _RESOURCES or self.line not in _LINES:
            msg = f"{self!r} is not known: the resource is cpu, memory or io, and the line some or full."
            raise ConfigError(msg)

    @unknown_without_files
    def __call__(self) -> CheckResult:
        """
        Look. The data has ``share``, of the time.

        Raises:
            Unhealthy: ``exhausted``.
        """
        own = (os.path.join(cgroup, f"{self.resource}.pressure") for cgroup in cgroups(self.root)[:1])
        shares = (_avg10(path, self.line) for path in (*own, os.path.join(self.root, "..", "pressure", self.resource)))
        share = next((share for share in shares if share is not None), None)
        if share is None:
            return unknown(f"the kernel does not tell the pressure on {self.resource}")
        if share > self.max_share:
            who = "tasks" if self.line == "some" else "all tasks"
            msg = f"{who} waited for {self.resource} in {share:.0%} of the last 10 s, {self.max_share:.0%} are allowed"
            raise Unhealthy("exhausted", msg)
        return CheckResult.healthy(data={"share": share})


def _avg10(path: str, line: str) -> float | None:
    # some avg10=0.00 avg60=0.00 avg300=0.00 total=0
    try:
        for text in lines(path):
            if text.startswith(f"{line} avg10="):
                return float(text.split()[1].partition("=")[2]) / 100
    except OSError as exc:
        if exc.errno != errno.EOPNOTSUPP:  # what the file of a kernel that was told psi=0 says
            raise
    return None
