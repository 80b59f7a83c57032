"""Fail-over from one real engine to the other, in both directions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pytest_webaccel import browsers
from pytest_webaccel.browsers.probe import lanes_table
from pytest_webaccel.errors import BrowserError
from pytest_webaccel.pool.worker import Worker, installation_of
from pytest_webaccel.rows import RecoveryRow
from pytest_webaccel.terms import Browser, Fault, FaultPlan, Lane, Outcome, Strategy
from tests import models

pytestmark = pytest.mark.skipif(
    any(browsers.find(one) is None for one in (Browser.CHROMIUM, Browser.FIREFOX)),
    reason="Chromium and Firefox are both needed: python -m pytest_webaccel install",
)

CHROMIUM, FIREFOX = Lane.parse("chromium:cpu"), Lane.parse("firefox:cpu")


@pytest.mark.parametrize(("lane", "other"), [(CHROMIUM, FIREFOX), (FIREFOX, CHROMIUM)], ids=str)
def test_a_request_whose_browser_starts_no_more_is_answered_by_the_other_engine(lane, other, monkeypatch):
    rows: list[Any] = []
    worker = Worker(
        lanes_table(lanes=[CHROMIUM, FIREFOX]),
        run_id="r",
        worker="w",
        strategy=Strategy.PROGRESSIVE,
        record=rows.append,
    )
    x = np.array([1, 2], np.float32)
    try:
        with worker.lease(lane, "test") as lease:
            model = worker.call(lease.load(models.scaled_sum(), None, deadline=60), deadline=60)
            refused = _refuse(worker, lane.browser)
            lease.plans.waiting.append(FaultPlan(Fault.BROWSER_CRASH))
            arrays, _ = worker.call(lease.run(model, {"x": x, "y": x}, deadline=30), deadline=90)
            assert arrays["z"].tolist() == [4, 8]
            assert lease.lane.here.lane == other
            refused.clear()
        (row,) = [row for row in rows if isinstance(row, RecoveryRow)]
        assert (row.outcome, row.rungs) == (Outcome.RECOVERED, "restart_browser,fail_over"), row.detail
        with worker.lease(lane, "next") as lease:
            assert lease.lane.here.lane == lane
    finally:
        worker.stop()


def _refuse(worker: Worker, browser: Browser) -> set[Browser]:
    """Have ``browser`` not start until the returned set is emptied."""
    refused = {browser}
    make = worker.pool._make_driver

    def maker(probe):
        driver = make(probe)
        if probe.lane.browser in refused:

            async def start(*, deadline):
                raise BrowserError(f"{installation_of(probe).executable} is not to be started in this test")

            vars(driver)["start"] = start
        return driver

    vars(worker.pool)["_make_driver"] = maker
    return refused
