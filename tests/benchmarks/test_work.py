"""The work that is measured, what a soak draws, and what is published."""

from __future__ import annotations

import dataclasses
import gzip
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from pytest_webaccel.engines.models import inspect_model
from pytest_webaccel.faults import INJECTORS
from pytest_webaccel.terms import MENDING, Backend, Browser, Evidence, Fault, Lane, ProbeResult
from tests.bench import publish, soak
from tests.bench.matrix.blows import drawn, possible
from tests.bench.matrix.markdown import OLDER, section
from tests.bench.matrix.state import State
from tests.bench.matrix.summary import rows
from tests.bench.matrix.targets import targets
from tests.bench.matrix.work import Work, model, wrong
from tests.benchmarks.test_summary import cell, trials

TABLE = [
    ProbeResult(Lane(Browser.CHROMIUM, backend), works=True, evidence=Evidence.SOFTWARE)
    for backend in (Backend.CPU, Backend.WEBGPU)
]


def test_the_answer_is_the_one_that_onnxruntime_computes():
    onnxruntime = pytest.importorskip("onnxruntime")
    work = Work.drawn("a trial")
    session = onnxruntime.InferenceSession(model(), providers=["CPUExecutionProvider"])
    (answer,) = session.run(None, {"x": work.x})
    assert not wrong(work, answer)


def test_each_trial_has_inputs_of_its_own(tmp_path: Path):
    one, other = Work.drawn("one"), Work.drawn("other")
    np.testing.assert_array_equal(one.x, Work.drawn("one").x)
    assert wrong(one, other.y)
    assert inspect_model(model(), tmp_path).inputs[0].name == "x"


def test_a_wrong_answer_is_told():
    work = Work.drawn("a trial")
    damaged = work.y.copy()
    damaged[3, 4] += 0.01
    assert "off by" in wrong(work, damaged)
    assert "shape" in wrong(work, work.y[:5])
    assert not wrong(work, work.y)


def test_a_soak_draws_every_fault_at_every_point_under_every_strategy():
    there, left_out = possible(TABLE)
    blows = [drawn(number, 1, there) for number in range(6000)]
    assert {blow.strategy for blow in blows} == MENDING
    seen = {(blow.lane, blow.fault, blow.point) for blow in blows}
    assert seen == {(lane, fault, point) for lane, pairs in there.items() for fault, point in pairs}
    assert all(not INJECTORS[fault].misfit(point) for _, fault, point in seen)
    often = Counter(blow.fault for blow in blows if blow.lane.backend is Backend.CPU).values()
    assert max(often) < 2 * min(often), "a fault with many points is drawn no more often than one with few"
    assert any(str(Fault.WORKER_CRASH) in line for line in left_out)
    assert blows[:50] == [drawn(number, 1, there) for number in range(50)]


