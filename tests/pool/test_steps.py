"""Requests of many steps: what is committed is not done again, and the answers are those of an undisturbed run."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pytest_webaccel.errors import ConfigurationError, FeedError, ModelError
from pytest_webaccel.pool.steps import Script, run_steps
from pytest_webaccel.terms import Fault, FaultPlan, Outcome, Strategy
from pytest_webaccel.testing.engine import OperationError, ReferenceEngine
from tests import models
from tests.pool.conftest import live

WIDTH = 4
STEPS = 7
CARRY = {"h": "h0"}
ZERO = {"h0": np.zeros((1, WIDTH), np.float32)}
FEEDS = [{"x": np.full((1, WIDTH), (i + 1) / 10, np.float32)} for i in range(STEPS)]


def expected():
    from onnx import load_from_string
    from onnx.reference import ReferenceEvaluator

    evaluator = ReferenceEvaluator(load_from_string(models.recurrent(WIDTH)))
    state: Any = ZERO["h0"]
    found = []
    for feeds in FEEDS:
        state, total = evaluator.run(["h", "y"], {**feeds, "h0": state})
        found.append(float(total))
    return found


async def walk(lease, feeds=FEEDS, model=None, **script):
    if model is None:
        model = await lease.load(models.recurrent(WIDTH), None, deadline=30)
    return await run_steps(lease, model, Script(feeds, **{"carry": CARRY, "initial": ZERO, **script}), deadline=30)


def sums(results):
    return [float(step["y"]) for step in results]


def test_each_step_feeds_the_next_and_is_a_transaction_of_its_own():
    async def body(home):
        async with home.lease() as lease:
            results = await walk(lease)
            assert sums(results) == pytest.approx(expected())
            assert [sorted(step) for step in results] == [["h", "y"]] * STEPS
            assert lease.requests == 1
        assert home.transactions.count(("step", "started")) == home.transactions.count(("step", "committed")) == STEPS

    live(body)


def test_only_the_outputs_asked_for_are_returned():
    async def body(home):
        async with home.lease() as lease:
            assert [sorted(step) for step in await walk(lease, outputs=["y"])] == [["y"]] * STEPS

    live(body)


def test_a_function_decides_on_each_step_and_ends_the_loop():
    asked = []

    def feeds(step, before):
        asked.append((step, sorted(before)))
        return FEEDS[step] if step < 3 else None

    async def body(home):
        async with home.lease() as lease:
            assert sums(await walk(lease, feeds)) == pytest.approx(expected()[:3])

    live(body)
    assert asked == [(0, []), (1, ["h", "y"]), (2, ["h", "y"]), (3, ["h", "y"])]


STRATEGIES = [Strategy.SIMPLE, Strategy.PROGRESSIVE, Strategy.PARALLEL, Strategy.COORDINATED]


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("fault", [Fault.BROWSER_CRASH, Fault.DEVICE_LOST, Fault.CONNECTION_LOST])
def test_a_fault_in_the_middle_changes_no_answer(strategy, fault):
    async def body(home):
        async with home.lease() as lease:
            lease.plans.waiting.append(FaultPlan(fault, recovery=strategy))
            assert sums(await walk(lease)) == pytest.approx(expected())
            assert not lease.plans.unfired()
        (row,) = home.recoveries
        assert (row.outcome, row.steps, row.duplicated) == (Outcome.RECOVERED, STEPS, 0)
        redone = home.transactions.count(("step", "started")) - STEPS
        if strategy is Strategy.COORDINATED:
            assert row.steps_saved >= 1
            assert redone == 0
        elif fault is Fault.BROWSER_CRASH:
            assert row.steps_saved == 0
            assert redone >= 1

    live(body)


@pytest.mark.parametrize("seed", range(6))
def test_coordinated_goes_on_from_the_last_checkpoint(seed):
    async def body(home):
        async with home.lease(seed=seed) as lease:
            lease.plans.waiting.append(FaultPlan(Fault.BROWSER_CRASH, recovery=Strategy.COORDINATED))
            assert sums(await walk(lease, checkpoint=3)) == pytest.approx(expected())
        (row,) = home.recoveries
        assert row.outcome == Outcome.RECOVERED
        assert row.steps_saved % 3 == 0
        assert home.transactions.count(("step", "started")) - STEPS in {0, 1, 2}

    live(body)


def test_a_fault_by_hand_is_recovered_by_the_first_step():
    async def body(home):
        async with home.lease() as lease:
            model = await lease.load(models.recurrent(WIDTH), None, deadline=30)
            await lease.cause(FaultPlan(Fault.DEVICE_LOST))
            assert sums(await walk(lease, model=model)) == pytest.approx(expected())
        (row,) = home.recoveries
        assert (row.outcome, row.steps) == (Outcome.RECOVERED, STEPS)

    live(body)


def test_a_fault_drawn_for_a_step_that_never_came_is_not_fired():
    async def body(home):
        async with home.lease() as lease:
            lease.plans.waiting.append(FaultPlan(Fault.DEVICE_LOST))
            assert len(await walk(lease, lambda step, before: FEEDS[0] if step == 0 else None)) == 1
            assert len(lease.plans.unfired()) == 1

    live(body)


@pytest.mark.parametrize(
    ("script", "error", "words"),
    [
        ({"carry": {"g": "h0"}}, ModelError, "no output g"),
        ({"carry": {"h": "g0"}, "initial": {"g0": ZERO["h0"]}}, ModelError, "no input g0"),
        ({"initial": {}}, FeedError, "initial="),
        ({"initial": {"h0": np.zeros((1, WIDTH), np.float64)}}, FeedError, "float64"),
        ({"checkpoint": 0}, ConfigurationError, "checkpoint=0"),
        ({"limit": 3}, ConfigurationError, "limit="),
        ({"outputs": ["z"]}, ModelError, "no output z"),
    ],
)
def test_a_script_that_cannot_be_meant_says_why(script, error, words):
    async def body(home):
        async with home.lease() as lease:
            with pytest.raises(error, match=words):
                await walk(lease, **script)

    live(body)


def test_no_steps_are_no_answers():
    async def body(home):
        async with home.lease() as lease:
            assert await walk(lease, []) == []

    live(body)


def test_an_accelerators_session_is_made_anew_where_an_operator_failed_in_a_step(monkeypatch):
    run, failing = ReferenceEngine.run, [True]

    async def fails(self, args, feeds):
        if failing[0]:
            raise OperationError("operator", "it fails here")
        return await run(self, args, feeds)

    monkeypatch.setattr(ReferenceEngine, "run", fails)

    async def body(home):
        async with home.lease() as lease:
            model = await lease.load(models.recurrent(WIDTH), None, deadline=30)
            with pytest.raises(ModelError, match="it fails here"):
                await walk(lease, model=model)
            assert (await lease.lane.here.holding(deadline=5))["models"] == []
            failing[0] = False
            assert sums(await walk(lease, model=model)) == pytest.approx(expected())

    live(body)
