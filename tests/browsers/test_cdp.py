from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_webaccel.browsers.cdp import Connection, split_messages
from pytest_webaccel.errors import BrowserError

messages = st.lists(st.binary(min_size=1, max_size=40).filter(lambda data: 0 not in data), max_size=8)


@given(messages, st.lists(st.integers(1, 30), min_size=1, max_size=40))
def test_messages_arrive_whole_and_in_order_however_the_bytes_are_cut(sent, cuts):
    stream = b"".join(message + b"\0" for message in sent)
    buffer, received, turn = bytearray(), [], 0
    while stream:
        size = cuts[turn % len(cuts)]
        turn += 1
        piece, stream = stream[:size], stream[size:]
        received += split_messages(buffer, piece)
    assert received == sent
    assert not buffer


@pytest.mark.parametrize("data", [b"x" * 11, b"x" * 11 + b"\0"])
def test_message_over_the_limit_is_refused(data):
    with pytest.raises(ValueError, match="longer than 10 bytes"):
        split_messages(bytearray(), data, limit=10)


class Wire(asyncio.WriteTransport):
    """What the browser would be sent."""

    def __init__(self) -> None:
        super().__init__()
        self.sent: list[dict[str, Any]] = []
        self.closed = False

    def write(self, data: bytes | bytearray | memoryview[Any]) -> None:
        self.sent += [json.loads(part) for part in bytes(data).split(b"\0") if part]

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True


def connected() -> tuple[Connection, Wire]:
    connection, wire = Connection("chromium (test)"), Wire()
    connection.attach(wire)
    return connection, wire


def answer(connection: Connection, **message: Any) -> None:
    connection.data_received(json.dumps(message).encode() + b"\0")


def test_answers_reach_their_own_calls_in_any_order():
    async def scenario() -> None:
        connection, wire = connected()
        calls = [asyncio.ensure_future(connection.call(name, session="s", deadline=5)) for name in ("A", "B")]
        await asyncio.sleep(0)
        assert [(message["method"], message["sessionId"]) for message in wire.sent] == [("A", "s"), ("B", "s")]
        for message in reversed(wire.sent):
            answer(connection, id=message["id"], result={"of": message["method"]})
        assert await asyncio.gather(*calls) == [{"of": "A"}, {"of": "B"}]

    asyncio.run(scenario())


def test_refusal_names_browser_method_and_reason():
    async def scenario() -> None:
        connection, wire = connected()
        call = asyncio.ensure_future(connection.call("Page.navigate", deadline=5))
        await asyncio.sleep(0)
        answer(connection, id=wire.sent[0]["id"], error={"code": -1, "message": "no such page"})
        with pytest.raises(BrowserError, match=r"chromium \(test\): Page.navigate was refused: no such page"):
            await call

    asyncio.run(scenario())


def test_closed_pipe_fails_waiting_and_later_calls():
    async def scenario() -> None:
        connection, _ = connected()
        call = asyncio.ensure_future(connection.call("A", deadline=5))
        await asyncio.sleep(0)
        connection.connection_lost(None)
        with pytest.raises(BrowserError, match="closed its pipe"):
            await call
        with pytest.raises(BrowserError, match="closed its pipe"):
            await connection.call("B", deadline=5)

    asyncio.run(scenario())


def test_only_the_calls_of_a_failed_session_fail():
    async def scenario() -> None:
        connection, wire = connected()
        gone = asyncio.ensure_future(connection.call("A", session="1", deadline=5))
        other = asyncio.ensure_future(connection.call("B", session="2", deadline=5))
        await asyncio.sleep(0)
        connection.fail_session("1", "the page crashed")
        answer(connection, id=wire.sent[1]["id"], result={})
        with pytest.raises(BrowserError, match="the page crashed"):
            await gone
        assert await other == {}

    asyncio.run(scenario())


@pytest.mark.parametrize("garbage", [b"not json\0", b"[1]\0", b'{"params":{}}\0', b"\xff\0"])
def test_what_is_not_the_protocol_closes_the_connection(garbage):
    async def scenario() -> None:
        connection, wire = connected()
        connection.listen(lambda *_: None)
        connection.data_received(garbage)
        assert wire.closed
        with pytest.raises(BrowserError, match="not the protocol"):
            await connection.call("A", deadline=5)

    asyncio.run(scenario())


def test_events_reach_listeners_until_they_are_forgotten():
    async def scenario() -> None:
        connection, _ = connected()
        seen: list[tuple[Any, ...]] = []
        forget = connection.listen(lambda *event: seen.append(event))
        answer(connection, method="Target.targetCrashed", params={"targetId": "T"}, sessionId="S")
        forget()
        answer(connection, method="Other", params={})
        assert seen == [("Target.targetCrashed", {"targetId": "T"}, "S")]

    asyncio.run(scenario())
