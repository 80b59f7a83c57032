"""The proxy between an app's browser and its server."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import random
from typing import TYPE_CHECKING

import pytest

from pytest_webaccel.app.network import AppNetwork
from pytest_webaccel.bridge.toxics import Latency
from pytest_webaccel.errors import BridgeError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine

DEADLINE = 10.0
BIG = random.Random(0).randbytes(3_000_000)


def looped(test: Callable[[], Coroutine[None, None, None]]) -> Callable[[], None]:
    """Run a test in a loop of its own."""

    @functools.wraps(test)
    def run() -> None:
        asyncio.run(test())

    return run


class Way:
    """A network, with connections through it that end with it."""

    def __init__(self, network: AppNetwork) -> None:
        self.network = network
        self.writers: list[asyncio.StreamWriter] = []

    async def open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.network.port)
        self.writers.append(writer)
        return reader, writer

    async def talk(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await self.open()
        writer.write(b"hello")
        assert await asyncio.wait_for(reader.readexactly(5), DEADLINE) == b"hello"
        return reader, writer


@contextlib.asynccontextmanager
async def through(port: int) -> AsyncIterator[Way]:
    network = AppNetwork("127.0.0.1", port, random.Random(1))
    await network.start()
    way = Way(network)
    try:
        yield way
    finally:
        await network.stop()
        for writer in way.writers:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await asyncio.wait_for(writer.wait_closed(), DEADLINE)


@contextlib.asynccontextmanager
async def echoing() -> AsyncIterator[Way]:
    """The way to a server that sends back what it is sent."""
    serving: set[asyncio.Task[None] | None] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        serving.add(asyncio.current_task())
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with through(server.sockets[0].getsockname()[1]) as way:
        yield way
    server.close()
    await asyncio.wait_for(asyncio.gather(*(task for task in serving if task)), DEADLINE)


@looped
async def test_bytes_come_back_whole_and_in_order():
    async with echoing() as way:
        reader, writer = await way.talk()
        writer.write(BIG)
        assert await asyncio.wait_for(reader.readexactly(len(BIG)), DEADLINE) == BIG
        assert way.network.link.present() == 1


@looped
async def test_a_reset_ends_every_connection_without_a_word():
    async with echoing() as way:
        first, _ = await way.talk()
        second, _ = await way.talk()
        way.network.link.reset()
        for reader in (first, second):
            with pytest.raises(ConnectionResetError):
                await asyncio.wait_for(reader.read(), DEADLINE)
        await way.talk()  # the way itself is whole


@looped
async def test_a_stalled_way_is_silent_and_open_until_it_is_cleared():
    async with echoing() as way:
        before = await way.talk()
        way.network.link.stall()
        for reader, writer in (before, await way.open()):  # those that come are as silent
            writer.write(b"lost?")
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(reader.read(1), 0.1)
            way.network.link.clear()
            assert await asyncio.wait_for(reader.readexactly(5), DEADLINE) == b"lost?"
            way.network.link.stall()


@looped
async def test_toxics_slow_the_way():
    async with echoing() as way:
        reader, writer = await way.talk()
        way.network.link.add(Latency(latency=100.0))
        begun = asyncio.get_running_loop().time()
        writer.write(b"x")
        await asyncio.wait_for(reader.readexactly(1), DEADLINE)
        assert asyncio.get_running_loop().time() - begun >= 0.099


@looped
async def test_without_a_connection_there_is_nothing_to_reset():
    async with echoing() as way:
        with pytest.raises(BridgeError, match="no connection to its server"):
            way.network.link.reset()


@looped
async def test_a_server_that_is_gone_closes_the_browsers_connection():
    gone = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
    port = gone.sockets[0].getsockname()[1]
    gone.close()
    await gone.wait_closed()
    async with through(port) as way:
        reader, _ = await way.open()
        with contextlib.suppress(ConnectionResetError):
            assert await asyncio.wait_for(reader.read(), DEADLINE) == b""
