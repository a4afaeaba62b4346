"""
Rebuildable with plain functions.
"""

import datetime as dt
import os
import signal
import threading

import pytest

from selfheal import ConfigError, Rebuildable
from selfheal.errors import IllegalTransitionError, RebuildError
from selfheal.resources.rebuild import Rebuild
from selfheal.resources.succession import HANGING_MAX


@pytest.fixture
def things(maker):
    rebuildable = Rebuildable(
        maker.make, verify=maker.verify, close=lambda thing: thing.close(), name="things", grace=30, close_deadline=5
    )
    yield rebuildable
    rebuildable.close()


def test_it_is_made_at_first_use_and_once(maker, things):
    """
    Nothing is made before the first use, and the second use gets the same object.
    """
    assert [] == maker.made
    assert 0 == things.generation
    first = things.current
    assert [first] == maker.made
    assert first is things.current
    with things.use() as leased:
        assert first is leased
    assert 1 == things.generation


def test_the_first_object_is_not_verified(maker, things):
    """
    Where there is no alternative nothing is verified; a rebuild is.
    """
    assert 1 == things.current.number
    assert [] == maker.verified
    assert 2 == things.rebuild().number
    assert [2] == [thing.number for thing in maker.verified]


def test_concurrent_first_uses_build_once():
    """
    Twenty threads at the first use share one build.
    """
    everyone, made, seen = threading.Barrier(20), [], []
    building, go_on = threading.Event(), threading.Event()

    def make():
        made.append(object())
        building.set()
        assert go_on.wait(5)
        return made[-1]

    things = Rebuildable(make, close=lambda thing: None)

    def use():
        everyone.wait(5)
        with things.use() as thing:
            seen.append(thing)

    threads = [threading.Thread(target=use) for _ in range(20)]
    for thread in threads:
        thread.start()
    assert building.wait(5)
    go_on.set()
    for thread in threads:
        thread.join(5)
    assert 1 == len(made)
    assert made * 20 == seen


def test_an_error_of_the_first_build_is_the_users_own(maker, things):
    """
    What the factory raises at first use is raised as it is, and the next use tries again.
    """
    maker.error = OSError("no route")
    with pytest.raises(OSError, match="no route"):
        things.current  # noqa: B018
    with pytest.raises(OSError, match="no route"), things.use():
        pass
    maker.error = None
    assert 1 == things.current.number


def test_a_rebuild_replaces_the_object_and_closes_the_old_one_once(maker, things):
    """
    After a rebuild new uses get the new object, and the old one is closed once.
    """
    old = things.current
    new = things.rebuild()
    assert new is things.current
    assert 2 == things.generation
    assert old.closed.wait(5)
    assert 1 == old.closings
    assert 0 == new.closings


def test_an_old_object_lives_until_its_leases_are_back(maker, things, eventually):
    """
    A lease taken before a rebuild stays usable; the old object is closed when the last lease is back.
    """
    with things.use() as one:
        with things.use() as two:
            assert one is two
            things.rebuild()
            assert (1, 2) == things.generations
            assert 2 == things.statistics().leases
        assert not one.closed.wait(0.02)
        with things.use() as new:
            assert 2 == new.use()
        assert 1 == one.use()
    assert one.closed.wait(5)
    assert eventually(lambda: things.generations == (2,))
    assert (2, 1, 0, 1, 0, 0, 0) == things.statistics()


def test_a_lease_that_never_comes_back_does_not_hold_the_old_object(maker):
    """
    When the grace is over, the old object is closed although a lease is out.
    """
    things = Rebuildable(maker.make, close=lambda thing: thing.close(), grace=0.01)
    with things.use() as old:
        things.rebuild()
        assert old.closed.wait(5)
    assert 1 == old.closings
    things.close()


@pytest.mark.parametrize("broken", ["error", "verify_error"])
def test_a_rebuild_that_fails_leaves_the_old_object_in_service(maker, things, eventually, broken):
    """
    Neither a factory nor a verify that raises takes the old object out of service; the half-built one is closed.
    """
    old = things.current
    setattr(maker, broken, OSError("no route"))
    with pytest.raises(RebuildError, match=r"^things: .* \(OSError\); generation 1 stays in service") as caught:
        things.rebuild()
    assert "no route" == str(caught.value.__cause__)
    assert old is things.current
    assert 0 == old.closings
    for half_built in maker.made[1:]:
        assert half_built.closed.wait(5)
    assert eventually(lambda: things.statistics().alive == 1)
    setattr(maker, broken, None)
    assert things.rebuild() is things.current is not old


