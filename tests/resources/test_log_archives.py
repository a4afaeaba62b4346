"""
PruneArchives, with real files and hostile ones.
"""

import contextlib
import logging
import os
import socket
import stat
import types

import attrs
import pytest

from selfheal import ConfigError, Escalate
from selfheal.clock import SystemClock
from selfheal.errors import CancelledRecoveryError
from selfheal.resources.log_files import PruneArchives


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "log"
    folder.mkdir()
    return folder


def archive(folder, name, *, age=0.0, size=10):
    path = folder / name
    path.write_bytes(b"x" * size)
    written = SystemClock.wall() - age
    os.utime(path, (written, written))
    return path


def names(folder):
    return sorted(os.listdir(folder))


def test_what_is_too_old_goes(folder, ctx, said):
    """
    Archives beyond max_age are deleted, younger ones stay.
    """
    for number in range(5):
        archive(folder, f"app.log.{number}", age=100 * number)
    PruneArchives(folder, "app.log.*", max_age=250).recover(ctx)
    assert ["app.log.0", "app.log.1", "app.log.2"] == names(folder)
    assert [("2 of 5 archives were deleted", {"deleted": 2, "bytes": 20})] == said


def test_the_oldest_go_first_until_the_total_fits(folder, ctx):
    """
    As many archives are deleted as max_total_bytes needs, the oldest first, and not one more.
    """
    for number in range(5):
        archive(folder, f"app.log.{number}", age=100 * number)
    PruneArchives(folder, "app.log.*", max_total_bytes=30).recover(ctx)
    assert ["app.log.0", "app.log.1", "app.log.2"] == names(folder)


def test_without_an_exceeded_limit_nothing_goes(folder, ctx):
    """
    As long as all limits hold nothing is deleted.
    """
    archive(folder, "app.log.1", age=100)
    archive(folder, "app.log.2", age=50)
    PruneArchives(folder, "app.log.*", max_age=200, max_total_bytes=20, min_free_bytes=1, keep=0).recover(ctx)
    assert ["app.log.1", "app.log.2"] == names(folder)


def test_the_newest_are_kept_whatever_the_limits_say(folder, ctx):
    """
    The newest *keep* archives are never deleted; if a limit is still exceeded, the next rung has to help.
    """
    for number in range(5):
        archive(folder, f"app.log.{number}", age=100 * number)
    with pytest.raises(Escalate, match=r"the archives take 20 bytes, 0 are allowed, and after 3 deletions nothing"):
        PruneArchives(folder, "app.log.*", max_total_bytes=0, keep=2).recover(ctx)
    assert ["app.log.0", "app.log.1"] == names(folder)


def test_too_little_space_with_nothing_to_delete_escalates(folder, ctx):
    """
    If the disk is full and no archive may go, the action says that it cannot help.
    """
    archive(folder, "app.log.1")
    with pytest.raises(Escalate, match=r"bytes are free, .* are wanted, and after 0 deletions"):
        PruneArchives(folder, "app.log.*", min_free_bytes=2**62).recover(ctx)
    assert ["app.log.1"] == names(folder)


@pytest.mark.parametrize(("counted", "left"), [(True, 2), (False, 5)])
def test_the_oldest_go_until_enough_files_can_be_made(folder, ctx, monkeypatch, counted, left):
    """
    As many archives are deleted as min_free_inodes needs; none where the disk counts no inodes.
    """
    for number in range(5):
        archive(folder, f"app.log.{number}", age=100 * number)

    def disk(_path):
        free = 10 - len(os.listdir(folder)) if counted else 0
        return types.SimpleNamespace(f_bavail=2**40, f_frsize=1, f_files=10 * counted, f_favail=free)

    monkeypatch.setattr(os, "statvfs", disk)
    prune = PruneArchives(folder, "app.log.*", min_free_inodes=8)
    assert prune.plan().startswith(f"delete {5 - left} of the 5 archives")
    prune.recover(ctx)
    assert [f"app.log.{number}" for number in range(left)] == names(folder)
    if counted:
        with pytest.raises(Escalate, match=r"9 inodes are free, 10 are wanted, and after 1 deletions nothing is left"):
            PruneArchives(folder, "app.log.*", min_free_inodes=10).recover(ctx)
        assert ["app.log.0"] == names(folder)


