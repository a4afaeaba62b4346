"""
Held changes and the journal: written down around each change, and taken over at start from whoever has left them.

Healing never waits for a journal longer than a moment: what it does not know is told as an event.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Final

from selfheal import names
from selfheal.errors import Escalate
from selfheal.model.held import HeldChange, HeldKey, HeldPhase
from selfheal.model.steps import HealingState
from selfheal.recovery.action import RecoveryAction, leaves
from selfheal.runtime.schedule import Timed
from selfheal.runtime.threads import NotStarted


if TYPE_CHECKING:
    from selfheal.model import Journal, Rung
    from selfheal.recovery.plan import Run
    from selfheal.runtime.actions import ActionRun
    from selfheal.runtime.driver import Driver
    from selfheal.runtime.watch import Watch

#: Seconds that a journal gets to answer, and the share of an action's own time, if that is shorter.
ANSWER_WITHIN: Final = 1.0
SHARE: Final = 0.25

#: Seconds between two looks whether a check that was busy can take over what was left.
LOOK_EVERY: Final = 1.0

#: Where a held leaf is: its check, the rung's index, and the leaf itself.
Place = tuple["Watch", int, RecoveryAction]


class Keeper:
    """
    What one driver tells its journal.
    """

    def __init__(self, driver: Driver, journal: Journal) -> None:
        self.driver = driver
        self.journal = journal
        #: How far the changes of this process have come, as far as they are open.
        self.phases: dict[HeldKey, HeldPhase] = {}
        #: Numbers of what was reported: once in a life is enough.
        self.reported: set[int] = set()

    def note(self, run: ActionRun, instruction: Run, begin: Callable[[Run], None]) -> Noted:
        """
        Write down that a held leaf is about to be run or reverted, then call *begin*.
        """
        key = key_of(run.watch, run.rung, instruction.leaf)
        noted = Noted(self, run.watch, key, revert=instruction.revert, begin=lambda: begin(instruction))
        noted.ask(instruction.until)
        return noted

    def mark(self, key: HeldKey, phase: HeldPhase, answer: Callable[[bool], object]) -> None:
        """
        Write down how far a change has come.
        """
        if phase is HeldPhase.REVERTED:
            self.phases.pop(key, None)
        else:
            self.phases[key] = phase
        try:
            self.journal.mark(key, phase, answer)
        except Exception as exc:  # noqa: BLE001 - a journal that breaks must not keep anybody from healing
            self.driver.reporter.failed(None, "mark", exc)
            answer(False)

    def take_over(self, watches: Iterable[Watch], then: Callable[[], None]) -> None:
        """
        Look for held changes of *watches* that were left behind; call *then* when that is done, or takes too long.
        """
        TakeOver(self, watches, then).ask()


class Waiting(Timed):
    """
    Something that waits for the journal.
    """

    def wake(self, now: float) -> None:
        """
        Its time has come.
        """
        raise NotImplementedError


class Noted(Waiting):
    """
    One run of a held leaf, as the journal gets to know it. A handle as long as the leaf has not begun.
    """

    is_task = False

    def __init__(self, keeper: Keeper, watch: Watch, key: HeldKey, *, revert: bool, begin: Callable[[], None]) -> None:
        super().__init__()
        self._keeper = keeper
        self._watch = watch
        self._key = key
        self._revert = revert
        self._begin = begin
        self._before = keeper.phases.get(key)
        self._waits = True

    def ask(self, until: float) -> None:
        """
        Write it down, for an action that has time *until* then.
        """
        driver, now = self._keeper.driver, self._keeper.driver.clock.now()
        driver.schedule.put(self, now + min(ANSWER_WITHIN, SHARE * max(0.0, until - now)))
        self._keeper.mark(self._key, self._phase, lambda well: driver.host.post(lambda: self._answered(well=well)))

    @property
    def _phase(self) -> HeldPhase:
        return HeldPhase.REVERTING if self._revert else HeldPhase.INTENT

    def wake(self, now: float) -> None:
        """
        The journal does not answer: go on without it.
        """
        del now
        self._answered(well=False)
        self._keeper.driver.rearm()

    def _answered(self, *, well: bool) -> None:
        if not self._waits:
            return
        self._waits = False
        driver = self._keeper.driver
        driver.schedule.remove(self)
        if not well and not self._watch.gone:
            key = self._key
            driver.reporter.note(
                self._watch, names.HELD_UNRECORDED, action=key.rung, leaf=key.leaf, phase=self._phase.value
            )
            driver.reporter.publish(self._watch)
        self._begin()

    def cancel(self) -> None:
        """
        As `Handle.cancel`: the leaf is not wanted any more, so there is nothing to wait for.
        """
        self._keeper.driver.host.post(lambda: self._answered(well=True))

    def ended(self, error: BaseException | None) -> None:
        """
        The leaf has ended, with *error* if it raised.
        """
        phase: HeldPhase | None
        if isinstance(error, (NotStarted, Escalate)) and not (self._revert and isinstance(error, Escalate)):
            phase = self._before or HeldPhase.REVERTED  # it has changed nothing
        elif not self._revert:
            phase = HeldPhase.APPLIED  # also if it failed: nobody knows how far it came
        else:
            phase = HeldPhase.REVERTED if error is None else None
        if phase is not None:
            self._keeper.mark(self._key, phase, _ignore)


class TakeOver(Waiting):
    """
    The start of some checks: first what was left behind, then their first runs.
    """

    def __init__(self, keeper: Keeper, watches: Iterable[Watch], then: Callable[[], None]) -> None:
        super().__init__()
        self._keeper = keeper
        self._then: Callable[[], None] | None = then
        self._places: dict[HeldKey, Place] = {key: place for watch in watches for key, place in places(watch)}
        #: Leaves to take over, by check and rung, oldest first.
        self._found: dict[Watch, dict[int, list[RecoveryAction]]] = {}

    def ask(self) -> None:
        """
        Ask the journal.
        """
        driver = self._keeper.driver
        driver.schedule.put(self, driver.clock.now() + ANSWER_WITHIN)
        driver.rearm()
        try:
            self._keeper.journal.claim(
                frozenset(self._places), lambda changes: driver.host.post(lambda: self._answered(changes))
            )
        except Exception as exc:  # noqa: BLE001 - a journal that breaks must not keep the checks from starting
            driver.reporter.failed(None, "claim", exc)
            self._go_on()

    def wake(self, now: float) -> None:
        """
        The journal does not answer, or a check was busy when it did.
        """
        self._adopt(now)
        self._go_on()

    def _go_on(self) -> None:
        then, self._then = self._then, None
        if then is not None:
            then()

    def _answered(self, changes: Sequence[HeldChange]) -> None:
        driver = self._keeper.driver
        driver.schedule.remove(self)
        if not driver.open:
            return
        try:
            for change in changes:
                self._take(change)
            self._adopt(driver.clock.now())
        finally:
            self._go_on()

    def _take(self, change: HeldChange) -> None:
        place = self._places.get(change.key)
        if place is None:
            # What another check here could have made is for its next start: it may have made the same by now.
            if all(change.key != key for watch in self._keeper.driver.watches.values() for key, _ in places(watch)):
                self._report(change, "no check here has such an action")
            return
        watch, rung, leaf = place
        if change.phase is HeldPhase.INTENT and not leaf.idempotent:
            self._keeper.mark(change.key, HeldPhase.UNKNOWN, _ignore)
            del self._keeper.phases[change.key]  # a later run of it is another change
            self._report(change, "it is not idempotent, and nobody knows how far it came")
            return
        if change.phase is HeldPhase.UNKNOWN:
            self._report(change, "it is not idempotent, and nobody knows how far it came")
            return
        self._keeper.phases[change.key] = change.phase
        found = self._found.setdefault(watch, {}).setdefault(rung, [])
        if leaf not in found:
            found.append(leaf)
        driver = self._keeper.driver
        driver.reporter.note(
            watch, names.HELD_ADOPTED, action=change.key.rung, leaf=change.key.leaf, phase=change.phase.value
        )

    def _report(self, change: HeldChange, reason: str) -> None:
        key = change.key
        if change.number in self._keeper.reported:
            return
        self._keeper.reported.add(change.number)
        self._keeper.driver.reporter.announce(
            names.HELD_REPORTED,
            {"action": key.rung, "leaf": key.leaf, "phase": change.phase.value, "reason": reason},
            check=key.check,
        )

    def _adopt(self, now: float) -> None:
        driver = self._keeper.driver
        for watch, rungs in tuple(self._found.items()):
            machine = watch.machine
            if watch.gone or not driver.open:
                del self._found[watch]
            elif watch.rests and machine.state is HealingState.IDLE:
                for rung, found in rungs.items():
                    watch.applied.setdefault(rung, [])[:] = found
                machine.adopt(rungs, now=now)
                del self._found[watch]
                driver.reporter.publish(watch)
                if self._then is None:  # it runs already: let it see that there is something to step down
                    driver.advance(watch, now)
        if self._found:
            driver.schedule.put(self, now + LOOK_EVERY)
            driver.rearm()


def places(watch: Watch) -> Iterable[tuple[HeldKey, Place]]:
    """
    The held leaves of a check, and where they are.
    """
    for index, rung in enumerate(watch.check.recovery.rungs):
        for key, leaf in _keys(watch, rung).items():
            yield key, (watch, index, leaf)


def key_of(watch: Watch, rung: Rung, leaf: RecoveryAction) -> HeldKey:
    """
    What a held leaf is called in the journal.
    """
    return next(key for key, other in _keys(watch, rung).items() if other is leaf)


def _keys(watch: Watch, rung: Rung) -> Mapping[HeldKey, RecoveryAction]:
    keys: dict[HeldKey, RecoveryAction] = {}
    counts: dict[str, int] = {}
    for leaf in leaves(rung.action) if isinstance(rung.action, RecoveryAction) else ():
        if leaf.held:
            position = counts[leaf.name] = counts.get(leaf.name, -1) + 1
            keys[HeldKey(watch.check.name, rung.name, leaf.name, position)] = leaf
    return keys


def _ignore(_well: bool) -> None:
    """
    Whether the end is in the journal changes nothing: until it is, the change counts as in force.
    """
