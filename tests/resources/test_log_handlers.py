"""
LogHandlers, ReopenLog and count_log_errors, with real files.
"""

import contextlib
import errno
import logging
import logging.handlers
import os
import stat

import pytest

from selfheal import ConfigError, Escalate, HealthStatus, Unhealthy
from selfheal.resources.log_files import PruneArchives
from selfheal.resources.log_handlers import LogHandlers, ReopenLog, count_log_errors


@pytest.fixture
def made():
    """Handlers that a logger of the tree has, as those of a program."""
    logger = logging.getLogger("selfheal-audit.inner")
    logger.propagate = False

    def attach(handler):
        logger.addHandler(handler)
        return handler

    yield attach
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
        handler.close()


def write(handler, text):
    handler.handle(logging.LogRecord("app", logging.INFO, "", 0, text, (), None))


def test_handlers_that_are_well_are_healthy(made, tmp_path):
    """
    Handlers that append, have not opened yet, follow their name, or write to a device are no fault.
    """
    made(logging.FileHandler(tmp_path / "a.log"))
    made(logging.FileHandler(tmp_path / "b.log", delay=True))
    made(logging.FileHandler(os.devnull, mode="w"))
    os.unlink(made(logging.handlers.WatchedFileHandler(tmp_path / "c.log")).baseFilename)
    assert LogHandlers()() is None


@pytest.mark.parametrize("harm", ["deleted", "renamed", "replaced"])
def test_a_file_that_has_gone_is_stale_until_it_is_reopened(made, tmp_path, ctx, harm):
    """
    A log that was deleted or renamed is named by the probe, and written under its name again after ReopenLog.
    """
    handler = made(logging.FileHandler(tmp_path / "app.log"))
    write(handler, "before")
    if harm == "deleted":
        os.unlink(handler.baseFilename)
    else:
        os.rename(handler.baseFilename, tmp_path / "app.log.1")
    if harm == "replaced":
        (tmp_path / "app.log").write_text("theirs\n")
    write(handler, "meanwhile")
    with pytest.raises(Unhealthy, match=r"^stale: .*app\.log (was deleted|is another file).*ReopenLog"):
        LogHandlers()()
    ReopenLog().recover(ctx)
    write(handler, "after")
    assert LogHandlers()() is None
    assert ("theirs\n" if harm == "replaced" else "") + "after\n" == (tmp_path / "app.log").read_text()
    if harm != "deleted":
        assert "before\nmeanwhile\n" == (tmp_path / "app.log.1").read_text()


def test_mode_w_is_corrupt_and_appends_once_it_is_reopened(made, tmp_path, ctx):
    """
    A handler that empties its file is found; reopened it has lost nothing and goes on after a copytruncate without NULs.
    """
    handler = made(logging.FileHandler(tmp_path / "app.log", mode="w"))
    write(handler, "first")
    with pytest.raises(Unhealthy, match=r"^corrupt: FileHandler of .*app\.log: mode 'w'"):
        LogHandlers()()
    ReopenLog().recover(ctx)
    write(handler, "second")
    assert "first\nsecond\n" == (tmp_path / "app.log").read_text()
    os.truncate(handler.baseFilename, 0)
    write(handler, "third")
    assert "third\n" == (tmp_path / "app.log").read_text()
    assert LogHandlers()() is None


def test_a_closed_handler_of_mode_w_lives_again(made, tmp_path, ctx):
    """
    After close() a handler of mode "w" drops every record in silence; reopened it goes on behind what is there.
    """
    handler = made(logging.FileHandler(tmp_path / "app.log", mode="w"))
    write(handler, "before")
    handler.close()
    write(handler, "dropped by the standard library")
    ReopenLog().recover(ctx)
    write(handler, "after")
    assert "before\nafter\n" == (tmp_path / "app.log").read_text()


def test_one_file_in_two_handlers_is_degraded(made, tmp_path):
    """
    Two handlers on one file are told, whatever names they have for it, and nothing is healed.
    """
    os.symlink(tmp_path / "app.log", tmp_path / "other.log")
    made(logging.FileHandler(tmp_path / "app.log"))
    made(logging.handlers.RotatingFileHandler(tmp_path / "other.log"))
    result = LogHandlers()()
    assert (HealthStatus.DEGRADED, "corrupt") == (result.status, result.fault.kind)
    assert "is open in 2 handlers (FileHandler, RotatingFileHandler)" in result.fault.message


