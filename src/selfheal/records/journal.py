"""
A journal in a SQLite file: what happened, and which held changes are in force, beyond the life of the process.
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import threading
import time

from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from selfheal import names
from selfheal.clock import SystemClock
from selfheal.errors import ConfigError
from selfheal.model import TIMELINE_LIMIT, Event, Field, HeldChange, HeldKey, HeldPhase
from selfheal.model.settings import at_least_one, require
from selfheal.records.reading import JournalReader
from selfheal.records.schema import guard, is_damage, refuse_foreign
from selfheal.records.store import CLOSE, ENTRY, OPEN, RESULT, Statement, Store, settle
from selfheal.resources.forks import keep_inherited, reset_in_children


if TYPE_CHECKING:
    from selfheal.clock import Clock

Tell = Callable[[str, Mapping[str, Field]], None]
Answer = Callable[[bool], object]

#: Statements written in one transaction at most, so that a mark never waits for a long one.
_BATCH: Final = 200

#: Seconds from one result of a check that is kept to the next, while nothing changes.
SAMPLE_EVERY: Final = 60.0

#: Seconds between tries while the file cannot be written, doubling from the first to the last.
_RETRY_FIRST, _RETRY_LAST = 0.5, 5.0

#: Events that are no part of an incident's story.
_ASIDE: Final = frozenset({names.CHECK_COMPLETED, names.STEP_FAILED})


class SqliteJournal(JournalReader):
    """
    Keeps incidents, sampled results and held changes in a SQLite file.

    One thread writes, from the first event on; whoever reports never waits for
    the disk. While the file cannot be written, as on a full disk, the newest is
    kept in memory and written later; what falls off is counted, and said with
    ``selfheal.journal.lost``. A damaged file is moved aside and a new one begun.

    Several processes may share one file, on one machine: not over a network.

    Args:
        path: The file; only its owner may read it. Files of the same name and ``-wal``, ``-shm`` and ``-owners``
            stand beside it.
        ring: Rows kept in memory while the file cannot be written, 1 or more.
        max_incidents: Incidents kept, each with at most `TIMELINE_LIMIT` entries.
        max_results: Results kept: each change of status or kind, and one a minute, of each check.

    Raises:
        ConfigError: If a number is out of range.

    .. versionadded:: 26.1.0
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        ring: int = 4096,
        max_incidents: int = 1000,
        max_results: int = 100_000,
    ) -> None:
        super().__init__(path)
        self.ring = ring
        self.max_incidents = max_incidents
        self.max_results = max_results
        require(self, at_least_one, "ring", "max_incidents", "max_results")
        #: Rows that were lost: they fell off the ring, or did not fit into their table.
        self.dropped = 0
        #: Why it cannot be written now, or "".
        self.failing = ""
        self._tell: Tell = lambda _event, _fields: None
        self._to_wall: Callable[[float], float] = float
        self._inline = False
        self._open_changes: dict[HeldKey, HeldPhase] = {}
        self._begin_anew()

    def _begin_anew(self) -> None:
        # Held for a moment only, never while something is written: the loop's thread takes it as well.
        self._pid = os.getpid()
        self._news = threading.Condition(threading.Lock())
        self._rows: deque[Statement] = deque()
        self._marks: dict[HeldKey, HeldPhase] = {}
        self._answers: list[Answer] = []
        self._claims: list[tuple[Collection[HeldKey], Callable[[Sequence[HeldChange]], object]]] = []
        self._closing: list[Callable[[], object]] = []
        self._sampled: dict[str, tuple[Field, Field, float]] = {}
        self._thread: threading.Thread | None = None
        self._writing = False
        self._ended = False
        self._tries = 0
        self._store = Store(
            self.path, max_incidents=self.max_incidents, max_results=self.max_results, wall=SystemClock.wall
        )

    @property
    def waiting(self) -> int:
        """
        Rows that are not in the file yet.
        """
        return len(self._rows) + len(self._marks)

    # --- what a healer calls ----------------------------------------------------

    def start(self, clock: Clock, tell: Tell) -> None:
        """
        As `Journal.start`. Also for another life of the same healer.
        """
        self.reset_after_fork()  # a healer that starts in a child by itself may come before our turn
        with guard():
            refuse_foreign(self.path)
        reset_in_children(self)
        if self._ended:
            self._ended = False
            self._store.begin()
        self._tell = tell
        self._inline = clock.virtual
        self._to_wall = lambda at: clock.wall() - clock.now() + at
        self._store.wall = clock.wall

    def write(self, event: Event) -> None:
        """
        As `Journal.write`. Texts of exceptions are not in an event's fields, and so not here.
        """
        rows = self._rows_of(event)
        if not rows:
            return
        with self._news:
            for row in rows:
                if len(self._rows) >= self.ring:
                    self._rows.popleft()
                    self.dropped += 1
                self._rows.append(row)
        self._wake()

    def mark(self, key: HeldKey, phase: HeldPhase, answer: Answer) -> None:
        """
        As `Journal.mark`. No mark is ever dropped: of each change the last one counts.
        """
        with self._news:
            self._marks.pop(key, None)
            self._marks[key] = phase
            self._answers.append(answer)
            if phase is HeldPhase.REVERTED:
                self._open_changes.pop(key, None)
            else:
                self._open_changes[key] = phase
        self._wake()

    def claim(self, keys: Collection[HeldKey], answer: Callable[[Sequence[HeldChange]], object]) -> None:
        """
        As `Journal.claim`.
        """
        with self._news:
            self._claims.append((keys, answer))
        self._wake()

    def close(self, done: Callable[[], object]) -> None:
        """
        As `Journal.close`. What cannot be written now is kept in memory for the next start.
        """
        with self._news:
            ended = self._inline or self._thread is None or not self._thread.is_alive()
            if not ended:
                self._closing.append(done)
                self._news.notify_all()
        if ended:
            self._end()
            done()

    def settle(self, number: int) -> bool:
        """
        A person has seen to a held change that was reported: it is not in force any more. May take a second.

        Args:
            number: Of the change in `held`.

        Returns:
            Whether an open change had this number.

        Raises:
            ConfigError: If the journal cannot be written.
        """
        with guard():
            try:
                return settle(self.path, number, SystemClock.wall())
            except (sqlite3.Error, OSError) as exc:
                msg = f"the journal {self.path} cannot be written: {exc}."
                raise ConfigError(msg) from exc

    def reset_after_fork(self) -> None:
        """
        Begin anew in a child process: what the parent has not written yet is the parent's to write.
        """
        if self._pid == os.getpid():
            return
        keep_inherited((self._store, self._thread, self._news))
        self._open_changes = {}
        self.dropped, self.failing = 0, ""
        self._begin_anew()

    # --- events as rows -----------------------------------------------------------

    def _rows_of(self, event: Event) -> list[Statement]:
        fields, at = event.fields, self._to_wall(event.at)
        if event.name == names.CHECK_COMPLETED:
            return self._sample(event, at)
        if event.incident is None or event.name in _ASIDE:
            return []
        which: dict[str, Any] = {"check": event.check, "number": event.incident, "at": at}
        entry = (
            ENTRY,
            {**which, "event": event.name, "fields": json.dumps(dict(fields), default=str), "limit": TIMELINE_LIMIT},
        )
        if event.name == names.INCIDENT_OPENED:
            detected = fields["time_to_detect"]
            began = at - detected if isinstance(detected, int | float) else at
            opened = {**which, "resource": event.resource, "kind": fields["kind"], "began": began, "opened": at}
            return [(OPEN, opened), entry]
        if event.name == names.INCIDENT_CLOSED:
            return [entry, (CLOSE, {**which, **{key: fields[key] for key in ("result", "actions", "time_to_recover")}})]
        return [entry]

    def _sample(self, event: Event, at: float) -> list[Statement]:
        status, kind = event.fields["status"], event.fields["kind"]
        before = self._sampled.get(event.check)
        if before is not None and before[:2] == (status, kind) and 0 <= at - before[2] < SAMPLE_EVERY:
            return []
        self._sampled[event.check] = (status, kind, at)
        duration = event.fields["duration"]
        return [(RESULT, {"check": event.check, "at": at, "status": status, "kind": kind, "duration": duration})]

    # --- the writer -----------------------------------------------------------------

    def _wake(self) -> None:
        if self._inline:
            while not self._writing and self._has_work() and self._round():
                pass
            if not self._writing:
                self._store.close()  # nobody ends a simulation
            return
        with self._news:
            if self._thread is None or not self._thread.is_alive():
                thread = threading.Thread(target=self._run, name="selfheal-journal", daemon=True)
                with contextlib.suppress(RuntimeError):  # no thread to be had: whatever comes next asks again
                    thread.start()
                    self._thread = thread
            self._news.notify_all()

    def _has_work(self) -> bool:
        return bool(self._rows or self._marks or self._claims)

    def _run(self) -> None:
        well = True
        while True:
            with self._news:
                self._await_work()
                leaving = self._closing and not (well and self._has_work())
            if not leaving:
                well = self._round()
                continue
            with guard():
                self._store.close()
            with self._news:
                if well and self._has_work():
                    continue  # it came just now
                done, self._closing = self._closing, []
                self._end()
                self._thread = None  # what comes from now on starts another
            for call in done:
                call()
            return

    def _end(self) -> None:
        self._store.leave()  # what is in force still is for whoever starts next, and asks for it
        self._open_changes.clear()
        self._ended = True

    def _await_work(self) -> None:
        """
        Wait for something to write; while it cannot be written, for the next try, unless a mark or a claim has come.
        """
        until = None
        if self._tries:
            until = time.monotonic() + min(_RETRY_LAST, _RETRY_FIRST * 2.0 ** (min(self._tries, 10) - 1))
        while not self._closing:  # who leaves does not wait for better times
            remaining = None if until is None else until - time.monotonic()
            if self._answers or (self._has_work() and (remaining is None or remaining <= 0)):
                return
            self._news.wait(None if not self._has_work() else remaining)

    def _round(self) -> bool:
        """
        Write a batch; whether that was possible.
        """
        with self._news:
            rows = [self._rows[index] for index in range(min(_BATCH, len(self._rows)))]
            dropped = self.dropped
            marks, claims = dict(self._marks), tuple(self._claims)
            answers, self._answers = self._answers, []
        self._writing = True
        try:
            with guard():
                self._open()
                claimed = [self._store.claim(keys) for keys, _ in claims]
                self._store.write(rows, marks.items())
        except Exception as exc:  # noqa: BLE001 - whatever it is: the writer lives, and says that it cannot write
            self._failed(exc)
            well = False
        else:
            self._written(rows, marks, claims, dropped)
            for (keys, answer), changes in zip(claims, claimed, strict=True):
                self._keep(keys, changes)
                answer(changes)
            well = True
        finally:
            self._writing = False
        for call in answers:
            call(well)
        return well

    def _open(self) -> None:
        try:
            another = self._store.open()
        except sqlite3.DatabaseError as exc:
            if not is_damage(exc):
                raise
            self._replace(exc)
            another = self._store.open()
        if another:  # what is in force must not be forgotten with the file
            with self._news:
                self._marks = {**self._open_changes, **self._marks}

    def _replace(self, error: Exception) -> None:
        kept = self._store.move_aside()
        if kept is not None:
            self._tell(names.JOURNAL_REPLACED, {"reason": _reason(error), "kept": os.path.basename(kept)})

    def _keep(self, keys: Collection[HeldKey], changes: Sequence[HeldChange]) -> None:
        with self._news:
            for change in changes:
                if change.key in keys:
                    self._open_changes.setdefault(change.key, change.phase)

    def _written(
        self,
        rows: list[Statement],
        marks: Mapping[HeldKey, HeldPhase],
        claims: Sequence[object],
        dropped: int,
    ) -> None:
        with self._news:
            # Some may have fallen off while these were written: they were not lost.
            fallen = min(self.dropped - dropped, len(rows))
            self.dropped -= fallen
            for _ in range(len(rows) - fallen):
                self._rows.popleft()
            for key, phase in marks.items():
                if self._marks.get(key) is phase:
                    del self._marks[key]
            del self._claims[: len(claims)]
            self.dropped += self._store.refused
            self._store.refused = 0
        self._tries = 0
        if self.failing:
            self.failing = ""
            self._tell(names.JOURNAL_RESTORED, {"waiting": self.waiting, "dropped": self.dropped})

    def _failed(self, error: Exception) -> None:
        self._tries += 1
        with contextlib.suppress(sqlite3.Error, OSError), guard():
            if is_damage(error):
                self._replace(error)
            self._store.close()  # whatever is wrong with it, the next try begins from the path
        if not self.failing:
            self.failing = _reason(error)
            self._tell(names.JOURNAL_LOST, {"reason": self.failing, "waiting": self.waiting, "dropped": self.dropped})


def _reason(error: Exception) -> str:
    return str(getattr(error, "sqlite_errorname", "") or type(error).__name__)
