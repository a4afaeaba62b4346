"""
LogOverflow, with real files.
"""

import contextlib
import logging
import logging.handlers
import os
import types

from logging import FileHandler
from logging.handlers import WatchedFileHandler

import attrs
import pytest

from selfheal import ConfigError, Unhealthy
from selfheal.model import Fault
from selfheal.resources.log_files import LogOverflow, RotateLog


@pytest.fixture
def handler(tmp_path):
    handler = logging.FileHandler(tmp_path / "app.log")
    yield handler
    handler.close()


def write(handler, text):
    handler.handle(logging.LogRecord("app", logging.INFO, "", 0, text, (), None))


@pytest.mark.parametrize("by_path", [False, True])
def test_a_file_within_its_limits_is_healthy_until_it_grows_beyond(handler, by_path):
    """
    A file may have max_bytes and not one more, told by handler or by path.
    """
    probe = LogOverflow(handler.baseFilename if by_path else handler, max_bytes=10)
    probe()
    write(handler, "nine chars"[:9])
    probe()
    write(handler, "x")
    with pytest.raises(Unhealthy, match=r"^full: .*app\.log has 12 bytes, 10 are allowed"):
        probe()


def test_looking_changes_nothing(handler, tmp_path):
    """
    The probe writes nothing and touches no file.
    """
    write(handler, "a line")
    before = os.stat(handler.baseFilename)
    LogOverflow(handler, max_bytes=100)()
    after = os.stat(handler.baseFilename)
    assert (before.st_size, before.st_mtime_ns, before.st_ctime_ns) == (
        after.st_size,
        after.st_mtime_ns,
        after.st_ctime_ns,
    )
    assert ["app.log"] == os.listdir(tmp_path)


def test_a_deleted_file_that_is_still_open_is_stale(handler):
    """
    A file that was deleted is written without end and without a name: stale.
    """
    write(handler, "a line")
    os.unlink(handler.baseFilename)
    with pytest.raises(Unhealthy, match=r"^stale: .* was deleted or renamed, and is still written \(7 bytes\)"):
        LogOverflow(handler, max_bytes=100)()


def test_a_file_that_was_replaced_is_stale(handler, tmp_path):
    """
    A file that was renamed, with another one made under its name, is stale.
    """
    os.rename(handler.baseFilename, tmp_path / "app.log.1")
    (tmp_path / "app.log").touch()
    with pytest.raises(Unhealthy, match=r"^stale: .* is another file now"):
        LogOverflow(handler, max_bytes=100)()


def test_a_handler_that_reopens_by_itself_is_not_stale(tmp_path):
    """
    A WatchedFileHandler follows its name, so a replaced file is no fault.
    """
    handler = logging.handlers.WatchedFileHandler(tmp_path / "app.log")
    os.unlink(handler.baseFilename)
    LogOverflow(handler, max_bytes=100)()
    handler.close()


def test_a_handler_that_has_not_opened_its_file_is_healthy(tmp_path):
    """
    With delay=True there is no file before the first record, which is no fault.
    """
    LogOverflow(logging.FileHandler(tmp_path / "app.log", delay=True), max_bytes=100)()


def test_a_closed_handler_is_healthy(handler):
    """
    A closed handler has nothing open that could be stale.
    """
    handler.close()
    LogOverflow(handler, max_bytes=100)()


def test_a_path_without_a_file_is_healthy(tmp_path):
    """
    A file that is not there takes no room.
    """
    LogOverflow(tmp_path / "app.log", max_bytes=100)()


def test_a_vanished_directory_is_stale(tmp_path):
    """
    Without its directory no file can be made again.
    """
    with pytest.raises(Unhealthy, match=r"^stale: .*its directory does not exist"):
        LogOverflow(tmp_path / "gone" / "app.log", max_bytes=100)()


def test_too_little_free_space_is_full(handler):
    """
    A disk with less free space than wanted is full, whatever the file takes.
    """
    with pytest.raises(Unhealthy, match=rf"^full: the disk of .* bytes free, {2**62} are wanted"):
        LogOverflow(handler, max_bytes=100, min_free_bytes=2**62)()


@pytest.mark.parametrize(("inodes", "is_full"), [(1000, True), (0, False)])
def test_too_few_free_inodes_are_full_unless_none_are_counted(handler, monkeypatch, inodes, is_full):
    """
    A disk on which hardly a file can be made is full; one that counts no inodes, as btrfs does not, is not.
    """
    disk = types.SimpleNamespace(f_bavail=2**40, f_frsize=1, f_files=inodes, f_favail=0)
    monkeypatch.setattr(os, "statvfs", lambda path: disk)
    probe = LogOverflow(handler, max_bytes=100)
    if is_full:
        with pytest.raises(Unhealthy, match=r"^full: the disk of .* has 0 inodes free, 256 are wanted"):
            probe()
    else:
        probe()


@pytest.mark.parametrize("kind", [FileHandler, WatchedFileHandler])
def test_a_file_is_not_rotated_because_its_predecessor_was_too_long(kind, tmp_path, ctx, said):
    """
    Another process has rotated after the probe had looked: the new file stays, also if the handler has no old one open.
    """
    path = tmp_path / "app.log"
    path.write_text("long")
    with contextlib.closing(kind(path, delay=True)) as handler:
        with pytest.raises(Unhealthy) as found:
            LogOverflow(handler, max_bytes=3)()
        path.rename(tmp_path / "app.log.1")
        path.write_text("new ")
        if kind is WatchedFileHandler:
            write(handler, "and ")  # it has reopened by itself
        RotateLog(handler).recover(attrs.evolve(ctx, fault=Fault("full", error=found.value)))
        write(handler, "last")
    assert [(f"{path} was rotated by another process", {})] == said
    assert ["app.log", "app.log.1"] == sorted(os.listdir(tmp_path))
    assert path.read_text().endswith("last\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"max_bytes": 0}, "max_bytes=0: must be a whole number, 1 or more"),
        ({"min_free_bytes": -1}, "min_free_bytes=-1: must be a whole number, 0 or more"),
        ({"min_free_inodes": 0.5}, "min_free_inodes=0.5: must be a whole number"),
    ],
)
def test_settings_that_cannot_work_are_named(tmp_path, arguments, message):
    """
    A setting that cannot work is refused at once, by name.
    """
    with pytest.raises(ConfigError, match=message):
        LogOverflow(tmp_path / "app.log", **{"max_bytes": 1, **arguments})
