"""Comparisons as a test asks for them, on fake lanes, of which one can be made to be wrong."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import numpy as np
import pytest

from pytest_webaccel.browsers import DRIVERS
from pytest_webaccel.errors import ConfigurationError, FeedError, ModelError
from pytest_webaccel.faces import Manner, WebAccel
from pytest_webaccel.faces.runner import LaneRunner
from pytest_webaccel.parity import Tolerance
from pytest_webaccel.parity.blame import NondeterministicError
from pytest_webaccel.parity.verdict import Kind
from pytest_webaccel.pool.worker import Worker
from pytest_webaccel.rows import ParityRow, PlacementRow, Row
from pytest_webaccel.terms import Backend, Browser, Evidence, Fault, FaultPlan, Lane, ProbeResult, Strategy
from pytest_webaccel.testing import install_fake_browser, stand_in_ort
from pytest_webaccel.testing.engine import OperationError, ReferenceEngine
from tests import models

GPU, CPU = (Lane(Browser.FAKE, backend) for backend in (Backend.WEBGPU, Backend.CPU))
FEEDS: dict[str, Any] = {"x": np.array([1, 2], np.float32), "y": np.array([3, 4], np.float32)}
RIGHT: dict[str, Any] = {"z": np.array([8, 12], np.float32), "s": np.array([4, 6], np.float32)}


class Setting:
    def __init__(self, worker, lease, rows, cases):
        self.rows = rows
        self.cases = cases
        self.worker, self.lease = worker, lease
        self.face = WebAccel(worker, lease, Manner(cases=cases))
        self.model = self.face.load(models.scaled_sum())

    def check(self, feeds=FEEDS, **asked):
        return self.face.check(self.model, feeds, **asked)

    def of(self, kind):
        return [row for row in self.rows if isinstance(row, kind)]


@pytest.fixture
def setting(monkeypatch, tmp_path):
    monkeypatch.setitem(DRIVERS, Browser.FAKE, None)
    install_fake_browser(0)
    monkeypatch.setattr("pytest_webaccel.pool.worker.ort_version", lambda folder: "fake")
    monkeypatch.setattr("pytest_webaccel.pool.worker.ort_dist", lambda folder: folder)
    rows: list[Row] = []
    worker = Worker(
        [ProbeResult(lane, True, Evidence.FAKE) for lane in (GPU, CPU)],
        run_id="run",
        worker="main",
        strategy=Strategy.COORDINATED,
        record=rows.append,
        ort=stand_in_ort()[0],
    )
    with worker.lease(GPU, "test") as lease:
        yield Setting(worker, lease, rows, tmp_path / "cases")
    worker.stop()


@pytest.fixture
def off(monkeypatch):
    """Have every answer of a fake page be off by what is in the list, one each time, the last for ever."""
    errors = [0.0]
    run = ReferenceEngine.run

    async def wrong(self, args, feeds):
        error = errors.pop(0) if len(errors) > 1 else errors[0]
        return {name: array + np.float32(error) for name, array in (await run(self, args, feeds)).items()}

    monkeypatch.setattr(ReferenceEngine, "run", wrong)
    return errors


# -- feeds -----------------------------------------------------------------------------------


def test_feeds_may_lie_in_archives_and_each_is_compared(setting, tmp_path):
    for number in (1, 2):
        np.savez(tmp_path / f"{number}.npz", **{name: array * number for name, array in FEEDS.items()})
    found = setting.check(tmp_path)
    assert found.reference.startswith("onnxruntime-cpu")
    assert set(found.differences[str(CPU)]) == {f"{output} of {n}.npz" for output in "zs" for n in (1, 2)}


def test_feeds_may_come_from_a_generator(setting):
    found = setting.check({**FEEDS, "x": FEEDS["x"] + n} for n in range(3))
    assert "z of set 2" in found.differences[str(GPU)]
    assert {row.output for row in setting.of(ParityRow)} == {
        f"{output} of set {n}" for output in "zs" for n in range(3)
    }


@pytest.mark.parametrize("count", [0, 1001])
def test_a_generator_of_none_or_without_end_is_refused(setting, count):
    with pytest.raises(FeedError, match=r"Give from 1 to 1000"):
        setting.check(FEEDS for _ in range(count))


# -- references ------------------------------------------------------------------------------


def test_answers_stored_beside_the_feeds_are_the_reference(setting, tmp_path):
    np.savez(tmp_path / "one.npz", **FEEDS, z=RIGHT["z"])
    found = setting.check(tmp_path / "one.npz")
    assert (found.reference, set(found.differences[str(GPU)])) == ("stored", {"z of one.npz"})
    np.savez(tmp_path / "one.npz", **FEEDS, z=RIGHT["z"] + 1)
    with pytest.raises(AssertionError, match=r"2 of 2 disagree with stored"):
        setting.check(tmp_path / "one.npz", blame=False)


def test_answers_may_be_given(setting):
    assert setting.check(reference=RIGHT).reference == "given"
    with pytest.raises(AssertionError, match=r"output 's' on fake:webgpu: 1 of 2 elements"):
        setting.check(reference={"s": np.array([4, 7], np.float32)}, blame=False)
    with pytest.raises(ConfigurationError, match=r"reference= has w, which .* does not give; it gives z, s"):
        setting.check(reference={"w": RIGHT["z"]})
    with pytest.raises(ConfigurationError, match=r"there are 2"):
        setting.check([FEEDS, FEEDS], reference=RIGHT)


def test_another_lane_may_be_the_reference(setting):
    found = setting.check(reference="fake:cpu")
    assert (found.reference, set(found.differences)) == ("fake:cpu", {"fake:webgpu"})


def test_without_onnxruntime_the_first_lane_is_the_reference(setting, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert setting.check().reference in {"fake:webgpu", "fake:cpu"}


def test_a_reference_that_cannot_run_the_model_says_what_else_there_is(setting):
    setting.model = setting.face.load(models.failing_reshape())
    with pytest.raises(ModelError, match=r"cannot be run by the reference, onnxruntime-cpu"):
        setting.check({"x": np.ones(3, np.float32), "to": np.array([2])})


# -- tolerances ------------------------------------------------------------------------------


def test_by_default_the_tolerance_follows_from_the_operators(setting, off):
    found = setting.check()
    # an addition and a multiplication may be off by one unit in the last place each
    assert {one.tolerance.ulp for one in found.differences[str(GPU)].values()} == {2}
    assert "2 ULP" in setting.of(ParityRow)[0].rule
    off[0] = 5e-5  # less than the 1e-4 of the dtype's own rule
    with pytest.raises(AssertionError, match=r"abs p50 5.*e-05"):
        setting.check(blame=False)


def test_a_tolerance_may_be_given_for_all_outputs_or_for_one(setting, off):
    off[0] = 0.5
    assert setting.check(tolerance=Tolerance(0.6)).agrees
    with pytest.raises(AssertionError, match=r"output 's'") as told:
        setting.check(tolerance={"z": Tolerance(0.6)}, blame=False)
    assert "output 'z'" not in str(told.value)


# -- relations -------------------------------------------------------------------------------


def test_an_answer_that_changes_by_itself_is_found(setting, off):
    setting.face.check_repeats(setting.model, FEEDS, times=2)
    off[:] = [0.0, 0.0, 1e-6]
    with pytest.raises(AssertionError, match=r"asked 3 times: .*disagree with itself, asked before"):
        setting.face.check_repeats(setting.model, FEEDS, times=3)


def test_an_answer_that_a_recovery_changes_is_found(setting, off):
    setting.face.check_repeats(setting.model, FEEDS, times=1, after=["simple", "progressive"])
    assert {row.reference for row in setting.of(ParityRow)} == {"itself, before browser_crash"}
    with pytest.raises(ConfigurationError, match=r"times=1"):
        setting.face.check_repeats(setting.model, FEEDS, times=1)


def test_a_batch_is_answered_as_its_items_are(setting, off):
    setting.face.check_batch(setting.model, FEEDS)
    off[:] = [0.0, 0.0, 1.0]  # the second item alone
    with pytest.raises(AssertionError, match=r"a batch of 2: .*disagree with itself, one by one"):
        setting.face.check_batch(setting.model, FEEDS)


def test_a_batch_in_another_order_is_answered_in_that_order(setting, off):
    setting.face.check_permutation(setting.model, FEEDS)
    off[:] = [0.0, 1.0]
    with pytest.raises(AssertionError, match=r"order \[1, 0\]"):
        setting.face.check_permutation(setting.model, FEEDS)


@pytest.mark.parametrize(
    ("feeds", "axes", "words"),
    [
        (FEEDS, {"w": 0}, r"axes=: 'w' is not among x, y"),
        (FEEDS, 1, r"shape \[2\] has no axis 1"),
        ({name: array[:1] for name, array in FEEDS.items()}, 0, r"a batch of 1 item says nothing"),
        (FEEDS, {}, r"the inputs hold: no input"),
    ],
)
def test_what_holds_no_batch_is_refused(setting, feeds, axes, words):
    with pytest.raises(FeedError, match=words):
        setting.face.check_batch(setting.model, feeds, axes=axes)


# -- where nodes ran -------------------------------------------------------------------------


def test_where_nodes_ran_is_recorded_of_lanes_that_only_a_check_loads(setting):
    setting.check()
    assert {row.lane for row in setting.of(PlacementRow)} == {str(GPU), str(CPU)}


def test_where_nodes_ran_is_recorded_once_a_test(setting):
    with setting.worker.lease(CPU, "test") as lease:
        other = WebAccel(setting.worker, lease, Manner())
        other.load(models.scaled_sum())
        for _ in range(3):
            setting.check()
    setting.check()
    setting.check()
    assert sorted(row.lane for row in setting.of(PlacementRow)) == [str(CPU), str(GPU)]
    setting.worker.end_test("test")
    setting.check()
    assert sorted(row.lane for row in setting.of(PlacementRow)) == [str(CPU), str(CPU), str(GPU)], "another test"


def test_a_fallback_on_a_lane_that_only_a_check_loads_fails_under_strict_and_is_compared_all_the_same(
    setting, monkeypatch
):
    load = ReferenceEngine.load

    async def fallen(self, args, data):
        told = {"provider": "CPUExecutionProvider", "nodes": 1, "operators": ["Mul"], "names": ["m"]}
        return {**await load(self, args, data), "placement": [told]}

    monkeypatch.setattr(ReferenceEngine, "load", fallen)
    with setting.worker.lease(CPU, "other") as lease:
        face = WebAccel(setting.worker, lease, Manner(strict=True))
        model = face.load(models.scaled_sum(shape=(2,)))
        with pytest.raises(ModelError, match=r"on fake:webgpu: silent fallback to wasm"):
            face.check(model, FEEDS)
    assert {(row.lane, row.agrees) for row in setting.of(ParityRow)} == {(str(GPU), True), (str(CPU), True)}


# -- what is to blame ------------------------------------------------------------------------


@pytest.fixture
def doubling(monkeypatch):
    """Have every fake page's Mul answer twice what it should, in the whole model and in each part of it."""
    run = ReferenceEngine.run

    async def wrong(self, args, feeds):
        answers = await run(self, args, feeds)
        return {name: array * np.float32(2) if name == "z" else array for name, array in answers.items()}

    monkeypatch.setattr(ReferenceEngine, "run", wrong)


