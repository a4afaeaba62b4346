"""
An asyncio service whose connection to its upstream goes mute, as behind a firewall that has forgotten it.

    python examples/asyncio_service.py
"""

from __future__ import annotations

import asyncio
import contextlib
import socketserver
import threading

from selfheal import Healer, HealingPolicy, Rebuildable, health_check
from selfheal.records import tell
from selfheal.resources.rebuild import Rebuild
from selfheal.testing import FaultProxy


class Upstream:
    """A connection to a server that answers each line with that line."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._turn = asyncio.Lock()

    async def ask(self, line: bytes) -> bytes:
        async with self._turn:
            self._writer.write(line + b"\n")
            return (await self._reader.readline()).strip()

    async def close(self) -> None:
        self._writer.close()


async def serve(proxy: FaultProxy) -> None:
    async def connect() -> Upstream:
        return Upstream(*await asyncio.open_connection("127.0.0.1", proxy.port))

    upstream = Rebuildable(connect, close=Upstream.close, name="upstream", grace=1)

    @health_check(
        # Seconds instead of the defaults' minutes, because somebody is watching.
        policy=HealingPolicy(interval=0.5, fast_interval=0.2, timeout=0.3, fall=2, verify_within=5, probation=1),
        recovery=Rebuild(upstream),
    )
    async def upstream_answers() -> None:
        # No timeout here: at its deadline the healer stops waiting, whatever this does.
        async with upstream.use() as connection:
            assert await connection.ask(b"ping") == b"ping"

    async with Healer([upstream_answers]) as healer:
        await healer.await_healthy("upstream_answers", timeout=10)

        proxy.blackhole()
        with contextlib.suppress(TimeoutError):
            async with upstream.use() as connection, asyncio.timeout(0.1):
                await connection.ask(b"lost")
        proxy.heal()
        print("a request got lost; that connection stays mute, only a new one works")

        while not healer.incidents():
            await asyncio.sleep(0.02)
        async with upstream.use() as connection:
            print("a request:", (await connection.ask(b"hello")).decode())

    print(tell(healer.incidents()[0]))
    await upstream.aclose()


class Answer(socketserver.StreamRequestHandler):
    """The upstream: says each line again."""

    def handle(self) -> None:
        for line in self.rfile:
            self.wfile.write(line)


def main() -> None:
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Answer) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with FaultProxy(server.server_address[1]) as proxy:
            asyncio.run(serve(proxy))
        server.shutdown()


if __name__ == "__main__":
    main()
