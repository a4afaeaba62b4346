"""
LowerLogLevel, with real loggers.
"""

import logging

import pytest

from selfheal import ConfigError, rung
from selfheal.resources.log_level import LowerLogLevel


LEVELS = {"": logging.NOTSET, ".loud": logging.DEBUG, ".inherits": logging.NOTSET, ".strict": logging.ERROR}


@pytest.fixture
def loggers():
    """A logger with some below it, each with the level given above."""
    loggers = [logging.getLogger(f"selfheal-levels{name}") for name in LEVELS]
    for logger, level in zip(loggers, LEVELS.values(), strict=True):
        logger.setLevel(level)
    loggers[0].parent.setLevel(logging.INFO)
    yield loggers
    for logger in loggers:
        logger.setLevel(logging.NOTSET)
    loggers[0].parent.setLevel(logging.WARNING)


def levels(loggers):
    return [logger.level for logger in loggers]


def test_less_is_logged_until_it_is_reverted(loggers, ctx):
    """
    No logger passes less than the level while it is held, stricter ones stay, and each has its own level back then.
    """
    action = LowerLogLevel("selfheal-levels", to="WARNING")
    action.recover(ctx)
    action.recover(ctx)  # a second attempt forgets nothing
    assert [logging.WARNING, logging.WARNING, logging.NOTSET, logging.ERROR] == levels(loggers)
    assert not any(logger.isEnabledFor(logging.INFO) for logger in loggers)
    action.revert(ctx)
    assert list(LEVELS.values()) == levels(loggers)
    action.revert(ctx)
    assert list(LEVELS.values()) == levels(loggers)


def test_a_level_that_somebody_has_set_since_stays(loggers, ctx):
    """
    The revert touches no logger that has got another level meanwhile.
    """
    action = LowerLogLevel(loggers[0], to=logging.WARNING)
    action.recover(ctx)
    loggers[1].setLevel(logging.INFO)
    action.revert(ctx)
    assert [logging.NOTSET, logging.INFO] == levels(loggers)[:2]


def test_the_root_means_all(loggers, ctx):
    """
    With the root every logger of the process passes less.
    """
    action = LowerLogLevel("", to="WARNING")
    action.recover(ctx)
    assert [logging.NOTSET, logging.WARNING, logging.NOTSET, logging.ERROR] == levels(loggers)
    assert not any(logger.isEnabledFor(logging.INFO) for logger in [*loggers, logging.getLogger()])
    action.revert(ctx)
    assert list(LEVELS.values()) == levels(loggers)


def test_it_is_held_and_says_what_it_would_do(loggers):
    """
    A ladder knows that it has to be stepped down, and a plan changes nothing.
    """
    action = LowerLogLevel(loggers[0], to="ERROR")
    assert rung(action).rungs[0].held
    assert "set 2 loggers to ERROR" == action.plan()
    assert list(LEVELS.values()) == levels(loggers)


@pytest.mark.parametrize("to", ["LOUD", 0, -1, None, True, 1.5])
def test_what_is_no_level_is_refused(to):
    """
    Only a name or a number above 0 is a level.
    """
    with pytest.raises(ConfigError, match=r"to=.*must be one of CRITICAL"):
        LowerLogLevel("", to=to)
