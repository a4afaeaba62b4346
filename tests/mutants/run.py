"""
Break the state machine, its rungs and its gates on purpose, one small diff at a time, and see whether a test notices.

Run it as ``python tests/mutants/run.py [WORD ...]``; with words, only the mutants whose name has one of them.
It exits with 1 if fewer than 95 % are killed, if a survivor has no reason in ``SURVIVORS.md``, or if a diff no longer
applies to the sources.
"""

from __future__ import annotations

import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time

import hypothesis.stateful  # noqa: F401 - imported once, for all the runs that are forked off
import pytest


HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
SURVIVORS = HERE / "SURVIVORS.md"

#: Killed share that is good enough.
GOAL = 0.95

#: A mutant that makes the tests hang is dead.
TIMEOUT = 300

#: What kills most mutants of a file within a second comes first; the name of a diff begins with its file's.
DIRECTED = {
    "gates": ["tests/healing/test_gates.py"],
    "ledgers": ["tests/healing/test_ledgers.py"],
    "feasibility": ["tests/healing/test_feasibility.py", "tests/healing/test_rules.py"],
    "action": ["tests/recovery"],
    "plan": ["tests/recovery"],
}
STATES = [f"tests/healing/test_{name}.py" for name in ("states", "rules", "held", "incidents")]
THOROUGH = ["tests/healing", "tests/recovery"]

#: In order, stopping at the first failure; that hypothesis was imported before pytest looked at it is on purpose.
OPTIONS = ["-xq", "-pno:cacheprovider", "-pno:randomly", "-Wignore::pytest.PytestAssertRewriteWarning"]


def main(words: list[str]) -> int:
    """
    Try every mutant, print one line each and a sum.

    Returns:
        The exit status.
    """
    diffs = [diff for diff in sorted(HERE.glob("*.diff")) if not words or any(word in diff.stem for word in words)]
    with tempfile.TemporaryDirectory() as folder:
        work = pathlib.Path(folder)
        for name in ("src", "tests", "pyproject.toml"):
            _copy(ROOT / name, work / name)
        if not _passes(work, THOROUGH):
            print("the tests fail without any mutant: mend them first")
            return 1
        verdicts = {diff.stem: _try(diff, work) for diff in diffs}
    return _sum_up(verdicts)


def _try(diff: pathlib.Path, work: pathlib.Path) -> str:
    began = time.monotonic()
    if not _patch(diff, work):
        verdict = "does not apply"
    else:
        survived = _passes(work, DIRECTED.get(diff.stem.partition("-")[0], STATES)) and _passes(work, THOROUGH)
        verdict = "survived" if survived else "killed"
        _patch(diff, work, "--reverse")
    print(f"{verdict:15} {time.monotonic() - began:6.1f} s  {diff.stem}", flush=True)
    return verdict


def _sum_up(verdicts: dict[str, str]) -> int:
    killed = sum(verdict == "killed" for verdict in verdicts.values())
    explained = SURVIVORS.read_text()
    unexplained = [name for name, verdict in verdicts.items() if verdict == "survived" and f"`{name}`" not in explained]
    stale = [name for name, verdict in verdicts.items() if verdict == "does not apply"]
    share = killed / len(verdicts) if verdicts else 0.0
    print(f"{killed} of {len(verdicts)} killed: {share:.1%}")
    for name in unexplained:
        print(f"survived without a reason in {SURVIVORS.name}: {name}")
    for name in stale:
        print(f"does not apply any more: {name}")
    return 1 if share < GOAL or unexplained or stale else 0


def _passes(work: pathlib.Path, tests: list[str]) -> bool:
    # A fork of this process, which has imported pytest already, saves most of the time; selfheal it has not imported.
    child = os.fork()
    if child == 0:
        os.chdir(work)
        sys.path.insert(0, str(work / "src"))
        sys.dont_write_bytecode = True
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), 1)
            os.dup2(nowhere.fileno(), 2)
        os._exit(pytest.main([*OPTIONS, *tests]))
    killer = threading.Timer(TIMEOUT, os.kill, (child, signal.SIGKILL))
    killer.start()
    _, status = os.waitpid(child, 0)
    killer.cancel()
    return status == 0


def _patch(diff: pathlib.Path, work: pathlib.Path, *options: str) -> bool:
    command = ["git", "apply", "--unsafe-paths", f"--directory={work}", *options, str(diff)]
    return subprocess.run(command, cwd=work, capture_output=True, check=False).returncode == 0


def _copy(source: pathlib.Path, target: pathlib.Path) -> None:
    if source.is_file():
        shutil.copy(source, target)
    else:
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__", ".*"))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
