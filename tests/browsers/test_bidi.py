"""The BiDi client against a server that answers as told."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from pytest_webaccel.browsers.bidi import Connection, from_remote
from pytest_webaccel.errors import BrowserError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

DEADLINE = 20.0


@contextlib.asynccontextmanager
async def browser(behave: Callable[[web.WebSocketResponse], Awaitable[None]]) -> AsyncIterator[Connection]:
    """A connection to a server that behaves as told on its one socket."""

    async def serve(request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        await behave(socket)
        return socket

    application = web.Application()
    application.router.add_get("/session", serve)
    runner = web.AppRunner(application, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    connection = Connection("a browser")
    try:
        await connection.connect(f"ws://127.0.0.1:{runner.addresses[0][1]}/session", deadline=DEADLINE)
        yield connection
    finally:
        await connection.end()
        await runner.cleanup()


def answering(*answers: Callable[[dict[str, Any]], str]) -> Callable[[web.WebSocketResponse], Awaitable[None]]:
    """Answer the calls that come, one after the other; then hold the socket open."""

    async def behave(socket: web.WebSocketResponse) -> None:
        remaining = iter(answers)
        async for message in socket:
            if (answer := next(remaining, None)) is not None:
                await socket.send_str(answer(json.loads(message.data)))

    return behave


def success(call: dict[str, Any], **result: Any) -> str:
    return json.dumps({"type": "success", "id": call["id"], "result": result})


def test_result_of_a_call_and_refusal_of_another_reach_their_callers():
    refusal = {"type": "error", "error": "no such frame", "message": "it is gone"}

    async def scenario() -> None:
        def refuse(call: dict[str, Any]) -> str:
            return json.dumps({**refusal, **call})

        replies = [lambda call: success(call, method=call["method"]), refuse, refuse]
        async with browser(answering(*replies)) as connection:
            assert await connection.call("session.status", deadline=DEADLINE) == {"method": "session.status"}
            with pytest.raises(BrowserError, match="a browser: b failed: it was refused: no such frame: it is gone"):
                await connection.call("b", deadline=DEADLINE)
            with pytest.raises(BrowserError, match="a browser: c failed: the page crashed or was closed"):
                await connection.call("c", context="1", deadline=DEADLINE)

    asyncio.run(scenario())


def test_events_reach_their_listeners_until_these_are_forgotten():
    event = json.dumps({"type": "event", "method": "browsingContext.load", "params": {"context": "1"}})

    async def behave(socket: web.WebSocketResponse) -> None:
        async for message in socket:
            await socket.send_str(event)
            await socket.send_str(success(json.loads(message.data)))

    async def scenario() -> None:
        async with browser(behave) as connection:
            heard: list[tuple[str, Any]] = []
            forget = connection.listen(lambda method, parameters: heard.append((method, parameters)))
            await connection.call("a", deadline=DEADLINE)
            forget()
            forget()
            await connection.call("b", deadline=DEADLINE)
            assert heard == [("browsingContext.load", {"context": "1"})]

    asyncio.run(scenario())


def test_call_that_is_not_answered_fails_at_its_deadline_and_a_late_answer_harms_nothing():
    held: list[dict[str, Any]] = []

    async def behave(socket: web.WebSocketResponse) -> None:
        async for message in socket:
            held.append(json.loads(message.data))
            if len(held) == 2:
                for call in held:
                    await socket.send_str(success(call, late=call["method"]))

    async def scenario() -> None:
        async with browser(behave) as connection:
            with pytest.raises(BrowserError, match=r"slow was not answered within 0\.1 s"):
                await connection.call("slow", deadline=0.1)
            assert await connection.call("next", deadline=DEADLINE) == {"late": "next"}

    asyncio.run(scenario())


def test_calls_of_a_page_that_is_gone_fail_and_others_wait_on():
    async def scenario() -> None:
        async with browser(answering()) as connection:
            gone = asyncio.ensure_future(connection.call("a", context="1", deadline=DEADLINE))
            other = asyncio.ensure_future(connection.call("b", context="2", deadline=DEADLINE))
            await asyncio.sleep(0)
            connection.fail_context("1", "the page crashed")
            with pytest.raises(BrowserError, match="a failed: the page crashed"):
                await gone
            assert not other.done()
            connection.close("the browser ended")
            with pytest.raises(BrowserError, match="b failed: the browser ended"):
                await other
            with pytest.raises(BrowserError, match="c cannot be sent: the browser ended"):
                await connection.call("c", deadline=DEADLINE)

    asyncio.run(scenario())


@pytest.mark.parametrize(
    "nonsense",
    ["{", "[]", "null", '"x"', "1", '{"type": "event"}', '{"id": 1, "type": "success"}', '{"id": [1]}', "[" * 5000],
)
def test_nonsense_of_a_browser_ends_the_connection_and_fails_its_calls(nonsense):
    async def scenario() -> None:
        async with browser(answering(lambda _: nonsense)) as connection:
            with pytest.raises(BrowserError, match="not the protocol"):
                await connection.call("a", deadline=DEADLINE)

    asyncio.run(scenario())


def test_browser_that_hangs_up_fails_the_calls_that_wait():
    async def behave(socket: web.WebSocketResponse) -> None:
        await socket.receive()
        await socket.close()

    async def scenario() -> None:
        async with browser(behave) as connection:
            with pytest.raises(BrowserError, match="closed its connection"):
                await connection.call("a", deadline=DEADLINE)

    asyncio.run(scenario())


@pytest.mark.parametrize("address", ["ws://192.0.2.1:9222/session", "ws://example.org/session", "nonsense"])
def test_port_that_is_not_on_this_machine_is_not_connected_to(address):
    async def scenario() -> None:
        with pytest.raises(BrowserError, match="not loopback"):
            await Connection("a browser").connect(address, deadline=DEADLINE)

    asyncio.run(scenario())


def test_port_that_nobody_answers_at_is_told():
    async def scenario() -> None:
        with pytest.raises(BrowserError, match="did not answer"):
            await Connection("a browser").connect("ws://127.0.0.1:1/session", deadline=DEADLINE)

    asyncio.run(scenario())


def to_remote(value: Any) -> dict[str, Any]:
    """The protocol's form of a value, as the specification has it."""
    match value:
        case None:
            return {"type": "null"}
        case bool():
            return {"type": "boolean", "value": value}
        case str():
            return {"type": "string", "value": value}
        case int():
            return {"type": "bigint", "value": str(value)}
        case float():
            named = {math.inf: "Infinity", -math.inf: "-Infinity"}
            return {"type": "number", "value": "NaN" if math.isnan(value) else named.get(value, value)}
        case list():
            return {"type": "array", "value": [to_remote(item) for item in value]}
    return {"type": "object", "value": [[key, to_remote(item)] for key, item in value.items()]}


