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

from collections.abc import Callable
from typing import Any, Final, Literal, TypeAlias

from selfheal.errors import ConfigError
from selfheal.resources.log_sharing import is_written


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

#: What the name of an archive ends with, and what writes it.
FORMATS: Final[dict[str, tuple[str, _Opener]]] = {"gzip": (".gz", _gzip), "zstd": (".zst", _zstd)}


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
    return any(os.path.lexists(archive + suffix) for suffix, _ in FORMATS.values())


def compress(path: str, form: Format, *, check: Callable[[], None]) -> str:
    """
    Replace *path* by ``<path>.gz`` or ``<path>.zst`` with its permissions and time, if the disk has room for a copy.

    An interruption, even by a power failure, leaves *path* as it was; beside it
    there may be a ``.gz.tmp`` or, for a moment, the whole ``.gz``.

    Args:
        path: A regular file that nobody writes to any more.
        form: What to make of it.
        check: Called between chunks; what it raises stops the work.

    Returns:
        One sentence about what was done.

    Raises:
        OSError: If it failed. *path* is as it was.
    """
    name, folder = os.path.basename(path), os.path.dirname(path)
    free, size = shutil.disk_usage(folder).free, os.path.getsize(path)
    if free < size:
        return f"{name} stays as it is: {free} bytes are free, up to {size} are needed"
    suffix, opened = FORMATS[form]
    target, unfinished = f"{path}{suffix}", f"{path}{suffix}.tmp"
    with open(path, "rb", opener=_no_link) as source:
        before = os.fstat(source.fileno())
        if not stat.S_ISREG(before.st_mode) or is_packed(path):
            return f"{name} stays as it is: it is no regular file, or there is a packed one already"
        if is_written(source.fileno()) is not False:
            return f"{name} stays as it is: somebody still writes to it, as far as can be told"
        try:
            with open(unfinished, "xb", opener=_private) as sink:
                with opened(sink, name, before.st_mtime) as packed:
                    left = before.st_size  # and no more: what grows as fast as it is read has no end
                    while left and (chunk := source.read(min(left, _CHUNK))):
                        check()
                        packed.write(chunk)
                        left -= len(chunk)
                _take_after(before, sink.fileno())
                sink.flush()
                os.fsync(sink.fileno())
            os.utime(unfinished, ns=(before.st_atime_ns, before.st_mtime_ns))
            written, after = is_written(source.fileno()), os.fstat(source.fileno())
            if written is not False or (after.st_size, after.st_mtime_ns) != (before.st_size, before.st_mtime_ns):
                os.unlink(unfinished)
                return f"{name} stays as it is: somebody still writes to it"
            os.replace(unfinished, target)
        except FileExistsError:
            return f"{name} stays as it is: {name}{suffix}.tmp exists"
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(unfinished)
            raise
    packed_size = os.path.getsize(target)
    os.unlink(path)
    return f"{name} was compressed from {before.st_size} to {packed_size} bytes"


def _no_link(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0))


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0), 0o600)


def _take_after(before: os.stat_result, file: int) -> None:
    # The owner can only be kept by root, and the copy is private until then.
    with contextlib.suppress(OSError, AttributeError):
        os.fchown(file, before.st_uid, before.st_gid)
        os.fchmod(file, stat.S_IMODE(before.st_mode))
