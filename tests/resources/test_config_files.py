"""
ConfigFiles, with real files: what becomes a good version, what is kept of it, and how it is put back.
"""

from __future__ import annotations

import asyncio
import errno
import json
import os
import pathlib
import stat

from concurrent.futures import ThreadPoolExecutor

import pytest

from selfheal import ConfigError, HealthStatus, SelfHealError
from selfheal.resources import ConfigFiles, config_disk, config_store, config_versions
from selfheal.resources.config_store import ConfigStore
from selfheal.testing import VirtualClock


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


@pytest.fixture
def path(tmp_path: pathlib.Path) -> pathlib.Path:
    path = tmp_path / "app.conf"
    path.write_text("first")
    return path


@pytest.fixture
def make(clock):
    def make(*paths, **settings):
        return ConfigFiles(paths, **{"reload": list, "healthy_for": 30, "clock": clock} | settings)

    return make


@pytest.fixture
def watch(clock):
    """Look every 10 s, for as long as is said, with the same answer."""

    def watch(config, seconds, answer=True):
        watched = config.watching(lambda: answer)
        for _ in range(0, seconds, 10):
            assert answer is watched()
            clock.pass_time(10)

    return watch


def listing(folder: pathlib.Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_files_that_were_healthy_for_long_enough_are_the_last_known_good_ones(make, watch, path):
    """
    A version is good once every look for healthy_for seconds was healthy, and not one look sooner.
    """
    config = make(path)
    watch(config, 30)
    assert config.good is None
    watch(config, 10)
    assert config.present == config.good


@pytest.mark.parametrize("answer", [False, HealthStatus.DEGRADED, HealthStatus.UNKNOWN, "what?"])
def test_whatever_is_not_healthy_begins_the_time_anew(make, watch, path, answer):
    """
    Only HEALTHY counts: any other answer has the files prove themselves from the beginning.
    """
    config = make(path)
    watch(config, 30)
    watch(config, 10, answer)
    watch(config, 30)
    assert config.good is None
    watch(config, 10)
    assert config.present == config.good


def test_a_probe_that_raises_is_heard_and_counts_as_not_healthy(make, watch, path, clock):
    """
    The error of the probe passes through, and the time begins anew.
    """

    def broken():
        raise OSError("no")

    config = make(path)
    watch(config, 30)
    with pytest.raises(OSError, match=r"^no$"):
        config.watching(broken)()
    clock.pass_time(10)
    watch(config, 30)
    assert config.good is None


@pytest.mark.parametrize("change", ["content", "mode", "touch"])
def test_a_change_begins_the_time_anew(make, watch, path, change):
    """
    Files are good only if they did not change meanwhile, be it their mode alone.
    """
    config = make(path)
    watch(config, 30)
    match change:
        case "content":
            path.write_text("other")
        case "mode":
            path.chmod(0o604)
        case "touch":
            os.utime(path, (1, 1))
    watch(config, 30)
    assert config.good is None
    watch(config, 10)
    assert config.present == config.good


def test_a_run_that_saw_the_change_is_no_evidence_for_either(make, path, clock):
    """
    A healthy answer of a run during which the files were changed does not count for the new ones.
    """

    def probe():
        if clock.now() == 30:
            path.write_text("second")

    watched = (config := make(path)).watching(probe)
    for _ in range(7):
        watched()
        clock.pass_time(10)
    assert (None, 20.0) == (config.good, config.changed_after)
    watched()
    assert config.present == config.good


def test_async_probes_are_watched_as_well(make, path, clock):
    """
    What an async probe answers and raises counts the same.
    """

    async def story() -> list[str | None]:
        found = []
        broken = False

        async def probe():
            if broken:
                raise OSError("no")

        config = make(path)
        for watched in (config.watching(probe), config.watching(lambda: probe())):
            for _ in range(3):
                await watched()
                clock.pass_time(10)
            broken = True
            with pytest.raises(OSError, match=r"^no$"):
                await watched()
            broken = False
            found.append(config.good)
        for _ in range(4):
            await watched()
            clock.pass_time(10)
        return [*found, config.good == config.present]

    assert [None, None, True] == asyncio.run(story())


def test_what_is_kept_is_for_this_user_alone(make, watch, path):
    """
    The store and all that is in it can be read by its owner only, and nothing else is written anywhere.
    """
    config = make(path)
    watch(config, 40)
    store = pathlib.Path(config.store)
    assert ["." + path.name + ".selfheal", path.name] == listing(path.parent)
    assert 0o700 == stat.S_IMODE(store.stat().st_mode)
    assert {0o600} == {stat.S_IMODE(file.stat().st_mode) for file in store.iterdir()}
    assert 3 == len(listing(store))


def test_a_store_that_was_given_to_a_group_is_taken_again(make, watch, path):
    """
    Kubernetes gives all that is in a volume to the group of the pod at each start; the versions are found all the same.
    """
    config = make(path)
    watch(config, 40)
    store = pathlib.Path(config.store)
    store.chmod(0o2770)
    for file in store.iterdir():
        file.chmod(0o660)
    path.write_text("broken")
    started = make(path)
    started.restore(started.good)
    assert "first" == path.read_text()


def test_restore_brings_back_content_mode_and_owner(make, watch, path):
    """
    A restored file is byte-identical, and as private and as owned as it was.
    """
    path.write_bytes(bytes(range(256)))
    path.chmod(0o4640)
    if os.geteuid() == 0:
        os.chown(path, 1234, 4321)
        path.chmod(0o4640)
    before = path.stat()
    config = make(path)
    watch(config, 40)
    path.unlink()
    path.write_text("broken")
    source = config.restore(config.good)
    after = path.stat()
    assert bytes(range(256)) == path.read_bytes()
    assert [before.st_mode, before.st_uid, before.st_gid] == [after.st_mode, after.st_uid, after.st_gid]
    assert (config.good, source) == config.versions
    assert config.good == config.present == config.restore(config.good)


def test_whatever_is_replaced_is_on_the_disk_before_and_after(make, watch, path, monkeypatch):
    """
    Each file is synced whole, with its mode, then renamed, then its folder is synced, as it is when one goes; contents
    come before the manifest that names them, and that before the files that it announces.
    """
    events = []
    fsync, replace, unlink = os.fsync, os.replace, os.unlink

    def recorded_fsync(descriptor):
        found = os.fstat(descriptor)
        fsync(descriptor)
        events.append(("sync", found.st_ino, 0 if stat.S_ISDIR(found.st_mode) else found.st_size, found.st_mode))

    def recorded_replace(source, target):
        found = os.stat(source)
        replace(source, target)
        events.append(("replace", os.path.abspath(target), found))

    def recorded_unlink(target):
        unlink(target)
        events.append(("unlink", target))

    new = path.with_name("new.conf")
    new.write_text("soon gone")
    config = make(path, new)
    new.unlink()
    watch(config, 40)
    path.write_text("broken, and kept")
    new.write_text("not so good")
    monkeypatch.setattr(os, "fsync", recorded_fsync)
    monkeypatch.setattr(os, "replace", recorded_replace)
    monkeypatch.setattr(os, "unlink", recorded_unlink)
    config.restore(config.good)
    replaced = []
    for at, event in enumerate(events):
        if event[0] == "replace":
            _, target, made = event
            folder = os.stat(os.path.dirname(target))
            assert ("sync", made.st_ino, made.st_size, made.st_mode) in events[:at]
            assert ("sync", folder.st_ino, 0, folder.st_mode) == events[at + 1]
            replaced.append(os.path.basename(target))
        elif event == ("unlink", str(new)):
            assert ("sync", folder.st_ino, 0, folder.st_mode) == events[at + 1]
    assert [64, 64] == list(map(len, replaced[:2]))
    assert ["versions.json", path.name, "versions.json"] == replaced[2:]
    assert ("unlink", str(new)) in events


def test_what_was_restored_over_is_kept_and_can_be_had_again(make, watch, path):
    """
    Nothing an operator wrote is lost: the version that was replaced can be restored in its turn.
    """
    config = make(path)
    watch(config, 40)
    path.write_text("an evening's work")
    pushed = config.restore(config.good)
    assert "first" == path.read_text()
    config.restore(pushed)
    assert ("an evening's work", pushed) == (path.read_text(), config.present)


def test_only_the_latest_versions_are_kept_and_always_the_good_one(make, watch, path):
    """
    The store is bounded, contents and all; the good version stays however many bad ones come after it.
    """
    config = make(path, keep=3)
    watch(config, 40)
    pushed = []
    for number in range(5):
        path.write_text(f"bad {number}")
        pushed.append(config.restore(config.good))
    assert [config.good, *pushed[-2:]] == list(config.versions)
    assert 2 + 3 == len(listing(pathlib.Path(config.store)))
    with pytest.raises(ConfigError, match="is not kept in"):
        config.restore(pushed[0])


def test_the_store_outlives_the_process(make, watch, path):
    """
    A new start knows the last good version, also if it starts with broken files.
    """
    config = make(path)
    watch(config, 40)
    path.write_text("broken")
    started = make(path)
    assert (config.good, "-inf") == (started.good, str(started.changed_after))
    started.restore(started.good)
    assert "first" == path.read_text()


def test_a_file_that_is_gone_comes_back_and_one_that_was_not_there_goes(make, watch, tmp_path):
    """
    That a file does not exist is part of a version as well.
    """
    one, two = tmp_path / "one", tmp_path / "two"
    one.write_text("1")
    two.write_text("2")
    config = make(one, two)
    two.unlink()
    watch(config, 40)
    one.unlink()
    two.write_text("new")
    source = config.restore(config.good)
    assert ("1", False) == (one.read_text(), two.exists())
    config.restore(source)
    assert (False, "new") == (one.exists(), two.read_text())


def test_symlinks_are_followed_and_stay(make, watch, path, tmp_path):
    """
    The file that a symlink leads to is replaced in its own folder; the link is not.
    """
    (tmp_path / "links").mkdir()
    link = tmp_path / "links" / "current.conf"
    link.symlink_to(os.path.join("..", path.name))
    config = make(link)
    watch(config, 40)
    link.write_text("broken")
    config.restore(config.good)
    assert (True, "../app.conf", "first") == (link.is_symlink(), os.readlink(link), path.read_text())
    assert [".current.conf.selfheal", "current.conf"] == listing(link.parent)
    path.write_text("broken")  # and what a plain rename would have done
    (tmp_path / "copy").write_text("first")
    os.replace(tmp_path / "copy", link)
    assert (False, "broken") == (link.is_symlink(), path.read_text())


def test_readers_and_other_writers_see_whole_versions_only(make, watch, path, monkeypatch):
    """
    While four threads put versions back and forth, every read finds the one or the other, and nothing lies about.
    """
    monkeypatch.setattr(config_store, "_TRIES", 10_000)  # with a slow disk all of them together may take long
    good, bad = "good " * 4000, "bad " * 5000
    path.write_text(good)
    config = make(path)
    watch(config, 40)
    path.write_text(bad)
    versions = [config.restore(config.good), config.good]

    def swap():
        for number in range(20):
            config.restore(versions[number % 2])

    with ThreadPoolExecutor(4) as pool:
        swaps = [pool.submit(swap) for _ in range(4)]
        found = {path.read_text()}
        while not all(each.done() for each in swaps):
            found.add(path.read_text())
    assert [None] * 4 == [each.result() for each in swaps]
    assert {good, bad} == found
    assert [".app.conf.selfheal", "app.conf"] == listing(path.parent)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_child_that_is_forked_meanwhile_does_not_keep_the_lock(make, watch, path):
    """
    A worker that is made during a rollback inherits the descriptor of the lock; the next rollback goes on all the same.
    """
    config = make(path)
    watch(config, 40)
    path.write_text("broken")
    ends = os.pipe()
    with ConfigStore(config.store, config.paths, 5).locked():
        if not (child := os.fork()):
            os.close(ends[1])
            os.read(ends[0], 1)
            os._exit(0)
    try:
        config.restore(config.good)
    finally:
        for end in ends:
            os.close(end)
        os.waitpid(child, 0)
    assert "first" == path.read_text()


def test_no_probe_waits_for_another_process(make, watch, path):
    """
    While another has the lock of the store a look keeps nothing and says so; the next one does.
    """
    config = make(path)
    with ConfigStore(config.store, config.paths, 5).locked():
        watch(config, 40)
    assert config.good is None
    assert "TimeoutError" in config.problem
    assert "has the lock of" in config.problem
    watch(config, 10)
    assert (config.present, None) == (config.good, config.problem)


def test_nobody_waits_for_ever_for_a_process_that_is_stopped(make, watch, path, monkeypatch):
    """
    A restore and a start give up after a while, with an error that says why; nothing has changed.
    """
    monkeypatch.setattr(config_store, "_TRIES", 2)
    config = make(path)
    watch(config, 40)
    path.write_text("broken")
    with ConfigStore(config.store, config.paths, 5).locked():
        for call in (lambda: config.restore(config.good), lambda: make(path)):
            with pytest.raises(TimeoutError, match="another thread or process has the lock"):
                call()
    assert "broken" == path.read_text()


def test_what_somebody_else_changed_is_not_undone(make, watch, path):
    """
    A restore that expects certain files and finds others changes nothing.
    """
    config = make(path)
    watch(config, 40)
    path.write_text("broken")
    broken = config.present
    path.write_text("mended")
    with pytest.raises(SelfHealError, match="somebody has changed the files meanwhile"):
        config.restore(config.good, instead_of=broken)
    assert ("mended", (config.good,)) == (path.read_text(), config.versions)


def test_a_push_in_the_middle_of_a_restore_wins(make, watch, path, monkeypatch):
    """
    If the files change while their replacements are prepared, the change stays and no litter is left.
    """
    config = make(path)
    watch(config, 40)
    path.write_text("broken")
    prepare = config_disk.prepare

    def slow_prepare(target, content):
        prepare(target, content)
        path.write_text("pushed")

    monkeypatch.setattr(config_versions, "prepare", slow_prepare)
    with pytest.raises(SelfHealError, match="somebody is changing the files right now"):
        config.restore(config.good)
    assert ("pushed", ["." + path.name + ".selfheal", path.name]) == (path.read_text(), listing(path.parent))


def test_a_push_while_the_good_version_is_kept_is_not_kept(make, watch, path, monkeypatch):
    """
    Files that change while they are read have proved nothing, and begin anew.
    """
    config = make(path)
    read = config_disk.read

    def read_and_push(target):
        content = read(target)
        if path.read_text() == "first":
            path.write_text("second")
        return content

    monkeypatch.setattr(config_versions, "read", read_and_push)
    watch(config, 70)
    assert (None, "second") == (config.good, path.read_text())
    watch(config, 10)
    assert config.present == config.good


@pytest.mark.parametrize("step", ["prepare", "commit"])
@pytest.mark.parametrize("failing", [0, 1, 2])
def test_several_files_are_restored_together_or_not_at_all(make, watch, tmp_path, monkeypatch, step, failing):
    """
    Whichever of three files cannot be replaced, and when: all three are what they were, with no litter beside them.
    """
    paths = [tmp_path / name for name in "abc"]
    for each in paths:
        each.write_text("good")
    config = make(*paths)
    watch(config, 40)
    for each in paths:
        each.write_text("broken")
    before, listed = config.present, listing(tmp_path)
    original, calls = getattr(config_disk, step), []

    def fails_once(target, *args):
        calls.append(target)
        if len(calls) == failing + 1:
            raise OSError(errno.EBUSY, "busy")
        original(target, *args)

    monkeypatch.setattr(config_versions, step, fails_once)
    with pytest.raises(OSError, match="busy"):
        config.restore(config.good)
    assert (["broken"] * 3, before, listed) == ([each.read_text() for each in paths], config.present, listing(tmp_path))
    assert None is json.loads((pathlib.Path(config.store) / "versions.json").read_text())["unfinished"]
    config.restore(config.good)
    assert ["good"] * 3 == [each.read_text() for each in paths]


def test_what_could_not_even_be_undone_is_undone_at_the_next_start(make, watch, tmp_path, monkeypatch):
    """
    If the way back fails as well, the next start goes it.
    """
    paths = [tmp_path / name for name in "ab"]
    for each in paths:
        each.write_text("good")
    config = make(*paths)
    watch(config, 40)
    for each in paths:
        each.write_text("broken")
    commit, calls = config_disk.commit, []

    def fails_but_once(target):
        calls.append(target)
        if len(calls) > 1:
            raise OSError(errno.EIO, "dead disk")
        commit(target)

    monkeypatch.setattr(config_versions, "commit", fails_but_once)
    with pytest.raises(OSError, match="dead disk"):
        config.restore(config.good)
    monkeypatch.undo()
    assert ["good", "broken"] == [each.read_text() for each in paths]
    make(*paths)
    assert ["broken", "broken"] == [each.read_text() for each in paths]


def test_a_crash_leaves_nothing_to_the_next_start_if_somebody_has_been_there(make, watch, tmp_path, monkeypatch):
    """
    An interrupted restore is not finished over files that were written since.
    """
    paths = [tmp_path / name for name in "ab"]
    for each in paths:
        each.write_text("good")
    config = make(*paths)
    watch(config, 40)
    for each in paths:
        each.write_text("broken")

    def crashes(_target):
        raise KeyboardInterrupt

    monkeypatch.setattr(config_versions, "commit", crashes)
    with pytest.raises(KeyboardInterrupt):
        config.restore(config.good)
    monkeypatch.undo()
    paths[0].write_text("mended")
    make(*paths)
    assert ["mended", "broken"] == [each.read_text() for each in paths]


def test_litter_of_a_crash_is_gone_after_the_next_start(make, watch, path):
    """
    What was half-written when the power went is removed, beside the file and in the store.
    """
    config = make(path)
    watch(config, 40)
    store = pathlib.Path(config.store)
    for target in (path, store / "versions.json", store / ("0" * 64)):
        pathlib.Path(config_disk.temporary_of(str(target))).write_text("half")
    make(path)
    assert [".app.conf.selfheal", "app.conf"] == listing(path.parent)
    assert 3 == len(listing(store))


def test_a_store_that_fails_does_not_fail_the_probe(make, watch, path, monkeypatch):
    """
    If the good version cannot be kept the probe answers all the same, it is said why, and the next look tries again.
    """

    def full(_target, _content):
        raise OSError(errno.ENOSPC, "No space left on device")

    config = make(path)
    monkeypatch.setattr("selfheal.resources.config_store.prepare", full)
    watch(config, 40)
    assert (None, "OSError: [Errno 28] No space left on device") == (config.good, config.problem)
    monkeypatch.undo()
    watch(config, 10)
    assert (config.present, None) == (config.good, config.problem)


def test_a_damaged_version_is_not_restored(make, watch, path):
    """
    What the disk has spoilt does not become configuration.
    """
    config = make(path)
    watch(config, 40)
    (kept,) = (file for file in pathlib.Path(config.store).iterdir() if len(file.name) == 64)
    kept.write_text("worm-eaten")
    path.write_text("broken")
    with pytest.raises(ConfigError, match="is damaged: that version cannot be restored"):
        config.restore(config.good)
    kept.unlink()
    with pytest.raises(ConfigError, match="is missing: that version cannot be restored"):
        config.restore(config.good)
    assert "broken" == path.read_text()


@pytest.mark.parametrize("text", ["{", "[]", '{"paths": []}', '{"paths": [], "versions": {}, "good": "x"}'])
def test_a_damaged_manifest_is_refused(make, path, text):
    """
    A store that cannot be understood is an error that says what to do, and is not overwritten.
    """
    manifest = pathlib.Path(make(path).store) / "versions.json"
    manifest.write_text(text)
    with pytest.raises(ConfigError, match=r"is damaged\. Move .* away"):
        make(path)
    assert text == manifest.read_text()


def test_a_store_of_other_files_is_refused(make, watch, path, tmp_path):
    """
    Versions of some files are never put into others.
    """
    other = tmp_path / "other.conf"
    other.write_text("other")
    config = make(path)
    watch(config, 40)
    with pytest.raises(ConfigError, match=r"holds versions of .*app\.conf\. Give another store="):
        make(other, store=config.store)


@pytest.mark.parametrize("others", [0o701, 0o702, 0o704, 0o755, 0o777, 0o1777])
def test_a_folder_that_is_not_its_own_is_refused(make, path, tmp_path, others):
    """
    The store is never somebody's folder, open to others, or a file.
    """
    full, opened = tmp_path / "full", tmp_path / "opened"
    full.mkdir(0o700)
    (full / "diary").write_text("dear diary")
    opened.mkdir()
    opened.chmod(others)
    with pytest.raises(ConfigError, match="is in use for something else: diary is there"):
        make(path, store=full)
    with pytest.raises(ConfigError, match=r"is not this user's alone \(mode 0700\)"):
        make(path, store=opened)
    with pytest.raises(ConfigError, match="is no folder"):
        make(path, store=path)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"reload": None}, "reload=None cannot be called"),
        ({"healthy_for": 0}, "healthy_for=0: must be a finite number of seconds"),
        ({"healthy_for": float("inf")}, "healthy_for=inf: must be"),
        ({"keep": 1}, "keep=1: must be a whole number, 2 or more"),
        ({"keep": 2.5}, "keep=2.5: must be"),
        ({"name": "My Config"}, "is not usable as a metric label"),
    ],
)
def test_settings_that_cannot_work_are_refused(make, path, settings, message):
    """
    Each wrong setting has an error that names it, and nothing was written then.
    """
    with pytest.raises(ConfigError, match=message):
        make(path, **settings)
    assert ["app.conf"] == listing(path.parent)


