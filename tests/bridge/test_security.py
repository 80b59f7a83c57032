"""Attacks on the bridge, each against the real server. Every one is refused before any state changes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging

import aiohttp
import pytest

from pytest_webaccel.bridge.frames import unseal
from pytest_webaccel.bridge.protocol import PROTOCOL_VERSION, Limits
from pytest_webaccel.bridge.server import SUBPROTOCOL, Bridge
from pytest_webaccel.errors import RemoteError
from pytest_webaccel.terms import Backend, Damage, Symptom
from pytest_webaccel.testing import FakePage

INSTANCE = "instance-1"
LIMITS = Limits(text_bytes=8192, tensor_bytes=4096, tensors=2)


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

    async def raw(self, request: bytes) -> bytes:
        """Send bytes as they are and return everything that comes back."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.bridge.port)
        writer.write(request)
        answer = await reader.read()
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
        return answer

    def handshake(self, *, host=None, origins=None, protocols=None, path=f"/socket?instance={INSTANCE}", more=()):
        origins = [self.origin] if origins is None else origins
        lines = [
            f"GET {path} HTTP/1.1",
            f"Host: {host or f'127.0.0.1:{self.bridge.port}'}",
            "Upgrade: websocket",
            "Connection: Upgrade",
            "Sec-WebSocket-Version: 13",
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
            *(f"Origin: {origin}" for origin in origins),
            f"Sec-WebSocket-Protocol: {protocols if protocols is not None else f'{SUBPROTOCOL}, {self.token}'}",
            *more,
        ]
        return "\r\n".join([*lines, "", ""]).encode("latin-1")

    async def refused(self, request: bytes, status: int) -> bytes:
        before = self.state()
        answer = await asyncio.wait_for(self.raw(request), 10)
        assert answer.startswith(f"HTTP/1.1 {status} ".encode()), answer[:300]
        assert self.state() == before
        assert self.token.encode() not in answer
        return answer

    @contextlib.asynccontextmanager
    async def socket(self, instance=INSTANCE, *, hello=True):
        """A page that speaks the protocol by hand."""
        async with self.http.ws_connect(
            f"{self.origin}/socket?instance={instance}",
            protocols=(SUBPROTOCOL, self.token),
            headers={"Origin": self.origin},
            max_msg_size=0,
        ) as socket:
            if hello:
                await socket.send_str(json.dumps({"t": "hello", "protocol": PROTOCOL_VERSION, "instance": instance}))
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


async def closed_with(socket, code):
    message = await asyncio.wait_for(socket.receive(), 10)
    while message.type in {aiohttp.WSMsgType.TEXT, aiohttp.WSMsgType.BINARY}:
        message = await asyncio.wait_for(socket.receive(), 10)
    assert message.type is aiohttp.WSMsgType.CLOSE
    assert message.data == code, message


def test_the_untampered_handshake_is_admitted():
    """Without this the refusals below would prove nothing."""

    async def body(target):
        reader, writer = await asyncio.open_connection("127.0.0.1", target.bridge.port)
        writer.write(target.handshake())
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 101 ")
        assert f"Sec-WebSocket-Protocol: {SUBPROTOCOL}\r\n".encode() in head
        assert target.token.encode() not in head, "the token is never echoed"
        writer.close()
        await writer.wait_closed()

    attack(body)


@pytest.mark.parametrize(
    "host",
    ["localhost:{port}", "attacker.example:{port}", "127.0.0.1", "127.0.0.1:1", "[::1]:{port}", "127.1:{port}", ""],
)
@pytest.mark.parametrize("path", ["/socket", "/lane", "/page/main.mjs", "/blob/x"])
def test_a_host_that_is_not_ours_is_refused_as_in_dns_rebinding(host, path):
    async def body(target):
        name = host.format(port=target.bridge.port)
        request = target.handshake(host=name or " ", path=path, more=["Connection: close"])
        await target.refused(request.replace(b"Connection: Upgrade\r\n", b""), 403)

    attack(body)


