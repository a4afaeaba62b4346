"""
Keeps stdout for the report.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import sys

from collections.abc import Generator


@contextlib.contextmanager
def kept_clean() -> Generator[None]:
    """
    What is printed meanwhile goes to stderr, whoever prints it: Python, a library written in C, or a child process.

    So does what an application prints when the process ends, and what C keeps in its buffers until then.
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
    atexit.unregister(_hand_over)
    atexit.register(_hand_over)  # the last that registers is the first that is called


def _hand_over() -> None:
    _flush()
    with contextlib.suppress(OSError):
        os.dup2(2, 1)


def _flush() -> None:
    for stream in filter(None, (sys.stdout, sys.__stdout__)):
        with contextlib.suppress(OSError, ValueError):  # it is closed
            stream.flush()
