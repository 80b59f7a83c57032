"""A page that was let in and does not keep to the protocol, against the real server."""

from __future__ import annotations

import asyncio

import pytest

from pytest_webaccel.errors import RemoteError
from tests.bridge.attacks import LIMITS, attack, close_code
from tests.bridge.messages import announced, chunk, hello, result


@pytest.mark.parametrize(
    "said",
    [
        '{"t":"beat"}',
        '{"t":"result","id":1}',
        "not json",
        b"WAX1" + bytes(60) + b"x",
        '{"t":"hello","protocol":2,"instance":"\\ud800\\ud800\\ud800\\ud800\\ud800\\ud800\\ud800"}',
        hello("somebody-else"),
    ],
)
def test_a_first_message_that_is_no_hello_of_the_page_that_was_admitted_closes_the_connection(said):
    async def body(target):
        before = target.state()
        async with target.socket(greet=False) as socket:
            await (socket.send_str if isinstance(said, str) else socket.send_bytes)(said)
            assert await close_code(socket) == 1008
        while target.channel.session.connected:  # noqa: ASYNC110 - the state has no event
            await asyncio.sleep(0.01)
        assert target.state()[1:] == before[1:]
        assert not target.channel.connected

    attack(body)


def test_a_text_over_the_limit_closes_the_connection():
    async def body(target):
        async with target.socket() as socket:
            await socket.send_str('{"t":"event","n":1,"name":"x","data":{"x":"' + "x" * LIMITS.text_bytes + '"}}')
            assert await close_code(socket) == 1009

    attack(body)


@pytest.mark.parametrize(
    "frames",
    [
        [chunk(length=9)],
        [chunk(total=1 << 60)],
        [chunk(offset=(1 << 64) - 1)],
        [chunk(payload=b"")],
        [chunk(request=7)],
        [chunk(tensor=1)],
        [chunk(payload=b"1234"), chunk(payload=b"5678", offset=2)],
        [chunk(payload=b"1234", offset=4)],
        [b""],
    ],
)
def test_chunks_oversized_undeclared_or_overlapping_close_the_connection(frames):
    async def body(target):
        request = target.channel.send("echo", deadline=30)
        async with target.socket() as socket:
            await socket.send_str(result(request, tensors=[announced()]))
            for frame in frames:
                await socket.send_bytes(frame)
            assert await close_code(socket) == 1008
        assert target.channel.is_pending(request), "nothing counts as answered"
        assert target.channel.statistics["answers"] == 0

    attack(body)


@pytest.mark.parametrize(
    "tensors",
    [
        [announced(1 << 40)],
        [announced(), announced(name="y"), announced(name="z")],
        [announced(name="x" * 2000)],
    ],
)
def test_a_result_over_the_bounds_fails_its_request_and_nothing_is_allocated_for_it(tensors):
    async def body(target):
        request = target.channel.send("echo", deadline=30)
        async with target.socket() as socket:
            await socket.send_str(result(request, tensors=tensors))
            with pytest.raises(RemoteError) as refused:
                await asyncio.wait_for(target.channel.answer(request), 10)
        assert refused.value.kind == "unsupported"

    attack(body)
