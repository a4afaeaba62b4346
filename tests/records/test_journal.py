"""
The journal in virtual time: what it keeps, what the next process finds, and what happens while it cannot be written.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import sqlite3
import stat
import subprocess
import sys

from typing import Any

import pytest

from selfheal import ConfigError, Escalate, Healer, HealingPolicy, HealthCheck, RecoveryAction, Unhealthy, names
from selfheal.model import Event, HealthStatus, HeldKey, HeldPhase
from selfheal.records import JournalReader, SqliteJournal, tell
from selfheal.records.owners import presence
from selfheal.testing import Even, VirtualClock


POLICY = HealingPolicy(interval=5, fast_interval=1, timeout=2, jitter=0, fall=2, rise=2, probation=30)
DIVERT = HeldKey("db", "divert", "divert", 0)


class Divert(RecoveryAction):
    """Changes something outside the process."""

    def __init__(self, world: World) -> None:
        self.world = world

    def recover(self, ctx: Any) -> None:
        self.world.seen.append(self.world.phases())
        self.world.diverted = True

    def revert(self, ctx: Any) -> None:
        self.world.seen.append(self.world.phases())
        self.world.reverts += 1
        self.world.diverted = False


class World:
    """
    A resource that is bad while it is told so and not diverted, and a journal.
    """

    def __init__(self, path: Any) -> None:
        self.path = path
        self.clock = VirtualClock()
        self.bad = self.diverted = False
        self.reverts = 0
        self.seen: list[list[HeldPhase]] = []
        self.events: list[Event] = []
        self.action: RecoveryAction = Divert(self)

    def probe(self) -> None:
        if self.bad and not self.diverted:
            raise Unhealthy("down", "the password is secret")

    def phases(self) -> list[HeldPhase]:
        return [change.phase for change in JournalReader(self.path).held(reverted=True)]

    def healer(self, journal: Any = None, *, name: str = "db") -> Healer:
        check = HealthCheck(self.probe, name=name, policy=POLICY, recovery=self.action)
        journal = self.path if journal is None else journal
        healer = Healer([check], clock=self.clock, phase=0, slack=0, random=Even(), journal=journal)
        healer.on_event(self.events.append)
        return healer

    def run(self, healer: Healer, *seconds: float, bad_after: float | None = None, backend: Any = "asyncio") -> None:
        """Let the healer live for so long."""

        async def main() -> None:
            async with healer:
                if bad_after is not None:
                    await self.clock.sleep(bad_after)
                    self.bad = True
                await self.clock.sleep(sum(seconds))

        self.clock.run(main, backend=backend)

    def heard(self, name: str) -> list[dict[str, Any]]:
        return [dict(event.fields) for event in self.events if event.name == name]


@pytest.fixture
def world(tmp_path):
    return World(tmp_path / "selfheal.db")


def put_aside(path, number=1):
    """Let the rows of this process be those of another one, which is dead."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("UPDATE held SET owner = ?", (number,))
        connection.execute("INSERT OR IGNORE INTO owners VALUES (?, 'elsewhere', 1, 0)", (number,))
        connection.execute("UPDATE incidents SET owner = ?", (number,))
        connection.commit()


@pytest.mark.parametrize("backend", ["asyncio", "trio", "thread"])
def test_what_is_read_back_is_what_the_healer_knows(world, backend):
    """
    On every host an incident in the journal tells the same story as the healer's own.
    """
    healer = world.healer()
    if backend == "thread":
        with healer:
            world.clock.advance(10)
            world.bad = True
            world.clock.advance(200)
    else:
        world.run(healer, 200, bad_after=10, backend=backend)
    (mine,) = healer.incidents()
    (kept,) = JournalReader(world.path).incidents()

    assert tell(mine).replace(": the password is secret", "") == tell(kept)
    assert (mine.opened_wall, mine.actions, mine.result) == (kept.opened, kept.actions, kept.result)
    assert [entry.fields for entry in mine.timeline] == [entry.fields for entry in kept.timeline]


def test_a_held_change_is_written_down_around_each_step(world):
    """
    The intent is in the file before the change is made, and each further phase before or after its step.
    """
    world.run(world.healer(), 20, bad_after=10)
    assert [HeldPhase.APPLIED] == world.phases()
    world.bad = False
    world.run(world.healer(), 100)

    assert [[HeldPhase.INTENT], [HeldPhase.REVERTING]] == world.seen
    assert [HeldPhase.REVERTED] == world.phases()