def test_each_lane_that_disagrees_is_searched_and_the_tests_own_model_stays(setting, doubling):
    with pytest.raises(AssertionError) as told:
        setting.check()
    assert str(told.value).count("Mul is to blame (wrong_answer, fails alone, confirmed; 1 of 2 steps") == 2
    blamed = {(row.lane, row.output): row.blamed_operator for row in setting.of(ParityRow)}
    assert blamed == {
        (str(lane), output): "Mul" if output == "z" else "" for lane in (GPU, CPU) for output in ("z", "s")
    }
    assert len(list(setting.cases.iterdir())) == 2
    # the file of a model that was given as bytes is still there for repairs, and nothing of the search is
    assert setting.model.info.path.is_file()
    assert setting.face.run(setting.model, FEEDS)["s"].tolist() == RIGHT["s"].tolist()
    assert not list(setting.lease.folder.glob("part-*/*")) or setting.model.key in setting.lease.models


def test_a_case_of_another_test_or_engine_has_a_folder_of_its_own(setting, doubling):
    for test_id in ("test", "other"):
        object.__setattr__(setting.lease.terms, "test_id", test_id)
        with pytest.raises(AssertionError):
            setting.check(lanes=[str(GPU)])
    assert len(list(setting.cases.iterdir())) == 2


