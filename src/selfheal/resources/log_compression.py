"""
Turn a finished file into a compressed one, so that at every moment one of the two is whole.
"""

from __future__ import annotations

import contextlib
import gzip
import importlib
import io
import os
import shutil
import stat
import sys
import zlib

from collections.abc import Callable, Generator
from typing import Any, Final, Literal, TypeAlias

from selfheal.errors import ConfigError
from selfheal.resources.log_handles import identity
from selfheal.resources.log_sharing import is_written, lock, unlock


Format: TypeAlias = Literal["gzip", "zstd"]

# 6 costs 57 % of the time of Python's default of 9 and gives files 3 % larger, measured on logs. isal's 2 costs 6 %,
# for files 11 % larger, zstd's 1 costs 7 %, for files 2 % smaller.
_GZIP_LEVEL: Final = 6
_ISAL_LEVEL: Final = 2
_ZSTD_LEVEL: Final = 1
_CHUNK: Final = 256 * 1024

_ZSTD_MODULE: Final = "compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd"


def _gzip(sink: io.BufferedIOBase, name: str, written: float) -> io.BufferedIOBase:
    try:
        isal: Any = importlib.import_module("isal.igzip")
    except ImportError:
        return gzip.GzipFile(name, "wb", _GZIP_LEVEL, sink, written)
    faster: io.BufferedIOBase = isal.IGzipFile(name, "wb", _ISAL_LEVEL, sink, written)
    return faster


def _zstd(sink: io.BufferedIOBase, _name: str, _written: float) -> io.BufferedIOBase:
    zstd: Any = importlib.import_module(_ZSTD_MODULE)
    parameter = zstd.CompressionParameter
    # With a checksum, as gzip has one and the command has too.
    options = {parameter.compression_level: _ZSTD_LEVEL, parameter.checksum_flag: 1}
    packed: io.BufferedIOBase = zstd.ZstdFile(sink, "wb", options=options)
    return packed


_Opener: TypeAlias = Callable[[io.BufferedIOBase, str, float], io.BufferedIOBase]

#: What the name of an archive ends with, what writes it, and the module that reads it.
FORMATS: Final[dict[str, tuple[str, _Opener, str]]] = {
    "gzip": (".gz", _gzip, "gzip"),
    "zstd": (".zst", _zstd, _ZSTD_MODULE),
}


def as_format(value: Literal["gzip", "zstd"] | bool) -> Format | Literal[False]:
    """
    Attrs converter: true means gzip.

    Raises:
        ConfigError: If it is no format, or what it needs is not installed.
    """
    if value is True or value is False:
        return "gzip" if value else False
    if value not in tuple(FORMATS):
        msg = f"compress={value!r}: must be 'gzip', 'zstd', True (which means gzip) or False."
        raise ConfigError(msg)
    if value == "zstd":
        try:
            importlib.import_module(_ZSTD_MODULE)
        except ImportError:
            msg = f"compress='zstd': there is no module {_ZSTD_MODULE}. Before Python 3.14: pip install backports.zstd"
            raise ConfigError(msg) from None
    return value


def is_packed(archive: str) -> bool:
    """
    Whether there is a packed file of that name, whatever format it has.
    """
    return any(os.path.lexists(archive + suffix) for suffix, _, _ in FORMATS.values())


