"""A state is brought to a page that has lost it: its buffers as kept, then the computations since, once each."""

from __future__ import annotations

import asyncio
import gc
import types
from typing import Any

import numpy as np
import pytest

from pytest_webaccel.engines.kernels import Computation, State
from pytest_webaccel.engines.kernels.cache import CacheLayout, DeviceCache
from pytest_webaccel.engines.packing.cache import CacheForm
from pytest_webaccel.errors import ModelError, RemoteError
from pytest_webaccel.pool.kept import Kept, restore, send_kernel
from pytest_webaccel.terms import Evidence, Lane, ProbeResult

PROBE = ProbeResult(Lane.parse("chromium:webgpu"), works=True, evidence=Evidence.SOFTWARE)
ONE = np.ones((1, 2, 4), np.float32)
QUERY = np.ones((2, 4), np.float32)


class Station:
    """Takes down which kernels it is asked for, and what is sent along."""

    lane = PROBE.lane

    def __init__(self) -> None:
        self.kept = Kept()
        self.asked: list[tuple[list[str], set[str]]] = []
        self.dropped: list[list[str]] = []
        self.channel = types.SimpleNamespace(send=self._send, answer=self._answer, abandon=lambda request: None)
        self.fails = self.wrong = 0

    def _send(self, op: str, args: dict[str, Any], *, tensors: dict[str, Any], **_: Any) -> int:
        assert op == "kernel"
        self.dropped.append(args["dropped"])
        self.asked.append(([step["kernel"] for step in args["steps"]], set(tensors)))
        return len(self.asked)

    async def _answer(self, request: int) -> None:
        if request == self.fails:
            raise ConnectionError
        if request == self.wrong:
            raise RemoteError("kernel", "out of memory")

    async def unless_fatal(self, work: Any) -> Any:
        return await work


def brought(cache: DeviceCache, station: Station) -> list[list[str]]:
    """Restore the cache's state there, and return the kernels of each request."""
    before = len(station.asked)
    kept: Any = station
    asyncio.run(restore(cache.state, kept, lambda work: work.plan(PROBE), 1.0))
    return [kernels for kernels, _ in station.asked[before:]]


def stepped(steps: int) -> DeviceCache:
    cache = DeviceCache(CacheLayout(CacheForm(2, 4), 64))
    for _ in range(steps):
        cache = cache.append(ONE, ONE)
        Computation({"y": cache.attention(QUERY)}).commit()
    return cache


def test_a_page_that_knows_nothing_of_it_gets_every_step_once():
    cache, station = stepped(3), Station()
    assert brought(cache, station) == [[], *[["kv_append", "attention"]] * 3]
    assert station.kept.versions[cache.state.key] == 3
    assert station.kept.keys == {cache.state.cell(name).key for name in cache.state.sizes}
    assert brought(cache, station) == [], "it has it now"


def test_what_begins_anew_is_brought_by_its_first_run():
    station = Station()
    assert brought(stepped(0), station) == []
    assert not station.kept.keys


def test_one_that_is_behind_gets_the_rest():
    cache, station = stepped(2), Station()
    brought(cache, station)
    cache = cache.append(ONE, ONE)
    Computation({"y": cache.attention(QUERY)}).commit()
    assert brought(cache, station) == [["kv_append", "attention"]]


def test_after_a_checkpoint_the_buffers_are_sent_and_what_led_to_them_is_not_run():
    cache, behind, station = stepped(2), Station(), Station()
    brought(cache, behind)
    cache = cache.append(ONE, ONE)
    Computation({"y": cache.attention(QUERY)}).commit()
    saved = {cache.state.cell(name).key: np.zeros(size // 4, np.uint32) for name, size in cache.state.sizes.items()}
    cache.state.save(saved)
    cache = cache.append(ONE, ONE)
    Computation({"y": cache.attention(QUERY)}).commit()
    assert brought(cache, station) == [[], ["kv_append", "attention"]]
    assert station.asked[0][1] == set(saved)
    assert brought(cache, behind) == [[], ["kv_append", "attention"]], "what it has lies before the checkpoint"


def test_one_that_broke_on_the_way_begins_anew():
    cache, station = stepped(3), Station()
    station.fails = 3
    with pytest.raises(ConnectionError):
        brought(cache, station)
    assert cache.state.key not in station.kept.versions, "it may have run, or not"
    assert brought(cache, station) == [[], *[["kv_append", "attention"]] * 3]


def test_a_step_that_fails_is_the_kernels_own_error():
    cache, station = stepped(1), Station()
    station.wrong = 2
    with pytest.raises(ModelError, match=r"kernel 2 programs .* failed on chromium:webgpu: .*out of memory"):
        brought(cache, station)


def test_one_that_ran_ahead_of_what_was_answered_begins_anew():
    cache, station = stepped(1), Station()
    brought(cache, station)
    station.kept.versions[cache.state.key] = 2
    assert brought(cache, station) == [[], ["kv_append", "attention"]]


def test_what_a_run_was_not_answered_for_is_not_known():
    cache, station = stepped(1), Station()
    brought(cache, station)
    plan = Computation({"y": cache.append(ONE, ONE).attention(QUERY)}).plan(PROBE)
    there: Any = station
    send_kernel(there, plan, written=cache.state, deadline=1.0)
    assert brought(cache, station) == [[], ["kv_append", "attention"]]
    station.kept.versions.clear()
    new = DeviceCache(cache.layout, state=State(cache.layout.sizes))
    station.kept.keys |= new.state.keys
    assert brought(new, station) == []
    assert not station.kept.keys & new.state.keys, "its first run makes the buffers anew"


def test_what_nobody_holds_is_dropped_once_with_what_is_sent_next():
    first, other, station = stepped(1), stepped(1), Station()
    brought(first, station)
    keys = sorted(first.state.keys)
    del first
    gc.collect()
    brought(other, station)
    assert station.dropped == [[], [], keys, []]
    assert station.kept.keys == other.state.keys


def test_states_that_nobody_holds_never_grow_many():
    station = Station()
    gc.disable()
    try:
        for _ in range(40):
            brought(stepped(1), station)
            assert len(station.kept.keys) <= 18
    finally:
        gc.enable()
