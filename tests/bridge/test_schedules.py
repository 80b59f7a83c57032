"""A page, the real bridge, and a drawn schedule of whatever can befall the way between them."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_webaccel.bridge.messages import Limits
from pytest_webaccel.bridge.server import Bridge
from pytest_webaccel.bridge.toxics import Bandwidth, Latency, LimitData, ResetPeer, Slicer, Stream, Timeout
from pytest_webaccel.errors import BridgeError, DamagedLaneError
from pytest_webaccel.terms import Backend
from pytest_webaccel.testing import FakePage, run_virtually
from tests.bridge.strategies import same

streams = st.sampled_from(Stream)
toxics = st.one_of(
    st.builds(Latency, st.floats(0, 50), st.floats(0, 50), stream=streams),
    st.builds(Bandwidth, st.floats(20, 2000), stream=streams),
    st.builds(Slicer, st.integers(200, 5000), st.integers(0, 199), st.floats(0, 100), stream=streams),
    st.builds(Timeout, st.floats(0, 100), stream=streams),
    st.builds(ResetPeer, st.floats(0, 100), stream=streams),
    st.builds(LimitData, st.integers(0, 60_000), stream=streams),
)
blows = st.one_of(
    st.tuples(st.just("lay"), toxics),
    st.tuples(st.just("clear")),
    st.tuples(st.just("stall")),
    st.tuples(st.just("abort")),
    st.tuples(st.just("corrupt"), streams, st.integers(0, 50_000), st.integers(1, 9)),
    st.tuples(st.just("truncate"), streams, st.integers(0, 50_000)),
    st.tuples(st.just("hold"), streams, st.integers(0, 50_000)),
    st.tuples(st.just("ask"), st.integers(1, 40_000)),
    st.tuples(st.just("wait"), st.floats(0, 0.3)),
)


class Trial:
    """One schedule, carried out on a channel."""

    def __init__(self, channel):
        self.channel = channel
        self.asked: dict[int, np.ndarray[Any, Any]] = {}
        self.holds: list[asyncio.Task[None]] = []

    async def suffer(self, blow):
        link = self.channel.link
        match blow:
            case ("lay", toxic):
                link.add(toxic)
            case ("clear",):
                link.clear()
            case ("stall",):
                link.stall()
            case ("abort",):
                with contextlib.suppress(BridgeError):  # no page is connected now
                    self.channel.abort()
            case ("corrupt", stream, after, flips):
                link.corrupt(stream, after_bytes=after, flips=flips)
            case ("truncate", stream, after):
                link.truncate(stream, after)
            case ("hold", stream, after):
                self.holds.append(asyncio.ensure_future(link.hold_after(stream, after, deadline=0.2)))
            case ("ask", size):
                data = np.random.default_rng(size).integers(0, 256, size, dtype=np.uint8)
                self.asked[self.channel.send("echo", {"size": size}, tensors={"x": data}, deadline=600)] = data
            case ("wait", seconds):
                await asyncio.sleep(seconds)

    async def answered(self, request):
        """What whoever recovers does: make sure that the page hears, ask for what arrived damaged, wait."""
        while True:
            try:
                return await self.channel.answer(request)
            except DamagedLaneError:
                await self.reconnected()
                self.channel.again(request)

    async def reconnected(self):
        await self.channel.wait_connected(deadline=60)
        try:
            await self.channel.round_trip(deadline=1)
        except TimeoutError:
            self.channel.abort()
            await self.channel.wait_connected(deadline=60)
        except DamagedLaneError:
            await self.channel.wait_connected(deadline=60)


@settings(max_examples=25, deadline=None)
@given(st.lists(blows, min_size=1, max_size=12), st.integers(0, 1 << 30))
def test_every_request_is_answered_once_and_right_whatever_befalls_the_way(schedule, seed):
    async def body():
        bridge = Bridge(Limits(heartbeat_s=1.0, busy_heartbeat_s=1.0, resends=100))
        await bridge.start()
        channel = bridge.open("fake:cpu")
        page = FakePage(bridge.page_url(channel, Backend.CPU), seed=seed)
        page.open()
        trial = Trial(channel)
        try:
            async with asyncio.timeout(900):
                await channel.wait_connected(deadline=60)
                await trial.suffer(("ask", 30_000))
                for blow in schedule:
                    await trial.suffer(blow)
                await asyncio.gather(*trial.holds, return_exceptions=True)
                channel.link.clear()
                for request, data in trial.asked.items():
                    reply = await trial.answered(request)
                    assert (reply.value, reply.executions) == (None, 1)
                    assert same(data, reply.tensors["x"])
            assert channel.session.pending == {}
            assert channel.statistics["answers"] == len(trial.asked)
            assert set(page.session.executions.values()) == {1}
        finally:
            await page.close()
            await bridge.stop()

    run_virtually(body())