def entries(growth: float) -> list[dict[str, object]]:
    faults = [
        {"number": number, "outcome": "recovered", "answers": 3, "wrong": 0, "duplicated": 0, "lost": 0, "took_s": 1.0}
        for number in range(2000)
    ]
    # every other worker keeps spares, which cost memory of their own, and open files come and go with lanes
    looks = [
        {
            "look": "p",
            "faults": n,
            "live": n % 250 != 0,
            "spares": (n // 250) % 2,
            "rss": (100 + 30 * ((n // 250) % 2) + growth * n / 1000) * 2**20,
            "pss": 90 * 2**20,
            "in_use": (90 + 30 * ((n // 250) % 2) + growth * n / 1000) * 2**20,
            "fds": 30 + n % 17 if n % 250 else 8,
            "code": "now",
        }
        for n in range(0, 2000, 25)
    ]
    return [*faults, *looks, {"left": [], "after": 2000}]


def test_a_soak_that_leaves_nothing_is_well():
    row = soak.row_of(entries(0.2), batch=250)
    assert all(soak.verdicts(row, 2000).values())


@pytest.mark.parametrize("name", ["wrong", "duplicated", "lost"])
def test_one_bad_answer_fails_a_soak(name: str):
    found = [*entries(0.0)]
    found[77] = {**found[77], name: 1}
    assert not soak.verdicts(soak.row_of(found, batch=250), 2000)[f"{name} is 0"]


def test_orphans_and_growth_fail_a_soak():
    found = [*entries(5.0), {"left": ["process 1"], "after": 2000}]
    told = soak.verdicts(soak.row_of(found, batch=250), 2000)
    assert [what for what, well in told.items() if not well] == [
        "orphans is 0",
        "in_use_mib grows by less than 1 for each 1000 faults",
    ]


def test_what_an_older_version_leaked_says_nothing_of_this_one():
    older = [{**entry, "look": "before", "code": "older"} for entry in entries(5.0) if "look" in entry]
    row = soak.row_of([*older, *entries(0.2)], batch=250)
    assert row["in_use_mib_per_1000"] == pytest.approx(0.2, abs=0.01)
    assert row["memory_n"] == 1975


def test_memory_is_not_shown_to_be_flat_by_too_short_a_run():
    short = [entry for entry in entries(0.0) if entry.get("faults", 0) < 900]  # type: ignore[operator]
    told = soak.verdicts(soak.row_of(short, batch=250), 2000)
    assert not told["in_use_mib grows by less than 1 for each 1000 faults"]


def published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    crash = "browser_crash"
    results = trials(cell(fault=crash, spare=True), [40.0] * 5, failures=1, rungs="use_spare", symptom="browser_exited")
    results += trials(cell("playwright_rerun", crash), [400.0] * 5, detail=f"{Path.home()}/browser")
    with State(tmp_path / "state.jsonl", {"seed": 3, "machine": {}}) as state:
        for one in results:
            state.add(one)
    found = rows(results)
    machine = {"cores": 2, "processor": "x", "memory_gib": 1, "python": "3", "packages": {}, "lanes": {}, "system": "k"}
    data = {"benchmark": "recovery", "machine": machine, "seed": 3, "commits": ["abc"], "whole": True, "rows": found}
    data["excluded"] = [{"strategy": "none", "fault": "page_reload", "lane": "chromium:cpu", "reason": "because"}]
    data["targets"] = [dataclasses.asdict(one) for one in targets(results, found)]
    (tmp_path / "docs" / "images").mkdir(parents=True)
    page = tmp_path / "docs" / "results.md"
    page.write_text("# Results\n<!-- results:recovery -->\nold\n<!-- /results:recovery -->\nafter\n")
    (tmp_path / "out.json").write_text(json.dumps(data))
    monkeypatch.setattr(publish, "RESULTS", page)
    publish.publish([str(tmp_path / "out.json")], tmp_path / "state.jsonl")
    return page.read_text()


def test_the_matrix_is_published_with_figure_data_and_trials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    text = published(tmp_path, monkeypatch)
    assert text.startswith("# Results\n")
    assert text.endswith("after\n")
    assert "old\n" not in text
    assert "| browser_crash | chromium:cpu | 40.0 | 400.0 | 0.100 | 0.100 to inf |" in text
    assert "because" in text
    for strategy, figures in OLDER.items():
        theirs = " | ".join(f"{success} % / {time} ms" for success, time in figures)
        assert f"| {strategy}, published, not measured | {theirs} |" in text
    assert (tmp_path / "docs/images/recovery-matrix.svg").read_text().startswith("<?xml")
    told = json.loads((tmp_path / "docs/data/recovery.json").read_text())
    assert "system" not in told["machine"]
    packed = gzip.decompress((tmp_path / "docs/data/recovery-trials.jsonl.gz").read_bytes()).decode()
    assert str(Path.home()) not in packed
    unpacked = tmp_path / "unpacked.jsonl"
    unpacked.write_text(packed)
    with State(unpacked, {"seed": told["seed"]}) as state:
        assert len(state.results) == 11, "a run can go on with what was published"


def test_missed_targets_come_first_with_their_figure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    text = published(tmp_path, monkeypatch)
    assert text.index("**Missed**") < text.index("**Met**")
    assert "- median of coordinated with a warm spare after browser_crash: <= 150 ms; found 40.0 ms" in text


def test_rows_without_their_trials_are_not_published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    published(tmp_path, monkeypatch)
    with State(tmp_path / "state.jsonl", {"seed": 3, "machine": {}}) as state:
        state.add(trials(cell(), [1.0])[0])
    with pytest.raises(SystemExit, match="does not hold the trials"):
        publish.publish([str(tmp_path / "out.json")], tmp_path / "state.jsonl")


def test_a_matrix_without_trials_says_so():
    machine = {"cores": 2, "processor": "x", "memory_gib": 1, "python": "3", "packages": {}, "lanes": {}}
    data = {"machine": machine, "seed": 1, "commits": [], "whole": False, "rows": [], "excluded": [], "targets": []}
    assert "The run is not whole" in section(data, [])
