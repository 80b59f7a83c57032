from __future__ import annotations

import numpy as np
import pytest

from pytest_webaccel.terms import (
    Fault,
    FaultPlan,
    FaultPoint,
    Outcome,
    Strategy,
)
from pytest_webaccel.testing import Misbehaviour
from tests import models
from tests.pool.conftest import ANSWER, ask, live


@pytest.mark.parametrize("fault", [Fault.DEVICE_LOST, Fault.PAGE_CRASH, Fault.BROWSER_CRASH, Fault.COMPONENT_TIMEOUT])
def test_coordinated_fails_over_to_the_warm_spare(fault):
    async def body(house):
        async with house.lease() as lease:
            lease.plans.waiting.append(FaultPlan(fault))
            assert await ask(lease, deadline=5) == ANSWER
        [row] = house.recoveries
        assert (row.rungs, row.spare, row.load_ms) == ("use_spare", True, 0)
        assert house.pool.statistics()[0]["spare_ready"] or house.fleet.running == 2

    live(body, spares=1)


def test_a_second_spare_takes_over_where_the_first_is_struck_as_well():
    async def body(house):
        async with house.lease() as lease:
            lease.plans.waiting.append(FaultPlan(Fault.PAGE_CRASH, FaultPoint.DURING_RECOVERY))
            assert await ask(lease) == ANSWER
        [row] = house.recoveries
        assert row.rungs.split(",").count("use_spare") == 2
        assert (row.outcome, row.load_ms) == (Outcome.RECOVERED, 0)
        assert house.fleet.running == 3

    live(body, spares=2)


def test_parallel_races_the_spare_with_a_cold_start_and_leaves_no_loser_behind():
    async def body(house):
        async with house.lease(strategy=Strategy.PARALLEL) as lease:
            lease.plans.waiting.append(FaultPlan(Fault.BROWSER_CRASH))
            assert await ask(lease) == ANSWER
        [row] = house.recoveries
        assert row.rungs == "use_spare,restart_browser"
        assert house.fleet.running == 2

    live(body, spares=1)


@pytest.mark.parametrize("by_hand", [False, True])
def test_a_spare_takes_over_and_a_new_one_is_made_ready(by_hand):
    async def body(house):
        async with house.lease() as lease:
            model = await lease.load(models.scaled_sum(), None, deadline=30)
            if by_hand:
                assert await ask(lease, model) == ANSWER
                await lease.cause(FaultPlan(Fault.BROWSER_CRASH))
            else:
                lease.plans.waiting.append(FaultPlan(Fault.BROWSER_CRASH))
            assert await ask(lease, model) == ANSWER
        [row] = house.recoveries
        assert (row.outcome, row.load_ms, row.attempts) == ("recovered", 0.0, 1)
        [statistics] = house.pool.statistics()
        assert (statistics["spare_ready"], statistics["starts"]) == (True, 3)
        assert len(house.fleet.drivers) == 3
        assert house.fleet.running == 2
        # The spare had run the model before the fault: a first run compiles.
        runs = [sum(page.values()) for driver in house.fleet.drivers for page in driver.executions]
        assert runs[1] >= 4  # renewal, load, warming, the recovered request

    live(body, spares=1)


def test_a_spare_is_warm_only_after_it_ran_what_the_lane_has_run():
    async def body(house):
        async with house.lease() as lease:
            model = await lease.load(models.scaled_sum(), None, deadline=30)
            await lease.lane.spares.warm()
            assert lease.lane.spares.ready
            await ask(lease, model)
            assert not lease.lane.spares.ready
            await lease.lane.spares.warm()
            assert lease.lane.spares.ready
            huge = {"x": np.zeros(9 << 20, np.float32), "y": np.zeros(9 << 20, np.float32)}
            lease.lane.spares.stations[0].ran.clear()
            lease.lane.remember(model, huge, None)  # 72 MiB: not kept; the smaller feeds still are
            assert lease.lane.holdings.fed(model.key) == 16

    live(body, spares=1)


def test_a_spare_that_died_is_replaced():
    async def body(house):
        async with house.lease() as lease:
            model = await lease.load(models.scaled_sum(), None, deadline=30)
            await lease.lane.spares.warm()
            house.fleet.drivers[1].kill()
            assert not lease.lane.spares.ready
            lease.plans.waiting.append(FaultPlan(Fault.BROWSER_CRASH))
            assert await ask(lease, model) == ANSWER
        [row] = house.recoveries
        assert (row.outcome, row.load_ms) == ("recovered", 0.0)
        assert house.fleet.running == 2

    live(body, spares=1)


def test_a_spare_that_cannot_be_had_is_done_without(caplog):
    async def body(house):
        async with house.lease() as lease:
            await lease.lane.spares.warm()
            assert await ask(lease) == ANSWER
        assert house.pool.statistics()[0]["state"] == "ready"

    live(body, spares=1, misbehave=lambda number: Misbehaviour(refuse_starts=int(number > 0)))
    assert "no spare could be made ready" in caplog.text