def test_two_hosts_are_refused():
    async def body(target):
        answer = await target.raw(target.handshake(more=["Host: attacker.example", "Connection: close"]))
        assert answer.split(b" ", 2)[1] in {b"400", b"403"}, answer[:200]
        assert target.channel.session.connected is False

    attack(body)


@pytest.mark.parametrize(
    "origins",
    [
        [],
        ["null"],
        ["http://attacker.example"],
        ["http://127.0.0.1"],
        ["https://127.0.0.1:{port}"],
        ["http://localhost:{port}"],
        ["http://127.0.0.1:{port}.attacker.example"],
        ["http://127.0.0.1:{port}/"],
        ["HTTP://127.0.0.1:{port}"],
    ],
)
def test_an_origin_that_is_not_ours_is_refused(origins):
    async def body(target):
        named = [origin.format(port=target.bridge.port) for origin in origins]
        await target.refused(target.handshake(origins=named, more=["Connection: close"]), 403)

    attack(body)


def test_a_foreign_origin_beside_ours_is_refused():
    async def body(target):
        both = [target.origin, "http://attacker.example"]
        answer = await target.raw(target.handshake(origins=both, more=["Connection: close"]))
        assert answer.split(b" ", 2)[1] in {b"400", b"403"}, answer[:200]
        assert target.channel.session.connected is False

    attack(body)


@pytest.mark.parametrize(
    "protocols",
    [
        "",
        SUBPROTOCOL,
        f"{SUBPROTOCOL}, ",
        f"{SUBPROTOCOL}, {{wrong}}",
        f"{SUBPROTOCOL}, {{half}}",
        f"{SUBPROTOCOL}, {{upper}}",
        f"{SUBPROTOCOL}, {{token}}, {{token}}",
        f"{{token}}, {SUBPROTOCOL}",
        "webaccel.2, {token}",
        "{token}",
        f"{SUBPROTOCOL}, \xff\xfe",
    ],
)
def test_a_token_that_is_missing_wrong_or_misplaced_is_refused(protocols):
    async def body(target):
        token = target.token
        named = protocols.format(wrong="0" * 64, half=token[:32], upper=token.upper() + "A", token=token)
        await target.refused(target.handshake(protocols=named, more=["Connection: close"]), 403)

    attack(body)


@pytest.mark.parametrize("place", ["query", "authorization", "cookie"])
def test_a_token_in_another_place_admits_nobody(place):
    async def body(target):
        path = f"/socket?instance={INSTANCE}" + (f"&token={target.token}" if place == "query" else "")
        header = {
            "authorization": [f"Authorization: Bearer {target.token}"],
            "cookie": [f"Cookie: token={target.token}"],
        }.get(place, [])
        request = target.handshake(protocols=SUBPROTOCOL, path=path, more=[*header, "Connection: close"])
        await target.refused(request, 403)

    attack(body)


def test_a_second_page_with_a_live_token_is_refused_and_the_first_lives_on():
    async def body(target):
        async with target.socket() as first:
            await target.refused(target.handshake(path="/socket?instance=instance-2", more=["Connection: close"]), 409)
            await target.refused(target.handshake(path="/socket", more=["Connection: close"]), 409)
            await first.send_str('{"t":"event","n":1,"name":"here","data":{}}')
            assert json.loads(unseal((await first.receive()).data)) == {"t": "ack", "events": 1}

    attack(body)


def test_the_same_page_again_takes_over_and_its_old_connection_is_cut():
    async def body(target):
        damages: list[Damage] = []
        async with target.socket() as first:
            target.channel.on_damage = damages.append
            async with target.socket() as second:
                message = await asyncio.wait_for(first.receive(), 10)
                assert message.type in {aiohttp.WSMsgType.CLOSED, aiohttp.WSMsgType.ERROR, aiohttp.WSMsgType.CLOSING}
                assert [damage.symptom for damage in damages] == [Symptom.SOCKET_CLOSED]
                await second.send_str('{"t":"event","n":1,"name":"here","data":{}}')
                assert json.loads(unseal((await second.receive()).data)) == {"t": "ack", "events": 1}
                assert target.channel.session.resumes == 1

    attack(body)