def test_paths_that_cannot_work_are_refused(make, path, tmp_path):
    """
    No path, too many, one twice, a missing file or folder, a folder: each is refused by name.
    """
    link = tmp_path / "link"
    link.symlink_to(path)
    for paths, message in [
        ((), "has 0 paths"),
        ([tmp_path / str(number) for number in range(101)], "has 101 paths: give one at least, and 100 at most"),
        ((path, link), "names one file twice"),
        ([tmp_path / "nowhere" / "app.conf"], "its folder does not exist"),
        ([tmp_path / "missing"], "missing does not exist"),
        ([tmp_path], "is no regular file"),
    ]:
        with pytest.raises(ConfigError, match=message):
            make(*paths)


def test_a_file_that_is_too_large_is_refused(make, watch, path):
    """
    Up to 4 MiB are kept; a larger file is refused at the start, and later is never kept nor replaced.
    """
    path.write_bytes(b"x" * 4 * 2**20)
    config = make(path)
    watch(config, 40)
    assert config.present == config.good
    path.write_bytes(b"x" * (4 * 2**20 + 1))
    watch(config, 50)
    assert "ConfigError" in config.problem
    with pytest.raises(ConfigError, match="has more than 4194304 bytes"):
        config.restore(config.good)
    with pytest.raises(ConfigError, match="has more than 4194304 bytes"):
        make(path)


def test_one_path_need_not_be_in_a_list(path):
    """
    A single path is taken as one, not letter by letter.
    """
    assert (str(path),) == ConfigFiles(str(path), reload=list).paths == ConfigFiles(path, reload=list).paths


def test_a_folder_that_cannot_be_written_is_refused_before_anything_is_touched(make, path, monkeypatch):
    """
    Files that could not be replaced are refused at the start, with a way out.
    """
    monkeypatch.setattr(os, "statvfs", lambda _folder: type("Disk", (), {"f_flag": os.ST_RDONLY})())
    with pytest.raises(ConfigError, match=r"read-only mount, such as a ConfigMap\. Roll it back where it comes from"):
        make(path)
    monkeypatch.undo()
    monkeypatch.setattr(os, "access", lambda _folder, _mode, **_options: False)
    with pytest.raises(ConfigError, match="its folder cannot be read and written"):
        make(path)
    monkeypatch.undo()
    monkeypatch.setattr(os.path, "ismount", lambda _path: True)
    with pytest.raises(ConfigError, match=r"a mount of its own, which cannot be replaced\. Mount its folder instead"):
        make(path)
    assert ["app.conf"] == listing(path.parent)
