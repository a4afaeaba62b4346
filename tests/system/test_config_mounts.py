"""
Configuration files on real mounts: read-only, full, and bound file by file. Needs root.
"""

from __future__ import annotations

import contextlib
import errno
import os
import pathlib
import subprocess
import sys

from collections.abc import Generator

import pytest

from selfheal import ConfigError, Escalate
from selfheal.model import Fault, Incident, RecoveryContext
from selfheal.resources import ConfigFiles, RollbackConfig


pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux") or os.geteuid() != 0, reason="needs Linux and root, to mount"
)


@contextlib.contextmanager
def mounted(target: pathlib.Path, *options: str) -> Generator[pathlib.Path]:
    subprocess.run(["mount", *options, target], check=True)
    try:
        yield target
    finally:
        subprocess.run(["umount", target], check=True)


@pytest.fixture
def folder(tmp_path: pathlib.Path) -> Generator[pathlib.Path]:
    (tmp_path / "etc").mkdir()
    with mounted(tmp_path / "etc", "-t", "tmpfs", "-o", "size=1m", "tmpfs") as folder:
        yield folder


@pytest.fixture
def ctx() -> RecoveryContext:
    fault = Fault("error")
    return RecoveryContext(
        incident=Incident(number=1, trigger=fault, began=1e9, opened=1e9),
        fault=fault,
        rung=0,
        attempt=1,
        deadline=1e9,
        clock=lambda: 0.0,
        stopped=lambda: None,
        note=lambda _message, _fields: None,
    )


def pushed(path: pathlib.Path, store: pathlib.Path) -> ConfigFiles:
    """Files that were good, and are broken now."""
    path.write_text("good")
    config = ConfigFiles(path, reload=list, healthy_for=1e-9, store=store)
    watched = config.watching(lambda: True)
    watched()
    watched()
    assert config.good is not None
    path.write_text("broken")
    return config


def test_a_read_only_mount_is_refused_before_anything_is_touched(folder, tmp_path, ctx):
    """
    On a mount that became read-only the action escalates, and a new start is refused, both with the reason.
    """
    config = pushed(folder / "app.conf", tmp_path / "store")
    subprocess.run(["mount", "-o", "remount,ro", folder], check=True)
    with pytest.raises(Escalate, match="is on a read-only mount, such as a ConfigMap"):
        RollbackConfig(config).recover(ctx)
    with pytest.raises(ConfigError, match="is on a read-only mount, such as a ConfigMap"):
        ConfigFiles(folder / "app.conf", reload=list, store=tmp_path / "store")
    assert ("broken", ["app.conf"]) == ((folder / "app.conf").read_text(), os.listdir(folder))
    subprocess.run(["mount", "-o", "remount,rw", folder], check=True)
    RollbackConfig(config).recover(ctx)
    assert "good" == (folder / "app.conf").read_text()


def test_a_config_map_is_refused_as_such(folder, tmp_path):
    """
    The symlinks of a mounted ConfigMap are followed to where nothing can be written.
    """
    (folder / "..2026").mkdir()
    (folder / "..2026" / "app.conf").write_text("good")
    (folder / "..data").symlink_to("..2026")
    (folder / "app.conf").symlink_to("..data/app.conf")
    subprocess.run(["mount", "-o", "remount,ro", folder], check=True)
    with pytest.raises(ConfigError, match=r"\.\.2026/app\.conf cannot be rolled back: it is on a read-only mount"):
        ConfigFiles(folder / "app.conf", reload=list, store=tmp_path / "store")
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize("same", [True, False])
def test_a_file_that_is_a_mount_is_left_as_it_is(folder, tmp_path, ctx, same):
    """
    A file that is bound by itself, as container engines do, from this file system or another, cannot be replaced: it
    stays, with no litter beside it.
    """
    source, target = (folder if same else tmp_path) / "source", folder / "app.conf"
    config = pushed(target, tmp_path / "store")
    source.write_text("broken too")
    with mounted(target, "--bind", source), pytest.raises((Escalate, OSError)) as caught:
        RollbackConfig(config).recover(ctx)
    expected = errno.EBUSY if same else "a mount of its own"
    assert str(expected) in str(caught.value)
    assert {"app.conf", "source"} >= set(os.listdir(folder))
    assert ("broken", "broken too") == (target.read_text(), source.read_text())


def test_on_a_full_disk_the_files_stay(folder, tmp_path, ctx):
    """
    Without room for the replacement nothing is replaced; with room again it works.
    """
    config = pushed(folder / "app.conf", tmp_path / "store")
    with contextlib.suppress(OSError), open(folder / "filler", "wb", buffering=0) as file:
        while True:
            file.write(b"x" * 4096)
    with pytest.raises(OSError, match="No space left on device"):
        RollbackConfig(config).recover(ctx)
    assert {"app.conf", "filler"} == set(os.listdir(folder))
    assert "broken" == (folder / "app.conf").read_text()
    (folder / "filler").unlink()
    RollbackConfig(config).recover(ctx)
    assert "good" == (folder / "app.conf").read_text()


def test_on_a_full_store_the_files_stay(folder, tmp_path, ctx):
    """
    What cannot be kept is not thrown away: without room in the store nothing is rolled back.
    """
    config = pushed(tmp_path / "app.conf", folder / "store")
    with contextlib.suppress(OSError), open(folder / "filler", "wb", buffering=0) as file:
        while True:
            file.write(b"x" * 4096)
    with pytest.raises(OSError, match="No space left on device"):
        RollbackConfig(config).recover(ctx)
    assert "broken" == (tmp_path / "app.conf").read_text()
    (folder / "filler").unlink()
    RollbackConfig(config).recover(ctx)
    assert "good" == (tmp_path / "app.conf").read_text()