@pytest.mark.parametrize("phase", ["intent", "applied", "reverting"])
def test_what_a_dead_process_left_is_taken_over_and_stepped_down(world, phase):
    """
    However far it had come, the next process knows it before its first check and takes it back after a probation.
    """
    world.run(world.healer(), 20, bad_after=10)
    world.bad = False
    with contextlib.closing(sqlite3.connect(world.path)) as connection:
        connection.execute("UPDATE held SET phase = ?", (phase,))
        connection.commit()
    put_aside(world.path)
    world.events.clear()
    began = world.clock.now()
    world.run(world.healer(), 100)
    order = [event.name for event in world.events]

    assert [{"action": "divert", "leaf": "divert", "phase": phase}] == world.heard(names.HELD_ADOPTED)
    assert order.index(names.HELD_ADOPTED) < order.index(names.CHECK_COMPLETED)
    assert (False, 1, [HeldPhase.REVERTED]) == (world.diverted, world.reverts, world.phases())
    assert began + 30 <= next(event.at for event in world.events if event.name == names.HELD_REVERTED)


def test_what_nobody_here_knows_is_reported_and_stays_in_the_journal(world):
    """
    A change whose check is gone is said at each start, and stays open until somebody has seen to it.
    """
    world.run(world.healer(), 20, bad_after=10)
    put_aside(world.path)
    world.bad = False
    for _ in range(2):
        world.events.clear()
        world.run(world.healer(name="other"), 100)
        reported = [event for event in world.events if event.name == names.HELD_REPORTED]
        assert ["db"] == [event.check for event in reported]
        assert "no check here has such an action" == reported[0].fields["reason"]
    assert (True, 0, [HeldPhase.APPLIED]) == (world.diverted, world.reverts, world.phases())
    (left,) = JournalReader(world.path).held()
    assert SqliteJournal(world.path).settle(left.number)
    assert not SqliteJournal(world.path).settle(left.number)
    assert () == JournalReader(world.path).held()


def test_a_check_that_is_added_later_takes_over_its_own(world):
    """
    What healer.add() brings is looked for then; what other checks know is not reported, and nothing is said twice.
    """
    lost = World(world.path)
    lost.clock = world.clock
    for name in ("db", "cache", "gone"):
        lost.run(lost.healer(name=name), 20, bad_after=10)
        put_aside(world.path)
        lost.bad = lost.diverted = False
    healer = world.healer(name="other")

    def check(name):
        return HealthCheck(world.probe, name=name, policy=POLICY, recovery=world.action)

    async def main():
        async with healer:
            await world.clock.sleep(1)
            for name in ("db", "cache", "fourth"):
                healer.add(check(name))
                await world.clock.sleep(1)

    world.clock.run(main)

    def whose(name):
        return [event.check for event in world.events if event.name == name]

    assert ["db", "cache"] == whose(names.HELD_ADOPTED)
    assert ["db", "cache", "gone"] == whose(names.HELD_REPORTED)


def test_what_must_not_be_done_twice_is_a_case_for_a_person(world):
    """
    An action that is not idempotent, left in its intent, is neither run again nor reverted, but reported at each start.
    """
    world.run(world.healer(), 20, bad_after=10)
    with contextlib.closing(sqlite3.connect(world.path)) as connection:
        connection.execute("UPDATE held SET phase = 'intent'")
        connection.commit()
    world.bad = False
    world.action.idempotent = False
    for _ in range(2):
        put_aside(world.path)
        world.events.clear()
        world.run(world.healer(), 100)
        assert "not idempotent" in world.heard(names.HELD_REPORTED)[0]["reason"]
        assert [] == world.heard(names.HELD_ADOPTED)
        assert (0, [HeldPhase.UNKNOWN]) == (world.reverts, world.phases())