@pytest.fixture
def failing(monkeypatch):
    """Have every fake page's run fail whose x holds a number over 100."""
    run = ReferenceEngine.run

    async def fails(self, args, feeds):
        if any(np.max(array, initial=0) > 100 for array in feeds.values()):
            raise OperationError("operator", "too large for this engine")
        return await run(self, args, feeds)

    monkeypatch.setattr(ReferenceEngine, "run", fails)


def test_a_lane_that_fails_is_searched_with_the_feeds_that_it_failed_on(setting, failing):
    large = {name: array * 100 for name, array in FEEDS.items()}
    with pytest.raises(ModelError, match=r"too large for this engine") as told:
        setting.check([FEEDS, large])
    assert "Add is to blame (failed" in str(told.value)
    rows = [row for row in setting.of(ParityRow) if not row.agrees]
    assert {(row.lane, row.rule, row.blamed_operator) for row in rows} == {
        (str(GPU), "no answer", "Add"),
        (str(CPU), "no answer", "Add"),
    }


def test_what_never_ends_is_told_from_what_crashes(setting, monkeypatch):
    async def never(self, args, feeds):
        await asyncio.Event().wait()

    object.__setattr__(setting.lease.terms, "strategy", Strategy.NONE)
    runner = LaneRunner(setting.worker, setting.lease, None, 0.2)
    with monkeypatch.context() as patch:
        patch.setattr(ReferenceEngine, "run", never)
        ran = runner.run(models.scaled_sum(), FEEDS)
    assert ran.trouble is Kind.TIMED_OUT, ran.detail
    assert runner.run(models.scaled_sum(), FEEDS).trouble is None


