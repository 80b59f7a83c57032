"""Ways to talk to the bridge, the real server, that no browser would offer."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json

import aiohttp

from pytest_webaccel.bridge.frames import unseal
from pytest_webaccel.bridge.protocol import Limits
from pytest_webaccel.bridge.server import SUBPROTOCOL, Bridge
from tests.bridge.messages import hello

INSTANCE = "instance-1"
LIMITS = Limits(text_bytes=8192, tensor_bytes=4096, tensors=2)


async def raw(port: int, request: bytes) -> bytes:
    """Send bytes as they are and return everything that comes back."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request)
    answer = await asyncio.wait_for(reader.read(), 10)
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()
    return answer


async def get(port: int, path: str) -> bytes:
    """Return head and body of what is under ``path``, which is asked for as it is."""
    return await raw(port, f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n\r\n".encode())


def status(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


@dataclasses.dataclass(frozen=True)
class Answered:
    """What came of asking for a socket: a refusal changes nothing, and brings no token back."""

    status: int
    changed: bool = False
    token: bool = False


class Target:
    """A bridge with one channel, and ways to talk to it that no browser would offer."""

    def __init__(self, bridge, http):
        self.bridge = bridge
        self.http = http
        self.channel = bridge.open("fake:cpu")
        self.token = self.channel.token
        self.origin = bridge.origin

    def state(self):
        session = self.channel.session
        return (
            dict(self.channel.statistics),
            session.connected,
            session.greeted,
            session.instance,
            session.instances,
            session.resumes,
            sorted(session.pending),
        )

    def handshake(
        self,
        *,
        host=None,
        origins=None,
        protocols=None,
        path=f"/socket?instance={INSTANCE}",
        connection=("Upgrade", "close"),
        more=(),
    ):
        """The request for a socket, as it should be but for what is named; it is closed after its answer."""
        origins = [self.origin] if origins is None else origins
        lines = [
            f"GET {path} HTTP/1.1",
            f"Host: {host or f'127.0.0.1:{self.bridge.port}'}",
            "Upgrade: websocket",
            *(f"Connection: {kind}" for kind in connection),
            "Sec-WebSocket-Version: 13",
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
            *(f"Origin: {origin}" for origin in origins),
            f"Sec-WebSocket-Protocol: {protocols if protocols is not None else f'{SUBPROTOCOL}, {self.token}'}",
            *more,
        ]
        return "\r\n".join([*lines, "", ""]).encode("latin-1")

    async def answer(self, **handshake) -> bytes:
        return await raw(self.bridge.port, self.handshake(**handshake))

    async def asked(self, **handshake) -> Answered:
        """Ask for a socket and return what came of it."""
        before = self.state()
        answer = await self.answer(**handshake)
        return Answered(status(answer), self.state() != before, self.token.encode() in answer)

    @contextlib.asynccontextmanager
    async def socket(self, instance=INSTANCE, *, greet=True):
        """A page that speaks the protocol by hand."""
        async with self.http.ws_connect(
            f"{self.origin}/socket?instance={instance}",
            protocols=(SUBPROTOCOL, self.token),
            headers={"Origin": self.origin},
            max_msg_size=0,
        ) as socket:
            if greet:
                await socket.send_str(hello(instance))
                assert json.loads(unseal((await socket.receive()).data))["t"] == "welcome"
            yield socket


def attack(body, limits=LIMITS):
    """Run ``body(target)`` against a fresh bridge."""

    async def main():
        bridge = Bridge(limits)
        await bridge.start()
        try:
            async with aiohttp.ClientSession() as http, asyncio.timeout(30):
                await body(Target(bridge, http))
        finally:
            await bridge.stop()

    asyncio.run(main())


async def heard(socket) -> bool:
    """Whether the page's event is taken and acknowledged: its connection lives."""
    await socket.send_str('{"t":"event","n":1,"name":"here","data":{}}')
    return bool(json.loads(unseal((await socket.receive()).data)) == {"t": "ack", "events": 1})


async def close_code(socket) -> int | None:
    """Return the code with which the bridge closes; None where something else ends it."""
    message = await asyncio.wait_for(socket.receive(), 10)
    while message.type in {aiohttp.WSMsgType.TEXT, aiohttp.WSMsgType.BINARY}:
        message = await asyncio.wait_for(socket.receive(), 10)
    return message.data if message.type is aiohttp.WSMsgType.CLOSE else None
