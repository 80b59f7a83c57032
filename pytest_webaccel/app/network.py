"""The way between an app's browser and the app's own server: a proxy of TCP connections that faults are laid on.

The browser is told to take this way for the app's host and port alone (``browsers/attach.py``), so addresses,
certificates and every protocol on top stay as they are.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, cast

from pytest_webaccel.bridge.payload import Nothing
from pytest_webaccel.bridge.toxics import Link
from pytest_webaccel.errors import BridgeError

if TYPE_CHECKING:
    import random

    from pytest_webaccel.bridge.payload import Scanner
    from pytest_webaccel.bridge.relay import Relay, Server

__all__ = ["AppLink", "AppNetwork"]

_CONNECT_S = 10.0


class AppLink(Link):
    """The connections of an app's browser to the app's server."""

    def __init__(self, name: str, chance: random.Random) -> None:
        super().__init__(name, chance)
        self._silent = False

    def stall(self) -> None:
        """Have all connections go silent, those that come as well, until :meth:`clear`: the network is gone."""
        self._silent = True
        super().stall()

    def clear(self) -> None:
        """Take everything away; what waits passes now."""
        self._silent = False
        super().clear()

    def carry(self, transport: asyncio.Transport, server: Server, upstream: Scanner, downstream: Scanner) -> Relay:
        """Carry what passes; nothing does on a way that is silent."""
        relay = super().carry(transport, server, upstream, downstream)
        if self._silent:
            relay.stall(True)
        return relay

    def reset(self) -> None:
        """Reset every present connection. Raises BridgeError where there is none."""
        self.present()
        super().reset()

    def present(self) -> int:
        """Return how many connections there are. Raises BridgeError where there is none, which no fault can hit."""
        number = self.statistics()["connections"]
        if not number:
            raise BridgeError(
                "the app has no connection to its server now: it has loaded and asks for nothing more. Inject the "
                "fault while it fetches, or holds a WebSocket"
            )
        return number


class AppNetwork:
    """Listens on a free port of 127.0.0.1 and passes everything on to ``host`` and ``port``, and back.

    ``chance`` draws what toxics leave open.
    """

    def __init__(self, host: str, port: int, chance: random.Random) -> None:
        self._host = host
        self._to = port
        self.port = 0
        self.link = AppLink(f"the way to {host}:{port}", chance)
        self._server: asyncio.Server | None = None
        self._ways: set[_Way] = set()

    async def start(self) -> None:
        """Listen."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(self._way, "127.0.0.1", 0)
        self.port = cast("tuple[str, int]", self._server.sockets[0].getsockname())[1]

    async def stop(self) -> None:
        """Listen no more and end every connection; may be called twice."""
        if self._server is not None:
            self._server.close()
        ways = list(self._ways)
        for way in ways:
            way.abort()
        await asyncio.gather(*(way.joining for way in ways if way.joining is not None), return_exceptions=True)
        await asyncio.sleep(0)  # in which transports close their sockets

    def _way(self) -> _Way:
        way = _Way(self.link, self._host, self._to, self._ways)
        self._ways.add(way)
        return way


class _Way(asyncio.Protocol):
    """One connection of the browser, and the one to the app's server that belongs to it.

    Towards the browser it is what a link takes for the server (:class:`~pytest_webaccel.bridge.relay.Server`).
    """

    def __init__(self, link: Link, host: str, port: int, ways: set[_Way]) -> None:
        self._link = link
        self._host = host
        self._port = port
        self._ways = ways
        self._near: asyncio.Transport | None = None
        self._far: asyncio.Transport | None = None
        self._relay: Relay | None = None
        self.joining: asyncio.Task[None] | None = None

    def abort(self) -> None:
        """End both connections at once."""
        if self.joining is not None:
            self.joining.cancel()
        for transport in (self._near, self._far):
            if transport is not None:
                transport.abort()

    async def _join(self, near: asyncio.Transport) -> None:
        try:
            async with asyncio.timeout(_CONNECT_S):
                loop = asyncio.get_running_loop()
                far, _ = await loop.create_connection(lambda: _Far(self), self._host, self._port)
        except (OSError, TimeoutError):  # the browser is told as it would be by a server that is gone
            near.abort()
            return
        self._far = far
        if near.is_closing():
            far.abort()
            return
        self._relay = self._link.carry(near, self, Nothing(), Nothing())
        near.resume_reading()

    # -- what comes from the browser -----------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the browser's connection; it is read once the server's is there."""
        self._near = cast("asyncio.Transport", transport)
        self._near.pause_reading()
        self.joining = asyncio.ensure_future(self._join(self._near))

    def data_received(self, data: bytes) -> None:
        """Pass on to the server."""
        if self._far is not None:
            self._far.write(data)

    def connection_lost(self, exc: BaseException | None) -> None:
        """End the server's connection with the browser's."""
        self._ways.discard(self)
        if self.joining is not None and self._far is None:
            self.joining.cancel()
        if self._far is not None:
            (self._far.close if exc is None else self._far.abort)()

    def pause_writing(self) -> None:
        """Have the server wait: the browser takes no more now."""
        if self._far is not None and self._far.is_reading():
            self._far.pause_reading()

    def resume_writing(self) -> None:
        """Have the server go on."""
        if self._far is not None and not self._far.is_closing() and not self._far.is_reading():
            self._far.resume_reading()

    # -- what comes from the server ------------------------------------------------------------

    def far_sent(self, data: bytes) -> None:
        """Pass on to the browser."""
        if self._relay is not None:
            self._relay.tap.write(data)

    def far_closed(self) -> None:
        """Close the browser's connection once everything was passed on."""
        if self._relay is not None:
            self._relay.tap.close()

    def far_full(self, full: bool) -> None:
        """Have the browser wait, or go on."""
        if self._relay is not None:
            (self._relay.tap.pause_reading if full else self._relay.tap.resume_reading)()


class _Far(asyncio.Protocol):
    """The connection to the app's server."""

    def __init__(self, way: _Way) -> None:
        self._way = way

    def data_received(self, data: bytes) -> None:
        self._way.far_sent(data)

    def connection_lost(self, exc: BaseException | None) -> None:  # noqa: ARG002 - asyncio's signature
        self._way.far_closed()

    def pause_writing(self) -> None:
        self._way.far_full(True)

    def resume_writing(self) -> None:
        self._way.far_full(False)