def test_progress_is_told_and_a_large_model_before_it_is_searched(setting, doubling, monkeypatch):
    told: list[str] = []
    face = WebAccel(setting.worker, setting.lease, Manner(tell=told.append))
    monkeypatch.setattr("pytest_webaccel.faces.parity._LARGE_BYTES", 10)
    face.blame(setting.model, FEEDS)
    assert "bytes are held several times over" in told[0]
    assert "the most that an ONNX file can hold is 2,147,483,647" in told[0]
    assert told[1] == "fake:webgpu: wrong_answer; looking for the operator among 2 steps"
    assert "steps 1 to 1 of 2: fails alone" in told


@pytest.mark.parametrize("strategy", [Strategy.SIMPLE, Strategy.COORDINATED])
def test_what_never_ends_is_blamed_under_a_strategy_that_mends(setting, monkeypatch, strategy):
    run = ReferenceEngine.run

    async def never(self, args, feeds):
        if any(np.max(array, initial=0) > 100 for array in feeds.values()):
            await asyncio.Event().wait()
        return await run(self, args, feeds)

    object.__setattr__(setting.lease.terms, "strategy", strategy)
    object.__setattr__(setting.lease.terms, "budget_s", 2.0)
    monkeypatch.setattr(ReferenceEngine, "run", never)
    large = {name: array * 100 for name, array in FEEDS.items()}
    blame = setting.face.blame(models.scaled_sum(), large, timeout=0.2, budget=600.0)
    assert blame.verdict.kind in {Kind.TIMED_OUT, Kind.CRASHED}
    assert blame.operators == ("Add",)


def test_what_this_plugin_refuses_is_blamed_on_no_operator(setting):
    with pytest.raises(ModelError, match=r"the wasm build of onnxruntime-web has no webgpu"):
        setting.face.blame(models.scaled_sum(), FEEDS, build="wasm")


def test_a_trouble_that_does_not_come_again_is_blamed_on_no_operator(setting, monkeypatch):
    run, seen = ReferenceEngine.run, []

    async def once(self, args, feeds):
        seen.append(1)
        if len(seen) == 1:
            raise OperationError("operator", "only this once")
        return await run(self, args, feeds)

    monkeypatch.setattr(ReferenceEngine, "run", once)
    with pytest.raises(NondeterministicError, match=r"failed: only this once, then an answer"):
        setting.face.blame(models.scaled_sum(), FEEDS)


def test_feeds_are_looked_at_before_any_lane_is_asked(setting, off):
    with pytest.raises(FeedError, match=r"got dtype float64"):
        setting.check({**FEEDS, "x": np.array([1.0, 2.0])})
    with pytest.raises(ConfigurationError, match=r"tolerance= has w"):
        setting.check(tolerance={"w": Tolerance(1.0)})
    with pytest.raises(ConfigurationError, match=r"unknown browser 'bad'|'bad'"):
        setting.check(lanes=["bad"])
    assert not setting.of(ParityRow)


def test_answers_are_stored_beside_all_sets_or_none(setting, tmp_path):
    np.savez(tmp_path / "one.npz", **FEEDS, z=RIGHT["z"])
    np.savez(tmp_path / "two.npz", **FEEDS)
    with pytest.raises(FeedError, match=r"beside 1 of 2 sets"):
        setting.check(tmp_path)
    assert setting.check(tmp_path, reference="fake:cpu").agrees


def test_nothing_of_a_part_is_held_after_it_broke_the_lane(setting):
    lease, runner = setting.lease, LaneRunner(setting.worker, setting.lease, None, 30.0)
    held, feeds = set(lease.models), {"x": np.zeros(4, np.float32), "to": np.array([4])}
    lease.plans.waiting.append(FaultPlan(Fault.PAGE_CRASH, recovery=Strategy.NONE))
    assert runner.run(models.failing_reshape(), feeds).trouble is Kind.CRASHED
    assert set(lease.models) == held == set(lease.lane.holdings.models)
    assert runner.run(models.failing_reshape(), feeds).trouble is None
    assert setting.face.run(setting.model, FEEDS)["z"].tolist() == RIGHT["z"].tolist()
