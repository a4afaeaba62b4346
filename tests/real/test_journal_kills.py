"""
Processes that are killed in the middle of a held change, and what their successors make of it.
"""

from __future__ import annotations

import json
import subprocess
import sys

import pytest


KILLS = 200

#: One process makes them all by forking: starting Python anew four hundred times would take minutes.
PROGRAM = r"""
import json, os, random, signal, sys, time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
import asyncio, sqlite3
from selfheal import Healer, HealingPolicy, HealthCheck, RecoveryAction, Unhealthy
from selfheal.records import SqliteJournal
from selfheal.runtime.desk import Desk

POLICY = HealingPolicy(
    interval=0.05, fast_interval=0.01, timeout=0.2, jitter=0, fall=1, rise=1, probation=0.05, verify_within=0.25
)

class Divert(RecoveryAction):
    def __init__(self, folder, tell, broken):
        self.folder, self.tell, self.broken = folder, tell, broken

    def recover(self, ctx):
        self.tell(b"R")
        time.sleep(0.01)
        (self.folder / "diverted").touch()
        self.broken.clear()
        time.sleep(0.01)
        self.tell(b"A")

    def revert(self, ctx):
        with open(self.folder / "reverts", "a") as file:
            file.write("x")
        time.sleep(0.01)
        (self.folder / "diverted").unlink(missing_ok=True)
        time.sleep(0.01)

def healer(folder, idempotent, tell, broken):
    action = Divert(folder, tell, broken)
    action.idempotent = idempotent
    def probe():
        if broken:
            raise Unhealthy("down")
    check = HealthCheck(probe, name="db", policy=POLICY, recovery=action)
    return Healer([check], journal=folder / "selfheal.db", phase=0, slack=0)

def victim(folder, idempotent, pipe):
    with healer(folder, idempotent, lambda word: os.write(pipe, word), [True]):
        time.sleep(30)

def successor(folder, idempotent):
    heard = []
    made = healer(folder, idempotent, lambda word: None, [])
    made.on_event(lambda event: heard.append(event.name))
    journal = SqliteJournal(folder / "selfheal.db")
    with made:
        made.wait_healthy("db", timeout=5)
        until = time.monotonic() + 5
        while time.monotonic() < until and any(change.phase.value != "unknown" for change in journal.held()):
            time.sleep(0.02)
    (folder / "heard").write_text(json.dumps(heard))

def forked(fn, *args):
    pid = os.fork()
    if pid == 0:
        try:
            fn(*args)
        finally:
            os._exit(0)
    return pid

def open_phases(folder):
    return [change.phase.value for change in SqliteJournal(folder / "selfheal.db").held()]

def main(root, count, seed):
    draw, trials = random.Random(seed), []
    for first in range(0, count, 10):
        batch = []
        for number in range(first, min(first + 10, count)):
            folder = Path(root) / str(number)
            folder.mkdir()
            read, write = os.pipe()
            idempotent = number % 4 != 3
            pid = forked(victim, folder, idempotent, write)
            os.close(write)
            batch.append([folder, idempotent, read, pid, b"RA"[number % 2: number % 2 + 1], None])
        while any(item[5] is None or item[5] is not True for item in batch):
            for item in batch:
                folder, idempotent, read, pid, word, due = item
                if due is None:
                    os.set_blocking(read, False)
                    try:
                        said = os.read(read, 10)
                    except BlockingIOError:
                        continue
                    if word in said:
                        item[5] = time.monotonic() + draw.uniform(0, 0.03 if word == b"R" else 0.12)
                elif due is not True and time.monotonic() >= due:
                    os.kill(pid, signal.SIGKILL)
                    os.waitpid(pid, 0)
                    os.close(read)
                    item[5] = True
            time.sleep(0.001)
        left = [((item[0] / "diverted").exists(), open_phases(item[0])) for item in batch]
        heirs = [forked(successor, item[0], item[1]) for item in batch]
        for pid in heirs:
            os.waitpid(pid, 0)
        for item, (diverted, phases) in zip(batch, left):
            folder = item[0]
            reverts = folder / "reverts"
            trials.append({
                "idempotent": item[1], "diverted": diverted, "left": phases, "heard": json.loads((folder / "heard").read_text()),
                "after": (folder / "diverted").exists(), "open": open_phases(folder), "reverted": reverts.exists(),
            })
    print(json.dumps(trials))

main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
"""


@pytest.mark.at_length
@pytest.mark.skipif(sys.platform == "win32", reason="needs fork and SIGKILL")
def test_no_held_change_is_silently_left_wherever_its_process_is_killed(tmp_path):
    """
    At 200 random points between intent and applied, and on to reverted: it is known, and then taken back or reported.
    """
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM, tmp_path, str(KILLS), "7"], capture_output=True, text=True, timeout=110
    )
    assert ("", 0) == (run.stderr, run.returncode)
    trials = json.loads(run.stdout)
    phases = [phase for trial in trials for phase in trial["left"]]

    assert KILLS == len(trials)
    assert {"intent", "applied", "reverting"} == set(phases)
    assert phases.count("intent") > KILLS / 10
    assert phases.count("applied") + phases.count("reverting") > KILLS / 10
    for trial in trials:
        assert trial["left"] or not trial["diverted"], trial
        if trial["left"] == ["intent"] and not trial["idempotent"]:
            assert trial["open"] == ["unknown"], trial
            assert "selfheal.held.reported" in trial["heard"], trial
            assert (trial["diverted"], False) == (trial["after"], trial["reverted"]), trial
        else:
            assert ([], False) == (trial["open"], trial["after"]), trial
            assert bool(trial["left"]) == ("selfheal.held.adopted" in trial["heard"]), trial
