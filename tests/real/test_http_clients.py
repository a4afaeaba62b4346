"""
HTTP clients in a `Rebuildable`, against real servers on loopback: what a new client heals, and what heals itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.server
import importlib
import threading

from collections.abc import Iterator
from typing import Any

import pytest

from selfheal import Healer, HealingPolicy, HealthCheck, Rebuildable, Unhealthy, names
from selfheal.errors import RebuildError
from selfheal.model import Event, RecoveryContext
from selfheal.resources import Rebuild
from selfheal.testing import FaultProxy


POLICY = HealingPolicy(interval=1, fast_interval=0.2, timeout=1, fall=2, fall_for=0)


@contextlib.contextmanager
def site(name: str) -> Iterator[int]:
    """
    A server that keeps connections alive and answers its name; gives its port.
    """

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(name)))
            self.end_headers()
            self.wfile.write(name.encode())

        def log_message(self, *args: Any) -> None:
            """Say nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


@pytest.fixture
def moving() -> Iterator[tuple[str, FaultProxy, int]]:
    """An address that leads to the server `old`, what moves it, and the port of the server `new`."""
    with site("old") as old, site("new") as new, FaultProxy(old) as proxy:
        yield f"http://127.0.0.1:{proxy.port}/", proxy, new


def limited(module: Any, **options: Any) -> dict[str, Any]:
    """
    One connection, and a short patience with everything.
    """
    limits = module.Limits(max_connections=1)
    return {"limits": limits, "timeout": module.Timeout(0.5, pool=0.2), "trust_env": False, **options}


async def cancel_two(client: Any, url: str) -> None:
    """
    Two requests that are cancelled as soon as they have begun.
    """
    requests = [asyncio.create_task(client.get(url)) for _ in range(2)]
    await asyncio.sleep(0)
    for request in requests:
        request.cancel()
    await asyncio.gather(*requests, return_exceptions=True)


class Watched:
    """
    An async client of httpx or httpx2 in a `Rebuildable`, its check, and what the healer has done.
    """

    def __init__(self, module: Any, url: str) -> None:
        self.module, self.url = module, url
        self.box: Rebuildable[Any] = Rebuildable(
            lambda: module.AsyncClient(**limited(module)), close=module.AsyncClient.aclose, name="search", grace=0.2
        )
        self.events: list[Event] = []
        self.check = HealthCheck(
            self.look, name="search", policy=POLICY, recovery=Rebuild(self.box).when(kinds={"exhausted", "stale"})
        )

    async def look(self) -> None:
        """Through the client, with its own time limits and never cancelled by ours; then with a fresh one."""
        try:
            async with self.box.use() as client:
                await client.get(self.url, timeout=self.module.Timeout(0.3, pool=0.2))
        except self.module.TransportError as exc:
            kind = "exhausted" if isinstance(exc, self.module.PoolTimeout) else "stale"
        else:
            return
        try:
            async with self.module.AsyncClient(**limited(self.module)) as fresh:
                await fresh.get(self.url, timeout=0.3)
        except self.module.TransportError as exc:
            raise Unhealthy("down", "a fresh client fails as well") from exc
        raise Unhealthy(kind, "a fresh client works")

    async def get(self) -> str:
        """One request of the application."""
        async with self.box.use() as client:
            return str((await client.get(self.url)).text)

    def actions(self) -> list[Any]:
        """What the healer has begun."""
        return [event.fields["action"] for event in self.events if event.name == names.ACTION_STARTED]


def test_slots_that_httpx_has_lost_come_back_with_a_new_client(moving: tuple[str, FaultProxy, int]) -> None:
    """
    After two requests that were cancelled at once httpx never has a connection to give again; a healer replaces it, within seconds.
    """
    httpx = pytest.importorskip("httpx")

    async def main() -> list[Any]:
        watched = Watched(httpx, moving[0])
        async with watched.box.use() as lost:
            await cancel_two(lost, watched.url)
            for _ in range(3):
                with pytest.raises(httpx.PoolTimeout):
                    await lost.get(watched.url)
        healer = Healer([watched.check])
        healer.on_event(watched.events.append)
        async with healer, asyncio.timeout(5):
            while watched.box.generation == 1:
                await asyncio.sleep(0.02)
            assert ["old"] * 3 == [await watched.get() for _ in range(3)]
            await healer.await_healthy("search", timeout=3)
        await watched.box.aclose()
        return watched.actions()

    assert ["rebuild"] == asyncio.run(main())


