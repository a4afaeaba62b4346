"""
The rules about log files, asked about real handlers.
"""

import logging
import logging.handlers

import pytest

from selfheal import Healer
from selfheal.doctor import audit


@pytest.fixture
def attached():
    logger = logging.getLogger("selfheal-doctor")

    def attach(*handlers):
        for handler in handlers:
            logger.addHandler(handler)

    yield attach
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
        handler.close()


def findings(folder, **options):
    return [found.code for found in audit(Healer(), **options).findings if found.subject.startswith(str(folder))]


class Own(logging.handlers.RotatingFileHandler):
    """Writes and rolls over in a way of its own, as concurrent-log-handler does."""

    def emit(self, record):
        """Nothing."""

    def doRollover(self):  # noqa: N802 - stdlib's name
        """Nothing."""


@pytest.mark.parametrize("delay", [False, True])
def test_a_handler_that_empties_its_file_is_found(attached, tmp_path, delay):
    """
    Mode "w" is found, whether the file is open yet or not; mode "a" is not.
    """
    attached(logging.FileHandler(tmp_path / "good.log"))
    assert [] == findings(tmp_path)
    attached(logging.FileHandler(tmp_path / "bad.log", mode="w", delay=delay))
    assert ["SH551"] == findings(tmp_path)


@pytest.mark.parametrize("delay", [False, True])
def test_a_file_of_several_handlers_is_found_once(attached, tmp_path, delay):
    """
    Two handlers of one file are one finding.
    """
    attached(logging.FileHandler(tmp_path / "app.log", delay=delay))
    assert [] == findings(tmp_path)
    attached(logging.FileHandler(tmp_path / "app.log", delay=delay))
    assert ["SH552"] == findings(tmp_path)


@pytest.mark.parametrize(
    ("make", "codes"),
    [
        (lambda path: logging.handlers.RotatingFileHandler(path, maxBytes=1000), ["SH903"]),
        (lambda path: logging.handlers.TimedRotatingFileHandler(path), ["SH903"]),
        (lambda path: logging.handlers.RotatingFileHandler(path), []),
        (lambda path: logging.FileHandler(path), []),
        (lambda path: Own(path, maxBytes=1000), []),
    ],
    ids=["size", "time", "never", "plain", "own"],
)
def test_a_log_that_forked_workers_would_each_roll_over_is_found(attached, tmp_path, make, codes):
    """
    After an import a handler that rolls over by itself is found, unless it has a way of its own to do so.
    """
    attached(make(tmp_path / "app.log"))
    assert codes == findings(tmp_path, imported=True)
    assert [] == findings(tmp_path)
