"""
RotateLog, with real files and every stdlib handler.
"""

import contextlib
import gzip
import logging
import logging.handlers
import os
import re
import stat
import sys
import threading

import attrs
import pytest

from selfheal import ConfigError, Escalate
from selfheal.errors import CancelledRecoveryError
from selfheal.resources import log_compression
from selfheal.resources.log_files import LogOverflow, PruneArchives, RotateLog, log_ladder
from selfheal.resources.log_handlers import ReopenLog, count_log_errors


HANDLERS = {
    "append": lambda path: logging.FileHandler(path),
    "write": lambda path: logging.FileHandler(path, mode="w"),
    "delayed": lambda path: logging.FileHandler(path, delay=True),
    "rotating": lambda path: logging.handlers.RotatingFileHandler(path, maxBytes=10**6, backupCount=3),
    "rotating_without_backups": lambda path: logging.handlers.RotatingFileHandler(path),
    "timed": lambda path: logging.handlers.TimedRotatingFileHandler(path, when="midnight", backupCount=3),
    "watched": lambda path: logging.handlers.WatchedFileHandler(path),
}


@pytest.fixture(params=["gzip", "isal", "zstd"])
def packed(request, monkeypatch):
    """What to pass as `compress`, the suffix, and how to read what comes of it."""
    if request.param == "zstd":
        zstd = pytest.importorskip("compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd")
        return "zstd", ".zst", zstd.decompress
    if request.param == "isal":
        pytest.importorskip("isal")
    else:
        monkeypatch.setitem(sys.modules, "isal.igzip", None)  # not installed
    return "gzip", ".gz", gzip.decompress


@pytest.fixture
def made():
    handlers = []
    yield lambda handler: handlers.append(handler) or handler
    for handler in handlers:
        handler.close()


@pytest.fixture(params=HANDLERS)
def handler(request, tmp_path, made):
    return made(HANDLERS[request.param](tmp_path / "app.log"))


@pytest.fixture
def plain(tmp_path, made):
    return made(logging.FileHandler(tmp_path / "app.log"))


def write(handler, text):
    handler.handle(logging.LogRecord("app", logging.INFO, "", 0, text, (), None))


def archives(folder, pattern="app.log.*"):
    return sorted(folder.glob(pattern))


def test_every_stdlib_handler_is_rotated_and_goes_on(handler, tmp_path, ctx):
    """
    What was written is in the archives, in order; what is written afterwards is in the new file, whatever the handler.
    """
    rotate = RotateLog(handler, compress=False)
    for number in range(3):
        write(handler, f"line {number}")
        rotate.recover(ctx)
    write(handler, "line 3")
    assert [f"line {number}\n" for number in range(3)] == [path.read_text() for path in archives(tmp_path)]
    assert "line 3\n" == (tmp_path / "app.log").read_text()
    LogOverflow(handler, max_bytes=100)()


def test_archives_are_named_by_the_time_and_a_number(plain, tmp_path, ctx):
    """
    The name of an archive says when it was made, in UTC, and was never used before.
    """
    for number in range(12):
        write(plain, f"line {number}")
        RotateLog(plain).recover(ctx)
    names = [path.name for path in archives(tmp_path)]
    assert 12 == len(names)
    assert all(re.fullmatch(r"app\.log\.\d{8}T\d{6}Z-\d+\.gz", name) for name in names)


def test_a_compressed_archive_holds_the_same_and_keeps_mode_and_time(plain, tmp_path, ctx, said, packed):
    """
    The archive is compressed outside the lock, with the permissions and the time of the file, in the format asked for.
    """
    compress, suffix, decompress = packed
    os.chmod(plain.baseFilename, 0o640)
    write(plain, "a line " * 1000)
    os.utime(plain.baseFilename, (1_600_000_000, 1_600_000_000))
    RotateLog(plain, compress=compress).recover(ctx)
    (archive,) = archives(tmp_path)
    assert suffix == archive.suffix
    assert "a line " * 1000 + "\n" == decompress(archive.read_bytes()).decode()
    assert 0o640 == stat.S_IMODE(archive.stat().st_mode)
    assert 1_600_000_000 == archive.stat().st_mtime
    assert re.search(r"was compressed from 7001 to \d+ bytes", said[-1][0])


