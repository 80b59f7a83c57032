"""Every fault, really caused in real browsers, on every lane where it means something: without recovery, it hurts."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from pytest_webaccel.browsers import find, make_driver
from pytest_webaccel.browsers.install.ort import ort_dist, ort_version
from pytest_webaccel.browsers.probe import lanes_table
from pytest_webaccel.engines.models import inspect_model
from pytest_webaccel.errors import DamagedLaneError, FaultError
from pytest_webaccel.faults import INJECTORS, ComponentTimeout, Hang, Memory, OutOfMemory, Pair, Part, PartialResult
from pytest_webaccel.faults.browser_crash import BrowserCrash
from pytest_webaccel.faults.connection_lost import ConnectionLost
from pytest_webaccel.faults.page_crash import PageCrash
from pytest_webaccel.pool.pool import Pool
from pytest_webaccel.pool.request import Run
from pytest_webaccel.pool.target import LaneTarget
from pytest_webaccel.pool.worker import installation_of
from pytest_webaccel.terms import Backend, Browser, Damage, Fault, Lane
from tests import models

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from pytest_webaccel.faults import Injector
    from pytest_webaccel.pool.lane import LiveLane

BROWSERS = [browser for browser in (Browser.CHROMIUM, Browser.FIREFOX) if find(browser) is not None]
pytestmark = pytest.mark.skipif(not BROWSERS, reason="no browser is here: python -m pytest_webaccel install")

FEEDS = {name: np.array([1, 2, 3], np.float32) for name in "xy"}
TEST_S = 60.0
#: What an answer may take that never comes, where nothing tells of it before.
ANSWER_S = 0.7

CASES: dict[str, Injector] = {
    **{
        str(fault): injector
        for fault, injector in INJECTORS.items()
        if fault not in {Fault.WORKER_CRASH, Fault.COMPONENT_TIMEOUT, Fault.OUT_OF_MEMORY, Fault.PARTIAL_RESULT}
    },
    **{f"component_timeout-{kind}": ComponentTimeout(kind, patience_s=0.5) for kind in Hang},
    **{f"out_of_memory-{memory}": OutOfMemory(memory) for memory in Memory},
    **{f"partial_result-{part}": PartialResult(part) for part in Part},
}
#: Two faults back to back are no fault of their own, so one lane is enough for them.
PAIRS: dict[str, Injector] = {
    "pair": Pair(ConnectionLost(), PageCrash()),
    "pair_of_crashes": Pair(PageCrash(), BrowserCrash()),
}


class Grounds:
    """Real lanes, kept from test to test."""

    def __init__(self) -> None:
        self.runner = asyncio.Runner()
        self.table = lanes_table(browsers=BROWSERS)
        self.pool: Pool = self.run(self._open())

    def run(self, work: Any) -> Any:
        async def bounded() -> Any:
            async with asyncio.timeout(TEST_S):
                return await work

        return self.runner.run(bounded())

    async def _open(self) -> Pool:
        folder = ort_dist(None)
        return Pool(
            self.table, lambda probe: make_driver(installation_of(probe)), lambda: (folder, ort_version(folder))
        )

    def close(self) -> None:
        self.run(self.pool.stop())
        self.runner.close()

    @contextlib.asynccontextmanager
    async def lane(self, name: Lane) -> Any:
        async with self.pool.lease(name) as lane:
            yield lane
            lane.holdings.clear()
            assert await lane.settle(), f"{name} could not be made whole again"


@pytest.fixture(scope="module")
def grounds() -> Iterator[Grounds]:
    grounds = Grounds()
    yield grounds
    grounds.close()


async def strike(lane: LiveLane, injector: Injector, folder: Path) -> tuple[Damage | None, Damage | None]:
    """Return the damage that was seen and what the request then met with; None for an answer."""
    info = await asyncio.to_thread(inspect_model, models.scaled_sum(), folder)
    model = await lane.load(info, None, deadline=30.0)
    undisturbed = Run(lane, model, FEEDS, None, 30.0)
    undisturbed.send()
    assert (await undisturbed.answer()).tensors["z"].tolist() == [4, 8, 12]

    target, request = LaneTarget(lane), Run(lane, model, FEEDS, None, ANSWER_S)
    lane.here.damages.clear()
    request.send(hold=True)
    answer = asyncio.ensure_future(request.answer())
    seen = None
    try:
        await request.started(deadline=30.0)
        await injector.cause(target, deadline=30.0)
        if not injector.seen_by_request:
            seen = await injector.observe(target, deadline=45.0)
        request.release()
        assert (await answer).tensors["z"].tolist() == [4, 8, 12]
        return seen, None
    except DamagedLaneError as error:
        return seen, error.damage
    finally:
        answer.cancel()
        await asyncio.gather(answer, return_exceptions=True)
        request.close()
        await injector.roll_back(target, deadline=5.0)
        await target.roll_back_later()
        if injector.fault is Fault.COMPONENT_ERROR:  # what was broken must not stay for the next test
            await lane.here.drop(model, deadline=2.0)
        if injector.fault in {Fault.COMPONENT_TIMEOUT, Fault.OUT_OF_MEMORY}:  # nor what hangs, nor what is full
            lane.here.driver.kill()


LANES = [Lane(browser, backend) for browser in BROWSERS for backend in Backend]


@pytest.mark.parametrize(
    ("lane", "case"),
    [(lane, case) for lane in LANES for case in CASES]
    + [(lane, case) for lane in LANES if lane.backend is Backend.CPU for case in PAIRS][: len(PAIRS)],
    ids=str,
)
def test_without_recovery_the_request_fails(grounds, lane, case):
    probe = next(probe for probe in grounds.table if probe.lane == lane)
    if not probe.works:
        pytest.skip(probe.reason)
    injector = {**CASES, **PAIRS}[case]

    async def scenario():
        async with grounds.lane(lane) as live:
            if reason := injector.meaning(probe):
                with pytest.raises(FaultError, match="has no meaning here"):
                    await injector.cause(LaneTarget(live), deadline=1.0)
                return reason
            seen, met = await strike(live, injector, grounds.pool.folder)
            assert (seen is None) == injector.seen_by_request
            assert seen is None or seen.symptom in injector.symptoms
            if not injector.degrades:
                assert met is not None, f"the request was answered although {seen} was seen"
            if injector.seen_by_request:
                assert met is not None
                assert met.symptom in injector.symptoms
            return None

    if reason := grounds.run(scenario()):
        pytest.skip(reason)
