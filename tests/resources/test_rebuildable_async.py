"""
Rebuildable with coroutine functions, on asyncio and trio.
"""

import threading

import anyio
import pytest

from selfheal import Rebuildable
from selfheal.errors import IllegalTransitionError, RebuildError
from selfheal.resources.rebuild import Rebuild


pytestmark = pytest.mark.anyio


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request):
    return request.param


@pytest.fixture
def things(maker):
    return Rebuildable(maker.amake, verify=maker.averify, close=maker.aclose, name="things", grace=5, close_deadline=5)


async def soon(claim):
    """Let the loop and its threads get on with it until *claim* holds."""
    with anyio.fail_after(5):
        while not claim():
            await anyio.sleep(0.001)


async def test_it_is_made_at_first_use_and_once(maker, things):
    """
    Tasks that enter at once share one build; afterwards sync code may use it too.
    """
    seen = []

    async def use():
        async with things.use() as thing:
            seen.append(thing)

    async with anyio.create_task_group() as group:
        for _ in range(10):
            group.start_soon(use)
    assert maker.made * 10 == seen
    assert 1 == things.generation
    with things.use() as thing:
        assert thing is things.current
    await things.aclose()
    assert 1 == maker.made[0].closings


async def test_an_unbuilt_async_object_cannot_be_had_in_sync_code(maker, things):
    """
    Sync code that comes first is told how an async object is built; nothing is made.
    """
    with pytest.raises(IllegalTransitionError, match=r"async with things\.use\(\)"):
        things.current  # noqa: B018
    with pytest.raises(IllegalTransitionError, match=r"await things\.aensure\(\)"), things.use():
        pass
    with pytest.raises(IllegalTransitionError, match=r"await arebuild\(\)"):
        things.rebuild()
    assert [] == maker.made
    await things.aensure()
    assert 1 == things.current.number
    with pytest.raises(IllegalTransitionError, match=r"await aclose\(\)"):
        things.close()
    await things.aclose()


async def test_a_rebuild_replaces_the_object_and_closes_the_old_one_on_the_loop(maker, eventually):
    """
    The old object is closed by a task on the loop, once its leases are back.
    """
    closed_in = []

    async def close(thing):
        closed_in.append(threading.current_thread())
        await anyio.sleep(0)
        thing.close()

    things = Rebuildable(maker.amake, close=close, name="things")
    async with things.use() as old:
        assert 2 == (await things.arebuild()).number
        assert (1, 2) == things.generations
        assert 1 == old.use()
    await soon(lambda: things.generations == (2,))
    assert [threading.current_thread()] == closed_in
    assert (2, 1, 0, 1, 0, 0, 0) == things.statistics()
    await things.aclose()


@pytest.mark.parametrize("broken", ["error", "verify_error"])
async def test_a_rebuild_that_fails_leaves_the_old_object_in_service(maker, things, broken):
    """
    Neither a factory nor a verify that raises takes the old object out of service; the half-built one is closed.
    """
    old = await things.aensure()
    setattr(maker, broken, OSError("no route"))
    with pytest.raises(RebuildError, match="generation 1 stays in service") as caught:
        await things.arebuild()
    assert "no route" == str(caught.value.__cause__)
    assert old is things.current
    await soon(lambda: things.generations == (1,))
    assert [0] + [1] * (broken == "verify_error") == [thing.closings for thing in maker.made]
    await things.aclose()


@pytest.mark.parametrize("where", ["factory", "verify", "room"])
async def test_a_cancelled_rebuild_leaves_the_old_object_in_service(maker, where):
    """
    Cancelled in the factory, in verify or while it waits for room, a rebuild changes and leaks nothing.
    """
    hang = anyio.Event()
    close_may_go_on = threading.Event()

    async def make():
        if maker.made and where == "factory":
            await hang.wait()
        return maker.make()

    async def verify(thing):
        if where == "verify":
            await hang.wait()

    async def close(thing):
        while where == "room" and not close_may_go_on.is_set():
            await anyio.sleep(0.001)
        thing.close()

    things = Rebuildable(make, verify=verify, close=close, name="things")
    await things.aensure()
    if where == "room":
        await things.arebuild()
    old = things.current
    with anyio.move_on_after(0.01) as scope:
        await things.arebuild()
    assert scope.cancelled_caught
    assert old is things.current
    assert not old.closings
    close_may_go_on.set()
    await soon(lambda: things.statistics().alive == 1)
    assert all(thing.closings == 1 for thing in maker.made if thing is not old)
    await things.aclose()


async def test_who_waits_for_a_cancelled_rebuild_takes_over(maker):
    """
    When the task that builds is cancelled, one of those who wait builds in its place.
    """
    hang = anyio.Event()
    results = []

    async def make():
        thing = maker.make()
        if thing.number == 2:
            await hang.wait()
        return thing

    things = Rebuildable(make, close=maker.aclose, name="things")
    await things.aensure()

    async def rebuild():
        results.append(await things.arebuild())

    async with anyio.create_task_group() as group:
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as cancelled:
                cancelled.start_soon(rebuild)
                await soon(lambda: len(maker.made) == 2)
                group.start_soon(rebuild)
                await anyio.sleep(0.005)
                scope.cancel()
    assert [3] == [thing.number for thing in results]
    await things.aclose()


