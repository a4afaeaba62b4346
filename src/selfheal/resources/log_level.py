"""
`LowerLogLevel`: log less for as long as the log itself is what hurts.
"""

from __future__ import annotations

import logging

from collections.abc import Iterator

import attrs

from selfheal.errors import ConfigError
from selfheal.model.ladder import RecoveryContext
from selfheal.recovery import RecoveryAction


def _logger(value: logging.Logger | str) -> logging.Logger:
    return logging.getLogger(value) if isinstance(value, str) else value


def _level(value: int | str) -> int:
    levels = logging.getLevelNamesMapping()
    level = levels.get(value) if isinstance(value, str) else value
    if type(level) is not int or level <= logging.NOTSET:
        msg = f"to={value!r}: must be one of {', '.join(name for name in levels if levels[name])}, or a number above 0."
        raise ConfigError(msg)
    return level


# By identity: each remembers what it has changed.
@attrs.frozen(repr=False, eq=False)
class LowerLogLevel(RecoveryAction):
    """
    Let a logger, and all below it, pass nothing that is less severe than *to*.

    Against ``full``, if rotating and pruning do not make enough room. It is
    *held*: the revert gives each logger the level back that it had, unless
    somebody has set another one since. A logger that is as strict already
    is left alone, as are loggers that are made, or get a level, later.

    What is no longer logged is gone: of all that heals a log this alone costs lines.

    Args:
        logger: The logger or its name; ``""`` is the root, which means all.
        to: The level, by number or name, such as "WARNING".
        name: Of the action: a metric label.

    Raises:
        ConfigError: If *to* is no level.

    .. versionadded:: 26.1.0
    """

    logger: logging.Logger = attrs.field(converter=_logger)
    to: int = attrs.field(converter=_level, kw_only=True)
    name: str = attrs.field(default="lower_log_level", kw_only=True)
    _before: dict[logging.Logger, int] = attrs.field(factory=dict[logging.Logger, int], init=False)

    def recover(self, ctx: RecoveryContext) -> None:
        """
        Set the levels. Done again, it does not forget what they were at first.
        """
        loggers = self._talkative()
        for logger in loggers:
            self._before.setdefault(logger, logger.level)
            logger.setLevel(self.to)
        ctx.log(f"{len(loggers)} loggers pass {logging.getLevelName(self.to)} and above only", loggers=len(loggers))

    def revert(self, ctx: RecoveryContext) -> None:
        """
        Give the levels back. In a process that has just started nothing is to be done.
        """
        given_back = 0
        while self._before:
            logger, level = self._before.popitem()
            if logger.level == self.to:
                logger.setLevel(level)
                given_back += 1
        ctx.log(f"{given_back} loggers have their level back", loggers=given_back)

    def plan(self) -> str:
        """
        What it would do.
        """
        return f"set {len(self._talkative())} loggers to {logging.getLevelName(self.to)}"

    def _talkative(self) -> list[logging.Logger]:
        """Those that pass more. Below the first, a level of 0 means that of the logger above."""
        first = [self.logger] if self.logger.getEffectiveLevel() < self.to else []
        return first + [logger for logger in self._below() if logging.NOTSET < logger.level < self.to]

    def _below(self) -> Iterator[logging.Logger]:
        prefix = "" if self.logger is logging.getLogger() else f"{self.logger.name}."
        for name, logger in list(self.logger.manager.loggerDict.items()):
            if isinstance(logger, logging.Logger) and name.startswith(prefix):
                yield logger