def test_a_living_process_keeps_what_is_its_own(world, tmp_path):
    """
    Nothing is taken from a process that lives, however often others start.
    """
    world.run(world.healer(), 20, bad_after=10)
    world.bad = False
    script = """if True:
        import sys
        from selfheal.records.owners import presence
        print(presence(sys.argv[1]).enter(), flush=True)
        sys.stdin.read()
    """
    other = subprocess.Popen(
        [sys.executable, "-c", script, world.path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with other:
        put_aside(world.path, int(other.stdout.readline()))
        world.events.clear()
        world.run(world.healer(), 100)
        assert ([], []) == (world.heard(names.HELD_ADOPTED), world.heard(names.HELD_REPORTED))
        other.kill()
    world.run(world.healer(), 100)
    assert (1, [HeldPhase.REVERTED]) == (world.reverts, world.phases())


def test_healers_of_one_process_leave_one_another_alone(world):
    """
    A second healer on the same file takes nothing from one that runs, and writes down its own; so do others afterwards.
    """
    other = World(world.path)
    other.clock, other.bad = world.clock, True

    async def main():
        async with world.healer():
            world.bad = True
            await world.clock.sleep(10)
            world.bad = False
            async with other.healer():
                await world.clock.sleep(10)
                assert [HeldPhase.APPLIED, HeldPhase.APPLIED] == world.phases()

    world.clock.run(main)

    assert ([], []) == (other.heard(names.HELD_ADOPTED), other.heard(names.HELD_REPORTED))
    assert (0, 0) == (world.reverts, other.reverts)
    assert [HeldPhase.APPLIED, HeldPhase.APPLIED] == world.phases()


@pytest.mark.parametrize("same", [True, False])
def test_what_a_healer_of_this_process_left_is_found_by_the_next(world, same):
    """
    A healer that was stopped answers for nothing: the next one takes over what it knows, and reports the rest.
    """
    world.run(world.healer(), 20, bad_after=10)
    world.bad = False
    world.events.clear()
    world.run(world.healer(name="db" if same else "other"), 100)

    assert (same, not same) == (bool(world.heard(names.HELD_ADOPTED)), bool(world.heard(names.HELD_REPORTED)))
    assert [HeldPhase.REVERTED if same else HeldPhase.APPLIED] == world.phases()


@pytest.mark.skipif(sys.platform != "linux", reason="needs locks of open files")
def test_a_process_that_copies_its_own_journal_stays_alive(world):
    """
    Opening and closing the files, as a backup does, lets go of nothing.
    """
    script = """if True:
        import sys
        from selfheal.records.owners import presence
        number = presence(sys.argv[1]).enter()
        open(sys.argv[1] + "-owners").close()
        print(number, flush=True)
        sys.stdin.read()
    """
    path = str(world.path)
    other = subprocess.Popen(
        [sys.executable, "-c", script, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    here = presence(path)
    mine = here.enter()
    with other:
        number = int(other.stdout.readline())
        assert here.is_alive(number)
        other.kill()
    assert not here.is_alive(number)
    here.leave(mine)
    assert not here.is_alive(mine)


class Leaf(RecoveryAction):
    """One of several parts of a rung."""

    def __init__(self, name, log):
        self.name, self.log = name, log

    def recover(self, ctx):
        self.log.append(f"+{self.name}")

    def revert(self, ctx):
        self.log.append(f"-{self.name}")


def test_a_composed_rung_is_taken_back_leaf_by_leaf(world):
    """
    Of a rung of several held parts, those that are in the journal are reverted, last applied first, and no others.
    """
    log = []
    world.action = Leaf("a", log) + Leaf("a", log) + Leaf("b", log)
    world.run(world.healer(), 20, bad_after=10)
    world.bad = False
    assert [("a", 0), ("a", 1), ("b", 0)] == [
        (change.key.leaf, change.key.position) for change in JournalReader(world.path).held()
    ]
    with contextlib.closing(sqlite3.connect(world.path)) as connection:
        connection.execute("UPDATE held SET phase = 'reverted' WHERE leaf = 'b'")
        connection.commit()
    put_aside(world.path)
    log.clear()
    world.run(world.healer(), 100)

    assert ["-a", "-a"] == log
    assert [HeldPhase.REVERTED] * 3 == world.phases()


def test_an_action_that_cannot_help_leaves_nothing_behind(world):
    """
    What gave up before it changed anything is no open change.
    """

    class Picky(Divert):
        def recover(self, ctx):
            raise Escalate("nobody to divert to")

    world.action = Picky(world)
    world.run(world.healer(), 20, bad_after=10)

    assert [HeldPhase.REVERTED] == world.phases()


def test_results_are_sampled(world):
    """
    Each change of status and one result a minute are kept, and no more.
    """
    world.action = Divert(world)
    world.run(world.healer(), 300, bad_after=200)
    kept = JournalReader(world.path).results(check="db")
    statuses = [result.status for result in kept]

    assert [HealthStatus.HEALTHY] * 4 + [HealthStatus.UNHEALTHY] == statuses[:5]
    assert all(later.at - result.at >= 60 for result, later in itertools.pairwise(kept) if later[2:4] == result[2:4])


def test_texts_of_exceptions_are_not_kept(world):
    """
    What a probe raised is known by its kind; its text is nowhere in the files.
    """
    world.run(world.healer(), 200, bad_after=10)

    for file in world.path.parent.iterdir():
        assert b"secret" not in file.read_bytes()


def test_only_its_owner_may_read_it(world):
    """
    Whatever the umask, the files are for the owner alone.
    """
    before = os.umask(0)
    try:
        world.run(world.healer(), 20)
    finally:
        os.umask(before)
    assert {0o600} == {stat.S_IMODE(file.stat().st_mode) for file in world.path.parent.iterdir()}


def test_a_symbolic_link_leads_to_the_same_journal(world, tmp_path):
    """
    The file it leads to is for its owner alone, also if there was none; a damaged one is moved aside where it stands.
    """
    folder = tmp_path / "data"
    folder.mkdir()
    world.path = tmp_path / "link.db"
    world.path.symlink_to(folder / "selfheal.db")
    before = os.umask(0)
    try:
        world.run(world.healer(), 20)
    finally:
        os.umask(before)
    assert {0o600} == {stat.S_IMODE(file.stat().st_mode) for file in folder.iterdir()}
    (folder / "selfheal.db").write_bytes(b"rubbish" * 2000)
    world.run(world.healer(), 20)

    assert b"rubbish" * 2000 == (folder / "selfheal.db.corrupt-1").read_bytes()
    assert world.path.is_symlink()
    assert [world.path] == [path for path in tmp_path.iterdir() if path != folder]
    assert 0 < len(JournalReader(world.path).results())


def test_old_incidents_and_results_make_room(world):
    """
    No more is kept than was asked for, give or take what is looked at in one go.
    """
    journal = SqliteJournal(world.path, max_incidents=3, max_results=5)
    healer = world.healer(journal)

    async def main():
        async with healer:
            for _ in range(30):
                world.bad = True
                await world.clock.sleep(20)
                world.bad = False
                await world.clock.sleep(100)

    world.clock.run(main)
    with contextlib.closing(sqlite3.connect(world.path)) as connection:
        counts = {
            table: connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
            for table in ("incidents", "entries")
        }
        (orphans,) = connection.execute(
            "SELECT count(*) FROM entries WHERE incident NOT IN (SELECT id FROM incidents)"
        ).fetchone()
    assert 30 == len(healer.incidents())
    assert counts["incidents"] < 20
    assert counts["entries"] < 20 * 20
    assert 0 == orphans


def test_an_incident_that_died_with_its_process_is_aborted(world):
    """
    What a process left open is closed by the next one, at the time of its last entry.
    """
    world.run(world.healer(), 20, bad_after=10)
    with contextlib.closing(sqlite3.connect(world.path)) as connection:
        connection.execute("UPDATE incidents SET ended = NULL, result = NULL")
        connection.commit()
    put_aside(world.path)
    world.bad = False
    world.run(world.healer(), 10)
    (incident,) = JournalReader(world.path).incidents()

    assert ("aborted", incident.timeline[-1].at) == (incident.result.value, incident.ended)


@pytest.mark.parametrize(
    ("pragma", "message"), [("user_version = 2", "a newer selfheal"), ("application_id = 7", "something else")]
)
def test_a_file_that_is_not_ours_is_refused_and_left_alone(world, pragma, message):
    """
    A journal of a newer version, and somebody else's database, keep the healer from starting; nothing is written.
    """
    world.run(world.healer(), 10)
    with contextlib.closing(sqlite3.connect(world.path)) as connection:
        connection.execute(f"PRAGMA {pragma}")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    before = world.path.read_bytes()
    with pytest.raises(ConfigError, match=message):
        world.run(world.healer(), 10)
    with pytest.raises(ConfigError, match=message):
        JournalReader(world.path).incidents()
    assert before == world.path.read_bytes()


@pytest.mark.parametrize("damage", ["rubbish", "torn"])
def test_a_damaged_file_is_kept_aside_and_a_new_one_begun(world, damage):
    """
    The damaged file is under another name, to the last byte, and the new one goes on.
    """
    world.run(world.healer(), 20, bad_after=10)
    for suffix in ("-wal", "-shm"):
        (world.path.parent / f"selfheal.db{suffix}").unlink(missing_ok=True)
    whole = world.path.read_bytes()
    broken = b"rubbish" * 2000 if damage == "rubbish" else whole[:4096] + b"\xff" * (len(whole) - 4096)
    world.path.write_bytes(broken)
    world.events.clear()
    world.bad = world.diverted = False
    world.run(world.healer(), 100, bad_after=10)

    (said,) = world.heard(names.JOURNAL_REPLACED)
    assert set(names.EVENTS[names.JOURNAL_REPLACED].fields) == set(said)
    assert "selfheal.db.corrupt-1" == said["kept"]
    assert broken == (world.path.parent / "selfheal.db.corrupt-1").read_bytes()
    assert 1 == len(JournalReader(world.path).incidents())


def test_a_new_file_knows_what_is_in_force(world):
    """
    If the file is deleted while a change is held, the next one has that change.
    """
    journal = SqliteJournal(world.path)
    healer = world.healer(journal)

    async def main():
        async with healer:
            world.bad = True
            await world.clock.sleep(10)
            for file in world.path.parent.iterdir():
                file.unlink()
            world.diverted = False
            await world.clock.sleep(3)

    world.clock.run(main)

    assert [(DIVERT, HeldPhase.APPLIED)] == [(change.key, change.phase) for change in JournalReader(world.path).held()]


def test_while_it_cannot_be_written_healing_goes_on_and_the_loss_is_said(world):
    """
    Without its folder the journal keeps the newest rows, counts the others, says so once, and goes back when it can.
    """
    world.path = world.path.parent / "missing" / "selfheal.db"
    journal = SqliteJournal(world.path, ring=10)
    world.phases = list
    healer = world.healer(journal)

    async def main():
        async with healer:
            world.bad = True
            await world.clock.sleep(20)
            world.bad = False
            await world.clock.sleep(80)
            world.path.parent.mkdir()
            await world.clock.sleep(100)

    world.clock.run(main)

    assert ["healed"] == [incident.result.value for incident in healer.incidents()]
    assert ["intent", "reverting"] == [fields["phase"] for fields in world.heard(names.HELD_UNRECORDED)]
    (lost,), (back,) = world.heard(names.JOURNAL_LOST), world.heard(names.JOURNAL_RESTORED)
    for name, said in ((names.JOURNAL_LOST, lost), (names.JOURNAL_RESTORED, back)):
        assert set(names.EVENTS[name].fields) == set(said)
    assert 0 < journal.dropped == back["dropped"]
    assert ("", 0) == (journal.failing, journal.waiting)
    assert [HeldPhase.REVERTED] == [change.phase for change in JournalReader(world.path).held(reverted=True)]


@pytest.mark.parametrize("setting", ["ring", "max_incidents", "max_results"])
def test_bounds_are_at_least_one(setting):
    """
    A journal that could keep nothing is a mistake.
    """
    with pytest.raises(ConfigError, match=setting):
        SqliteJournal("selfheal.db", **{setting: 0})


def test_what_is_no_journal_is_refused():
    """
    Healer(journal=) takes a path or something with a journal's methods.
    """
    with pytest.raises(ConfigError, match="must be the path of a file"):
        Healer(journal=7)


def test_a_journal_has_one_name(world):
    """
    Under a second name the living would take one another for dead, so a file with two names is refused at the start.
    """
    world.run(world.healer(), 1)
    os.link(world.path, f"{world.path}-too")
    with pytest.raises(ConfigError, match="another name"):
        world.run(world.healer(), 1)


@pytest.mark.parametrize("change", ["DROP TABLE held", "ALTER TABLE entries DROP COLUMN fields"])
def test_a_journal_whose_tables_are_damaged_is_moved_aside(world, change):
    """
    A file that lacks a table or a column is replaced like any damaged one, and what happens next is in the new one.
    """
    world.run(world.healer(), 1)
    with contextlib.closing(sqlite3.connect(world.path)) as connection:
        connection.execute(change)
    world.run(world.healer(), 20, bad_after=10)
    assert [HeldPhase.APPLIED] == world.phases()
    assert 1 == len(world.heard(names.JOURNAL_REPLACED))


def test_an_owner_that_cannot_be_is_dead(world):
    """
    A damaged number of an owner keeps nobody from taking over what it has left.
    """
    world.run(world.healer(), 20, bad_after=10)
    put_aside(world.path, number=-3)
    world.bad = False
    world.run(world.healer(), 100)
    assert [HeldPhase.REVERTED] == world.phases()
