"""
Processes that are killed while they put configuration files back, and what their successors find.
"""

from __future__ import annotations

import json
import subprocess
import sys

import pytest


KILLS = 100

#: One process makes them all by forking: starting Python anew two hundred times would take minutes.
PROGRAM = r"""
import json, os, random, signal, sys, time
from pathlib import Path
from selfheal.resources import ConfigFiles

NAMES = ["a.conf", "b.conf", "c.conf"]
OWNER = 1234 if os.geteuid() == 0 else os.geteuid()

def version(letter, mode):
    return {name: (letter * 20_000 + name, mode, OWNER) for name in NAMES}

GOOD, BROKEN = version("g", 0o640), version("b", 0o604)

def write(folder, files):
    for name, (text, mode, owner) in files.items():
        path = folder / name
        path.write_text(text)
        os.chown(path, owner, -1)
        path.chmod(mode)

def found(folder):
    found = {name: (folder / name).lstat() for name in NAMES}
    return {name: ((folder / name).read_text(), stat.st_mode & 0o7777, stat.st_uid) for name, stat in found.items()}

def which(folder):
    # For each file, which version it is: neither would be a half-written one.
    states = found(folder)
    return "".join(
        "G" if states[name] == GOOD[name] else "B" if states[name] == BROKEN[name] else "?" for name in NAMES
    )

def made(folder):
    return ConfigFiles([folder / name for name in NAMES], reload=list, healthy_for=1e-9, store=folder / "store")

def learn(config):
    watched = config.watching(lambda: True)
    watched()
    watched()

def victim(folder, versions, pipe):
    config = made(folder)
    os.write(pipe, b".")
    while True:
        for each in versions:
            config.restore(each)
            learn(config)

def forked(fn, *args):
    pid = os.fork()
    if pid == 0:
        try:
            fn(*args)
        finally:
            os._exit(0)
    return pid

def main(folder, count, seed):
    draw, trials, folder = random.Random(seed), [], Path(folder)
    write(folder, GOOD)
    config = made(folder)
    learn(config)
    good = config.good
    write(folder, BROKEN)
    broken = config.restore(good)
    for number in range(count):
        read, pipe = os.pipe()
        pid = forked(victim, folder, [broken, good], pipe)
        os.read(read, 1)
        time.sleep(draw.uniform(0, 0.08))
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(read)
        os.close(pipe)
        manifest = json.loads((folder / "store" / "versions.json").read_text())
        trial = {"left": which(folder), "unfinished": manifest["unfinished"] is not None}
        trial["litter"] = len([path for path in folder.rglob("*.selfheal-new")])
        config = made(folder)
        trial["after"] = which(folder)
        trial["litter_after"] = len([path for path in folder.rglob("*.selfheal-new")])
        trial["whole"] = set(config.versions) == {good, broken} and config.good in (good, broken)
        trials.append(trial)
    for each in (broken, good):
        config.restore(each)
        trials[-1]["end"] = trials[-1].get("end", "") + which(folder)
    print(json.dumps(trials))

main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs fork and SIGKILL")
@pytest.mark.at_length
def test_no_kill_leaves_a_half_written_file_or_a_mixture(tmp_path):
    """
    At 100 random points: each file is the one version or the other, content, mode and owner; after the next start all
    of them are the same one, nothing half-written lies about, and the store is whole.
    """
    run = subprocess.run(
        [sys.executable, "-W", "error::ResourceWarning", "-c", PROGRAM, tmp_path, str(KILLS), "7"],
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert ("", 0) == (run.stderr, run.returncode)
    trials = json.loads(run.stdout)

    assert KILLS == len(trials)
    assert [] == [trial for trial in trials if "?" in trial["left"]]
    assert {"GGG", "BBB"} == {trial["after"] for trial in trials}
    assert {0} == {trial["litter_after"] for trial in trials}
    assert {True} == {trial["whole"] for trial in trials}
    assert "BBBGGG" == trials[-1]["end"]
    # Or the kills would have missed what they were for.
    assert sum(trial["unfinished"] for trial in trials) > KILLS / 20
    assert sum(trial["litter"] > 0 for trial in trials) > KILLS / 20
