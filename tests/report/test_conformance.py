from __future__ import annotations

import pytest

from pytest_webaccel.parity.verdict import Kind
from pytest_webaccel.report.conformance import conformance, conformance_lines
from pytest_webaccel.report.data import ReportData
from pytest_webaccel.report.palette import KINDS
from pytest_webaccel.terms import Evidence

from .samples import a_result
from .test_html import assert_harmless


def page(*rows):
    return conformance(ReportData.from_rows(rows))


def words(html: str) -> str:
    return " ".join(" ".join(assert_harmless(html).words).split())


def test_every_kind_has_a_colour():
    assert set(KINDS) == set(Kind)


def test_a_run_without_such_tests_says_nothing():
    assert page() == ""
    assert conformance_lines(ReportData.from_rows([])) == []


def test_operators_are_counted_on_each_lane():
    html = page(
        a_result(case="test_abs", kind="agrees"),
        a_result(case="test_abs_2", kind="fell_back", expected="fell_back"),
        a_result(case="test_abs", lane="chromium:cpu", kind="agrees"),
        a_result(case="test_neg", operator="Neg", lane="chromium:cpu", kind="agrees"),
    )
    told = words(html)
    assert "2 operators on 2 lanes" in told
    assert "Abs 1 agree 1 of 1 1 agree, 1 right, but on wasm 1 of 2 Neg 1 agree 1 of 1 not run" in told
    assert "Every test ended as expected." in told


def test_what_is_not_as_expected_is_named_with_its_detail():
    told = words(page(a_result(kind="crashed", expected="agrees", detail="it burst")))
    assert "1 did not end as expected" in told
    assert "test_abs chromium:webgpu 1.30.0 agrees crashed it burst" in told


def test_versions_of_the_engine_are_compared_on_one_lane():
    rows = [
        a_result(case=case, version=version, kind="agrees") for case in ("a", "b") for version in ("1.29.0", "1.30.0")
    ]
    rows.append(a_result(case="c", version="1.29.0", kind="failed"))
    rows.append(a_result(case="c", version="1.30.0", kind="agrees"))
    told = words(page(*rows))
    assert "chromium:webgpu, software evidence: 1 of 3 tests end otherwise between versions" in told
    assert "c failed agrees" in told


@pytest.mark.parametrize("grade", list(Evidence))
def test_grades_are_not_mixed_and_the_fake_browser_has_no_times(grade):
    (line,) = conformance_lines(ReportData.from_rows([a_result(evidence=grade)]))
    assert line == (
        f"conformance, chromium:webgpu, onnxruntime-web 1.30.0 jsep, {grade} evidence: 1 tests, 1 wrong; "
        "1 not as expected"
    )
    html = page(a_result(evidence=grade), a_result(evidence=Evidence.FAKE, lane="fake:cpu"))
    assert ("12.5 ms" in html) == (grade is not Evidence.FAKE)


def test_a_kind_of_a_later_version_counts_as_failed():
    assert "1 failed" in conformance_lines(ReportData.from_rows([a_result(kind="melted")]))[0]


def test_what_a_page_cannot_be_handed_is_told_apart():
    assert "1 not asked" in conformance_lines(ReportData.from_rows([a_result(kind="not_asked")]))[0]
