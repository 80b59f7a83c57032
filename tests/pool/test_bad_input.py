"""What cannot work: each is said clearly, recorded as failed or unknown, over in good time, and harms nothing after."""

from __future__ import annotations

import asyncio

import pytest

from pytest_webaccel.errors import FaultError, LaneUnavailableError, RecoveryError
from pytest_webaccel.pool.target import LaneTarget
from pytest_webaccel.terms import MENDING, Browser, Fault, FaultPlan, FaultPoint, Outcome, Strategy
from pytest_webaccel.testing import Misbehaviour
from tests import models
from tests.pool.conftest import ANSWER, CPU, FEEDS, ask, live

#: Seconds of the virtual clock within which whatever is tried has ended.
IN_TIME = 300.0


async def struck(lease, model, fault, *, by_hand):
    if by_hand:
        await lease.cause(FaultPlan(fault))
    else:
        lease.plans.waiting.append(FaultPlan(fault))
        await ask(lease, model)


@pytest.mark.parametrize("by_hand", [False, True])
def test_a_fault_without_meaning_on_the_lane_is_refused_and_recorded_as_unknown(by_hand):
    async def body(house):
        async with house.lease(CPU) as lease:
            model = await lease.load(models.scaled_sum(), None, deadline=30)
            with pytest.raises(FaultError, match="no GPU device"):
                await struck(lease, model, Fault.DEVICE_LOST, by_hand=by_hand)
            assert await ask(lease, model) == ANSWER
        [row] = house.recoveries
        assert (row.outcome, row.fault, row.total_ms) == (Outcome.UNKNOWN, Fault.DEVICE_LOST, 0)
        assert "no GPU device" in row.detail

    live(body)


@pytest.mark.parametrize("by_hand", [False, True])
def test_a_fault_that_does_no_harm_is_told_and_recorded_as_unknown(by_hand, monkeypatch):
    monkeypatch.setattr(LaneTarget, "abort_connection", lambda _: None)

    async def body(house):
        async with house.lease(CPU) as lease:
            model = await lease.load(models.scaled_sum(), None, deadline=30)
            with pytest.raises(FaultError, match="connection_lost"):
                await struck(lease, model, Fault.CONNECTION_LOST, by_hand=by_hand)
            assert await ask(lease, model) == ANSWER
        [row] = house.recoveries
        assert row.outcome == Outcome.UNKNOWN
        assert row.detail

    live(body)


@pytest.mark.parametrize("at", [FaultPoint.MID_REQUEST, FaultPoint.MID_LOAD])
def test_a_plan_that_never_fired_is_said_and_recorded_as_unknown(at):
    async def body(house):
        async with house.lease(CPU) as lease:
            model = await lease.load(models.scaled_sum(), None, deadline=30)
            lease.plans.waiting += [FaultPlan(Fault.CONNECTION_LOST, at)] * 2
            if at is FaultPoint.MID_REQUEST:
                assert await ask(lease, model) == ANSWER
            said = lease.never_fired()
        left = 1 if at is FaultPoint.MID_REQUEST else 2
        assert said.startswith(f"planned and never caused: {', '.join([f'connection_lost at {at}'] * left)}.")
        assert ("webaccel.load(...)" in said) == (at is FaultPoint.MID_LOAD)
        unknown = [row for row in house.recoveries if row.outcome == Outcome.UNKNOWN]
        assert len(unknown) == left
        assert all("no request came" in row.detail for row in unknown)

    live(body)


