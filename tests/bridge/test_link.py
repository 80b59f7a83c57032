"""What faults on a lane's link do to a page, the fake and a real one, and that nothing wrong is delivered."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from pytest_webaccel.bridge.channel import LARGE_BYTES
from pytest_webaccel.bridge.messages import Limits
from pytest_webaccel.bridge.toxics import Bandwidth, Latency, LimitData, ResetPeer, Slicer, Stream, Timeout
from pytest_webaccel.errors import BridgeError, DamagedLaneError
from pytest_webaccel.terms import Symptom
from tests.bridge.conftest import seen
from tests.bridge.strategies import same

DATA = np.random.default_rng(5).integers(0, 256, 300_000, dtype=np.uint8)


async def lost(channel, request):
    """The symptom that the request met with."""
    with pytest.raises(DamagedLaneError) as caught:
        await channel.answer(request)
    return caught.value.damage.symptom


async def whole(channel, request, data=DATA):
    """The request's answer, which must be ``data``, computed once."""
    reply = await channel.answer(request)
    assert same(data, reply.tensors["x"])
    assert reply.executions == 1


def echo(channel, data=DATA, **more):
    return channel.send("echo", tensors={"x": data}, deadline=60, **more)


# -- toxics -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", Stream)
def test_latency_shows_in_a_round_trip_and_is_gone_when_it_is_removed(stage, stream):
    async def body():
        async with stage.page() as channel:
            before = await channel.round_trip(deadline=10)
            channel.link.add(Latency(150, stream=stream))
            slowed = await channel.round_trip(deadline=10)
            assert slowed >= 150
            channel.link.remove(f"latency_{stream}")
            assert channel.link.toxics == ()
            assert min([await channel.round_trip(deadline=10) for _ in range(3)]) < 150
            assert before < 150

    stage.run(body())


def test_bandwidth_shows_in_what_an_answer_takes(stage):
    async def body():
        async with stage.page() as channel:
            loop = asyncio.get_running_loop()
            channel.link.add(Bandwidth(1000, stream=Stream.UPSTREAM))
            begun = loop.time()
            await whole(channel, echo(channel))
            assert loop.time() - begun >= DATA.nbytes / 1_000_000

    stage.run(body())


def test_sliced_and_jittered_bytes_arrive_as_they_were(stage):
    async def body():
        async with stage.page() as channel:
            for stream in Stream:
                channel.link.add(Latency(3, jitter=3, stream=stream))
                channel.link.add(Slicer(5000, size_variation=4000, delay=100, stream=stream))
            await asyncio.gather(*(whole(channel, echo(channel)) for _ in range(3)))
            assert channel.damages == []

    stage.run(body())


@pytest.mark.parametrize(
    "toxic",
    [ResetPeer(), Timeout(20), LimitData(50_000, stream=Stream.UPSTREAM), LimitData(50_000)],
    ids=lambda toxic: toxic.name,
)
def test_a_toxic_that_ends_the_connection_is_damage_and_the_answer_comes_once_it_is_gone(stage, toxic):
    async def body():
        async with stage.page() as channel:
            request = echo(channel, hold=True)
            await channel.started(request, deadline=20)
            channel.link.add(toxic)
            channel.release(request)
            if toxic == LimitData(50_000):
                echo(channel)  # so that as much flows downstream
            assert await lost(channel, request) in {Symptom.SOCKET_CLOSED, Symptom.RESULT_DAMAGED}
            channel.link.clear()
            await channel.wait_connected(deadline=20)
            await whole(channel, request)

    stage.run(body())


def test_removing_what_is_not_there_names_what_is(stage):
    async def body():
        async with stage.page() as channel:
            channel.link.add(Latency(1))
            with pytest.raises(BridgeError, match=r"no toxic 'other'.*latency_downstream"):
                channel.link.remove("other")

    stage.run(body())


# -- silence ----------------------------------------------------------------------------------------


def test_a_stalled_connection_is_silent_and_open_and_the_next_one_is_fine(stage, small_limits):
    async def body():
        async with stage.page(limits=small_limits) as channel:
            request = echo(channel, hold=True)
            await channel.started(request, deadline=20)
            channel.link.stall()
            doubts = []
            channel.on_doubt = lambda: doubts.append(channel.connected)
            with pytest.raises(TimeoutError):
                await channel.round_trip(deadline=0.2)
            assert doubts[:1] == [True], "a page that is nearly out of time is doubted"
            await seen(channel, Symptom.HEARTBEAT_MISSED)
            assert channel.connected, "nothing closes"
            assert await lost(channel, request) is Symptom.HEARTBEAT_MISSED
            channel.abort()
            assert await lost(channel, request) is Symptom.SOCKET_CLOSED
            channel.release(request)
            await channel.wait_connected(deadline=20)
            await channel.round_trip(deadline=10)
            await whole(channel, request)

    stage.run(body())


