"""Workers of xdist that die under a test: it is run again once, and its outcome is that of the second run."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import duckdb
import psutil
import pytest

from pytest_webaccel import browsers
from pytest_webaccel.browsers.install.cache import cache_root
from pytest_webaccel.terms import Browser
from tests.models import recurrent, scaled_sum

pytest.importorskip("xdist")

CACHE = cache_root()  # before pytester moves HOME

LANES = [
    "fake:cpu",
    pytest.param(
        "chromium:cpu",
        marks=pytest.mark.skipif(
            browsers.find(Browser.CHROMIUM) is None, reason="no Chromium is here: python -m pytest_webaccel install"
        ),
    ),
]

SUITE = """
    import pathlib
    import numpy
    import pytest

    HERE = pathlib.Path(__file__).parent

    def note(word):
        with (HERE / "lives.txt").open("a") as stream:
            stream.write(word + "\\n")

    def ask(webaccel, count=1):
        model = webaccel.load(HERE / "model.onnx")
        for number in range(count):
            feeds = {name: numpy.full(3, number + 1, numpy.float32) for name in "xy"}
            assert webaccel.run(model, feeds)["z"].tolist() == [4.0 * (number + 1)] * 3
"""


@pytest.fixture
def session(pytester, monkeypatch):
    """Run a suite on one worker; return its result, JUnit's names of its tests, and its recoveries, by test."""
    monkeypatch.setenv("PYTEST_WEBACCEL_CACHE", str(CACHE))
    (pytester.path / "model.onnx").write_bytes(scaled_sum())
    (pytester.path / "steps.onnx").write_bytes(recurrent())

    def run(tests, *arguments, workers="-n1", lane="fake:cpu"):
        pytester.makepyfile(test_it=SUITE + tests)
        fixed = ("-p", "no:cacheprovider", "--webaccel-db=runs.duckdb", "--junitxml=j.xml", f"--webaccel-lanes={lane}")
        result = pytester.runpytest_subprocess(*fixed, workers, *arguments, timeout=120)
        with duckdb.connect(str(pytester.path / "runs.duckdb"), read_only=True) as connection:
            columns = "fault, strategy, outcome, rungs, detail, total_ms, detect_ms, reassign_ms, steps_saved"
            found = connection.execute(f"select test_id, {columns} from recoveries").fetchall()
            undone = connection.execute("select transaction_id from transactions group by 1 having count(*) != 2")
            assert not undone.fetchall()
        cases = [case.get("name") for case in ET.parse(pytester.path / "j.xml").iter("testcase")]
        assert len({test for test, *_ in found}) == len(found), "no fault is told of twice"
        return result, cases, {test: dict(zip(columns.split(", "), row, strict=True)) for test, *row in found}

    return run


def lived(pytester):
    return (pytester.path / "lives.txt").read_text().split()


@pytest.mark.parametrize("lane", LANES)
def test_a_test_whose_worker_was_ended_is_run_again_once_and_its_fault_recovered(pytester, session, lane):
    result, cases, rows = session(
        """
    @pytest.mark.fault("worker_crash")
    def test_crash(webaccel):
        note("crash")
        ask(webaccel, 3)

    @pytest.mark.fault("worker_crash", recovery="worker_restart")
    def test_control(webaccel):
        note("control")
        ask(webaccel, 2)

    @pytest.mark.fault("browser_crash", recovery="worker_restart")
    def test_browser(webaccel):
        note("browser")
        ask(webaccel, 2)

    @pytest.mark.fault("worker_crash")
    def test_steps(webaccel):
        note("steps")
        model = webaccel.load(HERE / "steps.onnx")
        zero = {"h0": numpy.zeros((1, 4), numpy.float32)}
        feeds = [{"x": numpy.full((1, 4), i, numpy.float32)} for i in range(6)]
        results = webaccel.run_steps(model, feeds, carry={"h": "h0"}, initial=zero)
        assert [step["y"].shape for step in results] == [()] * 6

    def test_after(webaccel):
        note("after")
        ask(webaccel)
        """,
        "--max-worker-restart=4",
        lane=lane,
    )
    assert result.parseoutcomes() == {"passed": 5}
    assert result.ret == 0
    names = ["crash", "control", "browser", "steps", "after"]
    assert lived(pytester) == [*(name for name in names[:4] for _ in range(2)), "after"]
    assert cases == [f"test_{name}[{lane}]" for name in names]
    told = {test.split("test_")[-1].split("[")[0]: row for test, row in rows.items()}
    assert {name: (row["fault"], row["strategy"]) for name, row in told.items()} == {
        "crash": ("worker_crash", "coordinated"),
        "control": ("worker_crash", "worker_restart"),
        "browser": ("browser_crash", "worker_restart"),
        "steps": ("worker_crash", "coordinated"),
    }
    assert {(row["outcome"], row["rungs"]) for row in rows.values()} == {("recovered", "new_worker")}
    for row in rows.values():
        assert 0 < row["detect_ms"] < row["reassign_ms"] < row["total_ms"] < 60_000
    assert 1 <= told["steps"]["steps_saved"] <= 5


