"""One station on a virtual clock: damage that is told twice, or by one teller only."""

from __future__ import annotations

import asyncio

import pytest

from pytest_webaccel.terms import Symptom
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


def test_a_lane_without_a_gpu_heeds_no_end_of_a_gpu_process():
    async def body(house):
        async with house.lease(CPU) as lease:
            station = lease.lane.here
            await station.driver.crash_gpu(deadline=1)
            with pytest.raises(TimeoutError):
                await station.damage({Symptom.DEVICE_LOST}, deadline=5)
            assert await ask(lease) == ANSWER

    live(body)
