"""
Faults on demand: a TCP proxy that misbehaves.

It is switched while it runs, from any thread; a switch is in force when its
call returns.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading

from collections.abc import Coroutine
from typing import Any, Final, Self, cast

from selfheal.errors import SelfHealError
from selfheal.resources.loops import Signal


_CHUNK: Final = 65_536
_RESET: Final = struct.pack("ii", 1, 0)  # SO_LINGER with 0 s: closing sends RST


class FaultProxy:
    """
    A TCP proxy on loopback that can be told to misbehave.

    It runs in a thread of its own while its ``with`` block does. What it is told
    holds until `heal`; `latency` may be assigned at any time.

    Args:
        port: Where the real server listens.
        host: On which host.

    Attributes:
        port: Where the proxy listens, on 127.0.0.1. It stays the same for its life.

    Examples:
        >>> import socket
        >>> with socket.create_server(("127.0.0.1", 0)) as server, FaultProxy(server.getsockname()[1]) as proxy:
        ...     proxy.refuse()
        ...     try:
        ...         socket.create_connection(("127.0.0.1", proxy.port))
        ...     except ConnectionRefusedError:
        ...         print("refused")
        refused

    .. versionadded:: 26.1.0
    """

    def __init__(self, port: int, *, host: str = "127.0.0.1") -> None:
        self.port = 0
        self._target = (host, port)
        self._orders = _Orders()
        self._links: set[_Link] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closed: asyncio.Event | None = None
        self._listener: asyncio.Server | None = None

    def __enter__(self) -> Self:
        started: Signal = Signal()
        self._thread = threading.Thread(target=self._run, args=(started,), name="selfheal-fault-proxy", daemon=True)
        self._thread.start()
        started.wait(None)
        self._do(self._listen())
        return self

    def __exit__(self, *_exc: object) -> None:
        self._do(self._close())
        self._thread.join()
        self._loop = None

    @property
    def latency(self) -> float:
        """
        Seconds by which every piece of an answer is late.
        """
        return self._orders.latency

    @latency.setter
    def latency(self, seconds: float) -> None:
        self._orders.latency = seconds

    @property
    def connections(self) -> int:
        """
        Connections that clients have to it now.
        """
        return len(self._links)

    def blackhole(self) -> None:
        """
        Accept everything, swallow it, never answer. A connection that has lost something stays mute for good.
        """
        self._do(self._set(swallows=True))

    def retarget(self, port: int) -> None:
        """
        Lead new connections to another port, as an address that moves to another server does. Open ones stay.
        """
        self._target = (self._target[0], port)

    def refuse(self) -> None:
        """
        Refuse new connections (ECONNREFUSED). Open ones go on.
        """
        self._do(self._unlisten())

    def cut(self, *, after: int = 0) -> None:
        """
        Close each connection in the middle of its answer.

        Args:
            after: Bytes of the answer that still get through, counted from now on for each connection.
        """
        self._do(self._set(cut_after=after))

    def reset(self) -> None:
        """
        Reset all open connections now (RST). New ones are let through.
        """
        self._do(self._reset())

    def heal(self) -> None:
        """
        Let everything through again, new connections included.
        """
        self.latency = 0.0
        self._do(self._listen())
        self._do(self._set())

    # -- on the proxy's own loop -------------------------------------------------

    def _run(self, started: Signal) -> None:
        async def main() -> None:
            self._loop = asyncio.get_running_loop()
            self._closed = closed = asyncio.Event()
            started.set()
            await closed.wait()

        asyncio.run(main())  # cancels what is left of the links

    def _do(self, coroutine: Coroutine[Any, Any, None]) -> None:
        if self._loop is None:
            coroutine.close()
            msg = "this proxy does not run: use it inside 'with FaultProxy(port) as proxy:'."
            raise SelfHealError(msg)
        asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    async def _listen(self) -> None:
        if self._listener is None:
            self._listener = await asyncio.start_server(self._accept, "127.0.0.1", self.port, reuse_address=True)
            self.port = self._listener.sockets[0].getsockname()[1]

    async def _unlisten(self) -> None:
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    async def _set(self, *, swallows: bool = False, cut_after: int | None = None) -> None:
        self._orders.swallows = swallows
        self._orders.cut_after = cut_after
        for link in self._links:
            link.allowance = cut_after

    async def _reset(self) -> None:
        for link in tuple(self._links):
            link.reset()

    async def _close(self) -> None:
        await self._unlisten()
        for link in self._links:
            link.task.cancel()
        if self._closed is not None:
            self._closed.set()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        link = _Link(self._orders, writer)
        self._links.add(link)
        # A peer that has gone, or a server that is not there, ends the link; cancelled is it when the proxy closes.
        try:
            with contextlib.suppress(OSError, asyncio.CancelledError):
                await link.carry(reader, self._target)
        finally:
            self._links.discard(link)
            link.close()


class _Orders:
    """
    What a proxy was told; its links look here.
    """

    latency = 0.0
    swallows = False
    cut_after: int | None = None


class _Link:
    """
    One client's connection, and the one to the server that belongs to it.
    """

    def __init__(self, orders: _Orders, client: asyncio.StreamWriter) -> None:
        self.allowance = orders.cut_after
        self.task = cast("asyncio.Task[None]", asyncio.current_task())
        self._orders = orders
        self._writers = [client]
        self._mute = False

    async def carry(self, client: asyncio.StreamReader, target: tuple[str, int]) -> None:
        """
        Carry data both ways until both sides have ended, or it is cut.
        """
        server, to_server = await asyncio.open_connection(*target)
        self._writers.append(to_server)
        # A side that breaks off ends the link at once; one that has said all may still be answered.
        try:
            async with asyncio.TaskGroup() as both_ways:
                both_ways.create_task(self._pump(server, self._writers[0], is_answer=True))
                both_ways.create_task(self._pump(client, to_server, is_answer=False))
        except* OSError:
            self.close()

    def reset(self) -> None:
        """
        Break both connections at once.
        """
        for writer in self._writers:
            sock: socket.socket = writer.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self.close()

    def close(self) -> None:
        """
        Drop both connections.
        """
        for writer in self._writers:
            writer.transport.abort()

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, *, is_answer: bool) -> None:
        while data := await source.read(_CHUNK):
            if is_answer and self._orders.latency > 0:
                await asyncio.sleep(self._orders.latency)
            self._mute |= self._orders.swallows
            if self._mute:
                continue
            is_cut = is_answer and self.allowance is not None and len(data) > self.allowance
            if is_answer and self.allowance is not None:
                data, self.allowance = data[: self.allowance], max(0, self.allowance - len(data))
            sink.write(data)
            await sink.drain()
            if is_cut:
                sink.close()  # says what is written, then ends in the ordinary way
                await sink.wait_closed()
                self.task.cancel()
        if not self._mute:
            sink.write_eof()