values = st.recursive(
    st.none() | st.booleans() | st.text() | st.integers() | st.floats(allow_nan=False),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(values)
def test_values_of_a_page_come_back_as_they_are(value):
    assert from_remote(to_remote(value)) == value


def test_what_json_lacks_is_read_or_none():
    nan = from_remote({"type": "number", "value": "NaN"})
    assert isinstance(nan, float)
    assert math.isnan(nan)
    assert from_remote({"type": "undefined"}) is None
    assert from_remote({"type": "function", "handle": "x"}) is None
    assert from_remote({"type": "map", "value": [[{"type": "number", "value": 1}, {"type": "null"}]]}) == {"1": None}
    assert from_remote({"type": "array"}) == []  # nested deeper than was asked for


def nested(levels: int) -> dict[str, Any]:
    value: dict[str, Any] = {"type": "null"}
    for _ in range(levels):
        value = {"type": "array", "value": [value]}
    return value


@pytest.mark.parametrize(
    "malformed",
    [
        {},
        {"type": "number", "value": "many"},
        {"type": "bigint", "value": "1.5"},
        {"type": "object", "value": [["key"]]},
        {"type": "array", "value": 3},
        {"type": "array", "value": [3]},
        nested(300),
    ],
)
def test_malformed_value_is_an_error(malformed):
    with pytest.raises(ValueError, match=r"malformed|deeper|invalid literal|not enough values"):
        from_remote(malformed)
