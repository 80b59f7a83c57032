"""The conformance suite as a user runs it: on the fake browser for its logic, on real lanes for its truth."""

from __future__ import annotations

import json
import re
import shutil

import duckdb
import pytest

from pytest_webaccel import browsers
from pytest_webaccel.browsers.install.cache import cache_root
from pytest_webaccel.browsers.install.ort import ort_dist
from pytest_webaccel.terms import Browser

CACHE = cache_root()  # before pytester moves HOME
SUITE = ("--pyargs", "pytest_webaccel.conformance")
real = pytest.mark.skipif(
    browsers.find(Browser.CHROMIUM) is None, reason="no Chromium is here: python -m pytest_webaccel install"
)


@pytest.fixture(autouse=True)
def cache(monkeypatch):
    monkeypatch.setenv("PYTEST_WEBACCEL_CACHE", str(CACHE))


def kinds(database) -> dict[tuple[str, str], str]:
    with duckdb.connect(str(database), read_only=True) as connection:
        rows = connection.execute('SELECT lane, "case", kind FROM conformance').fetchall()
    return {(lane, case): kind for lane, case, kind in rows}


def test_only_news_fails(pytester):
    run = ("-k", "test_abs and fake:cpu or test_neg and fake:cpu", "--webaccel-browser=fake")
    result = pytester.runpytest_subprocess(*SUITE, *run, "--webaccel-db=h.duckdb")
    result.assert_outcomes(passed=3)
    assert set(kinds(pytester.path / "h.duckdb").values()) == {"agrees"}
    file = pytester.path / "mine.txt"
    file.write_text("[fake:cpu wasm fake]\nfailed test_abs # it was so once\n")
    result = pytester.runpytest_subprocess(*SUITE, *run, "--webaccel-expectations=mine.txt", "-ra")
    result.assert_outcomes(passed=2, failed=1)
    result.stdout.fnmatch_lines(["*agrees, where failed was expected by [[]fake:cpu wasm fake]*"])


def test_what_is_known_is_xfailed_and_taken_over_by_the_command(pytester):
    run = ("-k", "test_adagrad and fake:cpu or test_bernoulli and fake:cpu", "--webaccel-browser=fake")
    first = pytester.runpytest_subprocess(*SUITE, *run, "--webaccel-db=h.duckdb")
    failed = first.parseoutcomes()["failed"]
    assert failed
    done = pytester.run("python", "-m", "pytest_webaccel", "expectations", "h.duckdb", "mine.txt")
    done.stdout.fnmatch_lines([f"mine.txt: {failed} lines changed*"])
    second = pytester.runpytest_subprocess(*SUITE, *run, "--webaccel-expectations=mine.txt")
    assert second.parseoutcomes().get("failed", 0) == 0
    assert second.parseoutcomes()["xfailed"] == failed


def test_a_file_of_expectations_that_is_none_fails_with_its_line(pytester):
    (pytester.path / "mine.txt").write_text("nonsense\n")
    result = pytester.runpytest_subprocess(
        *SUITE, "-k", "test_abs and fake:cpu", "--webaccel-browser=fake", "--webaccel-expectations=mine.txt"
    )
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*mine.txt, line 1*"])


CRASHING = """
    import pytest

    from pytest_webaccel.terms import Fault, FaultPlan, Strategy

    @pytest.fixture(autouse=True)
    def crash(request, _webaccel_lease):
        if "test_not_3d-" in request.node.nodeid or "-test_not_3d]" in request.node.nodeid:
            _webaccel_lease.plans.waiting.append(FaultPlan(Fault.PAGE_CRASH, recovery=Strategy.NONE))
"""


@real
def test_a_page_that_crashes_costs_its_test_alone(pytester):
    pytester.makepyfile(crashing=CRASHING)
    result = pytester.runpytest_subprocess(
        *(*SUITE, "-p", "crashing", "-k", "test_not_ or test_neg", "--webaccel-lanes=chromium:cpu"),
        *("--webaccel-db=h.duckdb",),
        timeout=120,
    )
    found = kinds(pytester.path / "h.duckdb")
    assert len(found) >= 5
    assert [case for (_, case), kind in found.items() if kind == "crashed"] == ["test_not_3d"]
    assert {kind for (_, case), kind in found.items() if case != "test_not_3d"} == {"agrees"}
    assert result.parseoutcomes() | {"deselected": 0} == {"passed": len(found) - 1, "failed": 1, "deselected": 0}


@real
def test_two_versions_of_the_engine_are_compared(pytester):
    newer = pytester.path / "newer"
    shutil.copytree(ort_dist(None), newer / "dist")
    (newer / "package.json").write_text(json.dumps({"name": "onnxruntime-web", "version": "1.99.0"}))
    result = pytester.runpytest_subprocess(
        *(*SUITE, "-k", "test_abs or test_unique_length_1", "--webaccel-lanes=chromium:cpu"),
        *(f"--webaccel-ort={ort_dist(None)}", f"--webaccel-ort={newer}", "--webaccel-report=r.html", "-v"),
        timeout=120,
    )
    said = result.stdout.str()
    for version in ("1.30.0", "1.99.0"):
        assert re.search(rf"test_node\[test_abs-ort{version}-chromium:cpu\] PASSED", said)
        # the newer one has no section: that of the version before stands in
        assert re.search(rf"test_node\[test_unique_length_1-ort{version}-chromium:cpu\] XFAIL", said)
        assert f"conformance, chromium:cpu, onnxruntime-web {version} wasm" in said
    assert "0 of 2 tests end otherwise between versions" in (pytester.path / "r.html").read_text()


@real
def test_real_lanes_over_two_workers(pytester):
    picked = "test_abs or test_relu or test_conv_with_strides or test_sequence_insert or test_adagrad or test_celu"
    result = pytester.runpytest_subprocess(
        *SUITE,
        *("-n", "2", "-k", f"({picked}) and not expanded", "--webaccel-browser=chromium"),
        *("--webaccel-db=h.duckdb", "--webaccel-report=r.html"),
        timeout=300,
    )
    assert "failed" not in result.parseoutcomes(), result.stdout.str()
    found = kinds(pytester.path / "h.duckdb")
    assert {lane for lane, _ in found} == {"chromium:cpu", "chromium:webgpu", "chromium:webnn"}
    for lane in ("chromium:cpu", "chromium:webgpu", "chromium:webnn"):
        assert found[lane, "test_relu"] == "agrees"
        assert found[lane, "test_sequence_insert_at_back"] == "not_asked"
        assert found[lane, "test_adagrad"] == "unsupported"
    with duckdb.connect(str(pytester.path / "h.duckdb"), read_only=True) as connection:
        starts = connection.execute("SELECT lane, worker, count(*) FROM lanes GROUP BY ALL").fetchall()
        placed = connection.execute("SELECT placement FROM conformance WHERE \"case\" = 'test_relu'").fetchall()
    assert [count for *_, count in starts] == [1] * len(starts)
    assert sum("CPUExecutionProvider" in text for (text,) in placed) == 1
    page = (pytester.path / "r.html").read_text()
    assert "Operator conformance" in page
    assert "Conv" in page