def test_a_failed_rebuild_before_the_first_use_says_that_nothing_is_in_service(maker, things):
    """
    The error of a rebuild without a predecessor does not promise one.
    """
    maker.error = OSError("no route")
    with pytest.raises(RebuildError, match="nothing is in service yet"):
        things.rebuild()


def test_errors_of_close_are_recorded_not_raised(maker, eventually):
    """
    A close that raises is counted and kept; the rebuild has succeeded all the same.
    """

    def close(thing):
        raise OSError("already gone")

    things = Rebuildable(maker.make, close=close, name="things")
    things.current  # noqa: B018
    assert 2 == things.rebuild().number
    assert eventually(lambda: things.statistics().close_errors == 1)
    assert "already gone" == str(things.last_close_error)
    assert (2, 1, 0, 1, 1, 0, 0) == things.statistics()


def test_a_close_that_hangs_is_given_up_and_counted(maker, eventually):
    """
    A close that does not end in time is given up, blocks no later rebuild, and is known until it ends.
    """
    let_go = threading.Event()
    things = Rebuildable(maker.make, close=lambda thing: let_go.wait(30), name="things", close_deadline=0.01)
    things.current  # noqa: B018
    things.rebuild()
    assert 3 == things.rebuild().number
    assert eventually(lambda: things.statistics().given_up == 2)
    assert 2 == things.statistics().hanging
    assert isinstance(things.last_close_error, TimeoutError)
    assert "things: closing generation" in str(things.last_close_error)
    let_go.set()
    assert eventually(lambda: things.statistics().hanging == 0)
    assert 2 == things.statistics().given_up


def test_closes_that_hang_without_end_stop_rebuilds(maker, eventually):
    """
    When too many closes hang, a rebuild is refused and says that only a restart helps.
    """
    let_go = threading.Event()
    things = Rebuildable(maker.make, close=lambda thing: let_go.wait(30), name="things", close_deadline=0)
    things.current  # noqa: B018
    for done in range(HANGING_MAX):
        things.rebuild()
        assert eventually(lambda done=done: things.statistics().hanging == done + 1)
    with pytest.raises(RebuildError, match="restart the process"):
        things.rebuild()
    let_go.set()
    assert eventually(lambda: things.statistics().hanging == 0)
    things.rebuild()


def test_at_most_two_are_alive(maker):
    """
    A third object is not made before the first is gone; then it is, without an error.
    """
    may_close = threading.Event()
    most = []

    def make():
        thing = maker.make()
        most.append(sum(not other.closings for other in maker.made))
        return thing

    def close(thing):
        assert may_close.wait(5)
        thing.close()

    things = Rebuildable(make, close=close, name="things")
    things.current  # noqa: B018
    things.rebuild()
    third = threading.Thread(target=things.rebuild)
    third.start()
    third.join(0.02)
    assert third.is_alive()
    assert 2 == len(maker.made)
    may_close.set()
    third.join(5)
    assert 3 == things.generation
    assert 2 == max(most)


def test_concurrent_rebuilds_share_one_build(maker):
    """
    While one rebuild is under way, others get its result.
    """
    building, go_on = threading.Event(), threading.Event()

    def make():
        thing = maker.make()
        if thing.number == 2:
            building.set()
            assert go_on.wait(5)
        return thing

    things = Rebuildable(make, close=lambda thing: thing.close())
    things.current  # noqa: B018
    results = []
    threads = [threading.Thread(target=lambda: results.append(things.rebuild())) for _ in range(5)]
    threads[0].start()
    assert building.wait(5)
    for thread in threads[1:]:
        thread.start()
    with things.use() as meanwhile:
        assert 1 == meanwhile.use()
    threads[-1].join(0.02)
    go_on.set()
    for thread in threads:
        thread.join(5)
    assert [2] * 5 == [thing.number for thing in results]