async def test_concurrent_rebuilds_share_one_build(maker):
    """
    While one rebuild is under way, other tasks get its result.
    """
    results = []

    async def make():
        thing = maker.make()
        await anyio.sleep(0.005)
        return thing

    things = Rebuildable(make, close=maker.aclose, name="things")
    await things.aensure()

    async def rebuild():
        results.append((await things.arebuild()).number)

    async with anyio.create_task_group() as group:
        for _ in range(5):
            group.start_soon(rebuild)
    assert [2] * 5 == results
    await things.aclose()


async def test_a_close_that_hangs_is_cancelled_and_counted(maker):
    """
    An async close that does not end in time is given up, and its task cancelled once.
    """
    cancelled = []

    async def close(thing):
        try:
            await anyio.sleep_forever()
        finally:
            cancelled.append(thing.number)

    things = Rebuildable(maker.amake, close=close, name="things", close_deadline=0.01)
    await things.aensure()
    await things.arebuild()
    await soon(lambda: cancelled == [1] and things.statistics().hanging == 0)
    assert 1 == things.statistics().given_up
    assert isinstance(things.last_close_error, TimeoutError)


async def test_errors_of_close_are_recorded_not_raised(maker):
    """
    An async close that raises is counted and kept, and harms neither task nor loop.
    """

    async def close(thing):
        raise OSError("already gone")

    things = Rebuildable(maker.amake, close=close, name="things")
    await things.aensure()
    await things.arebuild()
    await soon(lambda: things.statistics().close_errors == 1)
    assert "already gone" == str(things.last_close_error)


async def test_sync_and_async_functions_mix(maker):
    """
    One coroutine function makes an async object; its plain functions are called on the loop as well.
    """
    here = threading.current_thread()
    threads = []

    def make():
        threads.append(threading.current_thread())
        return maker.make()

    things = Rebuildable(make, close=maker.aclose, name="things")
    assert things.is_async
    async with things.use() as thing:
        assert 1 == thing.use()
    await things.arebuild()
    assert [here, here] == threads
    await things.aclose()


async def test_a_sync_object_is_built_beside_the_loop(maker):
    """
    The functions of a sync object run in threads, so that a slow one does not stop the loop.
    """
    here = threading.current_thread()
    threads = []

    def make():
        threads.append(threading.current_thread())
        return maker.make()

    things = Rebuildable(make, verify=maker.verify, close=lambda thing: thing.close(), name="things")
    assert not things.is_async
    async with things.use() as old:
        assert 2 == (await things.arebuild()).number
    assert here not in threads
    await things.aclose()
    assert old.closed.is_set()
    assert [1, 1] == [thing.closings for thing in maker.made]


async def test_errors_of_a_build_beside_the_loop_arrive(maker):
    """
    What a thread raises while it builds reaches the task that asked.
    """
    things = Rebuildable(maker.make, close=lambda thing: thing.close(), name="things")
    maker.error = OSError("no route")
    with pytest.raises(OSError, match="no route"):
        async with things.use():
            pass
    with pytest.raises(RebuildError):
        await things.arebuild()


async def test_a_build_beside_the_loop_that_is_cancelled_is_dropped(maker):
    """
    When its task is cancelled, what a thread builds is closed as soon as it is there, and never in service.
    """
    building, go_on = threading.Event(), threading.Event()

    def make():
        if maker.made:
            building.set()
            assert go_on.wait(5)
        return maker.make()

    things = Rebuildable(make, close=lambda thing: thing.close(), name="things")
    old = things.current
    with anyio.move_on_after(0.01):
        await things.arebuild()
    assert building.is_set()
    go_on.set()
    await soon(lambda: len(maker.made) == 2 and maker.made[1].closings == 1)
    assert old is things.current
    await soon(lambda: things.statistics().alive == 1)
    assert 3 == (await things.arebuild()).number
    await things.aclose()


async def test_the_action_is_awaited(maker, things, ctx, said):
    """
    Rebuild of an async object returns an awaitable, as a runner expects of it.
    """
    await things.aensure()
    await Rebuild(things).recover(ctx)
    assert 2 == things.generation
    assert ["generation 2 of things is in service"] == [message for message, _ in said]
    await things.aclose()


def test_a_loop_that_has_ended_closes_nothing(maker, eventually, anyio_backend):
    """
    An old object whose loop ended before its leases came back is given up, counted, and keeps nobody waiting.
    """
    things = Rebuildable(maker.amake, close=maker.aclose, name="things")
    lease = things.use()

    async def main():
        await things.aensure()
        lease.__enter__()
        await things.arebuild()

    anyio.run(main, backend=anyio_backend)
    lease.__exit__()
    assert eventually(lambda: things.statistics().given_up == 1)
    assert 0 == things.statistics().hanging
    assert isinstance(things.last_close_error, RuntimeError)