def test_a_stall_that_is_cleared_loses_nothing(stage):
    async def body():
        async with stage.page() as channel:
            channel.link.stall()
            request = echo(channel)
            waiting = asyncio.ensure_future(channel.round_trip(deadline=30))
            await asyncio.sleep(0.05)
            assert not waiting.done()
            channel.link.clear()
            await waiting
            await whole(channel, request)
            assert channel.session.resumes == 0

    stage.run(body())


def test_a_new_page_may_take_the_place_of_one_whose_connection_is_stalled(stage):
    async def body():
        async with stage.page() as channel:
            channel.link.stall()
            await stage.driver.open(channel.url, deadline=20)
            await channel.wait_connected(deadline=20, new_instance_since=1)
            assert channel.session.instances == 2
            await whole(channel, echo(channel))

    stage.run(body())


def test_a_page_that_is_held_at_the_barrier_is_watched_as_closely_as_an_idle_one(stage):
    async def body():
        async with stage.page(limits=Limits(heartbeat_s=1.2)) as channel:
            request = echo(channel, hold=True)
            await channel.started(request, deadline=20)
            async with stage.stalled():
                assert await lost(channel, request) is Symptom.HEARTBEAT_MISSED

    stage.run(body())


def test_a_round_trip_needs_a_page(stage):
    async def body():
        async with stage.bridge() as bridge:
            with pytest.raises(BridgeError, match="no page is connected"):
                await bridge.open("nobody").round_trip(deadline=1)

    stage.run(body())


def test_a_round_trip_ends_with_its_connection(stage):
    async def body():
        async with stage.page() as channel:
            channel.link.stall()
            waiting = asyncio.ensure_future(channel.round_trip(deadline=30))
            await asyncio.sleep(0)
            channel.abort()
            with pytest.raises(DamagedLaneError, match="unanswered"):
                await waiting

    stage.run(body())


# -- damage to bytes --------------------------------------------------------------------------------


@pytest.mark.parametrize(("after", "flips"), [(0, 1), (299_999, 1), (1000, 50)])
def test_a_damaged_answer_is_noticed_and_sent_again_and_not_computed_again(stage, after, flips):
    async def body():
        async with stage.page() as channel:
            channel.link.corrupt(after_bytes=after, flips=flips)
            request = echo(channel)
            assert await lost(channel, request) is Symptom.RESULT_DAMAGED
            assert channel.link.statistics()["corrupted_bytes"] >= 1
            assert channel.connected, "the connection is not to blame"
            assert channel.is_pending(request)
            channel.again(request)
            await whole(channel, request)
            assert channel.session.resumes == 0

    stage.run(body())


def test_damage_that_nobody_waited_for_is_told_to_whoever_asks_later(stage):
    async def body():
        async with stage.page() as channel:
            channel.link.corrupt()
            request = echo(channel)
            await seen(channel, Symptom.RESULT_DAMAGED)
            assert await lost(channel, request) is Symptom.RESULT_DAMAGED
            channel.again(request)
            await whole(channel, request)

    stage.run(body())


def test_an_answer_that_is_damaged_twice_is_asked_for_twice(stage):
    async def body():
        async with stage.page() as channel:
            request = echo(channel, hold=True)
            await channel.started(request, deadline=20)
            channel.release(request)
            for _ in range(2):
                channel.link.corrupt()
                assert await lost(channel, request) is Symptom.RESULT_DAMAGED
                channel.again(request)
                channel.again(request)  # it is on its way already
            await whole(channel, request)
            assert channel.session.duplicates == 0

    stage.run(body())


def test_a_damaged_answer_comes_again_after_a_reconnect_too(stage):
    async def body():
        async with stage.page() as channel:
            channel.link.corrupt()
            request = echo(channel)
            assert await lost(channel, request) is Symptom.RESULT_DAMAGED
            channel.abort()
            await seen(channel, Symptom.SOCKET_CLOSED)
            await channel.wait_connected(deadline=20)
            channel.again(request)  # nothing to ask for: the reconnect does
            await whole(channel, request)

    stage.run(body())


def test_a_truncated_answer_is_noticed_and_sent_again(stage):
    async def body():
        async with stage.page() as channel:
            channel.link.truncate(after_bytes=100_000)
            request = echo(channel)
            assert await lost(channel, request) is Symptom.RESULT_DAMAGED
            await channel.wait_connected(deadline=20)
            channel.again(request)
            await whole(channel, request)

    stage.run(body())


