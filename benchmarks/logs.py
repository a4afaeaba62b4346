"""
``python -m benchmarks.logs``: lines that are lost where several processes write one log; writes LOGS.md.
"""

from __future__ import annotations

import collections
import datetime as dt
import gzip
import importlib.metadata
import os
import pathlib
import platform
import shutil
import subprocess
import sys
import tempfile
import time

from collections.abc import Callable

import attrs

from benchmarks.log_writers import line


RESULTS = pathlib.Path(__file__).with_name("LOGS.md")

PROCESSES, THREADS, LINES, LIMIT = 4, 4, 3_750, 50_000
ROUNDS = 3

#: What the table calls them, by the kind of the writer.
RIVALS = {
    "selfheal": "`RotateLog` in each process, on a `FileHandler`",
    "selfheal-gzip": "the same, and its archives are compressed",
    "concurrent": "`ConcurrentRotatingFileHandler` of concurrent-log-handler in each process",
    "reopened": "logrotate with `create`, and `ReopenLog` in each process, on a `FileHandler`",
    "watched": "logrotate with `nocreate`, and a `WatchedFileHandler` in each process",
    "copied": "logrotate with `copytruncate`, and a `FileHandler` in each process",
    "loguru": "loguru with `rotation=` in each process",
    "rotating": "`RotatingFileHandler` in each process",
}

#: What logrotate is told for some of them.
HOWS = {"reopened": "create", "watched": "nocreate", "copied": "copytruncate"}

#: Of these not a line may be lost.
OURS = ("selfheal", "selfheal-gzip", "reopened")

PREAMBLE = f"""# Log files of several processes

Written by `python -m benchmarks.logs`. {PROCESSES} processes of {THREADS} threads each write {PROCESSES * THREADS * LINES} lines of some 90 bytes into one
log, as fast as they can. Handlers that rotate do so at {LIMIT // 1000} kB; logrotate is run again and again, and the checks look
every 5 ms. No archive is ever deleted, and none is compressed where nothing else is said. **lost**: lines that are
nowhere. **torn**: what is in the files and is no line. **doubled**: lines that are there once more. **told**: errors that
the handlers were given. **seconds**: until the last process has ended. Each figure is the worst of {ROUNDS} runs; the
seconds are those of the quickest.

loguru has an answer of its own that is not measured here: with `enqueue=True`, and its children forked or given the
logger, one process alone writes.
"""


@attrs.frozen
class Row:
    """
    What came of the lines of one rival.
    """

    kind: str
    lost: int
    torn: int
    doubled: int
    told: int
    files: int
    seconds: float

    def __str__(self) -> str:
        numbers = map(str, (self.lost, self.torn, self.doubled, self.told, self.files))
        return f"| {' | '.join([RIVALS[self.kind], *numbers, f'{self.seconds:.1f}'])} |"

    @property
    def met(self) -> bool:
        """
        Whether each line is there, once and whole, if it is one of ours.
        """
        return self.kind not in OURS or (self.lost, self.torn, self.doubled) == (0, 0, 0)


def _logrotate(log: pathlib.Path, how: str) -> Callable[[], None]:
    """What has the real logrotate look at the log, once."""
    command = shutil.which("logrotate") or "/usr/sbin/logrotate"
    folder = log.parent.parent
    (folder / "logrotate.conf").write_text(f"{log} {{\n  size {LIMIT}\n  rotate 1000\n  missingok\n  {how}\n}}\n")
    log.parent.chmod(0o755)  # it refuses folders that others may write

    def rotate() -> None:
        subprocess.run([command, "-s", folder / "logrotate.state", folder / "logrotate.conf"], check=True)

    return rotate


def measure(kind: str, folder: pathlib.Path) -> Row:
    """
    Have all processes write at once; count what is there then.
    """
    log = folder / "log" / "app.log"
    log.parent.mkdir()
    command = [sys.executable, "-m", "benchmarks.log_writers", kind, log]
    writers = [
        subprocess.Popen(
            [*command, *map(str, (process, THREADS, LINES, LIMIT))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for process in range(PROCESSES)
    ]
    rotate = _logrotate(log, HOWS[kind]) if kind in HOWS else lambda: time.sleep(0.01)
    for writer in writers:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "ready\n"
    began = time.monotonic()
    for writer in writers:
        assert writer.stdin is not None
        writer.stdin.write("go\n")
        writer.stdin.flush()
    while any(writer.poll() is None for writer in writers):
        rotate()
    seconds = time.monotonic() - began
    told = sum(int(writer.communicate()[0]) for writer in writers)
    return counted(kind, log.parent, told, seconds)


def counted(kind: str, folder: pathlib.Path, told: int, seconds: float) -> Row:
    """
    Look at the log and its archives.
    """
    files = [path for path in folder.iterdir() if path.name.startswith("app.") and path.suffix != ".lock"]
    found = collections.Counter[bytes]()
    for path in files:
        content = path.read_bytes()
        found.update((gzip.decompress(content) if path.suffix == ".gz" else content).splitlines())
    wanted = {
        line(process, thread, number).encode()
        for process in range(PROCESSES)
        for thread in range(THREADS)
        for number in range(LINES)
    }
    return Row(
        kind,
        lost=len(wanted - set(found)),
        torn=sum(count for text, count in found.items() if text not in wanted),
        doubled=sum(count - 1 for text, count in found.items() if text in wanted),
        told=told,
        files=len(files),
        seconds=seconds,
    )


def worst(rows: list[Row]) -> Row:
    """
    Of each column the largest, but of the seconds: what else runs on the machine only adds to those.
    """
    columns = [field.name for field in attrs.fields(Row)][1:]
    largest = {column: max(getattr(row, column) for row in rows) for column in columns}
    return attrs.evolve(rows[0], **largest | {"seconds": min(row.seconds for row in rows)})


def main(chosen: list[str]) -> int:
    """
    Measure and print; all of it is kept. 1 if a line of ours was lost, torn or doubled.
    """
    rows = []
    for kind in chosen or RIVALS:
        print(kind, "...", file=sys.stderr)
        measured = []
        for _ in range(1 if chosen else ROUNDS):
            with tempfile.TemporaryDirectory() as folder:
                measured.append(measure(kind, pathlib.Path(folder)))
        rows.append(worst(measured))
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("concurrent-log-handler", "loguru"))
    machine = f"{platform.system()}, {os.cpu_count()} cores, Python {platform.python_version()}; {versions}"
    head = "| who rotates | lost | torn | doubled | told | files | seconds |\n|---|---:|---:|---:|---:|---:|---:|"
    text = f"{PREAMBLE}\n{machine}; {dt.datetime.now(dt.UTC):%Y-%m-%d}.\n\n{head}\n" + "\n".join(map(str, rows)) + "\n"
    print(text)
    if not chosen:
        RESULTS.write_text(text)
    return 0 if all(row.met for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
