"""Toxics and the link where they are laid: the network path between one lane's page and the bridge.

The words are Toxiproxy's; see :mod:`~pytest_webaccel.bridge.stages` for each toxic. A link outlives connections: what
is ordered on it holds for those there are and those that come, except for a stall.
"""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING

from pytest_webaccel.bridge.payload import Body, Frames, Nothing
from pytest_webaccel.bridge.pipe import Flow, Gate
from pytest_webaccel.bridge.relay import Relay
from pytest_webaccel.bridge.stages import Bandwidth, Latency, LimitData, ResetPeer, Slicer, Stream, Timeout, Toxic
from pytest_webaccel.errors import BridgeError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from aiohttp import web

    from pytest_webaccel.bridge.payload import Scanner
    from pytest_webaccel.bridge.relay import Server

__all__ = [
    "Bandwidth",
    "Latency",
    "LimitData",
    "Link",
    "ResetPeer",
    "Slicer",
    "Stream",
    "Timeout",
    "Toxic",
]


class Link:
    """The connections of one lane's page: its socket, and files that it fetches.

    Payload are the bytes of tensors and files, without headers. ``chance`` draws jitter, slices and which bits flip.
    """

    def __init__(self, name: str = "link", chance: random.Random | None = None) -> None:
        self.name = name
        self._flows: Mapping[Stream, Flow] = {
            stream: Flow(random.Random(drawn))
            for stream, drawn in zip(Stream, (chance or random.Random()).sample(range(1 << 48), 2), strict=True)
        }
        self._relays: set[Relay] = set()

    # -- toxics --------------------------------------------------------------------------------

    @property
    def toxics(self) -> tuple[Toxic, ...]:
        """The toxics in force, by stream in the order in which they were laid."""
        return tuple(toxic for flow in self._flows.values() for toxic, _ in flow.toxics.values())

    def add(self, toxic: Toxic) -> None:
        """Lay ``toxic``, in place of one of the same name."""
        self._drop(toxic.name)
        self._flows[toxic.stream].toxics[toxic.name] = (toxic, asyncio.get_running_loop().time())
        self._rearrange()

    def remove(self, name: str) -> None:
        """Take a toxic away; what it held back passes now. Raises BridgeError where there is none of that name."""
        if not self._drop(name):
            there = ", ".join(toxic.name for toxic in self.toxics) or "none"
            raise BridgeError(f"{self.name}: there is no toxic {name!r} to remove; in force: {there}")
        self._rearrange()

    def clear(self) -> None:
        """Take everything away: toxics, stalls, holds, and orders not carried out yet. What waits passes now."""
        for flow in self._flows.values():
            flow.toxics.clear()
            flow.corruptions.clear()
            flow.gate = flow.cut = None
        for relay in list(self._relays):
            relay.stall(False)
        self._rearrange()

    # -- blows ---------------------------------------------------------------------------------

    def stall(self) -> None:
        """Have the present connections go silent both ways and never close; a later connection is fine."""
        for relay in list(self._relays):
            relay.stall(True)

    def corrupt(self, stream: Stream | str = Stream.UPSTREAM, *, after_bytes: int = 0, flips: int = 1) -> None:
        """Flip one bit in each of ``flips`` bytes of the next payload, once ``after_bytes`` more of it have passed."""
        if flips < 1 or after_bytes < 0:
            raise BridgeError(f"{self.name}: flips is 1 or more and after_bytes 0 or more, not {flips}, {after_bytes}")
        self._flows[Stream(stream)].corrupt(after_bytes, flips)

    def truncate(self, stream: Stream | str = Stream.UPSTREAM, after_bytes: int = 0) -> None:
        """Let ``after_bytes`` more bytes of payload pass; reset the connection in place of the next one."""
        self._flows[Stream(stream)].cut = after_bytes

    def reset(self) -> None:
        """Reset every present connection (TCP RST)."""
        for relay in list(self._relays):
            relay.reset()

    # -- holding -------------------------------------------------------------------------------

    async def hold_after(self, stream: Stream | str, bytes: int, *, deadline: float) -> None:  # noqa: A002 - its name
        """Return once ``bytes`` more bytes of payload have passed and the stream is held there, until :meth:`release`.

        Raises TimeoutError where that takes more than ``deadline`` seconds; then nothing is held.
        """
        flow = self._flows[Stream(stream)]
        reached = asyncio.Event()
        gate = flow.gate = Gate(bytes, reached.set, closed=bytes <= 0)
        if gate.closed:
            return
        try:
            async with asyncio.timeout(deadline):
                await reached.wait()
        except BaseException:
            if flow.gate is gate:
                flow.gate = None
                self._pump()
            raise

    def release(self) -> None:
        """Let what is held pass, and hold nothing any more."""
        for flow in self._flows.values():
            flow.gate = None
        self._pump()

    # -- connections ---------------------------------------------------------------------------

    def carry(self, transport: asyncio.Transport, server: Server, upstream: Scanner, downstream: Scanner) -> Relay:
        """Carry what passes between ``transport`` and ``server``, which from now on writes to the relay's tap.

        The scanners find the payload.
        """
        scanners = {Stream.UPSTREAM: upstream, Stream.DOWNSTREAM: downstream}
        relay = Relay(transport, server, self._flows, scanners, self._relays.discard)
        self._relays.add(relay)
        return relay

    def carry_socket(self, request: web.BaseRequest) -> Relay | None:
        """Carry the connection of ``request``, which becomes a WebSocket; None where it has ended meanwhile."""
        relay = self._carry(request, Frames(head=False), Frames(head=True))
        if relay is not None:
            # Deno sends no small frame while the one before is not acknowledged (Nagle's algorithm); browsers do.
            relay.prompt = request.headers.get("User-Agent", "").startswith("Deno/")
        return relay

    def carry_file(self, request: web.BaseRequest) -> Relay | None:
        """Carry the connection of ``request``, which is answered with a file and then closed."""
        return self._carry(request, Nothing(), Body())

    @property
    def obstructed(self) -> bool:
        """Whether a page may have gone without its connection showing it."""
        return any(relay.obstructed for relay in self._relays)

    def statistics(self) -> dict[str, int]:
        """Return how many connections there are, and how many bytes were altered."""
        corrupted = sum(flow.corrupted for flow in self._flows.values())
        return {"connections": len(self._relays), "corrupted_bytes": corrupted}

    # -- inside ------------------------------------------------------------------------------

    def _carry(self, request: web.BaseRequest, upstream: Scanner, downstream: Scanner) -> Relay | None:
        transport, server = request.transport, request.protocol
        if transport is None or transport.is_closing():
            return None
        relay = self.carry(transport, server, upstream, downstream)
        server.transport = relay.tap
        return relay

    def _drop(self, name: str) -> bool:
        flows = [flow for flow in self._flows.values() if name in flow.toxics]
        for flow in flows:
            del flow.toxics[name]
        return bool(flows)

    def _rearrange(self) -> None:
        for relay in list(self._relays):
            relay.rearrange()

    def _pump(self) -> None:
        for relay in list(self._relays):
            relay.pump()
