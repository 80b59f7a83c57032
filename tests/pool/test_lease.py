from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest

from pytest_webaccel.errors import FeedError, LaneUnavailableError, ModelError, RecoveryError
from pytest_webaccel.faults import INJECTORS
from pytest_webaccel.terms import (
    MENDING,
    Backend,
    Browser,
    Fault,
    FaultPlan,
    FaultPoint,
    Lane,
    OrtBuild,
    Outcome,
    Strategy,
    Symptom,
)
from pytest_webaccel.testing import Misbehaviour
from pytest_webaccel.testing.engine import ReferenceEngine
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


#: Every fault that a single lane of the fake browser can suffer in this very process.
FAULTS = sorted(set(Fault) - {Fault.WORKER_CRASH})


#: Every fault at every point; strategies take turns, so that each meets every fault and every point.
MEETINGS = [
    (fault, at, sorted(MENDING)[(row + column) % len(MENDING)])
    for row, fault in enumerate(FAULTS)
    for column, at in enumerate(FaultPoint)
]


@pytest.mark.parametrize(("fault", "at", "strategy"), MEETINGS)
def test_each_fault_is_recovered_at_each_point(fault, at, strategy):
    if reason := INJECTORS[fault].misfit(at):
        pytest.skip(reason)

    async def body(house):
        async with house.lease(strategy=Strategy.NONE) as lease:
            model = await lease.load(models.scaled_sum(), None, deadline=30)
            lease.plans.waiting.append(FaultPlan(fault, at, recovery=strategy))
            if at is FaultPoint.MID_LOAD:
                model = await lease.load(models.scaled_sum(), None, deadline=5)
            assert await ask(lease, model, deadline=5) == ANSWER
            assert await ask(lease, model, deadline=5) == ANSWER
            assert lease.plans.unfired() == ()
            assert lease.lane.here.channel.session.pending == {}
        [row] = house.recoveries
        assert (row.fault, row.strategy, row.outcome) == (fault, strategy, Outcome.RECOVERED), row.detail
        assert (row.duplicated, row.lost, row.point) == (0, 0, at)
        assert (row.run_id, row.test_id, row.worker, row.lane) == ("run", "test", "main", str(GPU))
        assert row.evidence == "fake"
        parts = row.detect_ms + row.reassign_ms + row.load_ms + row.restore_ms + row.replay_ms
        assert 0 <= parts <= row.total_ms + 1e-6
        if row.attempts and strategy is Strategy.SIMPLE:
            assert set(row.rungs.split(",")) == {"restart_browser"}
        assert "use_spare" not in row.rungs
        assert house.pool.statistics()[0]["state"] == "ready"
        executions = [times for driver in house.fleet.drivers for page in driver.executions for times in page.values()]
        assert set(executions) == {1}
        assert house.transactions.count(("run", "committed")) == 2

    live(body)


@pytest.mark.parametrize(
    ("fault", "rung"),
    [
        (Fault.CONNECTION_LOST, "reconnect"),
        (Fault.PARTIAL_RESULT, "resend"),
        (Fault.COMPONENT_ERROR, "reload_models"),
        (Fault.DEVICE_LOST, "new_device"),
        (Fault.DEVICE_DESTROYED, "new_device"),
        (Fault.PAGE_RELOAD, "adopt_page"),
        (Fault.PAGE_CRASH, "new_page"),
        (Fault.BROWSER_CRASH, "restart_browser"),
    ],
)
def test_progressive_takes_the_cheapest_rung_that_fits(fault, rung):
    async def body(house):
        async with house.lease(strategy=Strategy.PROGRESSIVE) as lease:
            lease.plans.waiting.append(FaultPlan(fault))
            assert await ask(lease) == ANSWER
        assert house.recoveries[0].rungs == rung

    live(body)


@pytest.mark.parametrize("strategy", [Strategy.PROGRESSIVE, Strategy.COORDINATED])
def test_a_page_that_hangs_costs_the_wait_for_its_connection_and_not_that_for_its_answer(strategy):
    async def body(house):
        async with house.lease(strategy=strategy) as lease:
            lease.plans.waiting.append(FaultPlan(Fault.COMPONENT_TIMEOUT))
            assert await ask(lease) == ANSWER
        [row] = house.recoveries
        assert row.rungs == "reconnect,new_page"
        assert row.total_ms < 3000

    live(body)


def test_a_lane_that_breaks_behind_its_answer_is_whole_again_with_its_models():
    async def body(house):
        async with house.lease() as lease:
            lease.plans.waiting.append(FaultPlan(Fault.CONNECTION_LOST))
            assert await ask(lease) == ANSWER
            lease.lane.here.driver.crash_page()
            await lease.lane.here.damage({Symptom.PAGE_CRASHED}, deadline=5.0)
        [row] = house.recoveries
        assert (row.outcome, row.lost) == (Outcome.RECOVERED, 0)

    live(body)