def test_a_handler_with_its_own_ways_is_left_alone(made, tmp_path, ctx):
    """
    What writes and rolls over by itself may close and open its file as it likes, and is never reopened.
    """

    class Own(logging.handlers.RotatingFileHandler):
        def doRollover(self):  # noqa: N802 - stdlib's name
            """Never."""

        def emit(self, record):
            """Nothing."""

    handler = made(Own(tmp_path / "app.log"))
    os.unlink(handler.baseFilename)
    assert LogHandlers()() is None
    with pytest.raises(Escalate, match="must reopen its file itself"):
        ReopenLog(handler).recover(ctx)


def test_a_handler_that_is_in_no_logger_and_closed_is_over(tmp_path):
    """
    What no record can reach any more is no fault; what a QueueListener may feed is.
    """
    handler = logging.FileHandler(tmp_path / "app.log")
    os.unlink(handler.baseFilename)
    with pytest.raises(Unhealthy, match="stale"):
        LogHandlers()()
    handler.close()
    assert LogHandlers()() is None


@pytest.mark.parametrize("given", [False, True])
@pytest.mark.parametrize("mode", ["a", "w"])
def test_a_symlink_that_came_since_is_not_followed(made, tmp_path, ctx, given, mode):
    """
    A log that was swapped for a symlink is not reopened: the other file gets no line and is not emptied.
    """
    (tmp_path / "victim").write_text("secret\n")
    handler = made(logging.FileHandler(tmp_path / "app.log", mode=mode))
    reopen = ReopenLog(handler) if given else ReopenLog()
    with contextlib.suppress(Unhealthy):
        LogHandlers()()
    os.unlink(handler.baseFilename)
    os.symlink(tmp_path / "victim", handler.baseFilename)
    with pytest.raises(Escalate, match="is a symlink to elsewhere"):
        reopen.recover(ctx)
    write(handler, "a line")
    assert "secret\n" == (tmp_path / "victim").read_text()


def test_reopening_where_nothing_is_wrong_escalates(made, tmp_path, ctx):
    """
    Without a handler that needs it the action says so, and the next rung is tried at once.
    """
    made(logging.FileHandler(tmp_path / "app.log"))
    with pytest.raises(Escalate, match="no handler needs to be reopened"):
        ReopenLog().recover(ctx)


def test_a_file_that_cannot_be_opened_leaves_the_handler_as_it_is(made, tmp_path, ctx):
    """
    If the folder has gone too, reopening fails and every record still goes where it went before.
    """
    folder = tmp_path / "logs"
    folder.mkdir()
    handler = made(logging.FileHandler(folder / "app.log"))
    os.rename(folder, tmp_path / "moved")
    with pytest.raises(FileNotFoundError):
        ReopenLog(handler).recover(ctx)
    write(handler, "kept")
    assert "kept\n" == (tmp_path / "moved" / "app.log").read_text()


def test_the_new_file_is_private_and_that_of_somebody_else_stays_as_it_is(made, tmp_path, ctx):
    """
    A file that has to be made gets the permissions of the old one; one that logrotate has made keeps its own.
    """
    handler = made(logging.FileHandler(tmp_path / "app.log"))
    os.chmod(handler.baseFilename, 0o600)
    os.unlink(handler.baseFilename)
    ReopenLog().recover(ctx)
    assert 0o600 == stat.S_IMODE(os.stat(handler.baseFilename).st_mode)
    os.unlink(handler.baseFilename)
    (tmp_path / "app.log").touch(0o640)
    os.chmod(handler.baseFilename, 0o640)
    ReopenLog().recover(ctx)
    assert 0o640 == stat.S_IMODE(os.stat(handler.baseFilename).st_mode)


def test_the_action_says_what_it_would_do(made, tmp_path):
    """
    The plan names the handlers, or that there is nothing to do.
    """
    assert "reopen nothing" == ReopenLog().plan()
    handler = made(logging.FileHandler(tmp_path / "app.log", mode="w"))
    handler.name = "main"
    assert f"reopen FileHandler main of {handler.baseFilename}" == ReopenLog().plan()


def test_only_a_file_handler_can_be_reopened():
    """
    What writes no file is a ConfigError.
    """
    with pytest.raises(ConfigError, match=r"is not a logging\.FileHandler"):
        ReopenLog(logging.StreamHandler())


class Broken(logging.FileHandler):
    """Writes until it is broken."""

    error = None

    def format(self, record):
        if self.error is not None:
            raise self.error
        return super().format(record)