def test_concurrent_rebuilds_share_one_failure(maker):
    """
    Whoever waits for a rebuild that fails is told so, each by an error of its own.
    """
    building, go_on = threading.Event(), threading.Event()

    def verify(thing):
        building.set()
        assert go_on.wait(5)
        raise OSError("no route")

    things = Rebuildable(maker.make, verify=verify, close=lambda thing: thing.close())
    errors = []

    def rebuild():
        try:
            things.rebuild()
        except RebuildError as exc:
            errors.append(exc)

    threads = [threading.Thread(target=rebuild) for _ in range(2)]
    threads[0].start()
    assert building.wait(5)
    threads[1].start()
    threads[1].join(0.02)
    go_on.set()
    for thread in threads:
        thread.join(5)
    assert 1 == len(maker.made)
    assert 2 == len(set(errors))
    assert 1 == len({error.__cause__ for error in errors})


def test_user_code_runs_under_no_lock(maker):
    """
    Factory, verify and close may look at the very object that calls them, from other threads too.
    """
    looks = []

    def look():
        looker = threading.Thread(target=lambda: looks.append((things.statistics(), things.current.number)))
        looker.start()
        looker.join(5)
        assert not looker.is_alive()

    def make():
        if maker.made:
            look()
        return maker.make()

    things = Rebuildable(make, verify=lambda thing: look(), close=lambda thing: (look(), thing.close()))
    old = things.current
    things.rebuild()
    assert old.closed.wait(5)
    assert [1, 1, 2] == [number for _, number in looks]


def test_a_factory_that_uses_itself_is_told(maker):
    """
    A factory that needs what it is to make gets an error instead of a deadlock.
    """
    things = Rebuildable(lambda: things.current, close=lambda thing: None, name="things")
    with pytest.raises(IllegalTransitionError, match="uses things itself"):
        things.current  # noqa: B018


def test_an_interrupted_rebuild_leaves_the_old_object_in_service(maker):
    """
    Ctrl-C during verify passes through, closes the half-built object and changes nothing else.
    """

    def verify(thing):
        raise KeyboardInterrupt

    things = Rebuildable(maker.make, verify=verify, close=lambda thing: thing.close())
    old = things.current
    with pytest.raises(KeyboardInterrupt):
        things.rebuild()
    assert old is things.current
    assert maker.made[1].closed.wait(5)
    things.close()
    assert 1 == old.closings


def test_closing_waits_for_leases_and_ends_it_for_good(maker, things):
    """
    After `close` the object is closed, every further use has a clear error, and closing again does nothing.
    """
    entered, leave = threading.Event(), threading.Event()

    def hold():
        with things.use():
            entered.set()
            assert leave.wait(5)

    holder = threading.Thread(target=hold)
    holder.start()
    assert entered.wait(5)
    closer = threading.Thread(target=things.close)
    closer.start()
    closer.join(0.02)
    assert closer.is_alive()
    leave.set()
    closer.join(5)
    holder.join(5)
    assert 1 == maker.made[0].closings
    for use in (lambda: things.current, lambda: things.use().__enter__(), things.rebuild, things.ensure):
        with pytest.raises(IllegalTransitionError, match="things was closed"):
            use()
    things.close()
    assert 1 == maker.made[0].closings
    assert "<Rebuildable things, generation 0, closed>" == repr(things)


def test_a_rebuild_that_is_overtaken_by_close_leaks_nothing(maker):
    """
    Closing while a rebuild is under way closes the new object as well.
    """

    def verify(thing):
        things.close()

    things = Rebuildable(maker.make, verify=verify, close=lambda thing: thing.close(), name="things")
    things.current  # noqa: B018
    with pytest.raises(IllegalTransitionError, match="things was closed"):
        things.rebuild()
    for thing in maker.made:
        assert thing.closed.wait(5)
    assert [1, 1] == [thing.closings for thing in maker.made]


@pytest.mark.parametrize("is_before", [False, True])
def test_a_rebuild_while_a_lease_is_taken_is_noticed(maker, things, is_before):
    """
    If the object is replaced while a lease is being taken, the lease is for the new one and the old one can go.
    """

    class Leases(list):
        def append(self, lease):
            if is_before:
                things.rebuild()
            super().append(lease)
            if not is_before:
                things.rebuild()

    old = things.current
    things._succession.in_service.leases = Leases()
    with things.use() as leased:
        assert 2 == leased.use()
        assert old.closed.wait(5)
    assert 0 == things.statistics().leases


