from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_webaccel.conformance import EXPECTATIONS
from pytest_webaccel.conformance.cases import catalogue
from pytest_webaccel.conformance.expectations import AGREES, Expectation, Expectations, Place, Seen, updated
from pytest_webaccel.conformance.update import update
from pytest_webaccel.errors import ConfigurationError, HistoryError
from pytest_webaccel.history import record
from pytest_webaccel.parity.verdict import Kind
from pytest_webaccel.rows import ConformanceRow, Row, RunRow
from pytest_webaccel.terms import Evidence, Mode

GPU = Place("chromium:webgpu", "jsep", "1.30.0")
TEXT = """\
# a comment
[chromium:webgpu jsep 1.30.0]
fell_back    test_abs
unsupported  test_adam   # no such operator
"""
words = st.from_regex(r"[a-z][a-z0-9_:.]{0,12}", fullmatch=True)
reasons = st.text(st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp", "Zs"], exclude_characters="#"), max_size=20)
kinds = st.sampled_from([kind for kind in Kind if kind is not Kind.AGREES])
places = st.builds(Place, words, words, st.from_regex(r"\d{1,2}\.\d{1,3}\.\d(-dev)?(\+\d)?", fullmatch=True))
seen = st.builds(Seen, st.from_regex(r"onnx \d\.\d", fullmatch=True), words, st.sampled_from(Evidence).map(str))
files = st.dictionaries(
    places,
    st.dictionaries(
        words,
        st.builds(Expectation, kinds, reasons, st.booleans()).filter(lambda one: one.reason or not one.by_hand),
        max_size=4,
    ),
    max_size=4,
).flatmap(
    lambda found: st.builds(
        Expectations, st.just(found), st.dictionaries(st.sampled_from(list(found)), seen) if found else st.just({})
    )
)


def a_result(case: str = "test_abs", kind: Kind = Kind.AGREES, **changes: Any) -> ConformanceRow:
    values: dict[str, Any] = {
        "run_id": "r",
        "evidence": Evidence.SOFTWARE,
        "test_id": f"test_node[{case}-chromium:webgpu]",
        "lane": GPU.lane,
        "build": GPU.build,
        "version": GPU.version,
        "operator": "Abs",
        "opset": 13,
        "expected": "agrees",
        "detail": "",
    }
    return ConformanceRow(**{**values, "case": case, "kind": str(kind), **changes})


def a_run(run_id: str, at: str) -> RunRow:
    return RunRow(
        run_id=run_id,
        row_id=run_id,
        evidence=Evidence.SOFTWARE,
        at=at,
        started_at=at,
        finished_at=at,
        mode=Mode.BASIC,
        seed=1,
        versions={},
        host="h",
        exit_status=0,
    )


def test_a_line_says_how_a_test_ends_and_why():
    found = Expectations.parse(TEXT)
    assert found.of(GPU, "test_abs") == Expectation(Kind.FELL_BACK)
    assert found.of(GPU, "test_adam") == Expectation(Kind.UNSUPPORTED, "no such operator")
    assert found.of(GPU, "test_add") is AGREES


@given(files)
def test_what_is_written_is_read_back(found):
    assert Expectations.parse(str(found)) == found


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("[chromium:webgpu jsep]", r"line 1: .* is not \[LANE BUILD VERSION\]"),
        ("fell_back test_abs", r"line 1: it stands before the first"),
        (f"{TEXT}\nfell_back", r"line 6: 'fell_back' is not KIND TEST"),
        (f"{TEXT}fel_back test_add", r"line 5: unknown kind 'fel_back'.*did you mean 'fell_back'"),
        (f"{TEXT}failed test_abs", r"line 5: test_abs is there twice"),
        (f"{TEXT}[{GPU}]", r"line 5: section .* is there twice"),
    ],
)
def test_a_line_that_cannot_be_meant_is_named(text, complaint):
    with pytest.raises(ConfigurationError, match=complaint):
        Expectations.parse(text, "mine.txt")


def test_a_file_that_is_not_there_says_how_to_begin_one(tmp_path):
    with pytest.raises(ConfigurationError, match=r"no\.txt.*expectations DB no\.txt"):
        Expectations.read(tmp_path / "no.txt")


@pytest.mark.parametrize(
    ("version", "stands_in"),
    [
        ("1.30.0", "1.30.0"),
        ("1.30.1", "1.30.0"),
        ("1.30.1-dev.20260101", "1.30.0"),
        ("1.30.0-dev.20260101", "1.3.0"),
        ("1.30.0+2", "1.30.0"),
        ("1.4.0", "1.3.0"),
        ("2.0.0", "1.100.0"),
        ("1.2.9", None),
    ],
)
def test_the_newest_version_before_stands_in(version, stands_in):
    known: dict[Place, dict[str, Expectation]] = {
        GPU._replace(version=each): {} for each in ("1.3.0", "1.30.0", "1.100.0")
    }
    other = Place("chromium:cpu", "wasm", "1.2.0")
    found = Expectations({**known, other: {}}).stand_in(GPU._replace(version=version))
    assert (found and found.version) == stands_in


