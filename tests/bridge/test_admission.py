"""Who is let in by the bridge, the real server: whoever is not is refused before any state changes."""

from __future__ import annotations

import asyncio
import contextlib
import logging

import aiohttp
import pytest

from pytest_webaccel.bridge.server import SUBPROTOCOL, Bridge
from pytest_webaccel.terms import Backend, Damage, Symptom
from pytest_webaccel.testing import FakePage
from tests.bridge.attacks import INSTANCE, Answered, attack, heard, status
from tests.bridge.messages import hello


def test_the_untampered_handshake_is_admitted():
    """Without this the refusals below would prove nothing."""

    async def body(target):
        reader, writer = await asyncio.open_connection("127.0.0.1", target.bridge.port)
        writer.write(target.handshake(connection=["Upgrade"]))
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
        assert await target.asked(host=name or " ", path=path, connection=["close"]) == Answered(403)

    attack(body)


@pytest.mark.parametrize("foreign", ["Host: attacker.example", "Origin: http://attacker.example"])
def test_a_foreign_host_or_origin_beside_ours_is_refused(foreign):
    async def body(target):
        answer = await target.answer(more=[foreign])
        assert status(answer) in {400, 403}, answer[:200]
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
        assert await target.asked(origins=named) == Answered(403)

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
        assert await target.asked(protocols=named) == Answered(403)

    attack(body)


@pytest.mark.parametrize("place", ["query", "authorization", "cookie"])
def test_a_token_in_another_place_admits_nobody(place):
    async def body(target):
        path = f"/socket?instance={INSTANCE}" + (f"&token={target.token}" if place == "query" else "")
        header = {
            "authorization": [f"Authorization: Bearer {target.token}"],
            "cookie": [f"Cookie: token={target.token}"],
        }.get(place, [])
        assert await target.asked(protocols=SUBPROTOCOL, path=path, more=header) == Answered(403)

    attack(body)


def test_a_second_page_with_a_live_token_is_refused_and_the_first_lives_on():
    async def body(target):
        async with target.socket() as first:
            assert await target.asked(path="/socket?instance=instance-2") == Answered(409)
            assert await target.asked(path="/socket") == Answered(409)
            assert await heard(first)

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
                assert await heard(second)
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
                await socket.send_str(hello(f"instance-{number}"))
        answered = [
            socket for socket in joined if (await asyncio.wait_for(socket.receive(), 10)).type is aiohttp.WSMsgType.TEXT
        ]
        assert len(answered) == 1
        for socket in joined:
            await socket.close()

    attack(body)


def test_a_closed_channels_token_admits_nobody():
    async def body(target):
        await target.bridge.close(target.channel)
        assert await target.asked() == Answered(403)

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
            await target.answer(host="attacker.example")
            await target.answer(path="/socket?instance=x")
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
            await target.answer(connection=["Upgrade"])
        async with target.socket() as socket:  # and the lane may be joined by the next page
            assert not socket.closed

    attack(body)
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR], caplog.text