def test_the_new_file_is_as_private_as_the_old_one(plain, ctx):
    """
    A log that only its owner may read stays private through a rotation.
    """
    os.chmod(plain.baseFilename, 0o600)
    write(plain, "a secret")
    RotateLog(plain, compress=False).recover(ctx)
    assert 0o600 == stat.S_IMODE(os.stat(plain.baseFilename).st_mode)


def test_encoding_and_errors_are_kept(tmp_path, made, ctx):
    """
    The new file is written in the encoding of the old one.
    """
    handler = made(logging.FileHandler(tmp_path / "app.log", encoding="latin-1", errors="replace"))
    write(handler, "ä")
    RotateLog(handler, compress=False).recover(ctx)
    write(handler, "ö€")
    assert b"\xf6?\n" == (tmp_path / "app.log").read_bytes()


@pytest.mark.parametrize("delay", [False, True])
def test_an_empty_file_is_left_alone(tmp_path, made, ctx, said, delay):
    """
    Nothing is made of nothing: an empty or missing file gives no archive.
    """
    handler = made(logging.FileHandler(tmp_path / "app.log", delay=delay))
    RotateLog(handler).recover(ctx)
    assert [] == archives(tmp_path)
    assert "is empty" in said[0][0]


def test_a_file_left_by_the_last_process_is_rotated_before_it_is_opened(tmp_path, made, ctx):
    """
    A handler that has not opened its file yet has it rotated all the same, and opens a new one.
    """
    (tmp_path / "app.log").write_text("old\n")
    handler = made(logging.FileHandler(tmp_path / "app.log", delay=True))
    RotateLog(handler, compress=False).recover(ctx)
    assert handler.stream is None
    write(handler, "new")
    assert ["old\n", "new\n"] == [archives(tmp_path)[0].read_text(), (tmp_path / "app.log").read_text()]


def test_a_deleted_file_is_reopened(plain, tmp_path, ctx):
    """
    A file that was deleted while it was open is written under its name again.
    """
    write(plain, "lost")
    os.unlink(plain.baseFilename)
    RotateLog(plain).recover(ctx)
    write(plain, "found")
    assert "found\n" == (tmp_path / "app.log").read_text()
    assert [] == archives(tmp_path)


def test_a_file_that_somebody_else_rotated_is_reopened_and_not_rotated_again(handler, tmp_path, ctx):
    """
    After logrotate the new file is joined, with all that it holds.
    """
    write(handler, "before")
    os.rename(handler.baseFilename, tmp_path / "app.log.1")
    (tmp_path / "app.log").write_text("theirs\n")
    RotateLog(handler, compress=False).recover(ctx)
    write(handler, "ours")
    assert ["before\n"] == [path.read_text() for path in archives(tmp_path)]
    assert "theirs\nours\n" == (tmp_path / "app.log").read_text()


def test_a_symlink_is_followed_to_the_file_it_means(tmp_path, made, ctx):
    """
    If the name is a symlink, its target is rotated where it is, and the link stays.
    """
    (tmp_path / "disk").mkdir()
    os.symlink(tmp_path / "disk" / "real.log", tmp_path / "app.log")
    handler = made(logging.FileHandler(tmp_path / "app.log"))
    write(handler, "old")
    RotateLog(handler, compress=False).recover(ctx)
    write(handler, "new")
    assert (tmp_path / "app.log").is_symlink()
    assert ["old\n"] == [path.read_text() for path in archives(tmp_path / "disk", "real.log.*")]
    assert "new\n" == (tmp_path / "disk" / "real.log").read_text()


