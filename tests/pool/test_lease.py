from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest

from pytest_webaccel.errors import FaultError, FeedError, ModelError, RecoveryError
from pytest_webaccel.terms import Fault, FaultPlan, FaultPoint, Outcome, Strategy, Symptom
from pytest_webaccel.testing import Misbehaviour
from tests import models
from tests.pool.conftest import ANSWER, CPU, FEEDS, GPU, ask, live


def test_a_request_is_journalled_and_answered():
    async def body(house):
        async with house.lease() as lease:
            assert await ask(lease) == ANSWER
        assert house.transactions == [
            ("load", "started"), ("load", "committed"), ("run", "started"), ("run", "committed"),
        ]  # fmt: skip
        assert house.recoveries == []

    live(body)


@pytest.mark.parametrize("at", FaultPoint)
@pytest.mark.parametrize("strategy", [Strategy.SIMPLE, Strategy.COORDINATED])
@pytest.mark.parametrize("fault", Fault)
def test_each_fault_is_recovered_by_each_strategy_at_each_point(fault, strategy, at):
    async def body(house):
        async with house.lease(strategy=Strategy.NONE) as lease:
            model = await lease.load(models.scaled_sum(), None, deadline=30)
            lease.planned.append(FaultPlan(fault, at, recovery=strategy))
            assert await ask(lease, model) == ANSWER
            assert await ask(lease, model) == ANSWER
            assert lease.lane.here.channel.session.pending == {}
        [row] = house.recoveries
        assert (row.fault, row.strategy, row.outcome, row.detail) == (fault, strategy, Outcome.RECOVERED, "")
        assert (row.duplicated, row.lost, row.attempts) == (0, 0, 1)
        assert (row.run_id, row.test_id, row.worker, row.lane) == ("run", "test", "main", str(GPU))
        assert row.evidence == "fake"
        parts = row.detect_ms + row.reassign_ms + row.load_ms + row.restore_ms + row.replay_ms
        assert 0 < parts <= row.total_ms + 1e-6
        cold = strategy is Strategy.SIMPLE or fault is Fault.BROWSER_CRASH
        assert (row.load_ms > 0) == (cold or fault is Fault.DEVICE_LOST)
        assert len(house.fleet.drivers) == (2 if cold else 1)
        assert house.pool.statistics()[0]["state"] == "ready"
        executions = [times for driver in house.fleet.drivers for page in driver.executions for times in page.values()]
        assert set(executions) == {1}
        assert house.transactions.count(("run", "committed")) == 2

    live(body)


@pytest.mark.parametrize("at", FaultPoint)
@pytest.mark.parametrize("fault", Fault)
def test_without_recovery_the_request_fails_and_the_lane_is_whole_again_after_the_lease(fault, at):
    async def body(house):
        async with house.lease(strategy=Strategy.NONE) as lease:
            model = await lease.load(models.scaled_sum(), None, deadline=30)
            lease.planned.append(FaultPlan(fault, at))
            with pytest.raises(RecoveryError, match="strategy none tries nothing"):
                await ask(lease, model)
            assert lease.lane.here.channel.session.pending == {}
        [row] = house.recoveries
        assert (row.outcome, row.attempts) == (Outcome.FAILED, 0)
        assert "tries nothing" in row.detail
        assert house.transactions[-2:] == [("run", "started"), ("run", "rolled_back")]
        async with house.lease() as lease:
            assert await ask(lease) == ANSWER

    live(body)


def test_the_undisturbed_answer_or_the_expected_one_is_what_recovery_is_held_against():
    async def body(house):
        async with house.lease() as lease:
            model = await lease.load(models.scaled_sum(), None, deadline=30)
            for expected, outcome in [([8, 12], Outcome.RECOVERED), ([8, 13], Outcome.FAILED)]:
                lease.planned.append(FaultPlan(Fault.CONNECTION_LOST))
                await lease.run(model, FEEDS, deadline=30, expect={"z": np.array(expected, np.float32)})
                assert lease._stories[-1].outcome is outcome
            lease.planned.append(FaultPlan(Fault.CONNECTION_LOST))
            await lease.run(model, FEEDS, deadline=30, expect={"missing": np.zeros(2)})
        assert [row.outcome for row in house.recoveries] == ["recovered", "failed", "failed"]
        assert "output 'z'" in house.recoveries[1].detail
        assert house.recoveries[2].detail == "output 'missing' is missing"

    live(body)


def test_a_fault_without_meaning_on_the_lane_is_refused_before_anything_happens():
    async def body(house):
        async with house.lease(CPU) as lease:
            model = await lease.load(models.scaled_sum(), None, deadline=30)
            lease.planned.append(FaultPlan(Fault.DEVICE_LOST))
            with pytest.raises(FaultError, match="no GPU device"):
                await ask(lease, model)
            assert await ask(lease, model) == ANSWER
        assert house.recoveries == []

    live(body)