def test_httpx2_loses_no_slots_and_nothing_is_done(moving: tuple[str, FaultProxy, int]) -> None:
    """
    httpx2 gets the slots of cancelled requests back by itself.
    """
    httpx2 = pytest.importorskip("httpx2")

    async def main() -> list[Any]:
        watched = Watched(httpx2, moving[0])
        healer = Healer([watched.check])
        healer.on_event(watched.events.append)
        async with healer:
            for _ in range(10):
                async with watched.box.use() as client:
                    await cancel_two(client, watched.url)
                assert "old" == await watched.get()
                await asyncio.sleep(0.1)
        await watched.box.aclose()
        return watched.actions()

    assert [] == asyncio.run(main())


@pytest.mark.parametrize("name", ["httpx", "httpx2"])
def test_a_client_pinned_by_keep_alive_follows_when_it_is_rebuilt(
    moving: tuple[str, FaultProxy, int], context: RecoveryContext, name: str
) -> None:
    """
    A sync client that is busy stays on the server that it knows, wherever the address leads by now; a new one does not.
    """
    module = pytest.importorskip(name)
    url, proxy, new = moving
    box: Any = Rebuildable(lambda: module.Client(**limited(module)), close=module.Client.close, name="search")
    assert "old" == box.current.get(url).text
    proxy.retarget(new)
    with module.Client(**limited(module)) as fresh:
        assert "new" == fresh.get(url).text
    assert ["old"] * 5 == [box.current.get(url).text for _ in range(5)]
    Rebuild(box).recover(context)
    assert "new" == box.current.get(url).text
    box.close()


@pytest.mark.parametrize("name", ["httpx", "httpx2", "aiohttp"])
def test_an_async_client_pinned_by_keep_alive_follows_when_it_is_rebuilt(
    moving: tuple[str, FaultProxy, int], context: RecoveryContext, name: str
) -> None:
    """
    An async client that is busy stays on the server that it knows, wherever the address leads by now; a new one does not.
    """
    pytest.importorskip(name)
    url, proxy, new = moving

    async def get(client: Any) -> str:
        if name != "aiohttp":
            return str((await client.get(url)).text)
        async with client.get(url) as response:
            return str(await response.text())

    async def main() -> None:
        box = aiohttp_box() if name == "aiohttp" else Watched(importlib.import_module(name), url).box
        async with box.use() as client:
            assert "old" == await get(client)
            proxy.retarget(new)
            assert ["old"] * 5 == [await get(client) for _ in range(5)]
        recovering = Rebuild(box).recover(context)
        assert recovering is not None
        await recovering
        async with box.use() as client:
            assert "new" == await get(client)
        await box.aclose()

    asyncio.run(main())


def aiohttp_box() -> Rebuildable[Any]:
    import aiohttp

    async def make() -> Any:
        return aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=1))

    return Rebuildable(make, close=aiohttp.ClientSession.close, name="search", grace=0.2)


def test_a_new_client_that_does_not_reach_the_server_is_not_taken(
    moving: tuple[str, FaultProxy, int], context: RecoveryContext
) -> None:
    """
    With ``verify`` the old client stays in service, and usable, if a new one does not work.
    """
    httpx = pytest.importorskip("httpx")
    url, proxy, _new = moving

    def verify(client: Any) -> None:
        client.get(url).raise_for_status()

    box: Any = Rebuildable(
        lambda: httpx.Client(**limited(httpx)), close=httpx.Client.close, verify=verify, name="search"
    )
    first = box.ensure()
    proxy.refuse()
    with pytest.raises(RebuildError):
        Rebuild(box).recover(context)
    proxy.heal()
    assert (first, "old") == (box.current, box.current.get(url).text)
    box.close()
