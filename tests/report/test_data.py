from __future__ import annotations

import pytest

from pytest_webaccel.errors import HistoryError
from pytest_webaccel.history import record
from pytest_webaccel.report.data import ReportData
from pytest_webaccel.report.section import section
from pytest_webaccel.report.terminal import lines
from pytest_webaccel.rows import SPARE_MEMORY, MeasurementRow, RunRow
from pytest_webaccel.terms import Backend, Browser, Evidence, Lane, ProbeResult

from .samples import a_recovery, a_test, a_whole_run


def test_a_database_gives_the_same_report_as_the_rows(tmp_path):
    rows = a_whole_run()
    record(tmp_path / "h.duckdb", rows, "r")
    assert ReportData.from_database(tmp_path / "h.duckdb") == ReportData.from_rows(rows)


def test_the_latest_run_is_reported_unless_one_is_named(tmp_path):
    old = [a_recovery(run_id="old"), *_run("old", "2026-01-01T00:00:00.000000+00:00")]
    new = [a_test(run_id="new"), *_run("new", "2026-01-02T00:00:00.000000+00:00")]
    record(tmp_path / "h.duckdb", [*old, *new], "x")
    assert ReportData.from_database(tmp_path / "h.duckdb").tests == (new[0],)
    assert ReportData.from_database(tmp_path / "h.duckdb", "old").recoveries == (old[0],)
    with pytest.raises(HistoryError, match=r"no run 'nope'\. The latest are: new, old"):
        ReportData.from_database(tmp_path / "h.duckdb", "nope")


def _run(run_id: str, at: str) -> list[RunRow]:
    template = next(row for row in a_whole_run() if isinstance(row, RunRow))
    return [type(template)(**{**vars(template), "run_id": run_id, "at": at, "row_id": run_id})]


def test_a_row_that_came_twice_is_counted_once():
    row = a_recovery()
    assert ReportData.from_rows([row, row]).recoveries == (row,)


def test_cells_hold_one_grade_and_controls_come_last():
    rows = [a_recovery(strategy="none"), a_recovery(), a_recovery(evidence=Evidence.FAKE)]
    cells = ReportData.from_rows(rows).cells(Evidence.SOFTWARE)
    assert [(cell.strategy, len(cell.rows)) for cell in cells] == [("simple", 1), ("none", 1)]


def test_lanes_that_were_not_to_be_had_come_from_probes_or_from_the_run():
    probe = ProbeResult(
        Lane(Browser.EDGE, Backend.WEBNN), works=False, evidence=Evidence.SOFTWARE, reason="not found", remedy="get it"
    )
    assert ReportData.from_rows(a_whole_run(), probes=[probe]).missing == {"edge:webnn": "not found get it"}
    assert ReportData.from_rows(a_whole_run()).missing == {"firefox:webgpu": "no Firefox found"}


def test_terminal_lines_say_what_ran_broke_and_came_back(tmp_path):
    rows = [*a_whole_run(tries=0), a_recovery(), a_recovery(outcome="failed"), a_recovery(evidence=Evidence.FAKE)]
    found = lines(ReportData.from_rows(rows), database=tmp_path / "h.duckdb", report=tmp_path / "r.html")
    text = "\n".join(found)
    assert "lane chromium:webgpu: 153.0, SwiftShader, software evidence, 3 tests, started 1 time" in text
    assert (
        "simple, software evidence: 1 of 2 recovered (50%, 95 % interval 9% to 91%), p50 not reached, p95 not reached"
        in text
    )
    fake = next(line for line in found if "simple, fake evidence" in line)
    assert "1 of 1" in fake
    assert "ms" not in fake
    assert "crashed with their worker: crashes" in text
    assert f"database: {tmp_path / 'h.duckdb'}" in found
    assert f"report: {tmp_path / 'r.html'}" in found


def test_terminal_lines_of_an_empty_run_say_what_to_do():
    assert lines(ReportData()) == [
        "lanes: none were used",
        "faults: none were planned; plan one with --webaccel-fault or @pytest.mark.fault",
    ]


def test_terminal_lines_carry_no_control_characters():
    found = lines(ReportData.from_rows(a_whole_run(extra="\x1b[2J\nspoof")))
    assert all(line.isprintable() for line in found)


def test_the_most_that_a_lanes_spare_held_is_told_with_the_lane():
    held = [
        MeasurementRow(
            run_id="r",
            evidence=Evidence.SOFTWARE,
            test_id="",
            lane=lane,
            model="",
            family="",
            engine="",
            bits=0,
            metric=SPARE_MEMORY,
            value=mebibytes * 2.0**20,
            unit="bytes",
        )
        for lane, mebibytes in (("chromium:webgpu", 90), ("chromium:webgpu", 263), ("chromium:cpu", 400))
    ]
    data = ReportData.from_rows([*a_whole_run(), *held])
    assert data.spare_memory("chromium:webgpu", Evidence.SOFTWARE) == "263 MiB"
    assert data.spare_memory("chromium:webgpu", Evidence.HARDWARE) == ""
    assert any("started 1 time, 263 MiB for its warm spare" in line for line in lines(data))
    assert "263 MiB" in "".join(section(data))
