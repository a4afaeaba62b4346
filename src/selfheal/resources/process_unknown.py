"""
The answer of a probe that cannot look.
"""

from __future__ import annotations

import errno
import functools

from collections.abc import Callable
from typing import Final, TypeVar

from selfheal.model.health import CheckResult, Fault, HealthStatus


NO_MORE_FILES: Final = frozenset({errno.EMFILE, errno.ENFILE})

_Probe = TypeVar("_Probe")


def unknown(message: str) -> CheckResult:
    """
    Nothing can be said, which heals nothing.
    """
    return CheckResult(HealthStatus.UNKNOWN, fault=Fault("probe_error", message=message))


def unknown_without_files(look: Callable[[_Probe], CheckResult]) -> Callable[[_Probe], CheckResult]:
    """
    Have *look* answer UNKNOWN where no file can be opened any more: that says nothing of what it looks at.
    """

    @functools.wraps(look)
    def answers(probe: _Probe) -> CheckResult:
        try:
            return look(probe)
        except OSError as exc:
            if exc.errno not in NO_MORE_FILES:
                raise
            return unknown("no file can be opened to look: OpenFiles tells of file descriptors that are used up")

    return answers