CHROMIUM, FIREFOX = (Lane(browser, Backend.CPU) for browser in (Browser.CHROMIUM, Browser.FIREFOX))


@pytest.mark.parametrize(("lane", "other"), [(CHROMIUM, FIREFOX), (FIREFOX, CHROMIUM)])
@pytest.mark.parametrize("strategy", [Strategy.PROGRESSIVE, Strategy.PARALLEL, Strategy.COORDINATED])
def test_a_browser_that_starts_no_more_is_stood_in_for_by_the_other_engine(strategy, lane, other):
    async def body(house):
        async with house.lease(lane, strategy) as lease:
            model = await lease.load(models.scaled_sum(), None, deadline=30)
            house.broken.add(lane.browser)
            lease.plans.waiting.append(FaultPlan(Fault.BROWSER_CRASH))
            assert await ask(lease, model) == ANSWER
            assert lease.lane.here.lane == other
            assert await ask(lease, model) == ANSWER
            house.broken.clear()
        [row] = house.recoveries
        assert row.rungs.split(",") == ["restart_browser", "fail_over"]
        assert (row.lane, row.outcome) == (str(lane), Outcome.RECOVERED)
        async with house.lease(other) as lease:  # it was given back
            assert await ask(lease) == ANSWER

    live(body, engines=(CHROMIUM, FIREFOX))


def test_a_lane_that_fails_again_and_again_is_left_alone_for_a_while():
    async def body(house):
        house.broken.add(CHROMIUM.browser)
        for _ in range(3):
            with pytest.raises(LaneUnavailableError, match="chromium"):
                async with house.lease(CHROMIUM):
                    pass
        started = len(house.fleet.drivers)
        with pytest.raises(LaneUnavailableError, match=r"circuit breaker is open: it is tried again in \d+ s"):
            async with house.lease(CHROMIUM):
                pass
        assert len(house.fleet.drivers) == started
        house.broken.clear()
        await asyncio.sleep(60)
        async with house.lease(CHROMIUM) as lease:
            assert await ask(lease) == ANSWER
            assert lease.lane.statistics()["breaker"] == "closed"

    live(body, engines=(CHROMIUM, FIREFOX))


@pytest.mark.parametrize("at", [FaultPoint.BEFORE, FaultPoint.MID_REQUEST, FaultPoint.DURING_RECOVERY])
@pytest.mark.parametrize("fault", [Fault.CONNECTION_LOST, Fault.BROWSER_CRASH, Fault.DEVICE_LOST])
def test_without_recovery_the_request_fails_and_the_lane_is_whole_again_after_the_lease(fault, at):
    async def body(house):
        async with house.lease(strategy=Strategy.NONE) as lease:
            model = await lease.load(models.scaled_sum(), None, deadline=30)
            lease.plans.waiting.append(FaultPlan(fault, at))
            with pytest.raises(RecoveryError, match="strategy none tries nothing"):
                await ask(lease, model)
            assert lease.lane.here.channel.session.pending == {}
        [row] = house.recoveries
        assert (row.outcome, row.attempts) == (Outcome.FAILED, 0)
        assert "tries nothing" in row.detail
        runs = [move for move in house.transactions if move[0] == "run"]
        assert runs[-2:] == [("run", "started"), ("run", "rolled_back")]
        async with house.lease() as lease:
            assert await ask(lease) == ANSWER

    live(body)


def test_a_fault_that_only_runs_can_see_is_met_by_the_next_run_whatever_was_loaded_meanwhile():
    async def body(house):
        async with house.lease() as lease:
            first = await lease.load(models.scaled_sum(), None, deadline=30)
            await lease.cause(FaultPlan(Fault.COMPONENT_ERROR))
            assert await lease.load(models.scaled_sum(), None, deadline=30) is not None
            assert await ask(lease, first) == ANSWER
            await lease.cause(FaultPlan(Fault.COMPONENT_ERROR))
            await lease.cause(FaultPlan(Fault.CONNECTION_LOST))
            assert await ask(lease, first) == ANSWER
        assert [row.outcome for row in house.recoveries] == ["recovered", "unknown", "recovered"]

    live(body)


def test_an_answer_given_before_the_fault_stands_though_the_lane_is_not_mended():
    async def body(house):
        async with house.lease(strategy=Strategy.NONE) as lease:
            lease.plans.waiting.append(FaultPlan(Fault.BROWSER_CRASH, FaultPoint.AFTER))
            assert await ask(lease) == ANSWER
        [row] = house.recoveries
        assert row.outcome == Outcome.FAILED
        assert row.detail.startswith("answered, but the lane was not mended")

    live(body)


