"""One TCP connection between the browser and aiohttp, with a link's pipes in its way.

Once it is known which lane a connection belongs to, a relay steps between the socket's transport and the server's
protocol: there is no second port and no second hop, so the server still sees the browser's own Host and Origin.
While nothing is ordered on the link, bytes pass straight through.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from typing import TYPE_CHECKING, Any, Protocol, cast

from pytest_webaccel.bridge.pipe import End, Pipe
from pytest_webaccel.bridge.stages import Stream

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pytest_webaccel.bridge.payload import Scanner
    from pytest_webaccel.bridge.pipe import Flow

__all__ = ["Relay", "Server"]

#: Bytes that may wait in a pipe before its source is paused.
WAITING_BYTES = 1 << 20

#: Option by which Linux acknowledges at once; elsewhere there is none.
_QUICK_ACK = getattr(socket, "TCP_QUICKACK", None)

#: Seconds by which a timer may fire early.
_TICK_S = 1e-6


class Server(Protocol):
    """The server's end of a connection, as asyncio's protocols are, aiohttp's among them."""

    def data_received(self, data: bytes) -> None:
        """Take bytes from the browser."""

    def connection_lost(self, exc: BaseException | None) -> None:
        """Hear that the connection has ended."""

    def pause_writing(self) -> None:
        """Write no more for now."""

    def resume_writing(self) -> None:
        """Write on."""


