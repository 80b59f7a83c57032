from __future__ import annotations

import asyncio

import numpy as np
import pytest

from pytest_webaccel.errors import ModelError, RecoveryError
from pytest_webaccel.terms import (
    Fault,
    FaultPlan,
    Outcome,
    Strategy,
    Symptom,
)
from tests import models
from tests.pool.conftest import ANSWER, ask, live

BY_HAND = [
    (Fault.CONNECTION_LOST, Symptom.SOCKET_CLOSED),
    (Fault.DEVICE_LOST, Symptom.DEVICE_LOST),
    (Fault.BROWSER_CRASH, Symptom.BROWSER_EXITED),
]


@pytest.mark.parametrize("strategy", [Strategy.SIMPLE, Strategy.COORDINATED])
@pytest.mark.parametrize(("fault", "symptom"), BY_HAND)
def test_a_fault_by_hand_is_seen_and_the_next_request_recovered_and_recorded(fault, symptom, strategy):
    async def body(house):
        async with house.lease(strategy=Strategy.NONE) as lease:
            model = await lease.load(models.scaled_sum(), None, deadline=30)
            lease.plans.waiting.append(FaultPlan(Fault.CONNECTION_LOST, recovery=Strategy.SIMPLE))
            assert (await lease.cause(FaultPlan(fault, recovery=strategy))).symptom is symptom
            await asyncio.sleep(100)  # what the test does meanwhile is no part of the recovery
            assert await ask(lease, model) == ANSWER
            assert len(lease.plans.unfired()) == 1
            assert await ask(lease, model) == ANSWER
        row, planned = house.recoveries
        assert (row.fault, row.strategy, row.outcome, row.detail) == (fault, strategy, Outcome.RECOVERED, "")
        assert (row.attempts, row.duplicated, row.lost) == (1, 0, 0)
        assert planned.strategy == Strategy.SIMPLE
        parts = row.detect_ms + row.reassign_ms + row.load_ms + row.restore_ms + row.replay_ms
        assert 0 < parts <= row.total_ms < 60_000
        assert row.undisturbed_ms > 0
        assert row.model.startswith("bytes-")

    live(body)


def test_a_fault_by_hand_without_recovery_fails_the_request_and_is_recorded():
    async def body(house):
        async with house.lease(strategy=Strategy.NONE) as lease:
            model = await lease.load(models.scaled_sum(), None, deadline=30)
            await lease.cause(FaultPlan(Fault.BROWSER_CRASH))
            with pytest.raises(RecoveryError, match="tries nothing"):
                await ask(lease, model)
        [row] = house.recoveries
        assert (row.outcome, row.strategy) == (Outcome.FAILED, Strategy.NONE)
        assert "tries nothing" in row.detail

    live(body)


def test_a_load_that_follows_a_fault_by_hand_is_recovered_and_recorded():
    async def body(house):
        async with house.lease() as lease:
            await lease.load(models.scaled_sum(), None, deadline=30)
            await lease.cause(FaultPlan(Fault.BROWSER_CRASH, recovery=Strategy.SIMPLE))
            await lease.load(models.failing_reshape(), None, deadline=30)
        [row] = house.recoveries
        assert (row.outcome, row.strategy, row.attempts) == (Outcome.RECOVERED, Strategy.SIMPLE, 1)

    live(body)


def test_a_fault_by_hand_that_no_request_follows_is_unknown_and_the_lane_is_mended():
    async def body(house):
        async with house.lease() as lease:
            await lease.load(models.scaled_sum(), None, deadline=30)
            await lease.cause(FaultPlan(Fault.CONNECTION_LOST))
            await lease.cause(FaultPlan(Fault.BROWSER_CRASH))
        first, second = house.recoveries
        assert (first.outcome, first.detail) == (Outcome.UNKNOWN, "another fault followed before any request")
        assert (second.outcome, second.detail) == (Outcome.UNKNOWN, "no request followed the fault")
        assert house.pool.statistics()[0]["state"] == "ready"
        async with house.lease() as lease:
            assert await ask(lease) == ANSWER

    live(body)


def test_a_fault_by_hand_before_a_request_at_fault_itself_is_unknown():
    async def body(house):
        async with house.lease() as lease:
            model = await lease.load(models.failing_reshape(), None, deadline=30)
            await lease.cause(FaultPlan(Fault.CONNECTION_LOST))
            with pytest.raises(ModelError, match="failed on fake:webgpu"):
                await lease.run(model, {"x": np.zeros(4, np.float32), "to": np.array([3])}, deadline=30)
        [row] = house.recoveries
        assert row.outcome == Outcome.UNKNOWN
        assert "the request itself is at fault" in row.detail

    live(body)
