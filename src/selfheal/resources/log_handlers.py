"""
What may be wrong with the logging handlers of a program, all of them, and the action that mends it.
"""

from __future__ import annotations

import logging
import weakref

from collections.abc import Iterable
from typing import Final

import attrs

from selfheal.errors import Escalate, Unhealthy
from selfheal.model.health import CheckResult, Fault, HealthStatus
from selfheal.model.ladder import RecoveryContext
from selfheal.recovery import RecoveryAction
from selfheal.resources.log_errors import LogErrors, count_log_errors, errors_of
from selfheal.resources.log_handles import (
    Identity,
    identity,
    keeps_its_file,
    live_handlers,
    meant_path,
    open_file,
    replace_stream,
    require_file_handler,
    strayed,
)


__all__ = ["LogErrors", "LogHandlers", "ReopenLog", "count_log_errors"]

# Of what a message tells; the rest is counted.
_TOLD: Final = 5


# By identity: each remembers how many errors it has seen.
@attrs.frozen(eq=False)
class LogHandlers:
    """
    A probe of every live `FileHandler` of the process: of all loggers, and those that a `QueueListener` feeds.

    ============ =======================================================
    kind         what was found
    ============ =======================================================
    ``stale``    a handler writes to a file that was deleted or renamed,
                 as logrotate does
    ``corrupt``  mode "w": after a copytruncate the file begins with
                 NULs, and each opening empties it
    ``full``     records were lost for want of room since the last look,
                 if `count_log_errors` counts them
    ``error``    records were lost for another reason, or the name of a
                 file cannot be looked at
    ============ =======================================================

    Several handlers that have the same file open make it degraded, with the kind ``corrupt``: nothing can heal that
    but the program's configuration.

    Handlers of a device, such as ``/dev/null``, and those that roll over and write in a way of their own are left alone.
    It writes nothing, and takes a handler's lock only to look again at a file that seems to have gone.

    Examples:
        >>> LogHandlers()()

    .. versionadded:: 26.1.0
    """

    # How many errors there were when nothing else was wrong, and when they were told.
    _seen: weakref.WeakKeyDictionary[LogErrors, tuple[int, int]] = attrs.field(
        factory=lambda: weakref.WeakKeyDictionary[LogErrors, tuple[int, int]](), init=False, repr=False
    )

    def __call__(self) -> CheckResult | None:
        """
        Look.

        Returns:
            `None` if all is well; degraded if several handlers share a file.

        Raises:
            Unhealthy: The kind of what is worst, in the order above, and all of it in the message, which names the
                handlers and says what to do.
        """
        handlers = live_handlers()
        faults: list[tuple[str, str]] = []
        gone, unseen = _astray(handlers)
        if gone:
            faults.append(("stale", f"{_some(gone)}. Reopen it (ReopenLog); WatchedFileHandler does so by itself."))
        if emptying := [_called(handler) for handler in handlers if _empties(handler)]:
            advice = "Pass mode='a'; ReopenLog makes it append from now on."
            faults.append(("corrupt", f"{_some(emptying)}: mode 'w' empties what is there. {advice}"))
        lost, is_full = self._lost(handlers, alone=not faults and not unseen)
        if lost:
            faults.append(("full" if is_full else "error", _some(lost)))
        if unseen:
            faults.append(("error", _some(unseen)))
        if faults:
            raise Unhealthy(faults[0][0], " ".join(message for _, message in faults))
        if shared := _shared(handlers):
            message = f"{_some(shared)}. Give all loggers the same handler: with two, one rotates what the other still writes."
            return CheckResult(HealthStatus.DEGRADED, fault=Fault("corrupt", message=message))
        return None

    def _lost(self, handlers: Iterable[logging.FileHandler], *, alone: bool) -> tuple[list[str], bool]:
        """
        What was lost since the last look, and whether for want of room.

        Beside another fault it is told at every look, or the one that confirms that fault would not tell it.
        """
        told: list[str] = []
        is_full = False
        for handler in handlers:
            errors = errors_of(handler)
            if errors is not None:
                count = errors.count
                seen, before = self._seen.get(errors, (0, 0))
                new = count - (before if alone else seen)
                self._seen[errors] = (count if alone else seen, count)
                if new:
                    told.append(f"{_called(handler)} could not write {new} records ({errors.last})")
                    is_full = is_full or errors.is_full
        return told, is_full


