"""
A process that has no file descriptor left.
"""

from __future__ import annotations

import contextlib
import errno
import gc
import os
import resource

from collections.abc import Iterator


@contextlib.contextmanager
def used_up() -> Iterator[int]:
    """
    Take every descriptor below a limit that is lowered for it, and tell the limit.

    What earlier tests have left to the garbage collector would make room in the middle, so it is collected before.
    """
    gc.collect()
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken = [os.dup(0)]
    limit = taken[0] + 1
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limits[1]))
    try:
        try:
            while True:
                taken.append(os.dup(0))
        except OSError as error:
            assert errno.EMFILE == error.errno, error
        yield limit
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        for fd in taken:
            os.close(fd)
