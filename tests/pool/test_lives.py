"""A test that is run again because its worker died: nothing committed is lost or done twice, no answer is wrong."""

from __future__ import annotations

import contextlib
import pathlib
import tempfile
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_webaccel.errors import ConfigurationError
from pytest_webaccel.faults import INJECTORS
from pytest_webaccel.faults.component_timeout import ComponentTimeout, Hang
from pytest_webaccel.pool import lives
from pytest_webaccel.pool.lives import Ledgers, Life
from pytest_webaccel.pool.steps import Script, run_steps
from pytest_webaccel.recovery import worker_restart
from pytest_webaccel.recovery.ledger import ledger_path
from pytest_webaccel.terms import Evidence, Fault, FaultPlan, FaultPoint, Outcome, Strategy
from pytest_webaccel.testing.browser import FakeDriver
from tests import models
from tests.pool.conftest import GPU, live
from tests.pool.test_steps import CARRY, FEEDS, ZERO, expected, sums


class Died(BaseException):
    """Stands for SIGKILL: nothing of the worker runs after it."""


@pytest.fixture(autouse=True)
def worker(monkeypatch):
    """This process says that it is a worker, and instead of killing itself raises Died."""
    monkeypatch.setenv(worker_restart.WORKER_VARIABLE, "gw0")

    def end(ledger, death):
        ledger.die(death)
        raise Died

    monkeypatch.setattr(lives, "end_worker", end)


class Lives:
    """Runs the body of a test in one life after the other, until one of them gets to its end."""

    def __init__(self, folder):
        self.folder = pathlib.Path(folder)
        self.rows: list[Any] = []
        self.transactions: list[Any] = []
        self.count = 0

    def run(self, body, plans, *, strategy=Strategy.COORDINATED, between=lambda path: None, most=2):
        for self.count in range(1, most + 1):
            if self._life(body, plans, strategy):
                return True
            between(ledger_path(self.folder, "test"))
        return False

    def _life(self, body, plans, strategy):
        ended = []

        async def main(home):
            ledgers = Ledgers(self.folder)
            try:
                with contextlib.suppress(Died):
                    life = Life(ledgers.of("test"), GPU, Evidence.FAKE)
                    async with home.lease(strategy=strategy, life=life) as lease:
                        lease.plans.waiting.extend(plans)
                        try:
                            await body(lease)
                            ended.append(lease.plans.unfired())
                        except Died:
                            lease._stories.waiting.clear()  # a killed worker writes no rows
                            raise
            finally:
                self.rows += home.recoveries
                self.transactions += home.transactions
            if ended:
                assert ledgers.end("test") is None

        live(main)
        return bool(ended)


async def ask(lease, count):
    model = await lease.load(models.scaled_sum(), None, deadline=30)
    for number in range(count):
        feeds = {name: np.full(2, number + 1, np.float32) for name in "xy"}
        arrays, _ = await lease.run(model, feeds, deadline=30)
        assert arrays["z"].tolist() == [4.0 * (number + 1)] * 2


def crash(strategy=None, at=FaultPoint.MID_REQUEST):
    return FaultPlan(Fault.WORKER_CRASH, at, recovery=strategy)


@pytest.mark.parametrize("strategy", [Strategy.SIMPLE, Strategy.COORDINATED])
@pytest.mark.parametrize("at", [FaultPoint.BEFORE, FaultPoint.MID_REQUEST, FaultPoint.MID_LOAD])
def test_a_killed_worker_costs_one_request_and_no_more(tmp_path, strategy, at):
    test = Lives(tmp_path)
    plans = [FaultPlan(Fault.DEVICE_LOST), crash(strategy, at)]
    assert test.run(lambda lease: ask(lease, 4), plans)
    assert test.count == 2
    told = [row for row in test.rows if row.fault == "worker_crash"]
    assert [(row.outcome, row.strategy, row.rungs) for row in told] == [
        (Outcome.RECOVERED, strategy, lives.NEW_WORKER),
    ]
    assert test.transactions.count(("run", "committed")) == 4
    assert not list(tmp_path.rglob("*.ledger"))


def test_the_control_starts_over(tmp_path):
    test = Lives(tmp_path)
    plans = [FaultPlan(Fault.CONNECTION_LOST), FaultPlan(Fault.BROWSER_CRASH, recovery=Strategy.WORKER_RESTART)]
    assert test.run(lambda lease: ask(lease, 3), plans)
    assert test.transactions.count(("run", "committed")) == 1 + 3
    told = [row for row in test.rows if row.fault == "browser_crash"]
    assert [(row.outcome, row.strategy, row.symptom) for row in told] == [
        (Outcome.RECOVERED, Strategy.WORKER_RESTART, "browser_exited"),
    ]