def compress(path: str, form: Format, *, check: Callable[[], None]) -> str:
    """
    Replace *path* by ``<path>.gz`` or ``<path>.zst`` with its permissions and time, if the disk has room for a copy.

    An interruption, even by a power failure, leaves *path* as it was; beside it
    there may be a ``.gz.tmp`` or the whole ``.gz``. The next call finishes the work.

    Args:
        path: A regular file that nobody writes to any more.
        form: What to make of it.
        check: Called between chunks; what it raises stops the work.

    Returns:
        One sentence about what was done.

    Raises:
        OSError: If it failed. *path* is as it was.
    """
    name = os.path.basename(path)
    with open(path, "rb", opener=_no_link) as source:
        before = os.fstat(source.fileno())
        if not stat.S_ISREG(before.st_mode):
            return f"{name} stays as it is: it is no regular file"
        if is_written(source.fileno()) is not False:
            return f"{name} stays as it is: somebody still writes to it, as far as can be told"
        if is_packed(path):
            if not _is_whole(path, source, check):
                return f"{name} stays as it is: there is a packed one already, with something else in it"
            _unlink(path)
            return f"{name} had been compressed before"
        free, size = shutil.disk_usage(os.path.dirname(path)).free, before.st_size
        if free < size:
            return f"{name} stays as it is: {free} bytes are free, up to {size} are needed"
        suffix, opened, _ = FORMATS[form]
        target, unfinished = f"{path}{suffix}", f"{path}{suffix}.tmp"
        try:
            with _claimed(unfinished) as sink:
                with opened(sink, name, before.st_mtime) as packed:
                    left = size  # and no more: what grows as fast as it is read has no end
                    while left and (chunk := source.read(min(left, _CHUNK))):
                        check()
                        packed.write(chunk)
                        left -= len(chunk)
                _take_after(before, sink.fileno())
                sink.flush()
                os.fsync(sink.fileno())
                os.utime(unfinished, ns=(before.st_atime_ns, before.st_mtime_ns))
                written, after = is_written(source.fileno()), os.fstat(source.fileno())
                if written is not False or (after.st_size, after.st_mtime_ns) != (size, before.st_mtime_ns):
                    os.unlink(unfinished)
                    return f"{name} stays as it is: somebody still writes to it"
                # While it is locked: who comes later finds either the whole one, or one that is taken.
                os.replace(unfinished, target)
        except FileExistsError:
            return f"{name} stays as it is: {name}{suffix}.tmp exists"
    packed_size = os.path.getsize(target)
    _unlink(path)
    return f"{name} was compressed from {size} to {packed_size} bytes"


def _is_whole(path: str, source: io.BufferedIOBase, check: Callable[[], None]) -> bool:
    """Whether a packed file of that name holds what *source* does. Other programs may have been killed in the middle."""
    for suffix, _, module_name in FORMATS.values():
        with contextlib.suppress(FileNotFoundError, ImportError):
            module: Any = importlib.import_module(module_name)
            try:
                with open(path + suffix, "rb", opener=_no_link) as packed, module.open(packed, "rb") as unpacked:
                    if _same(unpacked, source, check):
                        return True
            except (OSError, EOFError, zlib.error, getattr(module, "ZstdError", OSError)):
                continue
    return False


def _same(one: io.BufferedIOBase, other: io.BufferedIOBase, check: Callable[[], None]) -> bool:
    other.seek(0)
    while chunk := other.read(_CHUNK):
        check()
        if one.read(len(chunk)) != chunk:
            return False
    return not one.read(1)


@contextlib.contextmanager
def _claimed(path: str) -> Generator[io.BufferedWriter]:
    """
    A new file *path*, locked until the end. One that nobody has locked was left by a process that was killed, and goes.

    Raises:
        FileExistsError: If somebody is at it, or nobody can tell.
    """
    if os.path.lexists(path):
        _clear(path)
    with open(path, "xb", opener=_private) as sink:
        try:
            # Whoever came in between takes it for one that was left.
            if lock(sink.fileno()) is False or not _is_named(sink.fileno(), path):
                raise FileExistsError(path)
            try:
                yield sink
            except BaseException:
                _unlink(path)
                raise
        finally:
            unlock(sink.fileno())


def _clear(path: str) -> None:
    if not stat.S_ISREG(os.lstat(path).st_mode):
        raise FileExistsError(path)
    with open(path, "rb", opener=_no_link) as left:
        try:
            if not lock(left.fileno()) or not _is_named(left.fileno(), path):
                raise FileExistsError(path)
            os.unlink(path)
        finally:
            unlock(left.fileno())


def _is_named(file: int, path: str) -> bool:
    try:
        return identity(os.lstat(path)) == identity(os.fstat(file))
    except FileNotFoundError:
        return False


def _unlink(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


def _no_link(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0), 0o600)


def _take_after(before: os.stat_result, file: int) -> None:
    # The owner can only be kept by root, and the copy is private until then.
    with contextlib.suppress(OSError, AttributeError):
        os.fchown(file, before.st_uid, before.st_gid)
        os.fchmod(file, stat.S_IMODE(before.st_mode))
