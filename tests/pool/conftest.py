"""A pool of fake lanes on a virtual clock."""

from __future__ import annotations

import asyncio
import contextlib
import gc
from typing import Any

import numpy as np
import pytest

from pytest_webaccel.pool.lease import Lease, Terms
from pytest_webaccel.pool.pool import Pool
from pytest_webaccel.recovery.journal import Journal
from pytest_webaccel.rows import RecoveryRow, TransactionRow
from pytest_webaccel.terms import Backend, Browser, Evidence, Lane, ProbeResult, Strategy
from pytest_webaccel.testing import FakeFleet, VirtualLoop, stand_in_ort
from tests import models

GPU = Lane(Browser.FAKE, Backend.WEBGPU)
CPU = Lane(Browser.FAKE, Backend.CPU)
FEEDS = {"x": np.array([1, 2], np.float32), "y": np.array([3, 4], np.float32)}
ANSWER = [8.0, 12.0]


class House:
    """A pool, where its rows go, and the browsers it started."""

    def __init__(self, seed=0, *, spares=0, engines=(), **fleet):
        self.broken: set[Browser] = set()  # browsers that refuse to start
        self.rows: list[Any] = []
        self.started: list[Any] = []
        self.fleet = FakeFleet(seed, **fleet)
        table = [ProbeResult(Lane(Browser.FAKE, backend), True, Evidence.FAKE) for backend in Backend]
        table.append(
            ProbeResult(
                Lane(Browser.FIREFOX, Backend.WEBNN),
                False,
                Evidence.SOFTWARE,
                reason="no WebNN.",
                remedy="Use another.",
            )
        )
        table += [ProbeResult(lane, True, Evidence.FAKE) for lane in engines]
        self.journal = Journal(self.rows.append, "run", Evidence.FAKE)
        self.pool = Pool(
            table,
            self._driver,
            stand_in_ort,
            spares=spares,
            on_start=self.started.append,
            journal=self.journal,
            clock=self._now,
        )

    @staticmethod
    def _now():
        return asyncio.get_running_loop().time()

    def _driver(self, probe):
        driver = self.fleet.make()
        if probe.lane.browser in self.broken:
            driver.misbehaviour.refuse_starts = 1
        return driver

    @contextlib.asynccontextmanager
    async def lease(self, lane=GPU, strategy=Strategy.COORDINATED, budget_s=120.0, seed=0, life=None):
        async with self.pool.lease(lane) as live:
            terms = Terms("run", "test", "main", strategy, budget_s, seed)
            lease = Lease(live, terms, self.journal, self.pool.folder, self.rows.append, life)
            try:
                yield lease
            finally:
                await lease.end()

    @property
    def recoveries(self):
        return [row for row in self.rows if isinstance(row, RecoveryRow)]

    @property
    def transactions(self):
        return [(row.kind, row.state) for row in self.rows if isinstance(row, TransactionRow)]


async def ask(lease, model=None, feeds=FEEDS, deadline=30):
    """Load the usual model unless given one, run it, return z as a list."""
    if model is None:
        model = await lease.load(models.scaled_sum(), None, deadline=30)
    arrays, _ = await lease.run(model, feeds, deadline=deadline)
    return arrays["z"].tolist()


def live(body, **house):
    """Run ``body(house)`` on a virtual clock; afterwards nothing is left running and nothing failed unseen."""
    unseen: list[Any] = []

    async def main():
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: unseen.append(context))
        home = House(**house)
        try:
            async with asyncio.timeout(100_000):
                await body(home)
        finally:
            await home.pool.stop()
        assert home.fleet.running == 0
        assert home.journal.open_transactions() == ()
        await asyncio.sleep(1.0)
        left = asyncio.all_tasks() - {asyncio.current_task()}
        assert not left, left
        gc.collect()

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(main())
    gc.collect()
    assert not unseen, unseen


@pytest.fixture(autouse=True)
def _no_debug_log_noise(caplog):
    """Nothing of ours may complain through asyncio's logger."""
    yield
    assert not [record for record in caplog.records if record.name == "asyncio" and record.levelname == "ERROR"]