def test_a_page_that_was_stopped_goes_on_when_its_worker_ends_and_so_ends_with_it(tmp_path, monkeypatch):
    monkeypatch.setitem(INJECTORS, Fault.COMPONENT_TIMEOUT, ComponentTimeout(Hang.STOPPED))
    stopped: list[Any] = []
    stop_page = FakeDriver.stop_page

    async def noted(driver, *, deadline):
        await stop_page(driver, deadline=deadline)
        stopped.append(driver)
        assert driver.page.stalled

    def end(ledger, death):
        assert [driver.page.stalled for driver in stopped] == [False]
        ledger.die(death)
        raise Died

    monkeypatch.setattr(FakeDriver, "stop_page", noted)
    monkeypatch.setattr(lives, "end_worker", end)
    test = Lives(tmp_path)
    plan = FaultPlan(Fault.COMPONENT_TIMEOUT, recovery=Strategy.WORKER_RESTART)
    assert test.run(lambda lease: ask(lease, 2), [plan])
    assert len(stopped) == 1


def test_what_the_first_life_recovered_from_is_told_before_it_ends(tmp_path):
    test = Lives(tmp_path)
    test.run(lambda lease: ask(lease, 3), [FaultPlan(Fault.DEVICE_LOST), crash()])
    assert sorted((row.fault, row.outcome) for row in test.rows) == [
        ("device_lost", Outcome.RECOVERED),
        ("worker_crash", Outcome.RECOVERED),
    ]


@pytest.mark.parametrize("fault", [Fault.WORKER_CRASH, Fault.BROWSER_CRASH])
def test_a_fault_by_hand_strikes_in_the_first_life_alone(tmp_path, fault):
    async def body(lease):
        model = await lease.load(models.scaled_sum(), None, deadline=30)
        await lease.cause(FaultPlan(fault, recovery=Strategy.WORKER_RESTART))
        arrays, _ = await lease.run(model, {name: np.ones(2, np.float32) for name in "xy"}, deadline=30)
        assert arrays["z"].tolist() == [4.0, 4.0]

    test = Lives(tmp_path)
    assert test.run(body, [])
    assert [(row.fault, row.outcome) for row in test.rows] == [(fault, Outcome.RECOVERED)]


@pytest.mark.parametrize(("strategy", "saves"), [(Strategy.COORDINATED, True), (Strategy.SIMPLE, False)])
def test_a_request_of_many_steps_goes_on_in_the_next_worker(tmp_path, strategy, saves):
    async def body(lease):
        model = await lease.load(models.recurrent(), None, deadline=30)
        results = await run_steps(lease, model, Script(FEEDS, CARRY, ZERO), deadline=30)
        assert sums(results) == pytest.approx(expected())

    test = Lives(tmp_path)
    assert test.run(body, [crash(strategy)])
    (row,) = test.rows
    assert (row.outcome, row.steps, row.steps_saved > 0) == (Outcome.RECOVERED, len(FEEDS), saves)
    done = test.transactions.count(("step", "committed"))
    assert (done == len(FEEDS)) is saves


def test_a_test_that_does_not_get_there_again_is_told_of(tmp_path):
    ledgers = Ledgers(tmp_path)
    test = Lives(tmp_path)
    assert not test.run(lambda lease: ask(lease, 2), [crash()], most=1)
    assert ledgers.of("test") is not None
    death = ledgers.end("test")
    assert death is not None
    assert death.fault is Fault.WORKER_CRASH


def test_without_a_worker_that_could_be_replaced_the_control_says_so(monkeypatch):
    monkeypatch.delenv(worker_restart.WORKER_VARIABLE)
    monkeypatch.setattr(lives, "end_worker", worker_restart.end_worker)

    async def body(home):
        async with home.lease() as lease:
            lease.plans.waiting.append(FaultPlan(Fault.BROWSER_CRASH, recovery=Strategy.WORKER_RESTART))
            with pytest.raises(ConfigurationError, match="-n1"):
                await ask(lease, 1)

    live(body)


FAULTS = st.sampled_from([Fault.CONNECTION_LOST, Fault.BROWSER_CRASH, Fault.DEVICE_LOST, None, None])
MENDING = st.sampled_from([Strategy.SIMPLE, Strategy.PROGRESSIVE, Strategy.COORDINATED])


@settings(deadline=None, max_examples=25)
@given(
    faults=st.lists(FAULTS, min_size=1, max_size=4),
    crash_at=st.integers(0, 4),
    strategy=MENDING,
    cut=st.integers(0, 200),
)
def test_no_schedule_loses_repeats_or_falsifies_an_answer(faults, crash_at, strategy, cut):
    """One worker crash somewhere among other faults, and a ledger whose last bytes the kill may have torn."""
    plans = [FaultPlan(fault) for fault in faults if fault is not None]
    plans.insert(min(crash_at, len(plans)), crash())
    count = len(plans) + 1
    torn = []

    def tear(path):
        data = path.read_bytes()
        torn.append(path)
        path.write_bytes(data + b"wal1" + bytes(cut))  # what a write cut short leaves behind

    with tempfile.TemporaryDirectory() as folder:
        test = Lives(folder)
        assert test.run(lambda lease: ask(lease, count), plans, strategy=strategy, between=tear)
        assert torn
        assert test.transactions.count(("run", "committed")) == count
        assert [row.outcome for row in test.rows] == [Outcome.RECOVERED] * len(plans)
        assert all(row.duplicated == row.lost == 0 for row in test.rows)