@pytest.mark.parametrize("linked", [False, True])
@pytest.mark.parametrize("delay", [False, True])
def test_a_symlink_that_came_since_is_refused_and_its_target_untouched(tmp_path, made, ctx, linked, delay):
    """
    Whoever may write to the folder of the log can have no other file renamed, packed or written by the rotation.
    """
    for folder in ("logs", "disk", "etc"):
        (tmp_path / folder).mkdir()
    victim = tmp_path / "etc" / "shadow"
    victim.write_text("secret\n" * 100)
    path = tmp_path / "logs" / "app.log"
    if linked:
        path.symlink_to(tmp_path / "disk" / "real.log")
    handler = made(logging.FileHandler(path, delay=delay))
    rotate = log_ladder(handler).rungs[0].action
    path.unlink(missing_ok=True)
    path.symlink_to(victim)
    with pytest.raises(Escalate, match=r"app\.log is a symlink to elsewhere since .* make a new handler"):
        rotate.recover(ctx)
    assert "secret\n" * 100 == victim.read_text()
    assert ["shadow"] == os.listdir(tmp_path / "etc")
    assert ["app.log"] == os.listdir(tmp_path / "logs")


def test_a_symlink_that_comes_at_the_last_moment_is_not_followed(plain, tmp_path, ctx, monkeypatch):
    """
    A link that is swapped in between the look and the opening is no way to another file either.
    """
    (tmp_path / "victim").write_text("secret\n")
    os.unlink(plain.baseFilename)
    really_open = os.open

    def swap_and_open(path, *how, **where):
        with contextlib.suppress(FileExistsError):
            os.symlink(tmp_path / "victim", plain.baseFilename)
        return really_open(path, *how, **where)

    rotate = RotateLog(plain)
    monkeypatch.setattr(os, "open", swap_and_open)
    with pytest.raises(OSError, match="symbolic links"):
        rotate.recover(ctx)
    write(plain, "a line")
    assert "secret\n" == (tmp_path / "victim").read_text()


def test_what_is_no_regular_file_is_refused(tmp_path, made, ctx):
    """
    A device cannot be rotated, and nothing has changed after the attempt.
    """
    os.symlink("/dev/null", tmp_path / "app.log")
    handler = made(logging.FileHandler(tmp_path / "app.log"))
    RotateLog(handler).recover(ctx)  # it is always empty
    assert ["app.log"] == os.listdir(tmp_path)


def test_a_handler_with_a_way_of_its_own_is_asked(tmp_path, made, ctx):
    """
    A subclass that brings its own doRollover is asked for it; only it knows how it writes.
    """

    class Own(logging.handlers.RotatingFileHandler):
        rolled = 0

        def doRollover(self):  # noqa: N802 - stdlib's name
            self.rolled += 1

    handler = made(Own(tmp_path / "app.log"))
    write(handler, "a line")
    RotateLog(handler).recover(ctx)
    assert 1 == handler.rolled
    assert [] == archives(tmp_path)


@pytest.mark.parametrize("mode", ["a", "w"])
def test_a_handler_that_opens_its_file_in_its_own_way_is_asked_for_it(tmp_path, made, ctx, mode):
    """
    What a subclass makes of its file, compressed or encrypted, it still makes of it behind a rotation, and as private.
    """

    class Packing(logging.FileHandler):
        def _open(self):
            return gzip.open(self.baseFilename, f"{self.mode}t", encoding=self.encoding)

    handler = made(Packing(tmp_path / "app.log", mode=mode))
    os.chmod(handler.baseFilename, 0o600)
    rotate = RotateLog(handler, compress=False)
    write(handler, "old")
    rotate.recover(ctx)
    write(handler, "secret")
    ReopenLog(handler).recover(ctx)
    write(handler, "new")
    handler.close()
    (archive,) = archives(tmp_path)
    assert b"old\n" == gzip.decompress(archive.read_bytes())
    assert b"secret\nnew\n" == gzip.decompress((tmp_path / "app.log").read_bytes())
    assert 0o600 == stat.S_IMODE(os.stat(tmp_path / "app.log").st_mode)


