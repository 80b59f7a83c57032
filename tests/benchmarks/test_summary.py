"""Figures of the recovery matrix, held against ones that are known."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_webaccel.report.statistics import censored_median_interval, censored_percentile, percentile
from tests.bench.matrix.design import Arm, Cell, Trial
from tests.bench.matrix.figure import ecdf, svg
from tests.bench.matrix.flat import Point, slope
from tests.bench.matrix.ours import base
from tests.bench.matrix.progress import Progress, duration, estimate
from tests.bench.matrix.state import FAILED, RECOVERED, VOID, Result
from tests.bench.matrix.summary import in_force, ratio, row, rows
from tests.bench.matrix.targets import targets

CPU = "chromium:cpu"
times = st.lists(st.floats(0.1, 1e4), min_size=1, max_size=30)


def trials(cell: Cell, milliseconds: list[float], failures: int = 0, **more: object) -> list[Result]:
    found = [
        Result(**base(Trial(cell, number)), outcome=RECOVERED, total_ms=ms, evidence="software")
        for number, ms in enumerate(milliseconds)
    ]
    found += [
        Result(**base(Trial(cell, len(milliseconds) + number)), outcome=FAILED, budget_ms=60_000.0, detail="gave up")
        for number in range(failures)
    ]
    return [dataclasses.replace(one, **more) for one in found]  # type: ignore[arg-type]


def cell(strategy: str = "coordinated", fault: str = "page_crash", *, spare: bool = False) -> Cell:
    return Cell(strategy, fault, CPU, "mid_request", spare)


@given(times, st.floats(0, 100))
def test_without_failures_a_percentile_is_the_ordinary_one(values: list[float], q: float):
    assert censored_percentile(values, 0, q) == pytest.approx(percentile(values, q))


@given(times, st.integers(1, 30), st.floats(0, 100))
def test_a_failure_counts_as_longer_than_every_time(values: list[float], failures: int, q: float):
    found = censored_percentile(values, failures, q)
    if found is None:
        assert q / 100 * (len(values) + failures - 1) > len(values) - 1
    else:
        assert found == pytest.approx(percentile([*values, *[1e9] * failures], q))


def test_a_median_among_failures_is_none_and_so_is_its_interval():
    assert censored_percentile([5.0, 6.0], 3, 50) is None
    assert censored_median_interval([5.0, 6.0], failures=30) is None


def test_the_interval_of_a_median_holds_it_and_is_the_same_each_time():
    values = list(np.random.default_rng(1).lognormal(3, 1, 80))
    interval = censored_median_interval(values)
    assert interval is not None
    assert interval.low < float(np.median(values)) < interval.high
    assert censored_median_interval(values) == interval


def test_a_ratio_of_medians_has_an_interval_that_holds_it():
    chance = np.random.default_rng(2)
    ours, theirs = (trials(cell(), list(chance.normal(at, at / 10, 100))) for at in (40, 100))
    found = ratio(ours, theirs, lambda trial: trial.net_ms)
    assert found is not None
    assert found.low < found.value < found.high
    assert found.value == pytest.approx(0.4, abs=0.05)
    assert ratio(trials(cell(), [1.0]), theirs, lambda trial: trial.net_ms) is None


def test_a_side_that_fails_often_is_not_judged_by_what_survived():
    sure, flaky = trials(cell(), [50.0] * 40), trials(cell(), [10.0] * 15, failures=25)
    assert ratio(flaky, sure, lambda trial: trial.net_ms) is None, "more than half of it never recovered"
    some = ratio(trials(cell(), [float(ms) for ms in range(20)], failures=15), sure, lambda trial: trial.net_ms)
    assert some is not None
    assert some.value == pytest.approx(17 / 50)
    assert some.high == float("inf")


def test_a_row_counts_failures_and_takes_off_what_is_not_recovery():
    found = row(cell(), trials(cell(), [1100.0] * 30, failures=1, undisturbed_ms=60.0, deadline_ms=1000.0), voids=2)
    assert (found["n"], found["recovered"], found["censored"], found["void"]) == (31, 30, 1, 2)
    assert found["net_p50_ms"] == pytest.approx(40.0)
    assert found["p50_ms"] == found["median_ms"] == pytest.approx(1100.0)
    assert 0.8 < found["success_low"] < found["success"] == 30 / 31 < found["success_high"]
    assert found["p99_ms"] is None, "31 trials say nothing of one in a hundred"


def test_rows_have_the_keys_that_are_promised():
    keys = ("strategy", "fault", "lane", "n", "recovered", "success_low", "p50_ms", "p95_ms", "p99_ms", "evidence")
    assert set(keys) <= set(row(cell(), trials(cell(), [1.0])))


def test_void_trials_say_nothing_of_a_strategy():
    one = trials(cell(), [5.0])
    found = rows([*one, dataclasses.replace(one[0], outcome=VOID)])
    assert [(entry["n"], entry["void"]) for entry in found] == [(1, 1)]


@pytest.mark.parametrize(
    ("strategy", "spare", "symptom", "rungs", "proved"),
    [
        ("none", False, "page_crashed", "", True),
        ("none", False, "page_crashed", "new_page", False),
        ("simple", False, "page_crashed", "restart_browser", True),
        ("simple", False, "page_crashed", "new_page", False),
        ("progressive", False, "page_crashed", "new_page", True),
        ("progressive", False, "page_crashed", "restart_browser", False),
        ("parallel", False, "page_crashed", "new_page,restart_browser", True),
        ("parallel", False, "page_crashed", "new_page", False),
        ("parallel", False, "browser_exited", "restart_browser", True),
        ("coordinated", True, "browser_exited", "use_spare", True),
        ("coordinated", True, "browser_exited", "restart_browser", False),
        ("coordinated", True, "socket_closed", "reconnect,use_spare", True),
        ("coordinated", False, "device_lost", "new_device", True),
        ("worker_restart", False, "page_crashed", "new_worker", True),
        ("worker_restart", False, "page_crashed", "new_page", False),
    ],
)
def test_the_rungs_prove_which_strategy_was_in_force(
    strategy: str, spare: bool, symptom: str, rungs: str, proved: bool
):
    one = trials(cell(strategy, spare=spare), [5.0], symptom=symptom, rungs=rungs)[0]
    assert in_force(one) is proved


@pytest.mark.parametrize(
    ("spare", "rungs", "proved"),
    [
        (True, "use_spare,restart_browser", True),
        (True, "restart_browser", True),
        (True, "new_page,restart_browser", False),
        (False, "restart_browser", True),
        (False, "use_spare,restart_browser", False),
    ],
)
def test_a_spare_that_died_with_the_browser_may_be_tried_before_that_is_known(spare: bool, rungs: str, proved: bool):
    (one,) = trials(cell(fault="multi_browser", spare=spare), [5.0], symptom="browser_exited", rungs=rungs)
    assert in_force(one) is proved


def test_targets_are_missed_with_the_true_figure():
    spare, peer, cold = cell(spare=True), cell(Arm.RERUN), Cell(Arm.COLD, "nothing", CPU, "none")
    results = [
        *trials(spare, [300.0] * 20, rungs="use_spare", symptom="page_crashed"),
        *trials(cell(), [900.0] * 20, rungs="new_page", symptom="page_crashed"),
        *trials(peer, [500.0] * 20, rungs=Arm.RERUN),
        *trials(cold, [600.0] * 20),
    ]
    told = {one.what: one for one in targets(results, rows(results))}
    fast = told["median of coordinated with a warm spare after page_crash"]
    assert (fast.met, fast.found) == (False, "300.0 ms on chromium:cpu")
    assert [one.met for what, one in told.items() if "against playwright_rerun" in what] == [False]
    assert [one.found for what, one in told.items() if "cold start" in what] == ["1.50 (1.50 to 1.50)"]
    assert told["wrong answers delivered"].met is True
    assert told["coordinated recovers every device_lost (a warm spare)"].met is None


def test_a_ratio_whose_interval_reaches_over_the_limit_is_met_without_being_shown():
    slow, fast, wide = [100.0] * 20, [90.0] * 20, [40.0, 160.0] * 10
    for ours, met, shown in ((fast, True, True), ([200.0] * 20, False, True), (wide, True, False)):
        results = [*trials(cell("progressive"), ours), *trials(cell("simple"), slow)]
        (one,) = [one for one in targets(results, rows(results)) if "against simple" in one.what]
        assert (one.met, one.shown) == (met, shown), one


def test_a_curve_ends_at_the_share_that_recovered():
    _, shares = ecdf(trials(cell(), [float(ms) for ms in range(1, 301)], failures=100))
    assert shares == sorted(shares)
    assert shares[-1] == pytest.approx(0.75)


def test_the_figure_is_the_same_for_the_same_trials():
    results = [
        one
        for strategy, fault in itertools.product(("simple", "none", "coordinated"), ("page_crash", "browser_crash"))
        for one in trials(cell(strategy, fault), [3.0, 5.0, 8.0], failures=2)
    ]
    assert svg(results) == svg(list(reversed(results)))
    assert svg(results).count("<svg") == 1


@settings(deadline=None)  # the first example pays for SciPy's import
@given(st.floats(-5, 5), st.integers(0, 3))
def test_a_slope_is_found_whatever_each_process_starts_from(growth: float, seed: int):
    chance = np.random.default_rng(seed)
    points = [
        Point(process, faults, offset + growth * faults / 1000 + float(chance.normal(0, 0.01)))
        for process, offset in (("a", 100.0), ("b", 350.0))
        for faults in range(0, 5000, 100)
    ]
    found = slope(points)
    assert found is not None
    assert found.value == pytest.approx(growth, abs=0.01)
    assert found.low <= found.value <= found.high


def test_what_fills_at_the_start_does_not_count_as_growth():
    points = [Point("a", faults, min(faults, 200) * 1.0) for faults in range(0, 3000, 50)]
    found = slope(points, warm_up=200)
    assert found is not None
    assert found.value == pytest.approx(0.0, abs=1e-9)
    assert slope(points[:3]) is None


def test_an_estimate_takes_the_times_of_a_cell_where_there_are_any():
    one, other = cell("simple"), cell("progressive")
    timed = [dataclasses.replace(result, took_s=4.0) for result in trials(one, [1.0, 2.0])]
    assert estimate([Trial(one, 5)] * 3, timed) == pytest.approx(12.0)
    assert estimate([Trial(other, 0)], timed) == pytest.approx(4.0), "guesses are scaled by what was timed"
    assert [duration(seconds) for seconds in (20, 1200, 7500)] == ["20 s", "20 min", "2 h 05 min"]


def test_progress_says_rate_and_time_left_now_and_then():
    said: list[str] = []
    now = [0.0]
    progress = Progress(3, lambda: now[0], say=said.append, every_s=10.0)
    for one in trials(cell(), [1.0, 2.0], failures=1):
        now[0] += 6.0
        progress.add(one, left_s=600.0)
    assert len(said) == 2
    assert "3/3 trials, 10 a minute, about 10 min left, 1 failed" in said[-1]