def test_a_request_that_reaches_the_page_damaged_is_sent_again_by_itself(stage):
    async def body():
        async with stage.page() as channel:
            channel.link.corrupt("downstream")
            await whole(channel, echo(channel))
            assert channel.link.statistics()["corrupted_bytes"] == 1
            assert channel.damages == []

    stage.run(body())


def test_a_request_that_always_reaches_the_page_damaged_fails_in_the_end(stage):
    async def body():
        async with stage.page() as channel:
            for number in range(4):
                channel.link.corrupt("downstream", after_bytes=number * DATA.nbytes)
            request = echo(channel)
            assert await lost(channel, request) is Symptom.RESULT_DAMAGED
            assert "damaged 4 times" in channel.damages[-1].detail
            assert await lost(channel, request) is Symptom.RESULT_DAMAGED, "whoever asks later is told too"
            channel.again(request)
            await whole(channel, request)

    stage.run(body())


# -- in the midst of a transfer ---------------------------------------------------------------------


@pytest.mark.parametrize("strike", ["abort", "corrupt", "nothing"])
def test_an_answer_is_held_in_the_midst_of_its_transfer(stage, strike):
    async def body():
        async with stage.page() as channel:
            holding = asyncio.ensure_future(channel.link.hold_after("upstream", 150_000, deadline=20))
            request = echo(channel)
            await holding
            assert channel.is_pending(request)
            with pytest.raises(TimeoutError):
                await channel.round_trip(deadline=0.1)
            if strike == "abort":
                channel.abort()
                assert await lost(channel, request) is Symptom.RESULT_DAMAGED
            elif strike == "corrupt":
                channel.link.corrupt()
            channel.link.release()
            if strike == "corrupt":
                assert await lost(channel, request) is Symptom.RESULT_DAMAGED
                channel.again(request)
            await channel.wait_connected(deadline=20)
            await whole(channel, request)

    stage.run(body())


def test_a_hold_that_is_never_reached_ends_with_its_deadline_and_holds_nothing(stage):
    async def body():
        async with stage.page() as channel:
            with pytest.raises(TimeoutError):
                await channel.link.hold_after("upstream", 1000, deadline=0.05)
            await whole(channel, echo(channel))

    stage.run(body())


def test_a_load_is_held_before_its_file_is_taken(stage, tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(b"0123456789")

    async def body():
        async with stage.page() as channel:
            held = channel.send("sink", files={"model": path}, deadline=30, hold=True)
            await channel.started(held, deadline=10)
            channel.abort()
            assert await lost(channel, held) is Symptom.SOCKET_CLOSED
            await channel.wait_connected(deadline=10)
            channel.release(held)
            reply = await channel.answer(held)
            assert (reply.value, reply.executions) == ({"bytes": 10}, 1)

    stage.run(body())


# -- files over HTTP --------------------------------------------------------------------------------


@pytest.mark.parametrize("strike", ["corrupt", "truncate", "abort", "stall", "slow"])
def test_a_file_that_is_fetched_survives_what_befalls_its_connection(stage, strike):
    large = np.arange(LARGE_BYTES // 2, dtype=np.float32)

    async def body():
        async with stage.page(offer=False) as channel:
            holding = asyncio.ensure_future(channel.link.hold_after("downstream", 700_000, deadline=20))
            request = channel.send("sink", tensors={"a": large}, deadline=60)
            await holding
            match strike:
                case "corrupt":
                    channel.link.corrupt("downstream")
                case "truncate":
                    channel.link.truncate("downstream", after_bytes=1000)
                case "abort":
                    channel.abort()
                case "stall":
                    channel.link.stall()
                    channel.abort()  # as whoever finds the page silent does
                case "slow":
                    channel.link.add(Bandwidth(8000))
            channel.link.release()
            if strike in {"abort", "stall"}:
                assert await lost(channel, request) is Symptom.SOCKET_CLOSED
                await channel.wait_connected(deadline=20)
            reply = await channel.answer(request)
            assert (reply.value, reply.executions) == ({"bytes": large.nbytes}, 1)

    stage.run(body())


def test_a_file_is_fetched_as_it_was(stage):
    large = np.random.default_rng(1).integers(0, 256, LARGE_BYTES + 3, dtype=np.uint8)

    async def body():
        async with stage.page(offer=False) as channel:
            for _ in range(2):
                assert (await channel.request("sink", tensors={"a": large}, deadline=30)).value == {
                    "bytes": large.nbytes
                }
            assert channel.link.statistics()["connections"] <= 2, "a file's connection does not stay"

    stage.run(body())