def test_pages_that_race_for_one_token_leave_one_connected():
    async def body(target):
        async def join(number):
            try:
                return number, await target.http.ws_connect(
                    f"{target.origin}/socket?instance=instance-{number}",
                    protocols=(SUBPROTOCOL, target.token),
                    headers={"Origin": target.origin},
                )
            except aiohttp.WSServerHandshakeError as error:
                assert error.status == 409  # noqa: PT017 - it may also be admitted
                return None

        numbered = [pair for pair in await asyncio.gather(*map(join, range(8))) if pair is not None]
        assert numbered
        joined = [socket for _, socket in numbered]
        for number, socket in numbered:
            with contextlib.suppress(ConnectionError):
                hello = {"t": "hello", "protocol": PROTOCOL_VERSION, "instance": f"instance-{number}"}
                await socket.send_str(json.dumps(hello))
        answered = [
            socket for socket in joined if (await asyncio.wait_for(socket.receive(), 10)).type is aiohttp.WSMsgType.TEXT
        ]
        assert len(answered) == 1
        for socket in joined:
            await socket.close()

    attack(body)


@pytest.mark.parametrize(
    ("said", "code"),
    [
        ('{"t":"beat"}', 1008),
        ('{"t":"result","id":1}', 1008),
        ("not json", 1008),
        (b"WAX1" + bytes(60) + b"x", 1008),
        ('{"t":"hello","protocol":2,"instance":"\\ud800\\ud800\\ud800\\ud800\\ud800\\ud800\\ud800"}', 1008),
    ],
)
def test_a_first_message_that_is_no_hello_closes_the_connection(said, code):
    async def body(target):
        before = target.state()
        async with target.socket(hello=False) as socket:
            await (socket.send_str if isinstance(said, str) else socket.send_bytes)(said)
            await closed_with(socket, code)
        while target.channel.session.connected:  # noqa: ASYNC110 - the state has no event
            await asyncio.sleep(0.01)
        assert target.state()[1:] == before[1:]

    attack(body)


def test_a_text_over_the_limit_closes_the_connection():
    async def body(target):
        async with target.socket() as socket:
            await socket.send_str('{"t":"event","n":1,"name":"x","data":{"x":"' + "x" * LIMITS.text_bytes + '"}}')
            await closed_with(socket, 1009)

    attack(body)


def chunk(request=1, tensor=0, offset=0, total=8, payload=b"12345678", length=None):
    import struct
    import zlib

    header = struct.pack(
        "<4sIIIQQ", b"WAX1", request, tensor, len(payload) if length is None else length, offset, total
    )
    return header + struct.pack("<I28x", zlib.crc32(payload, zlib.crc32(header))) + payload


ANNOUNCED = {"name": "x", "dtype": "uint8", "shape": [8], "bytes": 8}


@pytest.mark.parametrize(
    ("tensors", "frames"),
    [
        ([ANNOUNCED], [chunk(length=9)]),
        ([ANNOUNCED], [chunk(total=1 << 60)]),
        ([ANNOUNCED], [chunk(offset=(1 << 64) - 1)]),
        ([ANNOUNCED], [chunk(payload=b"")]),
        ([ANNOUNCED], [chunk(request=7)]),
        ([ANNOUNCED], [chunk(tensor=1)]),
        ([ANNOUNCED], [chunk(payload=b"1234"), chunk(payload=b"5678", offset=2)]),
        ([ANNOUNCED], [chunk(payload=b"1234", offset=4)]),
        ([ANNOUNCED], [b""]),
    ],
)
def test_chunks_oversized_undeclared_or_overlapping_close_the_connection(tensors, frames):
    async def body(target):
        request = target.channel.send("echo", deadline=30)
        async with target.socket() as socket:
            result = {"t": "result", "id": request, "ok": True, "ms": 1, "executions": 1, "tensors": tensors}
            await socket.send_str(json.dumps(result))
            for frame in frames:
                await socket.send_bytes(frame)
            await closed_with(socket, 1008)
        assert target.channel.is_pending(request), "nothing counts as answered"
        assert target.channel.statistics["answers"] == 0

    attack(body)