@pytest.mark.parametrize(
    ("error", "kind", "name"),
    [(OSError(errno.ENOSPC, "full"), "full", "OSError ENOSPC"), (ValueError("secret"), "error", "ValueError")],
)
def test_lost_records_are_counted_and_seen_once(made, tmp_path, capsys, error, kind, name):
    """
    Counted errors write nothing to stderr; the probe tells those since its last look, by class and never by text.
    """
    handler = made(Broken(tmp_path / "app.log"))
    errors = count_log_errors(handler)
    probe = LogHandlers()
    assert probe() is None
    handler.error = error
    write(handler, "one")
    write(handler, "two")
    assert (2, name) == (errors.count, errors.last)
    with pytest.raises(Unhealthy, match=rf"^{kind}: .*could not write 2 records \({name}\)"):
        probe()
    assert probe() is None
    assert "" == capsys.readouterr().err


def test_lost_records_are_told_beside_another_fault_and_once_it_has_gone_not_again(made, tmp_path, ctx):
    """
    What was lost while another log was astray is told at each look until that is healed, and then only what is new.
    """
    handler, gone = made(Broken(tmp_path / "app.log")), made(logging.FileHandler(tmp_path / "gone.log"))
    count_log_errors(handler)
    probe = LogHandlers()
    handler.error = ValueError("secret")
    write(handler, "one")
    os.unlink(gone.baseFilename)
    for _ in range(2):
        with pytest.raises(Unhealthy, match=r"^stale: .*gone\.log was deleted.*app\.log could not write 1 records"):
            probe()
    ReopenLog().recover(ctx)
    assert probe() is None
    write(handler, "two")
    with pytest.raises(Unhealthy, match=r"^error: .*app\.log could not write 1 records \(ValueError\)$"):
        probe()
    assert probe() is None


@pytest.mark.parametrize("delay", [False, True])
def test_a_name_that_cannot_be_looked_at_is_told_and_keeps_nobody_from_the_others(made, tmp_path, ctx, delay):
    """
    The audit names it and goes on, the other handlers are reopened, and archives are pruned.
    """
    unseen = made(logging.FileHandler(tmp_path / "loop.log", delay=delay))
    gone = made(logging.FileHandler(tmp_path / "gone.log"))
    for path in ("loop.log", "gone.log"):
        (tmp_path / path).unlink(missing_ok=True)
    (tmp_path / "loop.log").symlink_to("loop.log")
    for number in range(3):
        (tmp_path / f"app.log.{number}").write_text("x" * 1000)
    said = r"FileHandler of .*loop\.log cannot be looked at: Too many levels of symbolic links\.$"
    with pytest.raises(Unhealthy, match=rf"^stale: .*gone\.log was deleted.* {said}"):
        LogHandlers()()
    with contextlib.nullcontext() if delay else pytest.raises(OSError, match="Too many levels"):
        ReopenLog().recover(ctx)
    write(gone, "found")
    assert "found\n" == (tmp_path / "gone.log").read_text()
    with pytest.raises(Unhealthy, match=f"^error: {said}"):
        LogHandlers()()
    PruneArchives(tmp_path, "app.log.*", max_total_bytes=1000).recover(ctx)
    assert 1 == len(list(tmp_path.glob("app.log.*")))
    unseen.close()


def test_counting_is_undone(made, tmp_path, capsys):
    """
    Undone, the handler tells its errors as before; what somebody else has put there since stays.
    """
    handler = made(Broken(tmp_path / "app.log"))
    handler.error = ValueError("told")
    errors = count_log_errors(handler)
    assert errors is count_log_errors(handler)
    errors.undo()
    errors.undo()
    write(handler, "lost")
    assert "ValueError: told" in capsys.readouterr().err

    told = []
    handler.handleError = told.append
    count_log_errors(handler).undo()
    write(handler, "lost")
    assert 1 == len(told)

    errors = count_log_errors(handler)
    handler.handleError = print
    errors.undo()
    assert print is handler.handleError


def test_copytruncate_leaves_nuls_in_a_log_of_mode_w_that_nobody_reopens(made, tmp_path):
    """
    The harm that is spared: after a copytruncate a handler of mode "w" goes on at its old place, behind NULs.
    """
    handler = made(logging.FileHandler(tmp_path / "app.log", mode="w"))
    write(handler, "first")
    os.truncate(handler.baseFilename, 0)
    write(handler, "second")
    assert b"\0" * len("first\n") + b"second\n" == (tmp_path / "app.log").read_bytes()