def test_what_is_not_recovered_fails_once_and_says_why(pytester, session):
    result, cases, rows = session(
        """
    import os

    def lives(name):
        note(name)
        return (HERE / "lives.txt").read_text().split().count(name)

    def test_unplanned(webaccel):
        note("unplanned")
        ask(webaccel)
        os._exit(7)

    @pytest.mark.fault("worker_crash")
    def test_twice(webaccel):
        if lives("twice") == 2:
            os._exit(7)
        ask(webaccel)

    @pytest.mark.fault("worker_crash", recovery="none")
    def test_none(webaccel):
        note("none")
        ask(webaccel)

    @pytest.mark.fault("worker_crash")
    def test_fails(webaccel):
        assert lives("fails") == 1
        ask(webaccel)
        """,
        "--max-worker-restart=9",
    )
    assert result.parseoutcomes() == {"failed": 4}
    assert lived(pytester) == ["unplanned", "twice", "twice", "none", "fails", "fails"]
    assert cases == [f"test_{name}[fake:cpu]" for name in ("unplanned", "twice", "none", "fails")]
    assert {test.split("::test_")[1].split("[")[0]: (row["outcome"], row["detail"]) for test, row in rows.items()} == {
        "twice": ("unknown", "the worker that ran the test again died as well; it is not run a third time"),
        "none": ("failed", "strategy none tries nothing"),
        "fails": ("failed", "the test, run again, did not get as far as the request in which its worker died"),
    }
    assert "not run a third time" in result.stdout.str()


def test_the_limit_of_restarts_is_kept_and_named(pytester, session):
    result, _, rows = session(
        """
    @pytest.mark.fault("worker_crash")
    @pytest.mark.parametrize("n", range(2))
    def test_it(webaccel, n):
        ask(webaccel)
        """,
        "--max-worker-restart=1",
    )
    assert result.ret != 0
    assert result.parseoutcomes() == {"failed": 1, "passed": 1}
    assert sorted(row["outcome"] for row in rows.values()) == ["failed", "recovered"]
    assert "--max-worker-restart=1 allows no other worker" in result.stdout.str()


def test_another_scheduler_hands_nothing_out_again_and_says_so(pytester, session):
    result, _, rows = session(
        """
    @pytest.mark.fault("worker_crash")
    def test_it(webaccel):
        ask(webaccel)
        """,
        "--dist=loadfile",
        "--max-worker-restart=0",
    )
    assert result.parseoutcomes() == {"failed": 1}
    assert ["--dist=load or" in row["detail"] for row in rows.values()] == [True]


def test_without_workers_it_is_skipped_with_the_reason(pytester, session):
    result, _, rows = session(
        """
    @pytest.mark.fault("worker_crash")
    def test_crash(webaccel):
        ask(webaccel)

    @pytest.mark.fault("browser_crash", recovery="worker_restart")
    def test_control(webaccel):
        ask(webaccel)
        """,
        workers="-rs",
    )
    assert result.parseoutcomes() == {"skipped": 2}
    assert result.stdout.str().count("-n1 or more") == 2
    assert rows == {}


@pytest.mark.skipif(
    browsers.find(Browser.CHROMIUM) is None, reason="no Chromium is here: python -m pytest_webaccel install"
)
def test_a_page_that_stood_still_does_not_outlive_its_worker(pytester, session):
    before = standing()
    pytester.makeconftest(
        """
        from pytest_webaccel.faults import INJECTORS
        from pytest_webaccel.faults.component_timeout import ComponentTimeout, Hang
        from pytest_webaccel.terms import Fault

        INJECTORS[Fault.COMPONENT_TIMEOUT] = ComponentTimeout(Hang.STOPPED)
        """
    )
    _, _, found = session(
        """
    @pytest.mark.fault("component_timeout", recovery="worker_restart")
    def test_hangs(webaccel):
        ask(webaccel)
        """,
        lane="chromium:cpu",
    )
    assert [row["outcome"] for row in found.values()] == ["recovered"]
    _, left = psutil.wait_procs(standing() - before, timeout=5)
    assert left == []


def standing() -> set[psutil.Process]:
    """Return the stopped processes that no browser is above any more: Chromium's say nothing else of whose they are."""
    found = set()
    for process in psutil.process_iter(["status", "ppid", "exe"]):
        told = process.info
        if told["status"] == psutil.STATUS_STOPPED and told["ppid"] == 1 and "chrom" in (told["exe"] or ""):
            found.add(process)
    return found
