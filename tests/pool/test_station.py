"""One station on a virtual clock: damage that is told twice, or by one teller only."""

from __future__ import annotations

import asyncio

import pytest

from pytest_webaccel.errors import DamagedLaneError
from pytest_webaccel.terms import Damage, Symptom
from tests.pool.conftest import ANSWER, CPU, GPU, ask, live


def losses(station):
    return [damage for damage in station.damages if damage.symptom is Symptom.DEVICE_LOST]


def test_one_lost_device_is_one_damage_though_page_and_driver_both_tell():
    async def body(house):
        async with house.lease(GPU) as lease:
            station = lease.lane.here
            await station.driver.crash_gpu(deadline=1)
            await station.damage({Symptom.DEVICE_LOST}, deadline=1)
            await asyncio.sleep(5)
            assert len(losses(station)) == 1
            for _ in range(3):  # as often as it is lost, a new one is taken at once
                await station.new_device(deadline=5)
                await station.driver.crash_gpu(deadline=1)
                await station.damage({Symptom.DEVICE_LOST}, deadline=1)
            await station.new_device(deadline=5)
            await asyncio.sleep(5)
            assert losses(station) == []
            assert await ask(lease) == ANSWER

    live(body)


def test_a_page_that_hangs_need_not_tell_that_its_device_is_lost():
    async def body(house):
        async with house.lease(GPU) as lease:
            station = lease.lane.here
            await station.driver.stop_page(deadline=1)
            await station.driver.crash_gpu(deadline=1)
            damage = await station.damage({Symptom.DEVICE_LOST}, deadline=0.4)
            assert "GPU process" in damage.detail
            station.driver.resume_page()

    live(body)


def hushed(station):
    return Damage(Symptom.HEARTBEAT_MISSED, "silent", asyncio.get_running_loop().time())


def test_a_page_that_is_known_to_hang_costs_a_reconnect_no_time():
    async def body(house):
        async with house.lease(CPU) as lease:
            station, clock = lease.lane.here, asyncio.get_running_loop().time
            await station.driver.stop_page(deadline=1)
            with pytest.raises(TimeoutError):
                await station.channel.round_trip(deadline=1)
            station.channel.damaged(hushed(station))
            begun = clock()
            with pytest.raises(DamagedLaneError, match="the page hangs"):
                await station.reconnect(deadline=10)
            assert clock() - begun < 0.001
            station.driver.resume_page()

    live(body)


def test_a_page_that_was_only_busy_is_not_taken_for_one_that_hangs():
    async def body(house):
        async with house.lease(CPU) as lease:
            station = lease.lane.here
            await station.driver.stop_page(deadline=1)
            with pytest.raises(TimeoutError):
                await station.channel.round_trip(deadline=1)
            station.driver.resume_page()
            await station.channel.round_trip(deadline=1)  # it speaks again
            station.channel.link.stall()
            station.channel.damaged(hushed(station))
            await station.reconnect(deadline=10)
            assert await ask(lease) == ANSWER

    live(body)


def test_a_page_that_runs_behind_a_stalled_connection_comes_back_on_another():
    async def body(house):
        async with house.lease(CPU) as lease:
            station = lease.lane.here
            station.channel.link.stall()
            with pytest.raises(TimeoutError):
                await station.channel.round_trip(deadline=1)
            station.channel.damaged(hushed(station))
            await station.reconnect(deadline=10)
            assert await ask(lease) == ANSWER

    live(body)


def test_a_lane_without_a_gpu_heeds_no_end_of_a_gpu_process():
    async def body(house):
        async with house.lease(CPU) as lease:
            station = lease.lane.here
            await station.driver.crash_gpu(deadline=1)
            with pytest.raises(TimeoutError):
                await station.damage({Symptom.DEVICE_LOST}, deadline=5)
            assert await ask(lease) == ANSWER

    live(body)