def test_a_recovered_answer_that_contradicts_its_reference_is_not_delivered():
    async def body(house):
        async with house.lease() as lease:
            model = await lease.load(models.scaled_sum(), None, deadline=30)
            for _ in range(2):
                lease.plans.waiting.append(FaultPlan(Fault.CONNECTION_LOST))
            arrays, _ = await lease.run(model, FEEDS, deadline=30, expect={"z": np.array([8, 12], np.float32)})
            assert arrays["z"].tolist() == ANSWER
            words = r"(?s)after connection_lost by strategy coordinated.*not delivered: output 'z'.*worst at \[1\]"
            with pytest.raises(RecoveryError, match=words):
                await lease.run(model, FEEDS, deadline=30, expect={"z": np.array([8, 13], np.float32)})
            await lease.cause(FaultPlan(Fault.CONNECTION_LOST))
            with pytest.raises(RecoveryError, match="output 'missing' is missing"):
                await lease.run(model, FEEDS, deadline=30, expect={"missing": np.zeros(2)})
        assert [row.outcome for row in house.recoveries] == ["recovered", "failed", "failed"]
        assert "output 'z'" in house.recoveries[1].detail
        assert house.recoveries[2].detail == "output 'missing' is missing"
        assert house.transactions.count(("run", "rolled_back")) == 2

    live(body)


def test_planned_faults_that_no_request_met_are_told():
    async def body(house):
        async with house.lease() as lease:
            model = await lease.load(models.scaled_sum(), None, deadline=30)
            plans = [FaultPlan(Fault.CONNECTION_LOST), FaultPlan(Fault.DEVICE_LOST)]
            lease.plans.waiting.extend(plans)
            assert await ask(lease, model) == ANSWER
            assert lease.plans.unfired() == (plans[1],)
            assert await ask(lease, model) == ANSWER
            assert lease.plans.unfired() == ()

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


@pytest.mark.parametrize(("name", "kept"), [(GPU, False), (CPU, True)])
def test_an_accelerators_session_in_which_an_operator_failed_is_made_anew(name, kept):
    async def body(house):
        async with house.lease(name) as lease:
            model = await lease.load(models.failing_reshape(), None, deadline=30)
            x = np.zeros(4, np.float32)
            with pytest.raises(ModelError):
                await lease.run(model, {"x": x, "to": np.array([3])}, deadline=30)
            assert ((await lease.lane.here.holding(deadline=5))["models"] == [model.key]) is kept
            answer, _ = await lease.run(model, {"x": x, "to": np.array([4])}, deadline=30)
            np.testing.assert_array_equal(answer["z"], x)
        assert house.pool.statistics()[0]["recoveries"] == 0

    live(body)


def test_a_cancelled_request_leaves_nothing_behind():
    async def body(house):
        async with house.lease() as lease:
            model = await lease.load(models.scaled_sum(), None, deadline=30)
            cancelled = 0
            for fault in Fault:
                for pause in (0.0, 0.005, 0.015, 0.05, 0.2):
                    lease.plans.waiting[:] = [FaultPlan(fault)]
                    task = asyncio.ensure_future(ask(lease, model))
                    await asyncio.sleep(pause)
                    task.cancel()
                    outcome: Any = (await asyncio.gather(task, return_exceptions=True))[0]
                    cancelled += isinstance(outcome, asyncio.CancelledError)
                    assert outcome == ANSWER or isinstance(outcome, asyncio.CancelledError)
                    assert house.journal.open_transactions() == ()
            assert cancelled >= 10
            lease.plans.waiting.clear()
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
            lease.plans.waiting.append(FaultPlan(Fault.BROWSER_CRASH))
            assert await ask(lease) == ANSWER
        [row] = house.recoveries
        assert (row.outcome, row.lost) == ("recovered", 0)

    live(body)


def test_where_nodes_ran_is_told_of_each_lane_and_asked_for_once(monkeypatch):
    load, asked = ReferenceEngine.load, []

    async def told(self, args, data):
        if args["placement"]:
            asked.append(args["provider"])
        return {**await load(self, args, data), "placement": [{"provider": args["provider"], "nodes": 1}]}

    monkeypatch.setattr(ReferenceEngine, "load", told)

    async def body(house):
        for lane in (GPU, Lane(Browser.FAKE, Backend.WEBNN), GPU):
            async with house.lease(lane) as lease:
                model = await lease.load(models.scaled_sum(), OrtBuild.JSEP, deadline=30)
                assert model.placement.nodes == {str(lane.backend): 1}
                await lease.drop(model, deadline=30)
        assert asked == ["webgpu", "webnn"]

    live(body)
