from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from pytest_webaccel.report.data import ReportData
from pytest_webaccel.report.placement import placement

from .samples import a_placement
from .test_html import assert_harmless

if TYPE_CHECKING:
    from pytest_webaccel.rows import PlacementRow


def told(*rows: PlacementRow) -> str:
    return " ".join(" ".join(assert_harmless(placement(ReportData.from_rows(rows))).words).split())


def test_nothing_is_said_where_no_model_was_loaded():
    assert placement(ReportData.from_rows([])) == ""


def test_providers_are_counted_with_their_operators_and_each_node_named():
    cpu = a_placement(provider="CPUExecutionProvider", nodes=1, operators={"LSTM": 1}, names=["LSTM (cell)"])
    words = told(a_placement(names=["Conv (c)", "Add (a)"]), cpu)
    assert "silero chromium:webgpu 1.30.0 jsep 1 CPUExecutionProvider LSTM x1 7 JsExecutionProvider Conv x5" in words
    assert "CPUExecutionProvider LSTM (cell) JsExecutionProvider, the first 2 Conv (c) Add (a)" in words


def test_nodes_on_wasm_count_as_elsewhere_only_where_another_backend_was_asked_for():
    cpu = a_placement(provider="CPUExecutionProvider", nodes=3, operators={})
    assert "3 CPUExecutionProvider 3 not listed" in told(cpu)
    assert "3 CPUExecutionProvider none not listed" in told(dataclasses.replace(cpu, lane="chromium:cpu"))


def test_the_last_load_counts_and_providers_of_another_are_not_added_to_it():
    early = a_placement(provider="CPUExecutionProvider", nodes=9, at="2026-01-01T00:00:00+00:00", test_id="early")
    late = a_placement(at="2026-01-02T00:00:00+00:00", test_id="late")
    assert "CPUExecutionProvider" not in told(early, late)


def test_versions_of_the_engine_are_told_apart():
    words = told(a_placement(version="1.29.0", nodes=3), a_placement(version="1.30.0", nodes=7))
    assert "1.29.0 jsep 3 JsExecutionProvider" in words
    assert "1.30.0 jsep 7 JsExecutionProvider" in words
