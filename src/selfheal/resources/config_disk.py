"""
One configuration file on the disk: read it whole, replace it whole.

A replacement is first written beside the file, with everything that belongs to it, and is renamed over it then: whoever
reads meanwhile, and whoever finds the file after a power cut, has either the one or the other.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat

from typing import Final, NamedTuple

from selfheal.errors import ConfigError


#: Bytes that one file may have. Kubernetes and etcd take about 1 MiB; lists of addresses may be longer.
MAX_BYTES: Final = 4 * 2**20

# A descriptor of these is never inherited, and a pipe or device in place of the file keeps nobody waiting.
_READ: Final = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)
_CREATE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)


class File(NamedTuple):
    """
    What there is to know of a file but its content, which goes by its SHA-256.
    """

    digest: str
    mode: int
    uid: int
    gid: int


class Content(NamedTuple):
    """
    A file, and what is in it.
    """

    file: File
    data: bytes


def read(path: str) -> Content | None:
    """
    The file that *path* leads to; `None` if there is none.

    Raises:
        ConfigError: If it is no regular file, or too large.
        OSError: If it cannot be read.
    """
    try:
        descriptor = os.open(path, _READ)
    except FileNotFoundError:
        return None
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            msg = f"{path} is no regular file. Name the files themselves, not their folder."
            raise ConfigError(msg)
        if found.st_size > MAX_BYTES:
            msg = f"{path} has more than {MAX_BYTES} bytes: too large for a configuration file. Leave it out of paths."
            raise ConfigError(msg)
        with open(descriptor, "rb", closefd=False) as stream:
            data = stream.read(found.st_size + 1)  # whoever has it grow meanwhile changes what tells a change
    finally:
        os.close(descriptor)
    mode = stat.S_IMODE(found.st_mode)
    return Content(File(hashlib.sha256(data).hexdigest(), mode, found.st_uid, found.st_gid), data)


def prepare(path: str, content: Content) -> None:
    """
    Write what is to become *path* beside it, with mode and owner, safe from a power cut. *path* is not touched.

    Raises:
        OSError: If the disk is full, or the owner may not be given. Nothing is left behind then.
    """
    temporary = temporary_of(path)
    discard(path)
    descriptor = os.open(temporary, _CREATE, 0o600)
    try:
        with open(descriptor, "wb") as stream:
            stream.write(content.data)
            stream.flush()
            made, file = os.fstat(descriptor), content.file
            if (made.st_uid, made.st_gid) != (file.uid, file.gid):
                os.fchown(descriptor, file.uid, file.gid)
            os.fchmod(descriptor, file.mode)  # last: a new owner costs a file its setuid bit
            os.fsync(descriptor)
    except BaseException:
        discard(path)
        raise


def commit(path: str) -> None:
    """
    Put what was prepared in the place of *path*, in one step, for good.
    """
    os.replace(temporary_of(path), path)
    sync_folder(path)


def remove(path: str) -> None:
    """
    Have no *path* any longer, for good.
    """
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    sync_folder(path)


def discard(path: str) -> None:
    """
    Throw away what was prepared for *path*, if anything was.
    """
    temporary = temporary_of(path)
    if os.path.lexists(temporary):  # a read-only mount would not even say that there is none
        os.unlink(temporary)


def temporary_of(path: str) -> str:
    """
    The name under which the successor of *path* is prepared: always the same, so that a start after a crash finds it.
    """
    folder, name = os.path.split(path)
    return os.path.join(folder, f".{name}.selfheal-new")  # the dot keeps it out of what `include conf.d/*` finds


def sync_folder(path: str) -> None:
    """
    Have the folder of *path* remember its present names through a power cut.
    """
    descriptor = os.open(os.path.dirname(path), os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def require_replaceable(path: str) -> None:
    """
    See whether *path* could be replaced. Nothing is touched.

    Raises:
        ConfigError: If its folder cannot be written to, as in a volume that Kubernetes makes of a ConfigMap, or if it
            is a mount of its own.
    """
    folder = os.path.dirname(path)
    effective = os.access in os.supports_effective_ids
    if not os.path.isdir(folder):
        problem = "its folder does not exist. Correct the path"
    elif os.statvfs(folder).f_flag & os.ST_RDONLY:
        problem = "it is on a read-only mount, such as a ConfigMap. Roll it back where it comes from, or use a copy"
    elif os.path.ismount(path):
        problem = "it is a mount of its own, which cannot be replaced. Mount its folder instead"
    elif not os.access(folder, os.R_OK | os.W_OK | os.X_OK, effective_ids=effective):
        problem = "its folder cannot be read and written. Allow this process to, for a file is replaced by a new one"
    else:
        return
    msg = f"{path} cannot be rolled back: {problem}."
    raise ConfigError(msg)