@pytest.mark.parametrize(
    "tensors",
    [
        [{**ANNOUNCED, "bytes": 1 << 40, "shape": [1 << 40]}],
        [ANNOUNCED, {**ANNOUNCED, "name": "y"}, {**ANNOUNCED, "name": "z"}],
        [{**ANNOUNCED, "name": "x" * 2000}],
    ],
)
def test_a_result_over_the_bounds_fails_its_request_and_nothing_is_allocated_for_it(tensors):
    async def body(target):
        request = target.channel.send("echo", deadline=30)
        async with target.socket() as socket:
            result = {"t": "result", "id": request, "ok": True, "ms": 1, "executions": 1, "tensors": tensors}
            await socket.send_str(json.dumps(result))
            with pytest.raises(RemoteError) as refused:
                await asyncio.wait_for(target.channel.answer(request), 10)
        assert refused.value.kind == "unsupported"

    attack(body)


def test_a_hello_that_names_another_page_than_was_admitted_closes_the_connection():
    async def body(target):
        async with target.socket(hello=False) as socket:
            await socket.send_str(json.dumps({"t": "hello", "protocol": PROTOCOL_VERSION, "instance": "somebody-else"}))
            await closed_with(socket, 1008)
        assert not target.channel.connected

    attack(body)


@pytest.mark.parametrize(
    "path",
    [
        "/page/../terms.py",
        "/page/..%2fterms.py",
        "/page/%2e%2e%2fterms.py",
        "/page/%2e%2e/terms.py",
        "/page/..%5cterms.py",
        "/page/%252e%252e%252fterms.py",
        "/page/..%00/terms.py",
        "/page/main.mjs%00.js",
        "/page//etc/passwd",
        "/page/%2fetc%2fpasswd",
        "/..%2fpage/terms.py",
        "/%2e%2e/terms.py",
        "/nowhere/terms.py",
        "/kernels/README.md",
        "/kernels/..%2fpytest_webaccel/terms.py",
        "/kernels/../pytest_webaccel/terms.py",
        "/kernels/%2e%2e/pyproject.toml",
        "/kernels/./README.md",
        "/kernels/add/..%2f..%2fpytest_webaccel%2fterms.py",
        "/kernels/add/",
        "/page/.hidden",
        "/kernels/../build.py",
        "/kernels/..%2fbuild.py",
        "/page/",
        "/page/%c0%ae%c0%ae%c0%afterms.py",
        "/page/" + "x" * 400,
        "//127.0.0.1/page/../../terms.py",
    ],
)
def test_a_path_out_of_the_served_folders_is_not_found(path):
    async def body(target):
        port = target.bridge.port
        request = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n\r\n".encode()
        answer = await target.raw(request)
        assert answer.split(b" ", 2)[1] in {b"404", b"400", b"403"}, answer[:200]
        assert b"root:" not in answer
        assert b"class Backend" not in answer

    attack(body)


def test_what_is_served_says_what_it_is_and_who_may_use_it():
    async def body(target):
        for path, kind in [
            ("/lane", "text/html"),
            ("/page/main.mjs", "text/javascript"),
            ("/kernels/add/add.mjs", "text/javascript"),
            ("/kernels/built/simd.wasm", "application/wasm"),
        ]:
            async with target.http.get(target.origin + path) as response:
                assert response.status == 200
                assert response.content_type == kind
                assert response.headers["Cache-Control"] in {"no-store", "no-cache"}, "another version has others"
                assert response.headers["X-Content-Type-Options"] == "nosniff"
                assert response.headers["Cross-Origin-Resource-Policy"] == "same-origin"
                assert "default-src 'none'" in response.headers["Content-Security-Policy"]
                assert "Access-Control-Allow-Origin" not in response.headers

    attack(body)