def test_an_own_way_to_open_that_fails_leaves_the_handler_as_it_is(tmp_path, made, ctx):
    """
    If a subclass cannot open its file the old one is written on, in the mode it had.
    """

    class Failing(logging.FileHandler):
        def _open(self):
            if self.stream is not None:
                raise OSError("no key")
            return super()._open()

    handler = made(Failing(tmp_path / "app.log", mode="w", delay=True))
    write(handler, "before")
    with pytest.raises(OSError, match="no key"):
        RotateLog(handler).recover(ctx)
    write(handler, "after")
    contents = [path.read_text() for path in tmp_path.glob("app.log*") if path.stat().st_size]
    assert (["before\nafter\n"], "w") == (contents, handler.mode)


class Interrupted(str):
    """A line during whose writing *meanwhile* is called."""

    __slots__ = ("meanwhile",)

    def __add__(self, other):
        self.meanwhile()
        return str(self) + other


@pytest.mark.parametrize("locked", [False, True])
def test_a_rotation_in_the_middle_of_a_line_costs_it_unless_it_waits_for_the_lock(tmp_path, made, ctx, locked):
    """
    ``doRollover`` from another thread closes the file beneath a line that is being written, which is lost; RotateLog waits.
    """
    handler = made(logging.handlers.RotatingFileHandler(tmp_path / "app.log", backupCount=3))
    write(handler, "before")
    errors = count_log_errors(handler)
    rotate_log = RotateLog(handler, compress=False)
    rotation = threading.Thread(target=(lambda: rotate_log.recover(ctx)) if locked else handler.doRollover)

    def rotate():
        rotation.start()
        if not locked:
            rotation.join(10)

    line = Interrupted("a line")
    line.meanwhile = rotate
    handler.format = lambda record: line
    write(handler, "")
    rotation.join(10)
    assert (0 if locked else 1, None if locked else "ValueError") == (errors.count, errors.last)
    (archive,) = archives(tmp_path)
    assert ("before\na line\n" if locked else "before\n") == archive.read_text()


def test_a_cancelled_rotation_changes_nothing(plain, tmp_path, ctx):
    """
    Cancelled before it has begun, a rotation renames nothing and frees the handler.
    """
    write(plain, "a line")
    with pytest.raises(CancelledRecoveryError):
        RotateLog(plain).recover(attrs.evolve(ctx, stopped=lambda: "closing"))
    assert [] == archives(tmp_path)
    write(plain, "another")
    assert "a line\nanother\n" == (tmp_path / "app.log").read_text()


def test_a_cancelled_compression_leaves_the_plain_archive(plain, tmp_path, ctx, packed):
    """
    An interrupted compression leaves the archive as it was, and nothing half-done, whatever the format.
    """
    answers = iter([None, None, "closing"])
    write(plain, "x" * 10**6)
    with pytest.raises(CancelledRecoveryError):
        RotateLog(plain, compress=packed[0]).recover(attrs.evolve(ctx, stopped=lambda: next(answers)))
    (archive,) = archives(tmp_path)
    assert "x" * 10**6 + "\n" == archive.read_text()


def test_an_archive_that_somebody_still_writes_is_not_compressed(tmp_path, made, ctx, said):
    """
    With two handlers on one file the archive is still written by the other, and stays plain.
    """
    first, second = (made(logging.FileHandler(tmp_path / "app.log")) for _ in range(2))
    write(first, "first")
    RotateLog(first).recover(ctx)
    write(second, "second")
    (archive,) = archives(tmp_path)
    assert "first\nsecond\n" == archive.read_text()
    assert "another handler still writes" in said[-1][0]


def test_a_file_that_changes_while_it_is_compressed_stays_plain(tmp_path):
    """
    What grows during compression is not deleted.
    """
    path = tmp_path / "archive"
    path.write_bytes(b"x" * 10**6)

    def append():
        with path.open("ab") as file:
            file.write(b"y")

    assert "archive stays as it is: somebody still writes to it" == log_compression.compress(
        str(path), "gzip", check=append
    )
    assert ["archive"] == os.listdir(tmp_path)