@attrs.frozen(repr=False)
class ReopenLog(RecoveryAction):
    """
    Open the file of that name anew, under the handler's lock, and go on at its end. No record is lost.

    Against a log that was deleted, or renamed by logrotate. Nothing is emptied by it: a handler of mode "w" appends from
    now on, which mends that too. If the file cannot be opened, the handler writes where it wrote before. A symlink that
    has come since the handler was first seen, by this action or by `LogHandlers`, is not followed.

    Args:
        handler: The handler. Default: all that need it when the action runs.
        name: Of the action: a metric label.

    Raises:
        ConfigError: If *handler* writes no file.

    .. versionadded:: 26.1.0
    """

    handler: logging.FileHandler | None = attrs.field(
        default=None, converter=attrs.converters.optional(require_file_handler)
    )
    name: str = attrs.field(default="reopen_log", kw_only=True)

    def recover(self, ctx: RecoveryContext) -> None:
        """
        Reopen.

        Raises:
            Escalate: If no handler needs it, the one that is given keeps its file itself, or a name is a new symlink.
            OSError: If a file cannot be opened. The others are reopened all the same.
        """
        if self.handler is not None and keeps_its_file(self.handler):
            msg = f"{_called(self.handler)} writes and rolls over in its own way, and must reopen its file itself"
            raise Escalate(msg)
        handlers = self._needy() if self.handler is None else (self.handler,)
        if not handlers:
            msg = "no handler needs to be reopened: each appends to the file that has its name"
            raise Escalate(msg)
        failed: list[OSError | Escalate] = []
        for handler in handlers:
            ctx.check()
            handler.acquire()
            try:
                _reopen(handler)
            except (OSError, Escalate) as exc:
                failed.append(exc)
                continue
            finally:
                handler.release()
            # Only now: whoever listens may log, with this very handler.
            ctx.log(f"{_called(handler)} was reopened")
        if failed:
            raise failed[0]

    def plan(self) -> str:
        """
        What it would do.
        """
        handlers = self._needy() if self.handler is None else (self.handler,)
        return f"reopen {_some(map(_called, handlers)) or 'nothing'}"

    def _needy(self) -> tuple[logging.FileHandler, ...]:
        return tuple(handler for handler in live_handlers() if _empties(handler) or any(_astray([handler])))


def _reopen(handler: logging.FileHandler) -> None:
    if handler.stream is None:
        meant_path(handler)
        handler.mode = "a"  # the next record opens it, also if it was closed meanwhile
    else:
        replace_stream(handler, open_file(handler))


def _astray(handlers: Iterable[logging.FileHandler]) -> tuple[list[str], list[str]]:
    """Those whose file has not its name any more, and those of which nobody can tell."""
    gone: list[str] = []
    unseen: list[str] = []
    for handler in handlers:
        try:
            if fault := strayed(handler):
                gone.append(fault)
        except OSError as exc:
            unseen.append(f"{_called(handler)} cannot be looked at: {exc.strerror}.")
    return gone, unseen


def _empties(handler: logging.FileHandler) -> bool:
    return handler.mode.startswith("w") and not keeps_its_file(handler)


def _called(handler: logging.FileHandler) -> str:
    return f"{type(handler).__name__} {handler.name or ''}".rstrip() + f" of {handler.baseFilename}"


def _some(parts: Iterable[str]) -> str:
    told = list(parts)
    more = f", and {len(told) - _TOLD} more" if len(told) > _TOLD else ""
    return ", ".join(told[:_TOLD]) + more


def _shared(handlers: Iterable[logging.FileHandler]) -> list[str]:
    """The files that several handlers have open."""
    by_file: dict[Identity, list[logging.FileHandler]] = {}
    for handler in handlers:
        opened = open_file(handler)
        if opened is not None and not keeps_its_file(handler):
            by_file.setdefault(identity(opened), []).append(handler)
    return [
        f"{same[0].baseFilename} is open in {len(same)} handlers ({_some(type(one).__name__ for one in same)})"
        for same in by_file.values()
        if len(same) > 1
    ]
