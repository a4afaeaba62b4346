"""
Keeps stdout for the report.
"""

from __future__ import annotations

import contextlib
import os
import sys

from collections.abc import Generator


@contextlib.contextmanager
def kept_clean() -> Generator[None]:
    """
    What is printed meanwhile goes to stderr, whoever prints it: Python, a library written in C, or a child process.
    """
    with contextlib.ExitStack() as stack:
        _flush()
        with contextlib.suppress(OSError):  # one of the two is closed: then nobody hears, or there is no other way out
            kept = os.dup(1)
            stack.callback(os.close, kept)
            os.dup2(2, 1)
            stack.callback(os.dup2, kept, 1)
            stack.callback(_flush)
        stack.enter_context(contextlib.redirect_stdout(sys.stderr))
        yield


def _flush() -> None:
    for stream in filter(None, (sys.stdout, sys.__stdout__)):
        with contextlib.suppress(OSError, ValueError):  # it is closed
            stream.flush()