@pytest.mark.parametrize("taken", ["archive.gz", "archive.gz.tmp", "archive.zst"])
def test_compression_overwrites_nothing(tmp_path, taken):
    """
    A name that is taken, by a symlink too, is left alone, and so is the archive.
    """
    (tmp_path / "archive").write_bytes(b"x" * 100)
    (tmp_path / "victim").write_bytes(b"v")
    os.symlink(tmp_path / "victim", tmp_path / taken)
    said = log_compression.compress(str(tmp_path / "archive"), "gzip", check=lambda: None)
    assert said.startswith("archive stays as it is")
    assert b"v" == (tmp_path / "victim").read_bytes()
    assert b"x" * 100 == (tmp_path / "archive").read_bytes()


@pytest.fixture
def archive(tmp_path):
    path = tmp_path / "archive"
    path.write_bytes(b"a line\n" * 1000)
    return path


def test_a_packed_file_is_on_the_disk_before_the_plain_one_goes(archive, monkeypatch, packed):
    """
    All of it is written, then it is flushed to the disk, then it gets its name, and only then the plain one is deleted.
    """
    compress, suffix, decompress = packed
    done = []

    def recorded(call):
        really = getattr(os, call)

        def record(what, *args, **options):
            if call == "fsync":
                unfinished = archive.with_name(f"archive{suffix}.tmp")
                assert os.path.samestat(os.fstat(what), os.stat(unfinished))
                done.append((call, decompress(unfinished.read_bytes()) == archive.read_bytes()))
            else:
                done.append((call, *(os.path.basename(path) for path in (what, *args))))
            return really(what, *args, **options)

        monkeypatch.setattr(os, call, record)

    for call in ("fsync", "replace", "unlink"):
        recorded(call)
    log_compression.compress(str(archive), compress, check=lambda: None)
    assert [("fsync", True), ("replace", f"archive{suffix}.tmp", f"archive{suffix}"), ("unlink", "archive")] == done


class Killed(BaseException):
    """Ends whoever compresses."""


def compress_until(call, monkeypatch, *args):
    """Be killed behind this call of the operating system, as far as files can tell: nothing is cleaned up."""
    really = getattr(os, call)
    with monkeypatch.context() as patch:

        def die(*args):
            really(*args)
            patch.setattr(os, "unlink", lambda path: None)
            raise Killed

        patch.setattr(os, call, die)
        with pytest.raises(Killed):
            log_compression.compress(*args, check=lambda: None)


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_whoever_comes_after_a_killed_process_finishes_its_compression(archive, monkeypatch, packed, call):
    """
    Whenever a process is killed while it compresses, the next one leaves one packed file, with every line once.
    """
    compress, suffix, decompress = packed
    compress_until(call, monkeypatch, str(archive), compress)
    left = f"archive{suffix}" + (".tmp" if call == "fsync" else "")
    assert ["archive", left] == sorted(os.listdir(archive.parent))
    log_compression.compress(str(archive), compress, check=lambda: None)
    assert [f"archive{suffix}"] == os.listdir(archive.parent)
    assert b"a line\n" * 1000 == decompress((archive.parent / f"archive{suffix}").read_bytes())


@pytest.mark.parametrize(
    "harm",
    [
        lambda content: gzip.compress(content)[:-9],
        lambda content: b"",
        lambda content: gzip.compress(content[1:]),
        lambda content: gzip.compress(content + b"\n"),
        lambda content: gzip.compress(content)[:20] + b"???" + gzip.compress(content)[23:],
    ],
    ids=["torn", "empty", "shorter", "longer", "broken"],
)
@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_a_packed_file_that_does_not_hold_the_same_replaces_nothing(archive, harm, suffix):
    """
    Beside a packed file that is torn, broken or of something else the plain archive stays, and so does that.
    """
    content = archive.read_bytes()
    other = harm(content)  # made once: gzip writes the time into its head
    there = archive.with_suffix(suffix)
    there.write_bytes(other)
    said = log_compression.compress(str(archive), "gzip", check=lambda: None)
    assert said.endswith("there is a packed one already, with something else in it")
    assert [content, other] == [archive.read_bytes(), there.read_bytes()]