def test_a_lease_is_for_one_block(things):
    """
    Entering a lease that is in use is refused, and leaves its count right.
    """
    lease = things.use()
    with lease, pytest.raises(IllegalTransitionError, match=r"Call use\(\) for each block"), lease:
        pass
    assert 0 == things.statistics().leases


def test_a_block_that_raises_gives_its_lease_back(things):
    """
    A lease ends with its block, also when that raises.
    """
    with pytest.raises(ZeroDivisionError), things.use():
        1 / 0  # noqa: B018
    assert 0 == things.statistics().leases


def test_forgetting_builds_anew_and_closes_nothing(maker, things):
    """
    After a fork the child builds its own object; the parent's is neither used nor closed, not even by a lease's end.
    """
    with things.use() as inherited:
        things.reset_after_fork()
        assert 0 == things.generation
        assert 2 == things.current.number
    assert 2 == things.generation
    assert 0 == inherited.closings
    assert (2, 1, 0, 0, 0, 0, 0) == things.statistics()


@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
@pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform does not fork")
def test_a_forked_child_has_an_object_of_its_own(maker, things):
    """
    A child builds for itself, even if a lock was held at the fork; the parent's object stays open.
    """
    parents = things.current
    things._succession._lock.acquire()  # as a thread that is interrupted by the fork would
    pid = os.fork()
    if not pid:
        signal.alarm(10)
        try:
            child_ok = things.current is not parents and things.generation == 2 and not parents.closings
            things.rebuild()
            things.close()
            os._exit(0 if child_ok and not parents.closings else 1)
        finally:
            os._exit(2)
    things._succession._lock.release()
    assert 0 == os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert parents is things.current
    assert 0 == parents.closings


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "Order DB"}, "not usable as a metric label"),
        ({"grace": -1}, r"grace=-1: must be a finite number of seconds"),
        ({"grace": float("inf")}, "grace=inf"),
        ({"close_deadline": float("nan")}, "is not a time"),
        ({"close": None}, "close=None cannot be called"),
        ({"verify": 3}, "verify=3 cannot be called"),
        ({"factory": []}, r"factory=\[\] cannot be called"),
    ],
)
def test_settings_that_cannot_work_are_named(arguments, message):
    """
    A setting that cannot work is refused at once, by name.
    """
    given = {"factory": object, "close": print, **arguments}
    with pytest.raises(ConfigError, match=message):
        Rebuildable(given.pop("factory"), **given)


def test_times_may_be_timedeltas(maker):
    """
    Every time accepts a timedelta.
    """
    things = Rebuildable(maker.make, close=print, grace=dt.timedelta(seconds=1), close_deadline=dt.timedelta(seconds=2))
    assert 3 == things._retirement.patience


def test_a_coroutine_from_a_lambda_has_a_clear_error(maker):
    """
    A lambda that hides a coroutine cannot be awaited in a thread, and is told to be an async function.
    """
    things = Rebuildable(lambda: maker.amake(), close=lambda thing: None)
    with pytest.raises(ConfigError, match="async def"):
        things.current  # noqa: B018


def test_the_action_rebuilds_and_says_so(maker, things, ctx, said):
    """
    Rebuild is a rung like any other: it replaces the object and notes the new generation.
    """
    old = things.current
    action = Rebuild(things)
    assert "replace generation 1 of things by a new object" == action.plan()
    assert ["rebuild"] == [rung.name for rung in action.as_ladder().rungs]
    assert not action.held
    assert action.recover(ctx) is None
    assert things.current is not old
    assert [("generation 2 of things is in service", {"generation": 2, "close_errors": 0, "given_up": 0})] == said


def test_the_action_fails_when_the_rebuild_does(maker, things, ctx):
    """
    A rebuild that fails is an action that fails.
    """
    maker.verify_error = OSError("no route")
    with pytest.raises(RebuildError):
        Rebuild(things, name="rebuild_things").recover(ctx)
