"""
`count_log_errors`: a number instead of one traceback for each record that could not be written.
"""

from __future__ import annotations

import errno
import logging
import sys

from typing import Any

import attrs


@attrs.define(eq=False, weakref_slot=True)
class LogErrors:
    """
    Counts the records that a handler could not write. Made by `count_log_errors`.

    Attributes:
        handler: Whose.
        count: So many since it was made.
        last: The class of the last error, and its errno if it has one; `None` if there was none.
        is_full: Whether the last one was for want of room.

    .. versionadded:: 26.1.0
    """

    handler: logging.Handler
    _before: Any = attrs.field(repr=False)
    count: int = attrs.field(default=0, init=False)
    last: str | None = attrs.field(default=None, init=False)
    is_full: bool = attrs.field(default=False, init=False)

    def __call__(self, _record: logging.LogRecord) -> None:
        """
        Stands for `logging.Handler.handleError`; whoever calls that has the handler's lock.
        """
        error = sys.exception()
        number: int | None = getattr(error, "errno", None)
        code = "" if number is None else errno.errorcode.get(number, str(number))
        self.last = f"{type(error).__name__} {code}".strip()
        self.is_full = number in (errno.ENOSPC, errno.EDQUOT)
        self.count += 1

    def undo(self) -> None:
        """
        Put back what was there before, unless somebody else has replaced it since. Again does nothing.
        """
        own = vars(self.handler)
        if own.get("handleError") is self:
            del own["handleError"]
            if self._before is not None:
                own["handleError"] = self._before


def count_log_errors(handler: logging.Handler) -> LogErrors:
    """
    Count what *handler* cannot write, from now on. `LogHandlers` sees it.

    Without it a full disk costs one traceback on stderr for each lost record,
    which may fill the next disk. A handler that is counted already gives its `LogErrors`.

    Args:
        handler: Any.

    Examples:
        >>> errors = count_log_errors(logging.StreamHandler())
        >>> errors.count
        0
        >>> errors.undo()

    .. versionadded:: 26.1.0
    """
    before = errors_of(handler)
    if before is not None:
        return before
    errors = LogErrors(handler, vars(handler).get("handleError"))
    vars(handler)["handleError"] = errors
    return errors


def errors_of(handler: logging.Handler) -> LogErrors | None:
    """
    What counts the errors of *handler*, if anything does.
    """
    there: object = vars(handler).get("handleError")
    return there if isinstance(there, LogErrors) else None