def test_a_file_needs_the_token_of_its_own_channel_and_our_origin(tmp_path):
    async def body(target):
        path = tmp_path / "model.onnx"
        path.write_bytes(b"weights")
        target.channel.send("load", files={"model": path}, deadline=30)
        [key] = [placed.name for placed in target.channel.handover.folder.iterdir()]
        other = target.bridge.open("fake:webgpu")
        url = f"{target.origin}/blob/{key}"

        async def status(url=url, **headers):
            async with target.http.get(url, headers=headers) as response:
                return response.status

        before = target.state()
        ours = f"Bearer {target.token}"
        assert await status() == 403
        assert await status(Authorization=target.token) == 403
        assert await status(Authorization=f"Basic {target.token}") == 403
        assert await status(Authorization="Bearer " + "0" * 64) == 403
        assert await status(Authorization=f"Bearer {other.token}") == 404
        assert await status(Authorization=ours, Origin="http://attacker.example") == 403
        assert await status(url + f"?token={target.token}") == 403
        assert await status(f"{target.origin}/blob/..%2f..%2fetc%2fpasswd", Authorization=ours) == 404
        assert await status(f"{target.origin}/blob/{path.name}", Authorization=ours) == 404
        assert await status(Authorization=ours, Origin=target.origin) == 200
        assert target.state() == before

    attack(body)


def test_a_closed_channels_token_admits_nobody():
    async def body(target):
        await target.bridge.close(target.channel)
        await target.refused(target.handshake(more=["Connection: close"]), 403)

    attack(body)


def test_the_token_is_in_no_log_record_and_in_no_url_that_is_sent(caplog, monkeypatch):
    caplog.set_level(logging.DEBUG)
    urls = []
    ordinary = Bridge._socket

    async def watch(self, request):
        urls.append(str(request.url))
        return await ordinary(self, request)

    monkeypatch.setattr(Bridge, "_socket", watch)

    async def body(target):
        url = target.bridge.page_url(target.channel, Backend.CPU)
        sent, _, fragment = url.partition("#")
        assert fragment == target.token
        assert target.token not in sent
        tokens.append(target.token)
        page = FakePage(url)
        page.open()
        try:
            await target.channel.wait_connected(deadline=10)
            await target.channel.request("echo", {"value": 1}, deadline=10)
            target.channel.abort()
            while target.channel.session.resumes < 1:  # noqa: ASYNC110 - the state has no event
                await asyncio.sleep(0.01)
            await target.raw(target.handshake(host="attacker.example", more=["Connection: close"]))
            await target.raw(target.handshake(path="/socket?instance=x", more=["Connection: close"]))
        finally:
            await page.close()

    tokens: list[str] = []
    attack(body)
    assert urls
    assert not [url for url in urls if tokens[0] in url]
    assert caplog.records
    for record in caplog.records:
        assert tokens[0] not in record.getMessage()
        assert tokens[0] not in repr(record.__dict__)
    assert tokens[0] not in caplog.text


def test_tokens_are_long_and_never_the_same():
    async def body(target):
        tokens = {target.bridge.open(f"lane {number}").token for number in range(50)}
        assert len(tokens) == 50
        assert {len(bytes.fromhex(token)) for token in tokens} == {32}

    attack(body)


@pytest.mark.parametrize("where", ["prepare", "serve"])
def test_a_browser_that_dies_while_its_socket_opens_leaves_no_error_in_the_log(caplog, monkeypatch, where):
    async def gone(*_):
        raise aiohttp.ClientConnectionResetError("Cannot write to closing transport")

    async def body(target):
        kind = aiohttp.web.WebSocketResponse if where == "prepare" else type(target.channel)
        with monkeypatch.context() as patch:
            patch.setattr(kind, where, gone)
            await asyncio.wait_for(target.raw(target.handshake()), 10)
        async with target.socket() as socket:  # and the lane may be joined by the next page
            assert not socket.closed

    attack(body)
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR], caplog.text
