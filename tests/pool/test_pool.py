from __future__ import annotations

import asyncio
import dataclasses
from typing import Any

import pytest

from pytest_webaccel.errors import LaneUnavailableError, WebAccelError
from pytest_webaccel.pool.lane import MOVES, LiveLane
from pytest_webaccel.pool.pool import Pool
from pytest_webaccel.terms import Backend, Browser, Evidence, Lane, LaneState, ProbeResult
from pytest_webaccel.testing import Misbehaviour, stand_in_ort
from tests.pool.conftest import ANSWER, CPU, GPU, ask, live


def test_a_lane_is_started_once_and_stays_warm():
    async def body(house):
        for _ in range(3):
            async with house.lease() as lease:
                assert await ask(lease) == ANSWER
        assert len(house.fleet.drivers) == 1
        [statistics] = house.pool.statistics()
        assert (statistics["leases"], statistics["requests"], statistics["starts"]) == (3, 3, 1)
        assert [lane.name for lane in house.started] == [GPU]

    live(body)


def test_lanes_run_beside_each_other():
    async def body(house):
        async with house.lease(GPU) as one, house.lease(CPU) as two:
            assert list(await asyncio.gather(ask(one), ask(two))) == [ANSWER, ANSWER]
        assert len(house.fleet.drivers) == 2

    live(body)


@pytest.mark.parametrize(
    ("lane", "words"),
    [
        (Lane(Browser.FIREFOX, Backend.WEBNN), "no WebNN. Use another."),
        (Lane(Browser.EDGE, Backend.CPU), "not among this run's lanes"),
    ],
)
def test_a_lane_that_is_not_to_be_had_is_refused_with_the_reason(lane, words):
    async def body(house):
        with pytest.raises(LaneUnavailableError, match=words):
            async with house.pool.lease(lane):
                pytest.fail("it was leased")

    live(body)


def test_a_lane_in_use_is_waited_for_and_not_for_ever():
    async def body(house):
        async with house.pool.lease(GPU):
            with pytest.raises(LaneUnavailableError, match="not free within 5 s"):
                async with house.pool.lease(GPU, deadline=5):
                    pytest.fail("it was leased twice")
        async with house.lease(GPU) as lease:
            assert await ask(lease) == ANSWER

    live(body)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [(Misbehaviour(refuse_starts=1), "refuses to start"), (Misbehaviour(stall_starts=1), "did not start")],
)
def test_a_lane_that_does_not_start_says_so_and_is_tried_again_by_the_next_test(wrong, words):
    async def body(house):
        with pytest.raises(LaneUnavailableError, match=rf"^lane fake:webgpu .*{words}.*[^.]\. `python -m .*doctor"):
            async with house.pool.lease(GPU):
                pytest.fail("it was leased")
        assert house.fleet.running == 0
        assert house.pool.statistics()[0]["state"] == "failed"
        await asyncio.sleep(10)  # the browser's circuit breaker
        async with house.lease() as lease:
            assert await ask(lease) == ANSWER

    tries = 3 if wrong.refuse_starts else 1
    live(body, misbehave=lambda number: dataclasses.replace(wrong) if number < tries else Misbehaviour())


def test_a_start_that_fails_is_tried_again_before_anybody_hears_of_it():
    async def body(house):
        async with house.lease() as lease:
            assert await ask(lease) == ANSWER
            assert lease.lane.counts["starts"] == 2

    live(body, misbehave=lambda number: Misbehaviour(refuse_starts=int(number == 0)))


def test_a_browser_that_died_between_two_tests_is_replaced():
    async def body(house):
        async with house.lease() as lease:
            await ask(lease)
        house.fleet.drivers[0].kill()
        await asyncio.sleep(1)
        async with house.lease() as lease:
            assert await ask(lease) == ANSWER
        assert house.fleet.running == 1

    live(body)


def test_a_browser_that_died_and_does_not_start_again_is_unavailable_and_not_a_wrong_state():
    async def body(house):
        async with house.lease() as lease:
            await ask(lease)
        house.fleet.drivers[0].kill()
        await asyncio.sleep(1)
        with pytest.raises(LaneUnavailableError, match="broke between two tests"):
            async with house.pool.lease(GPU):
                pytest.fail("it was leased")
        await asyncio.sleep(10)
        async with house.lease() as lease:
            assert await ask(lease) == ANSWER

    live(body, misbehave=lambda number: Misbehaviour(refuse_starts=int(1 <= number <= 3)))


def test_a_lane_that_cannot_be_mended_at_the_leases_end_has_failed():
    async def body(house):
        async with house.pool.lease(GPU) as lane:
            lane.here.driver.kill()
            await asyncio.sleep(1)
            assert await lane.settle() is False
            assert lane.state is LaneState.FAILED
            assert lane.station is None
        await asyncio.sleep(10)
        async with house.lease() as lease:
            assert await ask(lease) == ANSWER

    live(body, misbehave=lambda number: Misbehaviour(refuse_starts=int(1 <= number <= 3)))


def test_a_crashed_page_is_replaced_in_the_same_browser():
    async def body(house):
        async with house.pool.lease(GPU) as lane:
            house.fleet.drivers[0].crash_page()
            await asyncio.sleep(1)
            assert not await lane.here.healthy()
            await lane.new_page(deadline=20)
            assert await lane.here.healthy()
        assert len(house.fleet.drivers) == 1

    live(body)


@pytest.mark.parametrize("pause", [0.0, 0.05, 0.16, 0.2, 0.25, 0.3])
def test_a_lease_cancelled_while_the_lane_starts_leaves_nothing_running(pause):
    async def body(house):
        async def hold():
            async with house.pool.lease(GPU):
                await asyncio.Event().wait()

        task = asyncio.ensure_future(hold())
        await asyncio.sleep(pause)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        async with house.lease() as lease:
            assert await ask(lease) == ANSWER
        assert house.fleet.running == 1

    live(body)


@pytest.mark.parametrize(("before", "after"), [(a, b) for a in LaneState for b in LaneState])
def test_a_lane_moves_only_as_the_table_says(before, after):
    def never(*_: Any) -> Any:
        raise AssertionError("no station is wanted")

    lane = LiveLane(ProbeResult(GPU, True, Evidence.FAKE), never, Pool([], never, stand_in_ort))
    lane.state = before
    if after is before or after in MOVES[before]:
        lane.move(after)
        assert lane.state is after
    else:
        with pytest.raises(WebAccelError, match=f"from {before} to {after}"):
            lane.move(after)


def test_what_needs_a_started_lane_says_that_it_is_not():
    async def body(house):
        no_station: Any = None
        lane = LiveLane(ProbeResult(GPU, True, Evidence.FAKE), lambda: no_station, house.pool)
        with pytest.raises(LaneUnavailableError, match="not started"):
            _ = lane.here
        with pytest.raises(LaneUnavailableError, match="no spare"):
            await lane.use_spare(deadline=1)

    live(body)


def test_deno_stands_in_for_no_browser_and_none_for_it():
    deno, chromium, firefox = (Lane(one, Backend.WEBGPU) for one in (Browser.DENO, Browser.CHROMIUM, Browser.FIREFOX))

    async def body(home):
        assert home.pool.stand_in(chromium) == firefox
        assert home.pool.stand_in(firefox) == chromium
        assert home.pool.stand_in(deno) is None

    live(body, engines=(deno, chromium, firefox))
