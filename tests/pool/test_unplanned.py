"""Lanes that break without anybody's plan: mended, told, and no trouble for the test that comes next."""

from __future__ import annotations

import numpy as np
import pytest

from pytest_webaccel import browsers
from pytest_webaccel.browsers.probe import lanes_table
from pytest_webaccel.pool.worker import Worker
from pytest_webaccel.rows import MeasurementRow
from pytest_webaccel.terms import Browser, Strategy
from tests.models import scaled_sum

FEEDS = {"x": np.ones(3, np.float32), "y": np.ones(3, np.float32)}


@pytest.fixture(scope="module")
def chromium():
    if browsers.find(Browser.CHROMIUM) is None:
        pytest.skip("no Chromium is here: python -m pytest_webaccel install")
    return [probe for probe in lanes_table([Browser.CHROMIUM]) if probe.works and probe.lane.backend == "cpu"]


@pytest.fixture
def rows():
    return []


@pytest.fixture
def worker(chromium, rows):
    worker = Worker(chromium, run_id="r", worker="main", strategy=Strategy.COORDINATED, record=rows.append)
    yield worker
    worker.stop()


def answer(worker, lease):
    model = worker.call(lease.load(scaled_sum(), None, deadline=30), deadline=60)
    arrays, _ = worker.call(lease.run(model, FEEDS, deadline=30), deadline=60)
    return arrays["z"].tolist()


def told(rows):
    return [row.metric for row in rows if isinstance(row, MeasurementRow)]


def test_a_page_that_reloads_is_noticed_mended_and_told(worker, chromium, rows):
    with worker.lease(chromium[0].lane, "t") as lease:
        assert answer(worker, lease) == [4, 4, 4]
        worker.call(
            lease.lane.here.driver.evaluate("setTimeout(() => location.reload(), 0), 1", deadline=5), deadline=5
        )
        instances = lease.lane.here.channel.session.instances
        joined = lease.lane.here.channel.wait_connected(deadline=10, new_instance_since=instances)
        worker.call(joined, deadline=10)
        assert not worker.call(lease.lane.here.healthy(), deadline=5)
        assert answer(worker, lease) == [4, 4, 4]
    assert told(rows) == ["unplanned_recovery_page_replaced"]


def test_a_connection_lost_under_a_load_leaves_the_model_usable_now_and_in_the_next_test(worker, chromium, rows):
    async def load(lease):
        import asyncio

        loading = asyncio.ensure_future(lease.load(scaled_sum(), None, deadline=30))
        while not lease.lane.here.channel.session.pending:  # noqa: ASYNC110 - nothing says that it was sent
            await asyncio.sleep(0)
        lease.lane.here.channel.abort()
        return await loading

    with worker.lease(chromium[0].lane, "t") as lease:
        model = worker.call(load(lease), deadline=60)
        assert worker.call(lease.run(model, FEEDS, deadline=30), deadline=60)[0]["z"].tolist() == [4, 4, 4]
    with worker.lease(chromium[0].lane, "t") as lease:
        assert answer(worker, lease) == [4, 4, 4]
    assert told(rows) == ["unplanned_recovery_socket_closed"]


def test_a_load_that_ran_out_of_time_does_not_spoil_the_model_for_the_next_test(worker, chromium):
    with worker.lease(chromium[0].lane, "t", Strategy.NONE) as lease, pytest.raises(Exception, match="deadline"):
        worker.call(lease.load(scaled_sum(), None, deadline=0.001), deadline=30)
    with worker.lease(chromium[0].lane, "t") as lease:
        assert answer(worker, lease) == [4, 4, 4]


def test_a_browser_that_dies_between_tests_is_restarted_and_told(worker, chromium, rows):
    with worker.lease(chromium[0].lane, "t") as lease:
        assert answer(worker, lease) == [4, 4, 4]
        lease.lane.here.driver.kill()
    assert told(rows) == ["unplanned_restart"]
    with worker.lease(chromium[0].lane, "t") as lease:
        assert answer(worker, lease) == [4, 4, 4]