def test_what_another_process_compresses_at_the_moment_is_left_to_it(archive):
    """
    A file that is being packed is packed once, and the half of it is not taken for one that was left behind.
    """
    said = set()

    def meanwhile():
        said.add(log_compression.compress(str(archive), "gzip", check=lambda: None))

    log_compression.compress(str(archive), "gzip", check=meanwhile)
    assert {"archive stays as it is: archive.gz.tmp exists"} == said
    assert ["archive.gz"] == os.listdir(archive.parent)
    assert b"a line\n" * 1000 == gzip.decompress((archive.parent / "archive.gz").read_bytes())


def test_archives_of_every_format_are_archives_to_the_ladder(plain, tmp_path, ctx, said):
    """
    Archives that are plain, gzip, zstd or half-done are pruned as archives, and none of their names is used again.
    """
    for suffix in ("", ".gz", ".zst", ".zst.tmp"):
        old = tmp_path / f"app.log.20200101T000000Z-0{suffix}"
        old.write_bytes(b"x" * 100)
        os.utime(old, (0, 0))
    rotate, prune = log_ladder(plain, max_age=60, keep=0).rungs[0].action.branches
    write(plain, "a line")
    rotate.recover(ctx)
    assert any("20200101T000000Z-0 stays as it is" in message for message, _ in said)
    prune.recover(ctx)
    (archive,) = archives(tmp_path)
    assert b"a line\n" == gzip.decompress(archive.read_bytes())


@pytest.mark.parametrize(
    "name",
    [
        "app.log.20260101T000000Z-0.evidence-for-the-court.txt",
        "app.log.incidenT-notZ-of-monday.md",
        "app.log.incidenT-notZ-of.20260101T000000Z-0",
        "app.log.20260101T000000Z-",
        "app.log.20260101T000000Z-0.tmp",
        "app.log.20260101T000000Z-0.gz.bak",
        "app.log.20260101T000000Z-0\n",
        "app.log.\N{ARABIC-INDIC DIGIT ONE}0260101T000000Z-0",
        "my.app.log.20260101T000000Z-0",
    ],
)
def test_the_ladder_prunes_nothing_that_was_not_made_by_rotation(plain, tmp_path, ctx, name):
    """
    A file whose name only looks like that of an archive is never pruned, whatever the limits.
    """
    for old in (name, "app.log.20260101T000000Z-12.gz"):
        (tmp_path / old).write_text("x" * 1000)
        os.utime(tmp_path / old, (0, 0))
    _, prune = log_ladder(plain, max_age=1, max_total_bytes=0, keep=0).rungs[0].action.branches
    prune.recover(ctx)
    assert sorted(["app.log", name]) == sorted(os.listdir(tmp_path))


@pytest.mark.parametrize(
    ("compress", "message"),
    [
        ("xz", r"compress='xz': must be 'gzip', 'zstd', True"),
        (1, r"compress=1: must be"),
        (None, "compress=None: must be"),
    ],
)
def test_a_compression_that_does_not_exist_is_refused(plain, compress, message):
    """
    A format that is not known is refused when the action is made.
    """
    with pytest.raises(ConfigError, match=message):
        RotateLog(plain, compress=compress)


def test_zstd_that_is_not_installed_is_refused_at_once(plain, monkeypatch):
    """
    Without a module for zstd the action cannot be made, and the message says what to install.
    """
    for module in ("compression.zstd", "backports.zstd"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ConfigError, match=r"pip install backports\.zstd"):
        log_ladder(plain, compress="zstd")


def test_true_means_gzip(plain):
    """
    Whoever only says yes gets the format that everybody can read.
    """
    assert RotateLog(plain) == RotateLog(plain, compress=True)
    assert "gzip" == RotateLog(plain).compress


def test_compression_follows_no_symlink(tmp_path):
    """
    An archive that was swapped for a symlink is not read.
    """
    (tmp_path / "victim").write_bytes(b"v")
    os.symlink(tmp_path / "victim", tmp_path / "archive")
    with pytest.raises(OSError, match="symbolic links"):
        log_compression.compress(str(tmp_path / "archive"), "gzip", check=lambda: None)
    assert b"v" == (tmp_path / "victim").read_bytes()