def test_deletions_in_one_run_are_bounded(folder, ctx):
    """
    One run deletes max_deletes archives at most, and the next goes on.
    """
    for number in range(5):
        archive(folder, f"app.log.{number}", age=100 * number)
    prune = PruneArchives(folder, "app.log.*", max_age=50, max_deletes=3, keep=0)
    prune.recover(ctx)
    assert ["app.log.0", "app.log.1"] == names(folder)
    prune.recover(ctx)
    assert ["app.log.0"] == names(folder)


def test_a_cancelled_run_stops_between_two_deletions(folder, ctx):
    """
    Cancelled, the action deletes nothing more.
    """
    for number in range(5):
        archive(folder, f"app.log.{number}", age=100 * number)
    answers = iter([None, "closing"])
    with pytest.raises(CancelledRecoveryError):
        PruneArchives(folder, "app.log.*", max_age=50).recover(attrs.evolve(ctx, stopped=lambda: next(answers)))
    assert 4 == len(names(folder))


def test_the_plan_says_what_would_go_and_deletes_nothing(folder, ctx):
    """
    The plan counts what `recover` would delete now, and changes nothing.
    """
    for number in range(5):
        archive(folder, f"app.log.{number}", age=100 * number)
    prune = PruneArchives(folder, "app.log.*", max_age=250)
    assert f"delete 2 of the 5 archives '{folder}/app.log.*' (20 bytes)" == prune.plan()
    assert 5 == len(names(folder))
    assert not prune.destructive


def test_live_and_active_files_are_never_deleted(folder, ctx):
    """
    Neither a file that a handler has open or names, nor one of `active`, is deleted, under whatever name it matches.
    """
    opened = archive(folder, "app.log.open", age=1000)
    named = archive(folder, "app.log.named", age=1000)
    active = archive(folder, "app.log.active", age=1000)
    linked = archive(folder, "elsewhere", age=1000)
    os.link(linked, folder / "app.log.hardlink")
    archive(folder, "app.log.1", age=1000)
    handlers = [logging.FileHandler(path) for path in (opened, linked)]
    handlers.append(logging.FileHandler(named, delay=True))
    os.rename(opened, folder / "app.log.renamed")
    prune = PruneArchives(folder, "app.log.*", max_age=1, keep=0, active=[active, folder / "app.log.gone"])
    prune.recover(ctx)
    for handler in handlers:
        handler.close()
    assert ["app.log.active", "app.log.hardlink", "app.log.named", "app.log.renamed", "elsewhere"] == names(folder)


#: They match, and are nothing but names.
HOSTILE = [
    "app.log.-rf",
    "app.log. ",
    "app.log.\n",
    "app.log.\r\n..\u2215canary",
    "app.log.'; rm -rf ~ ;'",
    "app.log.$(reboot)",
    "app.log.~",
    "app.log.{canary,x}",
    "app.log.*",
    "app.log.[!a]",
    "app.log.?",
    "app.log.\\..\\canary",
    "app.log...",
    "app.log.%2e%2e%2fcanary",
    "app.log.\x1b[2J",
    "app.log.\u202egz",
    "app.log.a\u0308",
    "app.log.\U0001f4a9",
    os.fsdecode(b"app.log.\xff\xfe"),
    os.fsdecode(b"app.log.\xc0\xae\xc0\xae\xc0\xafcanary"),
    "app.log." + "x" * 247,
]

#: They look as if they did, and do not match.
ELSE = [
    "-rf",
    "APP.LOG.1",
    "app.log",
    " app.log.1",
    "\napp.log.1",
    "app.log\n.1",
    "xapp.log.1",
    "app_log.1",
    "\u0430pp.log.1",
]


@pytest.fixture
def canary(tmp_path):
    """Beside the folder, old, and of a name that matches. Nothing may happen to it."""
    canary = archive(tmp_path, "app.log.canary", age=1000)
    yield canary
    assert b"x" * 10 == canary.read_bytes()


@pytest.mark.parametrize("pattern", ["app.log.*", "app.log.?*", "[a]pp.log.*"])
@pytest.mark.usefixtures("canary")
def test_hostile_names_are_only_names(folder, ctx, pattern):
    """
    Names with newlines, shell words, wildcards, dots or undecodable bytes are deleted like others; nothing else is.
    """
    for name in HOSTILE + ELSE:
        archive(folder, name, age=1000)
    PruneArchives(folder, pattern, max_age=1, keep=0).recover(ctx)
    assert sorted(ELSE) == names(folder)


