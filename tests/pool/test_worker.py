"""A worker on fake lanes, and on a real one for its spare."""

from __future__ import annotations

import time
from typing import Any

import pytest

from pytest_webaccel.browsers import DRIVERS
from pytest_webaccel.browsers.probe import lanes_table
from pytest_webaccel.errors import ConfigurationError, FaultError, LaneUnavailableError
from pytest_webaccel.faces import Faults, Manner, PoolFace, WebAccel
from pytest_webaccel.pool.worker import Worker
from pytest_webaccel.rows import SPARE_MEMORY, MeasurementRow, ParityRow, RecoveryRow, TransactionRow
from pytest_webaccel.terms import Browser, Evidence, Fault, FaultPlan, Lane, ProbeResult, Strategy
from pytest_webaccel.testing import install_fake_browser, stand_in_ort
from tests import models
from tests.pool.conftest import ANSWER, CPU, FEEDS, GPU


class Bench:
    """A worker, and the rows that it recorded."""

    def __init__(self, table, **more):
        self.rows: list[Any] = []
        self.worker = Worker(
            table, run_id="run", worker="main", strategy=Strategy.COORDINATED, record=self.rows.append, **more
        )

    def of(self, kind):
        return [row for row in self.rows if isinstance(row, kind)]

    def face(self, lease):
        return WebAccel(self.worker, lease, Manner())


@pytest.fixture
def bench(monkeypatch):
    """Two fake lanes, of which one claims hardware."""
    monkeypatch.setitem(DRIVERS, Browser.FAKE, None)
    install_fake_browser(0)
    found = Bench(
        [ProbeResult(GPU, True, Evidence.HARDWARE), ProbeResult(CPU, True, Evidence.SOFTWARE)], ort=stand_in_ort()[0]
    )
    monkeypatch.setattr("pytest_webaccel.pool.worker.ort_version", lambda folder: "fake")
    monkeypatch.setattr("pytest_webaccel.pool.worker.ort_dist", lambda folder: folder)
    yield found
    found.worker.stop()


def test_rows_carry_the_evidence_of_their_own_lane(bench):
    for lane in (GPU, CPU):
        with bench.worker.lease(lane, "test") as lease:
            bench.face(lease).load(models.scaled_sum())
    grades = {(row.lane, row.evidence) for row in bench.of(TransactionRow)}
    assert grades == {(str(GPU), Evidence.HARDWARE), (str(CPU), Evidence.SOFTWARE)}


def test_a_comparison_grades_each_lane_as_its_own(bench):
    with bench.worker.lease(GPU, "test") as lease:
        face = bench.face(lease)
        face.check(face.load(models.scaled_sum()), FEEDS)
    grades = {row.lane: row.evidence for row in bench.of(ParityRow)}
    assert grades == {str(GPU): Evidence.HARDWARE, str(CPU): Evidence.SOFTWARE}


def test_a_lane_that_the_test_holds_is_refused_at_once_and_said_to_be_held(bench):
    pool = PoolFace(bench.worker, "test", Manner())
    begun = time.monotonic()
    with (
        bench.worker.lease(GPU, "test"),
        pytest.raises(LaneUnavailableError, match="fake:webgpu is not free: this test holds it already"),
        pool.lease("fake:webgpu"),
    ):
        pytest.fail("it was leased twice")
    assert time.monotonic() - begun < 20
    with pool.lease("fake:webgpu") as face:
        assert face.lane == GPU


def test_a_comparison_uses_lanes_that_the_test_holds_through_the_pool(bench):
    pool = PoolFace(bench.worker, "test", Manner())
    with pool.lease(GPU) as one, pool.lease(CPU):
        assert one.check(one.load(models.scaled_sum()), FEEDS).agrees


@pytest.mark.parametrize(
    ("call", "kind", "words"),
    [
        (lambda faults: faults.inject("browser_crsh"), FaultError, "known: .*did you mean 'browser_crash'"),
        (lambda faults: faults.inject("browser_crash", recovery="simpel"), ConfigurationError, "mean 'simple'"),
        (lambda faults: faults.plan("device_last"), FaultError, "did you mean 'device_lost'"),
        (lambda faults: faults.plan("device_lost", at="midrequest"), ConfigurationError, "mean 'mid_request'"),
        (lambda faults: faults.plan("device_lost", recovery="non"), ConfigurationError, "known: .*none"),
        (lambda faults: faults.plan("device_lost", at=3), ConfigurationError, "at=3 is not a word"),
        (lambda faults: faults.plan("device_lost", times=0), ConfigurationError, "times=0"),
        (lambda faults: faults.plan(Fault.DEVICE_LOST, times="2"), ConfigurationError, "times='2'"),
    ],
)
def test_words_that_cannot_be_meant_are_refused_with_those_that_can(bench, call, kind, words):
    with bench.worker.lease(GPU, "test") as lease:
        with pytest.raises(kind, match=words):
            call(Faults(bench.worker, lease))
        assert lease.plans.unfired() == ()


def test_a_fault_by_hand_is_recovered_by_the_strategy_it_names(bench):
    with bench.worker.lease(GPU, "test") as lease:
        face = bench.face(lease)
        model = face.load(models.scaled_sum())
        Faults(bench.worker, lease).inject("device_lost", recovery="simple")
        assert face.run(model, FEEDS)["z"].tolist() == ANSWER
    [row] = bench.of(RecoveryRow)
    assert (row.fault, row.strategy, row.outcome) == ("device_lost", "simple", "recovered")


def test_a_real_browsers_spare_takes_over_and_another_is_made_ready():
    lane = Lane.parse("chromium:cpu")
    bench = Bench(lanes_table(lanes=[lane]), spares=1)
    try:
        with bench.worker.lease(lane, "test") as lease:
            face = bench.face(lease)
            model = face.load(models.scaled_sum())
            first = lease.lane.here.driver.pid
            lease.plans.waiting.append(FaultPlan(Fault.BROWSER_CRASH))
            assert face.run(model, FEEDS)["z"].tolist() == ANSWER
            assert lease.lane.here.driver.pid not in {None, first}
        [statistics] = bench.worker.pool.statistics()
    finally:
        bench.worker.stop()
    [row] = bench.of(RecoveryRow)
    assert (row.outcome, row.load_ms, row.attempts, row.lost, row.duplicated) == ("recovered", 0.0, 1, 0, 0)
    assert row.reassign_ms < 250  # a cold start takes longer on any machine
    assert (statistics["spare_ready"], statistics["starts"], statistics["state"]) == (True, 3, "ready")
    held = [held for held in bench.of(MeasurementRow) if held.metric == SPARE_MEMORY]
    assert {(held.lane, held.unit, held.evidence) for held in held} == {(str(lane), "bytes", Evidence.SOFTWARE)}
    assert len(held) <= 2, "once without a model, if it was ready so soon, and once with it"
    assert held[-1].value > 2**25