def test_without_a_new_file_the_old_one_goes_on(plain, tmp_path, ctx):
    """
    If the new file cannot be opened, the old one is written on, what may have got its name is left alone, and the next
    rotation reopens: nothing is lost.
    """
    write(plain, "before")
    encoding, plain.encoding = plain.encoding, "no such encoding"
    with pytest.raises(LookupError):
        RotateLog(plain).recover(ctx)
    plain.encoding = encoding
    write(plain, "after")
    (tmp_path / "app.log").write_text("somebody else's\n")
    RotateLog(plain, compress=False).recover(ctx)
    write(plain, "healed")
    assert ["before\nafter\n"] == [path.read_text() for path in archives(tmp_path)]
    assert "somebody else's\nhealed\n" == (tmp_path / "app.log").read_text()


@contextlib.contextmanager
def unprivileged():
    """Root may write everywhere, so for a moment it is not root."""
    user = os.geteuid()
    if not user:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)


def test_a_folder_without_permission_is_named(plain, tmp_path, ctx):
    """
    A folder that may not be written is a reason to take the next rung at once, in words that say what to do.
    """
    write(plain, "a line")
    os.chmod(tmp_path, 0o500)
    try:
        with unprivileged(), pytest.raises(Escalate, match="must be allowed to write to its folder"):
            RotateLog(plain).recover(ctx)
    finally:
        os.chmod(tmp_path, 0o700)
    write(plain, "another")
    assert "a line\nanother\n" == (tmp_path / "app.log").read_text()


@pytest.mark.parametrize("what", [logging.StreamHandler(), logging.NullHandler(), "app.log", None])
def test_only_a_file_handler_can_be_rotated(what):
    """
    Whatever writes no file is refused when the action is made.
    """
    with pytest.raises(ConfigError, match=r"is not a logging\.FileHandler"):
        RotateLog(what)


def test_the_action_says_what_it_would_do(plain, tmp_path):
    """
    The plan names the file, and changes nothing.
    """
    write(plain, "a line")
    assert f"rename {plain.baseFilename} and go on in a new file" == RotateLog(plain).plan()
    assert ["app.log"] == os.listdir(tmp_path)


def test_the_ladder_rotates_and_prunes(plain, tmp_path, ctx):
    """
    The ready-made ladder is one rung: rotate, then prune the archives of this very file.
    """
    (rung,) = log_ladder(plain, max_total_bytes=0, keep=2).rungs
    assert "rotate_log_then_prune_archives" == rung.name
    assert not rung.held
    assert not rung.destructive
    (tmp_path / "app.log.conf").write_text("not an archive")
    rotate, prune = rung.action.branches
    for _ in range(4):
        write(plain, "a line")
        rotate.recover(ctx)
    with pytest.raises(Escalate):
        prune.recover(ctx)
    assert 2 + 1 == len(archives(tmp_path))
    assert (tmp_path / "app.log.conf").exists()


def test_the_ladder_without_limits_only_rotates(plain):
    """
    Nothing is deleted that was not allowed: without a limit the ladder has no pruning.
    """
    (rung,) = log_ladder(plain).rungs
    assert "rotate_log" == rung.name


def test_a_name_full_of_wildcards_matches_only_itself(tmp_path, made, ctx):
    """
    A log file whose name looks like a pattern has its own archives pruned, and no others.
    """
    handler = made(logging.FileHandler(tmp_path / "a[pq]*.log"))
    other = tmp_path / "ap1.log.20200101T000000Z-0"
    other.write_text("of another log")
    rotate, prune = log_ladder(handler, max_total_bytes=0, keep=0).rungs[0].action.branches
    assert isinstance(prune, PruneArchives)
    write(handler, "a line")
    rotate.recover(ctx)
    prune.recover(ctx)
    assert sorted(["a[pq]*.log", other.name]) == sorted(os.listdir(tmp_path))