def test_an_update_changes_the_tests_that_ran_and_keeps_reasons_that_hold():
    known = Expectations.parse(f"{TEXT}failed test_add ## by hand\nfailed test_mul\nfailed test_sub # said once\n")
    new = updated(
        known,
        [
            a_result("test_abs"),
            a_result("test_add", Kind.FAILED, detail="other words"),
            a_result("test_sub", Kind.FAILED, detail="says now"),
            a_result("test_mul", Kind.CRASHED, detail="at 0x7f21\nof bytes-0123abcd"),
        ],
    )
    assert new.places[GPU] == {
        "test_adam": Expectation(Kind.UNSUPPORTED, "no such operator"),
        "test_add": Expectation(Kind.FAILED, "by hand", by_hand=True),
        "test_sub": Expectation(Kind.FAILED, "says now"),
        "test_mul": Expectation(Kind.CRASHED, "at ... of ..."),
    }


def test_an_update_says_what_results_were_seen_with():
    known = Expectations.parse(TEXT.replace("]\n", "]\n# seen with onnx 1.0 on chromium 1, hardware\n"))
    assert known.seen == {GPU: Seen("onnx 1.0", "chromium 1", "hardware")}
    assert updated(known, [a_result()]).seen == known.seen
    here = {"suite": "onnx 1.23.2", "browser": "chromium 153"}
    part = [a_result("test_abs", Kind.FELL_BACK, **here)]
    assert updated(known, part).seen == known.seen, "the other line was seen with something else"
    new = updated(known, [*part, a_result("test_adam", Kind.FAILED, **here)])
    assert new.seen == {GPU: Seen("onnx 1.23.2", "chromium 153", "software")}
    other = a_result("test_abs", Kind.FELL_BACK, version="1.31.0", **here)
    assert updated(known, [other]).seen == known.seen, "a new section begins with lines that nobody looked at"


def test_a_new_version_begins_with_what_stood_in_for_it():
    new = updated(Expectations.parse(TEXT), [a_result("test_abs", version="1.31.0")])
    assert new.places[GPU] == Expectations.parse(TEXT).places[GPU]
    assert set(new.places[GPU._replace(version="1.31.0")]) == {"test_adam"}


def test_the_command_takes_over_the_newest_conformance_run(tmp_path):
    database, file = tmp_path / "h.duckdb", tmp_path / "mine.txt"
    rows: list[Row] = [a_run("old", "2026-01-01T00:00:00+00:00"), a_result(kind=Kind.CRASHED, run_id="old")]
    rows += [a_run("new", "2026-01-02T00:00:00+00:00"), a_result(kind=Kind.FELL_BACK, run_id="new")]
    rows += [a_run("other", "2026-01-03T00:00:00+00:00")]
    record(database, rows, "x")
    assert "1 lines changed, from 1 results on chromium:webgpu jsep 1.30.0" in update(database, file)
    assert Expectations.read(file).of(GPU, "test_abs").kind is Kind.FELL_BACK
    assert "0 lines changed" in update(database, file)


def test_a_file_of_something_else_is_left_alone(tmp_path):
    database, file = tmp_path / "h.duckdb", tmp_path / "mine.txt"
    record(database, [a_run("new", "2026-01-02T00:00:00+00:00"), a_result(run_id="new")], "x")
    file.write_text("shopping: bread\n")
    with pytest.raises(ConfigurationError, match=r"mine\.txt, line 1"):
        update(database, file)
    assert file.read_text() == "shopping: bread\n"


def test_a_database_without_such_a_run_says_how_to_make_one(tmp_path):
    record(tmp_path / "h.duckdb", [a_run("new", "2026-01-02T00:00:00+00:00")], "x")
    with pytest.raises(HistoryError, match=r"no conformance run.*--pyargs pytest_webaccel\.conformance"):
        update(tmp_path / "h.duckdb", tmp_path / "mine.txt")


def test_the_shipped_file_is_written_as_the_command_writes_it():
    assert str(Expectations.read(EXPECTATIONS)) == EXPECTATIONS.read_text(encoding="utf-8")


SIGNED = (
    "Can't create a session. ERROR_CODE: 1, ERROR_MESSAGE: /mnt/a/_work/1/core/graph/model.cc:203 "
    "onnxruntime::Model::Model(ModelProto &&, const PathString &) Unsupported model IR version: 14"
)


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ("Can't create a session. ERROR_CODE: 9, ERROR_MESSAGE: Could not find X", "Could not find X"),
        (SIGNED, "Unsupported model IR version: 14"),
        ("[WebGPU] Kernel failed. Error: no (really)", "[WebGPU] Kernel failed. Error: no (really)"),
        ("x" * 300, f"{'x' * 97}..."),
    ],
)
def test_a_reason_comes_to_the_point(said, reason):
    new = updated(Expectations({}), [a_result("test_abs", Kind.FAILED, detail=said)])
    assert new.places[GPU]["test_abs"].reason == reason


def test_every_test_in_the_shipped_file_exists():
    known = {case.name for case in catalogue()}
    for place, section in Expectations.read(EXPECTATIONS).places.items():
        assert set(section) <= known, place
