"""
The lock on a log file: who has it, who waits for it, and when it is free.
"""

import contextlib
import logging
import os

import attrs
import pytest

from selfheal.errors import CancelledRecoveryError
from selfheal.resources import log_sharing
from selfheal.resources.log_files import RotateLog
from selfheal.resources.log_handles import identity


fcntl = pytest.importorskip("fcntl")


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "app.log"
    path.write_text("a line\n")
    return path


def is_free(path):
    """Whether somebody else could lock it: to open it anew is as good as another process."""
    with path.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


def test_a_rotation_waits_for_the_lock_and_changes_nothing_meanwhile(path, ctx):
    """
    While somebody else has the lock on the file nothing is renamed, however often a rotation looks, until it is cancelled.
    """
    answers = iter([None, None, None, "closing"])
    handler = logging.FileHandler(path)
    with contextlib.closing(handler), path.open() as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(CancelledRecoveryError):
            RotateLog(handler).recover(attrs.evolve(ctx, stopped=lambda: next(answers)))
        assert [] == list(answers)
        assert ["app.log"] == os.listdir(path.parent)
        fcntl.flock(other, fcntl.LOCK_UN)
        RotateLog(handler, compress=False).recover(ctx)
    assert 2 == len(os.listdir(path.parent))


def test_the_file_is_locked_while_it_is_rotated_and_free_afterwards(path):
    """
    Nobody else gets the lock during a rotation, and everybody does after it.
    """
    with log_sharing.rotating(str(path), check=lambda: None) as locked:
        assert identity(path.stat()) == locked
        assert not is_free(path)
    assert is_free(path)


def test_the_lock_is_free_though_a_child_was_forked_meanwhile(path):
    """
    A child that was forked during a rotation, and has the descriptor too, does not keep the lock.
    """
    with contextlib.ExitStack() as child:
        with log_sharing.rotating(str(path), check=lambda: None) as locked:
            for file in range(256):
                with contextlib.suppress(OSError):
                    if identity(os.fstat(file)) == locked:
                        child.callback(os.close, os.dup(file))  # what a fork does
                        break
            else:
                pytest.fail("the file is not open")
        assert is_free(path)


def test_who_holds_the_lock_for_too_long_is_told(path, monkeypatch):
    """
    A lock that is never freed ends the wait with an error that says whose it is, and the file is as it was.
    """
    monkeypatch.setattr(log_sharing, "_PATIENCE", 1e-6)
    monkeypatch.setattr(log_sharing, "_PAUSE", 1e-6)
    with path.open() as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        rotation = log_sharing.rotating(str(path), check=lambda: None)
        with pytest.raises(TimeoutError, match=r"another process has held the lock on .*app\.log"):
            rotation.__enter__()
    assert "a line\n" == path.read_text()


def test_without_a_file_there_is_nothing_to_lock(tmp_path):
    """
    A file that has gone locks nothing, and is not made.
    """
    with log_sharing.rotating(str(tmp_path / "gone.log"), check=lambda: None) as locked:
        assert locked is None
    assert [] == os.listdir(tmp_path)
