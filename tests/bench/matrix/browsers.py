"""Browsers that Playwright drives for the peers: launched as its documentation shows, or reached over a socket."""

from __future__ import annotations

import abc
import asyncio
import contextlib
import os
import signal
import uuid
from typing import TYPE_CHECKING, Any

import psutil

from pytest_webaccel.browsers.chromium import ChromiumDriver
from tests.bench.matrix.site import peer_arguments

if TYPE_CHECKING:
    from pytest_webaccel.browsers import Installation

__all__ = ["Launched", "PeerBrowser", "Reached"]

_START_S = 30.0
_CLOSE_S = 5.0


class PeerBrowser(abc.ABC):
    """One running browser, as a user's own fixture holds it. ``playwright`` is the started asynchronous API."""

    def __init__(self, playwright: Any, installation: Installation) -> None:
        self._playwright = playwright
        self._installation = installation
        self.browser: Any = None

    @abc.abstractmethod
    async def start(self) -> None:
        """Start it and attach to it."""

    def find(self) -> None:  # noqa: B027 - not every way of starting has to look
        """Look up what :meth:`kill` needs; slow, so it is done while nobody measures."""

    @abc.abstractmethod
    def kill(self) -> None:
        """SIGKILL every process of it."""

    @abc.abstractmethod
    async def stop(self) -> None:
        """End it, whatever state it is in; never raises."""

    async def processes(self, kind: str) -> list[int]:
        """Return the ids of its processes of one kind, in the browser's own words."""
        session = await self.browser.new_browser_cdp_session()
        answer = await session.send("SystemInfo.getProcessInfo")
        await session.detach()
        return [int(one["id"]) for one in answer["processInfo"] if one["type"].lower() == kind]


class Launched(PeerBrowser):
    """A browser started by ``launch``, its debugging pipe held by Playwright's driver."""

    def __init__(self, playwright: Any, installation: Installation) -> None:
        super().__init__(playwright, installation)
        self._token = f"--bench-peer={uuid.uuid4().hex}"
        self._root: psutil.Process | None = None

    async def start(self) -> None:
        """Start it."""
        self.browser = await self._playwright.chromium.launch(
            executable_path=str(self._installation.executable),
            env={**os.environ, **self._installation.environment},
            chromium_sandbox=False,
            args=[*peer_arguments(), self._token],
            timeout=_START_S * 1000,
        )

    def find(self) -> None:
        """Look its root process up, once."""
        for process in psutil.process_iter(["cmdline"]) if self._root is None else ():
            words = process.info["cmdline"] or []
            if self._token in words and not any(word.startswith("--type=") for word in words):
                self._root = process
                return

    def kill(self) -> None:
        """SIGKILL the tree."""
        self.find()
        with contextlib.suppress(psutil.Error):
            root = self._root
            for process in [root, *root.children(recursive=True)] if root is not None else []:
                process.kill()

    async def stop(self) -> None:
        """Close it as far as it listens, then make sure."""
        with contextlib.suppress(Exception):
            async with asyncio.timeout(_CLOSE_S):
                await self.browser.close()
        self.find()
        self.kill()


class Reached(PeerBrowser):
    """A browser that runs by itself and is reached by ``connect_over_cdp``, through a socket that can be broken."""

    def __init__(self, playwright: Any, installation: Installation) -> None:
        super().__init__(playwright, installation)
        self._driver = ChromiumDriver(installation, debugging_port=True)
        self.wire = _Wire()

    async def start(self) -> None:
        """Start it, and connect."""
        await self._driver.start(deadline=_START_S)
        await self.connect()

    async def connect(self) -> None:
        """Connect to it, anew where it was connected before."""
        endpoint = self._driver.endpoint or ""
        host, _, path = endpoint.removeprefix("ws://").partition("/")
        port = await self.wire.open(int(host.rpartition(":")[2]))
        self.browser = await self._playwright.chromium.connect_over_cdp(
            f"ws://127.0.0.1:{port}/{path}", timeout=_START_S * 1000
        )

    def kill(self) -> None:
        """SIGKILL the tree."""
        self._driver.kill()

    async def stop(self) -> None:
        """End it."""
        await self.wire.close()
        await self._driver.stop(deadline=_CLOSE_S)


class _Wire:
    """A TCP proxy to one port, which can be cut, or carry nothing more."""

    def __init__(self) -> None:
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._open = asyncio.Event()

    async def open(self, port: int) -> int:
        """Begin to carry to ``port``; return the port to connect to."""
        await self.close()
        self._open.set()

        async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            there, back = await asyncio.open_connection("127.0.0.1", port)
            self._writers |= {writer, back}
            for source, sink in ((reader, back), (there, writer)):
                task = asyncio.ensure_future(self._pump(source, sink))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)

        self._server = await asyncio.start_server(carry, "127.0.0.1", 0)
        return int(self._server.sockets[0].getsockname()[1])

    def cut(self) -> None:
        """Reset every connection at once."""
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()

    def stall(self) -> None:
        """Carry nothing more, and close nothing."""
        self._open.clear()

    async def close(self) -> None:
        """End it."""
        self.cut()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._server is not None:
            self._server.close()
            self._server = None

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(1 << 16):
                await self._open.wait()
                writer.write(data)
                await writer.drain()
        writer.close()


def stop_process(pid: int) -> None:
    """Have a process stand still, if it is still there."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGSTOP)
