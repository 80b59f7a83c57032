from __future__ import annotations

import html
import json
import re
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("pytest_html")

CONFTEST = """
import pytest
from pytest_webaccel.report.data import ReportData
from pytest_webaccel.report.pytest_html import register
from pytest_webaccel.rows import RecoveryRow, TestRow, decode_row, encode_row
from pytest_webaccel.terms import (Evidence)

ROWS = []

def row(test_id):
    return RecoveryRow(run_id="r", evidence=Evidence.SOFTWARE, test_id=test_id, lane="chromium:webgpu",
        fault="browser_crash", strategy="simple", outcome="recovered", total_ms=321.0, detect_ms=1.0, reassign_ms=1.0,
        load_ms=1.0, restore_ms=1.0, replay_ms=1.0, attempts=1, duplicated=0, lost=0, detail="<script>pwned</script>")

def collect():
    crashed = TestRow(run_id="r", evidence=Evidence.SOFTWARE, test_id="test_it.py::test_dies", lane="chromium:webgpu",
        worker="gw1", outcome="crashed", duration_ms=0.0, reason="from the spool")
    return ReportData.from_rows([*ROWS, crashed])

def pytest_configure(config):
    register(config, collect)

@pytest.fixture
def faulty(request):
    found = row(request.node.nodeid)
    request.node.user_properties.append(("webaccel_recoveries", encode_row(found)))
    request.node.user_properties.append(("webaccel_recoveries", "not a row"))

def pytest_runtest_logreport(report):
    if report.when == "teardown":
        ROWS.extend(decode_row(text) for name, text in report.user_properties if text != "not a row")
"""

TESTS = """
import os
import pytest

def test_recovers(faulty): pass
def test_plain(): pass

@pytest.mark.parametrize("text", ["<img src=x onerror=pwned()>"])
def test_hostile(text): pass
"""

DIES = "\ndef test_dies(): os._exit(3)\n"


@pytest.fixture
def session(pytester, monkeypatch):
    """A pytest session in a process of its own, with pytest-html and only the glue under test."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    pytester.plugins = []
    pytester.makeconftest(CONFTEST)

    def run(tests: str, *arguments: str) -> str:
        pytester.makepyfile(test_it=tests)
        result = pytester.runpytest_subprocess(
            "-p", "no:webaccel", "-p", "no:cacheprovider", "--html=report.html", *arguments
        )
        assert "INTERNALERROR" not in result.stdout.str() + result.stderr.str()
        page: str = (pytester.path / "report.html").read_text(encoding="utf-8")
        return page

    return run


def shown_tests(page: str) -> dict[str, list[dict[str, Any]]]:
    """Return what the page's own script would show, by node id."""
    blob = re.search(r'data-jsonblob="([^"]*)"', page)
    assert blob is not None
    tests = json.loads(html.unescape(blob[1]))["tests"]
    assert isinstance(tests, dict)
    return tests


def extras(entry: dict[str, Any]) -> str:
    return "".join(each["content"] for each in entry["extras"] if each["format_type"] == "html")


@pytest.mark.parametrize("arguments", [(), ("--self-contained-html",)])
def test_the_section_is_in_the_page_with_its_figures(session, arguments):
    page = session(TESTS, *arguments)
    assert page.count('<section class="webaccel">') == 1
    assert "Recovery time by fault and strategy" in page
    assert 'aria-label="Recovery time by fault and strategy' in page
    assert "<script>pwned" not in page


def test_a_test_shows_what_happened_to_it_once_and_others_show_nothing(session):
    tests = shown_tests(session(TESTS))
    (entry,) = tests["test_it.py::test_recovers"]
    assert extras(entry).count("browser_crash") == 1
    assert "321 ms in all" in extras(entry)
    assert "&lt;script&gt;pwned" in extras(entry)
    assert extras(tests["test_it.py::test_plain"][0]) == ""


def test_test_ids_are_escaped(session):
    tests = shown_tests(session(TESTS))
    (entry,) = tests["test_it.py::test_hostile[<img src=x onerror=pwned()>]"]
    cells = "".join(entry["resultsTableRow"])
    assert "<img" not in cells
    assert "&lt;img src=x onerror=pwned()&gt;" in cells


def test_a_test_whose_worker_crashed_is_in_the_page_as_a_failure(session):
    pytest.importorskip("xdist")
    page = session(TESTS + DIES, "-n", "2")
    tests = shown_tests(page)
    (entry,) = tests["test_it.py::test_dies"]
    cells = "".join(entry["resultsTableRow"])
    assert ">Failed<" in cells
    assert "test_it.py::test_dies</td>" in cells
    assert "crashed while running" in entry["log"]
    assert "from the spool" in extras(entry)
    assert re.search(r'class="failed">1 Failed', page)
    assert len(tests) == 4


def test_the_crash_counts_once_for_everybody_else(session, pytester):
    pytest.importorskip("xdist")
    session(TESTS + DIES, "-n", "2", "--junit-xml=junit.xml")
    junit = (pytester.path / "junit.xml").read_text(encoding="utf-8")
    assert junit.count('name="test_dies"') == 1
    assert 'tests="4"' in junit


def test_a_record_that_cannot_be_had_leaves_the_page_whole_and_says_why(session, pytester):
    pytester.makeconftest(
        "from pytest_webaccel.errors import HistoryError\n"
        "from pytest_webaccel.report.pytest_html import register\n"
        "def collect(): raise HistoryError('the disk is <full>')\n"
        "def pytest_configure(config): register(config, collect)\n"
    )
    page = session("def test_x(): pass")
    assert "There is no record of this run: the disk is &lt;full&gt;" in page
    assert "test_it.py::test_x" in shown_tests(page)


def test_without_a_report_nothing_is_registered(pytester, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    pytester.plugins = []
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile("def test_x(pytestconfig): assert not pytestconfig.pluginmanager.hasplugin('webaccel-html')")
    for arguments in ([], ["-p", "no:html"]):
        pytester.runpytest_subprocess("-p", "no:webaccel", *arguments).assert_outcomes(passed=1)