def test_a_fault_by_hand_is_seen_and_the_next_request_recovered():
    async def body(house):
        async with house.lease() as lease:
            model = await lease.load(models.scaled_sum(), None, deadline=30)
            for fault, symptom in [
                (Fault.CONNECTION_LOST, Symptom.SOCKET_CLOSED),
                (Fault.DEVICE_LOST, Symptom.DEVICE_LOST),
                (Fault.BROWSER_CRASH, Symptom.BROWSER_EXITED),
            ]:
                damage = await lease.cause(FaultPlan(fault))
                assert damage.symptom is symptom
                assert await ask(lease, model) == ANSWER

    live(body)


@pytest.mark.parametrize("what", ["crash_at", "crash_page_at", "lose_device_at", "stall_at"])
@pytest.mark.parametrize("strategy", [Strategy.SIMPLE, Strategy.COORDINATED])
@pytest.mark.parametrize("operation", [2, 3, 4])
def test_a_browser_that_misbehaves_by_itself_is_recovered_from(what, strategy, operation):
    """Operation 1 is the renewal, 2 the load, 3 and 4 are runs."""

    def misbehave(number):
        wrong: dict[str, Any] = {what: frozenset({operation} if number == 0 else ())}
        return Misbehaviour(**wrong)

    async def body(house):
        async with house.lease(strategy=strategy) as lease:
            model = await lease.load(models.scaled_sum(), None, deadline=30)
            for _ in range(3):
                assert await ask(lease, model) == ANSWER
        assert house.journal.statistics().rolled_back == 0

    live(body, misbehave=misbehave)


def test_a_request_that_is_itself_at_fault_is_answered_with_its_error_and_rolled_back():
    async def body(house):
        async with house.lease() as lease:
            model = await lease.load(models.failing_reshape(), None, deadline=30)
            with pytest.raises(ModelError, match="failed on fake:webgpu"):
                await lease.run(model, {"x": np.zeros(4, np.float32), "to": np.array([3])}, deadline=30)
            with pytest.raises(FeedError, match="no feed for 'to'"):
                await lease.run(model, {"x": np.zeros(4, np.float32)}, deadline=30)
            with pytest.raises(ModelError, match="could not be loaded"):
                await lease.load(models.unknown_operator(), None, deadline=30)
        assert house.transactions.count(("run", "rolled_back")) == 1
        assert house.transactions[-1] == ("load", "rolled_back")
        assert house.pool.statistics()[0]["recoveries"] == 0

    live(body)


def test_a_spare_takes_over_and_a_new_one_is_made_ready():
    async def body(house):
        async with house.lease() as lease:
            model = await lease.load(models.scaled_sum(), None, deadline=30)
            await lease.lane.prepare_spare()
            assert lease.lane.spare_ready
            lease.planned.append(FaultPlan(Fault.BROWSER_CRASH))
            assert await ask(lease, model) == ANSWER
            spare = lease.lane.spare
            while not lease.lane.spare_ready:  # noqa: ASYNC110 - the state has no event
                await asyncio.sleep(0.05)
            assert lease.lane.spare is not spare
        [row] = house.recoveries
        assert (row.outcome, row.load_ms, row.attempts) == ("recovered", 0.0, 1)
        assert len(house.fleet.drivers) == 3
        assert house.fleet.running == 2

    live(body, spares=1)


def test_a_cancelled_request_leaves_nothing_behind():
    async def body(house):
        async with house.lease() as lease:
            model = await lease.load(models.scaled_sum(), None, deadline=30)
            cancelled = 0
            for fault in Fault:
                for pause in (0.0, 0.005, 0.015, 0.05, 0.2):
                    lease.planned[:] = [FaultPlan(fault)]
                    task = asyncio.ensure_future(ask(lease, model))
                    await asyncio.sleep(pause)
                    task.cancel()
                    outcome: Any = (await asyncio.gather(task, return_exceptions=True))[0]
                    cancelled += isinstance(outcome, asyncio.CancelledError)
                    assert outcome == ANSWER or isinstance(outcome, asyncio.CancelledError)
                    assert house.journal.open_transactions() == ()
            assert cancelled >= 10
            lease.planned.clear()
            assert await lease.lane.settle()
            assert await ask(lease, model) == ANSWER

    live(body)


def test_a_model_whose_lease_has_ended_is_not_brought_back_by_later_repairs(tmp_path):
    path = tmp_path / "gone.onnx"
    path.write_bytes(models.failing_reshape())

    async def body(house):
        async with house.lease() as lease:
            await lease.load(path, None, deadline=30)
        path.unlink()
        async with house.lease() as lease:
            lease.planned.append(FaultPlan(Fault.BROWSER_CRASH))
            assert await ask(lease) == ANSWER
        [row] = house.recoveries
        assert (row.outcome, row.lost) == ("recovered", 0)

    live(body)