@pytest.mark.parametrize("strategy", sorted(MENDING))
def test_a_strategy_with_no_rung_left_gives_up_and_the_lane_comes_back_when_it_can(strategy):
    async def body(house):
        clock = asyncio.get_running_loop().time
        async with house.lease(CPU, strategy=strategy) as lease:
            model = await lease.load(models.scaled_sum(), None, deadline=30)
            lease.plans.waiting.append(FaultPlan(Fault.BROWSER_CRASH))
            house.broken.add(Browser.FAKE)
            begun = clock()
            with pytest.raises(RecoveryError, match="gave up"):
                await ask(lease, model)
            assert clock() - begun < IN_TIME
            house.broken.clear()
        [row] = house.recoveries
        assert (row.outcome, row.strategy) == (Outcome.FAILED, strategy)
        assert row.total_ms > 0
        await asyncio.sleep(60)  # the pause of the circuit breaker
        async with house.lease(CPU) as lease:
            assert await ask(lease) == ANSWER

    live(body)


@pytest.mark.parametrize("strategy", sorted(MENDING))
def test_a_budget_of_zero_recovers_nothing_and_says_so(strategy):
    async def body(house):
        async with house.lease(CPU, strategy=strategy, budget_s=0.0) as lease:
            model = await lease.load(models.scaled_sum(), None, deadline=30)
            lease.plans.waiting.append(FaultPlan(Fault.PAGE_CRASH))
            with pytest.raises(RecoveryError, match="the budget of 0 s is spent"):
                await ask(lease, model)
        [row] = house.recoveries
        assert (row.outcome, row.rungs) == (Outcome.FAILED, "")
        assert "budget" in row.detail
        async with house.lease(CPU) as lease:
            assert await ask(lease) == ANSWER

    live(body)


@pytest.mark.parametrize("how", [{"refuse_starts": 1}, {"stall_starts": 1}], ids=["refuses", "stalls"])
def test_a_spare_that_does_not_start_is_done_without_and_told(how):
    def misbehave(number):
        return Misbehaviour(**(how if number else {}))

    async def body(house):
        clock = asyncio.get_running_loop().time
        async with house.lease(CPU) as lease:
            model = await lease.load(models.scaled_sum(), None, deadline=30)
            lease.plans.waiting.append(FaultPlan(Fault.CONNECTION_LOST))
            begun = clock()
            assert await ask(lease, model) == ANSWER
            assert clock() - begun < IN_TIME
        [row] = house.recoveries
        assert (row.outcome, row.spare) == (Outcome.RECOVERED, False)
        assert row.detail.startswith("no warm spare could be made ready: lane fake:cpu")

    live(body, spares=1, misbehave=misbehave)


def test_a_circuit_breaker_opens_lets_one_trial_through_and_closes_on_its_success():
    async def body(house):
        def breaker():
            return house.pool.breakers.of(str(CPU))

        async def try_it():
            async with house.lease(CPU) as lease:
                assert await ask(lease, feeds=FEEDS) == ANSWER
                return lease.lane.statistics()

        house.broken.add(Browser.FAKE)
        for _ in range(3):
            with pytest.raises(LaneUnavailableError, match="start"):
                await try_it()
        assert breaker().state == "open"
        await asyncio.sleep(60)  # longer than any first pause, of the lane's breaker or of that of its starts
        assert breaker().state == "half_open"
        started = len(house.fleet.drivers)
        with pytest.raises(LaneUnavailableError, match="start"):
            await try_it()
        assert len(house.fleet.drivers) == started + 1, "one trial, no more"
        assert breaker().state == "open"
        house.broken.clear()
        with pytest.raises(LaneUnavailableError, match="circuit breaker is open"):
            await try_it()
        assert len(house.fleet.drivers) == started + 1
        await asyncio.sleep(120)
        assert (await try_it())["breaker"] == "closed"
        assert (await try_it())["start_breaker"] == "closed"

    live(body)


def test_no_recovery_at_all_is_recorded_as_failed():
    async def body(house):
        async with house.lease(CPU, strategy=Strategy.NONE) as lease:
            lease.plans.waiting.append(FaultPlan(Fault.BROWSER_CRASH))
            with pytest.raises(RecoveryError, match="strategy none tries nothing"):
                await ask(lease)
        [row] = house.recoveries
        assert row.outcome == Outcome.FAILED

    live(body)
