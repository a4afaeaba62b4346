"""
Events in, log records of the standard library out.

The message is the event's name and never holds a value; values are keys of
their own, so that a JSON or logfmt formatter shows them as they are.
"""

from __future__ import annotations

import logging
import traceback

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from selfheal import names


if TYPE_CHECKING:
    from selfheal.healer import Healer
    from selfheal.model import Event

PREFIX: Final = "selfheal_"

_KEYS: Final = {field: PREFIX + field for name in names.EVENTS.values() for field in name.fields}
_LEVELS: Final = {name: event.level for name, event in names.EVENTS.items()}

#: Characters of a code of SQLSTATE.
_SQLSTATE: Final = 5

#: The highest level an event can have: in EXHAUSTED nothing is left that the program could do, so somebody has to.
_LOUDEST: Final = {**_LEVELS, names.STATE_CHANGED: logging.ERROR}


class LogExporter:
    """
    Writes one record for each event; its level is in `selfheal.names.EVENTS`, and ERROR for the state EXHAUSTED.

    The message is the event's name. Keys: ``selfheal_check``,
    ``selfheal_resource`` and ``selfheal_incident`` always, a
    ``selfheal_<field>`` for each field of the event, and of an exception
    behind it ``selfheal_error_type`` and, where it has one,
    ``selfheal_sqlstate`` or ``selfheal_errno``.

    Args:
        logger: Default: ``logging.getLogger("selfheal")``.
        log_errors: Add ``selfheal_error``, the exception's text, and ``selfheal_traceback``. They may hold
            secrets: host names, statements, values.
        redact: Applied to both, and to every text that actions and probes gave. What it raises loses the record.

    .. versionadded:: 26.1.0
    """

    def __init__(
        self,
        logger: logging.Logger | None = None,
        *,
        log_errors: bool = False,
        redact: Callable[[str], str] | None = None,
    ) -> None:
        if logger is None:
            logger = logging.getLogger("selfheal")
            if not any(isinstance(handler, logging.NullHandler) for handler in logger.handlers):
                logger.addHandler(logging.NullHandler())  # without it, logging prints warnings to stderr by itself
        self._logger = logger
        self._enabled = logger.isEnabledFor
        self._log_errors = log_errors
        self._redact = redact

    def attach(self, healer: Healer) -> Callable[[], None]:
        """
        Write what *healer* does from now on.

        Events of the level DEBUG are not even asked for unless it is on at
        this moment, so that they cost nothing: set that level first.

        Returns:
            A function that ends it.
        """
        # The rest is: many a framework configures logging after the start.
        wanted = [name for name, level in _LOUDEST.items() if level > logging.DEBUG or self._enabled(level)]
        return healer.on_event(self, events=wanted)

    def __call__(self, event: Event) -> None:
        """
        Write *event*.
        """
        level = _LEVELS[event.name]
        if event.name == names.STATE_CHANGED and event.fields.get("to_state") == "exhausted":
            level = _LOUDEST[event.name]
        if self._enabled(level):
            self._logger.log(level, event.name, extra=self._keys(event))

    def _keys(self, event: Event) -> dict[str, Any]:
        keys: dict[str, Any] = {_KEYS.get(name) or PREFIX + name: value for name, value in event.fields.items()}
        if self._redact is not None:
            keys = {key: self._redact(value) if isinstance(value, str) else value for key, value in keys.items()}
        # Last, so that a field of somebody's own cannot stand in for them.
        keys["selfheal_check"], keys["selfheal_resource"] = event.check, event.resource
        keys["selfheal_incident"] = event.incident
        if event.error is not None:
            keys.update(self._error_keys(event.error))
        return keys

    def _error_keys(self, error: BaseException) -> dict[str, Any]:
        keys: dict[str, Any] = {"selfheal_error_type": type(error).__name__}
        sqlstate = getattr(error, "sqlstate", None)
        # They are what their names say, or whatever somebody has made the exception with: a text that may hold anything.
        if isinstance(sqlstate, str) and len(sqlstate) == _SQLSTATE and sqlstate.isalnum():
            keys["selfheal_sqlstate"] = sqlstate
        if isinstance(error, OSError) and isinstance(error.errno, int):
            keys["selfheal_errno"] = error.errno
        if self._log_errors:
            redact = self._redact or str
            keys["selfheal_error"] = redact(str(error))
            keys["selfheal_traceback"] = redact("".join(traceback.format_exception(error)))
        return keys
