"""Pool and recovery under random schedules of leases, requests and faults."""

from __future__ import annotations

import asyncio
import gc
from typing import Any

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from pytest_webaccel.errors import RecoveryError
from pytest_webaccel.faults import INJECTORS
from pytest_webaccel.pool.lease import Lease, Terms
from pytest_webaccel.terms import MENDING, Fault, FaultPlan, FaultPoint, LaneState, Outcome, Strategy
from pytest_webaccel.testing import VirtualLoop
from tests import models
from tests.pool.conftest import CPU, GPU, House

strategies = st.sampled_from(sorted(MENDING))
#: Points that strike a run; faults that the page and its browser can suffer in this process.
POINTS = sorted(set(FaultPoint) - {FaultPoint.MID_LOAD})
FAULTS = sorted(set(Fault) - {Fault.WORKER_CRASH})
MODELS = [models.scaled_sum(), models.scaled_sum(shape=("m",))]


class PoolAndRecovery(RuleBasedStateMachine):
    """One test at a time leases one of two lanes, as in a worker; browsers also die between tests."""

    def __init__(self):
        super().__init__()
        self.unseen: list[Any] = []
        self.runner = asyncio.Runner(loop_factory=VirtualLoop)
        self.runner.get_loop().set_exception_handler(lambda loop, context: self.unseen.append(context))
        self.lease: Any = None
        self.loaded: dict[int, Any] = {}
        self.number = 0
        self.planned = 0
        self.answered = 0
        self.losers = 2  # of a race, or replaced by a spare: their ending goes on behind the answer
        self.struck = False  # by a fault by hand that no request has followed yet

    def run(self, work):
        async def bounded():
            async with asyncio.timeout(3600):
                return await work

        return self.runner.run(bounded())

    @initialize(seed=st.integers(0, 1 << 16), spares=st.integers(0, 1))
    def house_is_built(self, seed, spares):
        self.spares = spares
        self.house = House(seed, spares=spares)

    @rule(lane=st.sampled_from([GPU, CPU]), strategy=strategies)
    @precondition(lambda self: self.lease is None)
    def take(self, lane, strategy):
        async def enter():
            self.scope = self.house.pool.lease(lane)
            live = await self.scope.__aenter__()
            terms = Terms("run", f"test {self.number}", "main", strategy, seed=self.number)
            return Lease(live, terms, self.house.journal, self.house.pool.folder, self.house.rows.append)

        self.lease = self.run(enter())
        self.loaded = {}

    @rule(which=st.integers(0, 1))
    @precondition(lambda self: self.lease)
    def load(self, which):
        self.struck = False
        self.loaded[which] = self.run(self.lease.load(MODELS[which], None, deadline=30))

    @rule(which=st.integers(0, 1), fault=st.sampled_from(FAULTS), strategy=strategies)
    @precondition(lambda self: self.lease and not self.struck and not self.lease.plans.unfired())
    def load_under_fault(self, which, fault, strategy):
        if INJECTORS[fault].meaning(self.lease.lane.probe) or INJECTORS[fault].misfit(FaultPoint.MID_LOAD):
            return
        self.lease.plans.waiting.append(FaultPlan(fault, FaultPoint.MID_LOAD, recovery=strategy))
        self.planned += 1
        self.loaded[which] = self.run(self.lease.load(MODELS[which], None, deadline=30))

    @rule(data=st.data(), fault=st.none() | st.sampled_from(FAULTS), at=st.sampled_from(POINTS), strategy=strategies)
    @precondition(lambda self: self.lease and self.loaded)
    def request(self, data, fault, at, strategy):
        model = self.loaded[data.draw(st.sampled_from(sorted(self.loaded)))]
        if fault is not None and not (INJECTORS[fault].meaning(self.lease.lane.probe) or INJECTORS[fault].misfit(at)):
            self.lease.plans.waiting.append(FaultPlan(fault, at, recovery=strategy))
            self.planned += 1
        self.number += 1
        self.struck = False
        x = np.array([self.number, 2], np.float32)
        arrays, reply = self.run(self.lease.run(model, {"x": x, "y": x}, deadline=5))
        assert arrays["z"].tolist() == [4.0 * self.number, 8.0]
        assert arrays["s"].tolist() == [2.0 * self.number, 4.0]
        assert reply.executions == 1
        self.answered += 1
        assert self.lease.lane.here.channel.session.pending == {}

    @rule(at=st.sampled_from([FaultPoint.BEFORE, FaultPoint.MID_REQUEST, FaultPoint.DURING_RECOVERY]))
    @precondition(lambda self: self.lease and self.loaded and not self.lease.plans.unfired() and not self.struck)
    def request_that_is_not_recovered(self, at):
        self.lease.plans.waiting.append(FaultPlan(Fault.BROWSER_CRASH, at, recovery=Strategy.NONE))
        self.planned += 1
        x = np.ones(2, np.float32)
        try:
            self.run(self.lease.run(next(iter(self.loaded.values())), {"x": x, "y": x}, deadline=30))
        except RecoveryError:
            return
        raise AssertionError("strategy none answered")

    @rule(fault=st.sampled_from([Fault.CONNECTION_LOST, Fault.BROWSER_CRASH]))
    @precondition(lambda self: self.lease and self.lease.lane.station and self.lease.lane.here.channel.connected)
    def inject_by_hand(self, fault):
        self.run(self.lease.cause(FaultPlan(fault)))
        self.planned += 1
        self.struck = True

    @rule(data=st.data(), wait=st.sampled_from([0.0, 0.01, 5.0]))
    @precondition(lambda self: self.lease is None and self.house.fleet.running)
    def die_between_tests(self, data, wait):
        running = [driver for driver in self.house.fleet.drivers if driver.pid is not None]
        driver = data.draw(st.sampled_from(running))

        async def die():
            driver.kill()
            await asyncio.sleep(wait)

        self.run(die())

    @rule()
    @precondition(lambda self: self.lease)
    def release(self):
        async def leave():
            whole = await self.lease.end()
            state = self.lease.lane.state
            await self.scope.__aexit__(None, None, None)
            return whole, state

        self.planned -= len(self.lease.plans.unfired())
        self.struck = False
        whole, _ = self.run(leave())
        assert whole
        lane = self.lease.lane
        assert lane.state is LaneState.READY
        assert self.run(lane.here.healthy())
        assert len(self.house.recoveries) == self.planned
        self.lease = None

    @invariant()
    def no_transaction_is_left_open(self):
        if hasattr(self, "house"):
            kinds = {one.kind for one in self.house.journal.open_transactions()}
            assert kinds <= {"spare", "repair"}, "but for what is made ready behind the answers"

    @invariant()
    def nothing_runs_twice_in_one_page(self):
        if hasattr(self, "house"):
            pages = [page for driver in self.house.fleet.drivers for page in driver.executions]
            assert all(times == 1 for page in pages for times in page.values())

    @invariant()
    def no_more_browsers_run_than_lanes_were_started(self):
        if hasattr(self, "house"):
            assert self.house.fleet.running <= len(self.house.pool.statistics()) * (1 + self.spares) + self.losers

    @invariant()
    def a_row_is_recovered_unless_nothing_was_tried(self):
        if hasattr(self, "house"):
            for row in self.house.recoveries:
                wanted = Outcome.FAILED if row.strategy == Strategy.NONE else Outcome.RECOVERED
                if row.detail in {"no request followed the fault", "another fault followed before any request"}:
                    wanted = Outcome.UNKNOWN
                assert row.outcome == wanted, row
                assert (row.duplicated, row.lost) == (0, 0), row

    @invariant()
    def every_answer_is_committed_once(self):
        if hasattr(self, "house"):
            assert self.house.transactions.count(("run", "committed")) == self.answered

    def teardown(self):
        if self.lease is not None:
            self.release()
        if hasattr(self, "house"):
            self.run(self.house.pool.stop())
            assert self.house.fleet.running == 0
            assert self.house.journal.open_transactions() == ()
        self.runner.close()
        gc.collect()
        assert not self.unseen, self.unseen


TestPoolAndRecovery = PoolAndRecovery.TestCase
TestPoolAndRecovery.settings = settings(max_examples=25, stateful_step_count=12, deadline=None)
