from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_webaccel.browsers import probe
from pytest_webaccel.errors import BrowserError
from pytest_webaccel.options import Settings
from pytest_webaccel.scheduling.lanes import fake_table, lane_of, lane_table, summary, weakest
from pytest_webaccel.terms import Backend, Browser, Evidence, Lane, ProbeResult

ALL = [Lane(browser, backend) for browser in Browser for backend in Backend]


@given(st.sampled_from(ALL), st.text("abc019_:", max_size=5), st.text("abc019_:", max_size=5))
def test_the_lane_is_read_from_anywhere_between_the_dashes_of_the_bracket(lane, before, after):
    parts = [part for part in (before, str(lane), after) if part]
    found = lane_of(f"tests/test_a.py::test_x[{'-'.join(parts)}]")
    assert found == lane


@pytest.mark.parametrize(
    "nodeid",
    [
        "t.py::test_x",
        "t.py::test_x[chromium]",
        "t.py::test_x[xchromium:webgpu]",
        "t.py::test_x[chromium:webgpux]",
        "chromium:webgpu.py::test_x[a]",
        "t.py::test_x[no-lane]",
    ],
)
def test_what_is_no_lane_is_none(nodeid):
    assert lane_of(nodeid) is None


def test_the_fake_browser_needs_no_probe(monkeypatch):
    monkeypatch.setattr(probe, "lanes_table", None)
    assert lane_table(Settings(browsers=(Browser.FAKE,))) == fake_table()


def test_lanes_asked_for_by_name_are_in_the_table_also_where_nothing_knows_them(monkeypatch):
    monkeypatch.setattr(probe, "lanes_table", lambda *a, **k: ())
    (missing,) = lane_table(Settings(lanes=(Lane(Browser.WEBKIT, Backend.WEBGPU),)))
    assert not missing.works
    assert "webkit" in missing.reason
    assert "doctor" in missing.remedy


def test_the_table_holds_no_more_than_the_settings_admit(monkeypatch):
    every = tuple(ProbeResult(lane, works=True, evidence=Evidence.SOFTWARE) for lane in ALL)
    monkeypatch.setattr(probe, "lanes_table", lambda *a, **k: every)
    table = lane_table(Settings(browsers=(Browser.EDGE,), backends=(Backend.CPU,)))
    assert [str(result.lane) for result in table] == ["edge:cpu"]


def test_a_probe_that_cannot_be_done_is_the_reason_in_every_lane(monkeypatch):
    def fail(*_, **__):
        raise BrowserError("no memory left")

    monkeypatch.setattr(probe, "lanes_table", fail)
    table = lane_table(Settings())
    assert {result.lane.backend for result in table} == set(Backend)
    assert {(result.works, result.reason) for result in table} == {(False, "no memory left")}


def test_the_summary_names_lanes_with_their_evidence_or_says_why_there_is_none():
    assert summary(fake_table()[:1]) == "fake:webgpu (fake)"
    lane = ProbeResult(ALL[0], works=False, evidence=Evidence.SOFTWARE, reason="not found.", remedy="Install it.")
    assert summary((lane,)) == "no lane works here: not found. Install it."
    assert "no browser was found" in summary(())


def test_the_weakest_grade_counts():
    assert weakest([Evidence.HARDWARE, Evidence.SOFTWARE]) is Evidence.SOFTWARE
    assert weakest(Evidence) is Evidence.FAKE