def test_only_regular_files_in_the_folder_itself_go(folder, tmp_path, ctx, canary, monkeypatch):
    """
    Symlinks to files and folders, fifos, sockets, devices, folders and what is in them stay, and so does what they lead
    to; of a file with two names only the one in the folder goes.
    """
    (tmp_path / "victims").mkdir()
    archive(tmp_path / "victims", "app.log.1", age=1000)
    os.symlink(canary, folder / "app.log.to_file")
    os.symlink("../app.log.canary", folder / "app.log.to_file_above")
    os.symlink(tmp_path / "victims", folder / "app.log.to_folder")
    os.symlink("..", folder / "app.log.to_parent")
    os.symlink(folder / "nowhere", folder / "app.log.to_nothing")
    os.symlink("app.log.loop", folder / "app.log.loop")
    os.symlink("/etc/passwd", folder / "app.log.to_passwd")
    os.mkfifo(folder / "app.log.fifo")
    with contextlib.suppress(PermissionError):  # for root alone
        os.mknod(folder / "app.log.null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
        os.mknod(folder / "app.log.loop0", stat.S_IFBLK | 0o600, os.makedev(7, 0))
    (folder / "app.log.folder").mkdir()
    archive(folder / "app.log.folder", "app.log.1", age=1000)
    monkeypatch.chdir(folder)  # names of sockets are short
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("app.log.socket")
    before = names(folder)
    os.link(canary, folder / "app.log.hardlink")
    PruneArchives(folder, "app.log.*", max_age=0, keep=0).recover(ctx)
    assert before == names(folder)
    assert ["app.log.1"] == names(tmp_path / "victims")
    assert ["app.log.1"] == names(folder / "app.log.folder")


@pytest.mark.parametrize("spelling", ["{0}/./{1}", "{0}/../log/{1}", "{0}//{1}", "link/{1}", "./log/{1}", "hardlink"])
def test_what_is_active_is_so_in_every_spelling(folder, tmp_path, ctx, monkeypatch, spelling):
    """
    A file that is never to be deleted may be named relatively, through a symlink to its folder, or by another name.
    """
    active = archive(folder, "app.log.active", age=1000)
    archive(folder, "app.log.1", age=1000)
    os.symlink(folder, tmp_path / "link")
    os.link(active, tmp_path / "hardlink")
    monkeypatch.chdir(tmp_path)
    path = spelling.format(folder, "app.log.active")
    PruneArchives("./x/../log", "app.log.*", max_age=1, keep=0, active=[path]).recover(ctx)
    assert ["app.log.active"] == names(folder)


def test_a_folder_that_became_a_symlink_is_refused(folder, tmp_path, ctx):
    """
    If the folder is swapped for a symlink after the action was made, nothing is deleted.
    """
    prune = PruneArchives(folder, "app.log.*", max_age=1, keep=0)
    victims = tmp_path / "victims"
    victims.mkdir()
    archive(victims, "app.log.1", age=1000)
    folder.rmdir()
    os.symlink(victims, folder)
    with pytest.raises(Escalate, match="cannot be opened as a folder that is no symlink"):
        prune.recover(ctx)
    assert ["app.log.1"] == names(victims)


@pytest.mark.parametrize("swap", ["symlink", "file", "gone", "folder"])
def test_an_entry_that_is_swapped_at_the_last_moment_is_left_alone(folder, tmp_path, ctx, swap):
    """
    A name that means something else by the time of its deletion is not deleted.
    """
    path = archive(folder, "app.log.1", age=1000)
    victim = archive(tmp_path, "victim")
    keeper = archive(folder, "app.log.2")

    def stopped():  # called right before the deletion
        os.rename(path, tmp_path / "away")
        if swap == "symlink":
            os.symlink(victim, path)
        elif swap == "file":
            archive(folder, "app.log.1")
        elif swap == "folder":
            path.mkdir()

    PruneArchives(folder, "app.log.*", max_age=500).recover(attrs.evolve(ctx, stopped=stopped))
    assert victim.exists()
    assert keeper.exists()
    assert (swap != "gone") == os.path.lexists(path)


@pytest.mark.parametrize("gone", ["app.log.1", "app.log.2"])
def test_what_goes_by_itself_meanwhile_counts_no_more(folder, ctx, gone):
    """
    An archive that somebody else compresses or deletes during a run is no reason to complain that too much is left.
    """
    archive(folder, "app.log.1", age=1000)
    archive(folder, "app.log.2")

    def stopped():
        if (folder / gone).exists():
            os.rename(folder / gone, folder / "compressed.gz")

    prune = PruneArchives(folder, "app.log.*", max_total_bytes=15)
    prune.recover(attrs.evolve(ctx, stopped=stopped))
    assert "compressed.gz" in names(folder)


def test_the_folder_may_be_swapped_in_the_middle(folder, tmp_path, ctx):
    """
    A folder that is replaced by a symlink during a run is still the one that was opened.
    """
    archive(folder, "app.log.1", age=1000)
    archive(folder, "app.log.2", age=1000)
    victims = tmp_path / "victims"
    victims.mkdir()
    archive(victims, "app.log.1", age=1000)
    archive(victims, "app.log.2", age=1000)

    def stopped():
        if not folder.is_symlink():
            os.rename(folder, tmp_path / "away")
            os.symlink(victims, folder)

    PruneArchives(folder, "app.log.*", max_age=1, keep=0).recover(attrs.evolve(ctx, stopped=stopped))
    assert [] == names(tmp_path / "away")
    assert ["app.log.1", "app.log.2"] == names(victims)


def test_a_vanished_folder_escalates(folder, ctx):
    """
    Without its folder the action cannot help.
    """
    prune = PruneArchives(folder, "app.log.*", max_age=1)
    folder.rmdir()
    with pytest.raises(Escalate, match="No such file or directory"):
        prune.recover(ctx)


def test_dates_in_the_future_are_not_old(folder, ctx):
    """
    An archive from the future, as after a jump of the clock, is young.
    """
    archive(folder, "app.log.1", age=-1000)
    PruneArchives(folder, "app.log.*", max_age=0, keep=0).recover(ctx)
    assert ["app.log.1"] == names(folder)


def test_read_only_archives_go_as_well(folder, ctx):
    """
    What may be deleted is a matter of the folder, not of the permissions of the archive.
    """
    os.chmod(archive(folder, "app.log.1", age=1000), stat.S_IRUSR)
    PruneArchives(folder, "app.log.*", max_age=1, keep=0).recover(ctx)
    assert [] == names(folder)


@pytest.mark.parametrize(
    "pattern", ["", "*", "**", "*?", "[ab]*", "../*.log", "sub/app.log.*", "a\0b", ".", "..", ".*"]
)
def test_patterns_that_could_match_everything_or_elsewhere_are_refused(folder, pattern):
    """
    A pattern names something, and only names in the folder.
    """
    with pytest.raises(ConfigError, match=r"must be a pattern of names in the folder"):
        PruneArchives(folder, pattern, max_age=1)


def test_a_folder_that_is_a_symlink_is_refused_when_made(folder, tmp_path):
    """
    A symlink instead of a folder is refused at once, with the folder that it means.
    """
    os.symlink(folder, tmp_path / "link")
    with pytest.raises(ConfigError, match=f"is a symlink. Give the folder itself: '{folder}'"):
        PruneArchives(tmp_path / "link", "app.log.*", max_age=1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "no limit is given"),
        ({"max_age": -1}, "max_age=-1.0: must be a finite number"),
        ({"max_age": float("nan")}, "is not a time"),
        ({"max_total_bytes": -1}, "max_total_bytes=-1: must be a whole number, 0 or more"),
        ({"min_free_bytes": 0.5}, "min_free_bytes=0.5: must be a whole number"),
        ({"min_free_inodes": -1}, "min_free_inodes=-1: must be a whole number, 0 or more"),
        ({"max_age": 1, "keep": -1}, "keep=-1"),
        ({"max_age": 1, "max_deletes": 0}, "max_deletes=0: must be a whole number, 1 or more"),
        ({"max_age": 1, "directory": "/"}, "is the root of the file system"),
    ],
)
def test_settings_that_cannot_work_are_named(folder, arguments, message):
    """
    A setting that cannot work is refused at once, by name.
    """
    given = {"directory": folder, **arguments}
    with pytest.raises(ConfigError, match=message):
        PruneArchives(given.pop("directory"), "app.log.*", **given)