class Relay(asyncio.Protocol):
    """Stands between ``transport`` and ``server``; ``gone`` is called once, when the connection has ended.

    Where ``prompt`` is set, what comes from the page is acknowledged at once, and not after up to 40 ms.
    """

    def __init__(
        self,
        transport: asyncio.Transport,
        server: Server,
        flows: Mapping[Stream, Flow],
        scanners: Mapping[Stream, Scanner],
        gone: Callable[[Relay], None],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._transport = transport
        self._server = server
        self._gone = gone
        now = self._loop.time()
        self._up = Pipe(flows[Stream.UPSTREAM], scanners[Stream.UPSTREAM], now)
        self._down = Pipe(flows[Stream.DOWNSTREAM], scanners[Stream.DOWNSTREAM], now)
        self._timer: asyncio.TimerHandle | None = None
        self._pumping = False
        self.prompt = False
        self._over = False
        self._closing = False
        self._paused = {"server": False, "pipe": False}
        self._full = {"socket": False, "pipe": False}
        self.tap = _Tap(self, transport)
        transport.set_protocol(self)
        self.pump()

    # -- what the link orders ------------------------------------------------------------------

    @property
    def obstructed(self) -> bool:
        """Whether the page might have gone without its connection showing it."""
        return self._up.stalled or self._paused["pipe"]

    def stall(self, stalled: bool) -> None:
        """Go silent both ways, without closing; or go on."""
        self._up.stalled = self._down.stalled = stalled
        self.pump()

    def rearrange(self) -> None:
        """Take note of other toxics."""
        now = self._loop.time()
        self._up.rearrange(now)
        self._down.rearrange(now)
        self.pump()

    def reset(self, last: bytes = b"") -> None:
        """Reset the connection (TCP RST), after ``last``; whatever waits is lost."""
        if self._over:
            return
        if last and not self._transport.is_closing():
            self._transport.write(last)
        if raw := self._transport.get_extra_info("socket"):
            with contextlib.suppress(OSError):
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._transport.abort()

    # -- what the socket says ------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        """Pass on what the browser sent."""
        if self.prompt:
            self._acknowledge()
        if self._up.idle:
            self._up.scanner.scan(data)
            self._server.data_received(data)
        else:
            self._up.feed(data)
            self.pump()

    def eof_received(self) -> None:
        """Have the connection close: the browser sends no more."""

    def connection_lost(self, exc: BaseException | None) -> None:
        """Tell aiohttp; what still waits can reach nobody."""
        self._over = True
        if self._timer is not None:
            self._timer.cancel()
        self._server.connection_lost(exc)
        self._gone(self)

    def pause_writing(self) -> None:
        """Have aiohttp wait: the socket is full."""
        self._fill("socket", True)

    def resume_writing(self) -> None:
        """Have aiohttp go on."""
        self._fill("socket", False)

    # -- what aiohttp says, through the tap ------------------------------------------------------

    def write(self, data: bytes) -> None:
        """Pass on what the server sends."""
        if self._down.idle:
            self._down.scanner.scan(data)
            self._transport.write(data)
        elif not (self._over or self._closing):
            self._down.feed(bytes(data))
            self.pump()

    def close(self) -> None:
        """Close once everything was passed on; at once where nothing can be."""
        self._closing = True
        if self._up.stalled:
            self._transport.abort()
        elif not self._down.waiting:
            self._transport.close()

    @property
    def closing(self) -> bool:
        """Whether aiohttp may write no more."""
        return self._closing or self._transport.is_closing()

    @property
    def unsent(self) -> int:
        """Bytes that the server has written and the socket has not taken."""
        return self._down.waiting + self._transport.get_write_buffer_size()

    def pause_reading(self, who: str = "server") -> None:
        """Read no more from the browser."""
        self._paused[who] = True
        if not self._over and self._transport.is_reading():
            self._transport.pause_reading()

    def resume_reading(self, who: str = "server") -> None:
        """Read on, where nobody else wants a pause."""
        self._paused[who] = False
        if not self._over and not any(self._paused.values()) and not self._transport.is_reading():
            with contextlib.suppress(RuntimeError):  # it is closing
                self._transport.resume_reading()

    # -- inside ------------------------------------------------------------------------------

    def _acknowledge(self) -> None:
        """Have the system acknowledge what came."""
        if _QUICK_ACK is not None and (raw := self._transport.get_extra_info("socket")):
            with contextlib.suppress(OSError):
                raw.setsockopt(socket.IPPROTO_TCP, _QUICK_ACK, 1)

    def pump(self) -> None:
        """Pass on what is due, in order; then see to flow control and to the timer."""
        if self._pumping or self._over:
            return
        self._pumping = True
        try:
            while not self._over and self._pass_on():
                pass
        finally:
            self._pumping = False
        self._settle()

    def _settle(self) -> None:
        if self._over:
            return
        self._regulate()
        if self._closing and not self._down.waiting:
            self._transport.close()
        moments = [moment for moment in (self._up.next_due(), self._down.next_due()) if moment is not None]
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_at(min(moments), self.pump) if moments else None

    def _pass_on(self) -> bool:
        """Pass on what is due now; whether anything was, since that may have made more due."""
        now = self._loop.time() + _TICK_S
        upward, up_end = self._up.due(now)
        for data in upward:
            self._server.data_received(data)
        downward, down_end = self._down.due(now)
        for data in downward:
            if not self._transport.is_closing():
                self._transport.write(data)
        for end in (up_end, down_end):
            if end is End.RESET:
                self.reset()
            elif end is End.CLOSE:
                self._transport.close()
        return bool(upward or downward) and up_end is None and down_end is None

    def _regulate(self) -> None:
        if self._up.waiting > WAITING_BYTES and not self._paused["pipe"]:
            self.pause_reading("pipe")
        elif self._paused["pipe"] and self._up.waiting <= WAITING_BYTES // 2:
            self.resume_reading("pipe")
        if self._down.waiting > WAITING_BYTES:
            self._fill("pipe", True)
        elif self._down.waiting <= WAITING_BYTES // 2:
            self._fill("pipe", False)

    def _fill(self, what: str, full: bool) -> None:
        before = any(self._full.values())
        self._full[what] = full
        if (after := any(self._full.values())) is not before and not self._over:
            (self._server.pause_writing if after else self._server.resume_writing)()


class _Tap(asyncio.Transport):
    """The transport that aiohttp writes to."""

    def __init__(self, relay: Relay, transport: asyncio.Transport) -> None:
        super().__init__()
        self.relay = relay
        self._transport = transport

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.relay.write(cast("bytes", data))

    def writelines(self, parts: Any) -> None:
        self.relay.write(b"".join(parts))

    def close(self) -> None:
        self.relay.close()

    def abort(self) -> None:
        self._transport.abort()

    def is_closing(self) -> bool:
        return self.relay.closing

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._transport.get_extra_info(name, default)

    def get_write_buffer_size(self) -> int:
        return self.relay.unsent

    def can_write_eof(self) -> bool:
        return False

    def is_reading(self) -> bool:
        return self._transport.is_reading()

    def pause_reading(self) -> None:
        self.relay.pause_reading()

    def resume_reading(self) -> None:
        self.relay.resume_reading()
