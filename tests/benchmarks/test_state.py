"""State files: nothing that was measured is lost, and nothing is measured twice."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path  # noqa: TC003 - in the types of fixtures

import pytest

from tests.bench.matrix.design import Cell, Trial
from tests.bench.matrix.ours import base
from tests.bench.matrix.state import FAILED, RECOVERED, TRIES, VOID, Log, Result, State, StateError, read

ABOUT = {"seed": 1, "cores": 2}
CELL = Cell("coordinated", "page_crash", "chromium:cpu", "mid_request", spare=True)


def result(number: int, outcome: str = RECOVERED, **more: object) -> Result:
    return dataclasses.replace(Result(**base(Trial(CELL, number)), outcome=outcome), **more)  # type: ignore[arg-type]


def test_a_rerun_knows_what_was_done(tmp_path: Path):
    path = tmp_path / "state.jsonl"
    first = [result(0, total_ms=12.3456), result(1, FAILED, detail="why")]
    with State(path, ABOUT) as state:
        for one in first:
            state.add(one)
    with State(path, ABOUT) as state:
        assert state.done() == {one.trial for one in first}
        assert state.results == [dataclasses.replace(first[0], total_ms=12.346), first[1]]
        state.add(result(2))
    assert read(path)[0] == ABOUT
    assert [one.cell for one in read(path)[1]] == [CELL] * 3


def test_a_line_cut_short_loses_itself_alone(tmp_path: Path):
    path = tmp_path / "state.jsonl"
    with State(path, ABOUT) as state:
        state.add(result(0))
        state.add(result(1))
    path.write_bytes(path.read_bytes()[:-20])
    with State(path, ABOUT) as state:
        assert state.done() == {result(0).trial}
        state.add(result(1))
    assert len(read(path)[1]) == 2


def test_a_void_trial_is_tried_again_but_not_for_ever(tmp_path: Path):
    with State(tmp_path / "state.jsonl", ABOUT) as state:
        for _ in range(TRIES - 1):
            state.add(result(0, VOID))
        assert state.done() == set()
        state.add(result(0, VOID))
        assert state.done() == {result(0).trial}


def test_figures_of_another_machine_are_not_mixed_in(tmp_path: Path):
    path = tmp_path / "state.jsonl"
    with State(path, ABOUT):
        pass
    with pytest.raises(StateError, match="Figures of two must not be mixed"):
        State(path, {**ABOUT, "cores": 64})


def test_one_lane_more_goes_on_with_the_same_file_and_another_build_does_not(tmp_path: Path):
    path = tmp_path / "state.jsonl"
    with State(path, {"lanes": {"chromium:cpu": "153"}}):
        pass
    with State(path, {"lanes": {"chromium:cpu": "153", "firefox:cpu": "140"}}):
        pass
    with pytest.raises(StateError, match="lanes"):
        State(path, {"lanes": {"chromium:cpu": "154"}})


def test_two_processes_do_not_write_to_one_file(tmp_path: Path):
    with State(tmp_path / "state.jsonl", ABOUT), pytest.raises(StateError, match="another process"):
        State(tmp_path / "state.jsonl", ABOUT)


def test_a_file_of_something_else_is_refused(tmp_path: Path):
    path = tmp_path / "notes.txt"
    path.write_text("my notes\n")
    with pytest.raises(StateError, match="no state file"):
        State(path, ABOUT)


def test_an_entry_is_on_the_disk_once_it_is_appended(tmp_path: Path):
    with Log(tmp_path / "log.jsonl", ABOUT) as log:
        log.append({"number": 7})
        assert json.loads((tmp_path / "log.jsonl").read_text().splitlines()[-1]) == {"number": 7}


def test_a_log_that_keeps_nothing_reads_all_of_it_back(tmp_path: Path):
    with Log(tmp_path / "log.jsonl", ABOUT) as log:
        log.append({"number": 7})
    with Log(tmp_path / "log.jsonl", ABOUT, keep=False) as log:
        log.append({"number": 8})
        assert log.entries == [{"number": 7}]
        assert log.whole() == [{"number": 7}, {"number": 8}]
