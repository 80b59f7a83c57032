"""Whole pytest sessions on the fake browser: what a user sees of lanes, workers, records and exit status."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import duckdb  # noqa: F401 - before pytester: it forgets modules imported in a test, and DuckDB aborts when imported twice
import pytest

from pytest_webaccel.history import Store
from pytest_webaccel.rows import RunRow, TestRow

pytest.importorskip("xdist")

FAKE = "--webaccel-browser=fake"


def run(pytester: pytest.Pytester, *arguments: str) -> pytest.RunResult:
    return pytester.runpytest_subprocess("-p", "no:cacheprovider", *arguments, timeout=90)


def outcomes(pytester: pytest.Pytester, *arguments: str) -> tuple[pytest.RunResult, dict[str, str]]:
    """Run, and return what JUnit says of each test, by its name."""
    result = run(pytester, "--junitxml=junit.xml", *arguments)
    found = {}
    for case in ET.parse(pytester.path / "junit.xml").iter("testcase"):
        found[case.get("name", "")] = case[-1].tag if len(case) and case[-1].tag != "properties" else "passed"
    return result, found


def stored(pytester: pytest.Pytester) -> tuple[list[TestRow], list[RunRow]]:
    with Store.open(pytester.path / "runs.duckdb", read_only=True) as store:
        return store.rows(TestRow), store.rows(RunRow)


def test_importing_the_plugin_loads_nothing_heavy():
    heavy = ["aiohttp", "duckdb", "execnet", "hypothesis", "matplotlib", "numpy", "onnx", "onnxruntime"]
    heavy += ["playwright", "psutil", "scipy", "xdist"]
    code = f"import sys, pytest_webaccel.plugin; print([name for name in {heavy!r} if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert found.stdout.strip() == "[]"


@pytest.mark.parametrize("workers", [[], ["-n2"]])
def test_a_run_without_a_lane_says_and_probes_nothing(pytester, workers):
    # The name is put together so that the look for it in test files finds nothing.
    pytester.makeconftest(
        """
        import importlib
        def fail(*_): raise AssertionError("a lane was looked for")
        importlib.import_module("pytest_web" + "accel.scheduling.lanes")._probe = fail
        """
    )
    pytester.makepyfile("def test_plain(): pass")
    result = run(pytester, *workers)
    result.assert_outcomes(passed=1)
    assert "webaccel:" not in result.stdout.str()


@pytest.mark.parametrize("workers", [[], ["-n2"]])
def test_a_test_runs_on_every_lane_that_fits_its_marker(pytester, workers):
    pytester.makepyfile(
        """
        import pytest
        def test_all(webaccel_lane): assert webaccel_lane.works
        @pytest.mark.webaccel(backend=["webnn", "cpu"])
        @pytest.mark.parametrize("size", [1, 2])
        def test_some(webaccel_lane, size): assert webaccel_lane.lane.backend != "webgpu"
        def test_plain(): pass
        """
    )
    result, found = outcomes(pytester, FAKE, *workers)
    assert result.ret == 0
    assert set(found.values()) == {"passed"}
    assert sorted(found) == [
        "test_all[fake:cpu]",
        "test_all[fake:webgpu]",
        "test_all[fake:webnn]",
        "test_plain",
        "test_some[fake:cpu-1]",
        "test_some[fake:cpu-2]",
        "test_some[fake:webnn-1]",
        "test_some[fake:webnn-2]",
    ]
    result.stdout.fnmatch_lines(["*webaccel: *fake:webgpu (fake)*"])
    assert re.search(r"seed \d+", result.stdout.str())


@pytest.mark.parametrize(("strict", "outcome"), [([], "skipped"), (["--webaccel-strict"], "error")])
def test_a_lane_asked_for_by_name_and_not_to_be_had_is_seen(pytester, strict, outcome):
    pytester.makepyfile("def test_x(webaccel_lane): pass")
    result, found = outcomes(pytester, "--webaccel-lanes=fake:cpu,webkit:webgpu", *strict, "-ra")
    assert {name: word for name, word in found.items() if "webkit" in name}["test_x[webkit:webgpu]"] in {
        outcome,
        "failure" if strict else outcome,
    }
    assert found["test_x[fake:cpu]"] == "passed"
    assert re.search(r"webkit.*doctor|webkit.*not supported|webkit", result.stdout.str())


@pytest.mark.parametrize(("strict", "words"), [([], "skipped"), (["--webaccel-strict"], "error")])
def test_what_no_lane_satisfies_is_one_item_with_the_reason(pytester, strict, words):
    pytester.makepyfile(
        """
        import pytest
        @pytest.mark.webaccel(features="shader-f17")
        def test_x(webaccel_lane): pass
        """
    )
    result = run(pytester, FAKE, *strict, "-ra")
    assert "shader-f17" in result.stdout.str()
    counts = result.parseoutcomes()
    assert "passed" not in counts
    assert sum(counts.get(word, 0) for word in ("skipped", "error", "errors", "failed")) >= 1
    assert (result.ret == 0) is (words == "skipped")


def test_a_marker_that_cannot_be_meant_harms_only_its_own_test(pytester):
    pytester.makepyfile(
        """
        import pytest
        @pytest.mark.webaccel(backend="webgl")
        def test_bad(webaccel_lane): pass
        @pytest.mark.fault("browser_crsh")
        def test_worse(webaccel_lane): pass
        def test_good(webaccel_lane): pass
        """
    )
    result = run(pytester, FAKE, "--webaccel-backend=cpu")
    assert result.parseoutcomes()["passed"] == 1
    result.stdout.fnmatch_lines_random(["*did you mean 'webgpu'*", "*did you mean 'browser_crash'*"])
    assert result.ret == 1


@pytest.mark.parametrize("workers", [[], ["-n2"]])
def test_a_flag_that_cannot_be_meant_ends_the_run_with_one_message(pytester, workers):
    pytester.makepyfile("def test_x(): pass")
    result = run(pytester, "--webaccel-browser=chromum", *workers)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*--webaccel-browser: unknown browser 'chromum'*did you mean 'chromium'?"])
    assert "Traceback" not in result.stderr.str()


def test_comparative_mode_repeats_a_fault_test_under_every_strategy(pytester):
    pytester.makepyfile(
        """
        import pytest
        @pytest.mark.fault("device_lost")
        def test_x(webaccel_lane, webaccel_strategy): assert webaccel_strategy != "none"
        def test_y(webaccel_lane, webaccel_strategy): assert webaccel_strategy is None
        """
    )
    result, found = outcomes(pytester, "--webaccel-lanes=fake:webgpu", "--webaccel-mode=comparative")
    assert result.ret == 0
    strategies = ["coordinated", "parallel", "progressive", "simple"]
    assert sorted(found) == [*(f"test_x[fake:webgpu-{name}]" for name in strategies), "test_y[fake:webgpu]"]


def test_tests_go_to_the_workers_that_serve_their_lane(pytester):
    pytester.makepyfile(
        """
        import os, pytest
        from pytest_webaccel.scheduling.session import session_of
        @pytest.mark.parametrize("n", range(4))
        def test_x(webaccel_lane, n, pytestconfig):
            session = session_of(pytestconfig)
            assert session.worker == os.environ["PYTEST_XDIST_WORKER"]
            assert webaccel_lane.lane in session.lanes
        """
    )
    result = run(pytester, FAKE, "-n2")
    result.assert_outcomes(passed=12)


def test_a_binding_by_hand_is_respected(pytester):
    pytester.makepyfile(
        """
        import os
        def test_x(webaccel_lane):
            place = {"fake:webgpu": "gw0", "fake:webnn": "gw1", "fake:cpu": "gw1"}[str(webaccel_lane.lane)]
            assert os.environ["PYTEST_XDIST_WORKER"] == place
        """
    )
    tx = ["--tx", "popen//webaccel=fake:webgpu", "--tx", "popen//webaccel=fake:webnn+fake:cpu", "--dist=load"]
    run(pytester, FAKE, *tx).assert_outcomes(passed=3)


def test_another_way_to_distribute_is_respected(pytester):
    pytester.makepyfile("def test_x(webaccel_lane): pass")
    result = run(pytester, FAKE, "-n2", "--dist=loadfile", "-v")
    result.assert_outcomes(passed=3)
    assert "LoadFileScheduling" in result.stdout.str()


def test_ours_is_the_scheduler_otherwise(pytester):
    pytester.makepyfile("def test_x(webaccel_lane): pass")
    assert "LaneScheduling" in run(pytester, FAKE, "-n2", "-v").stdout.str()


CRASHING = """
import os, pytest
@pytest.mark.parametrize("n", range(4))
def test_x(webaccel_lane, n):
    if n == 1 and str(webaccel_lane.lane) == "fake:webgpu":
        os._exit(7)
"""


def test_a_worker_that_crashes_is_replaced_on_its_lane_and_only_its_test_is_lost(pytester):
    pytester.makepyfile(CRASHING)
    result = run(pytester, FAKE, "-n2", "--webaccel-db=runs.duckdb")
    assert result.parseoutcomes() == {"passed": 11, "failed": 1}
    tests, runs = stored(pytester)
    assert len(tests) == 12
    by_outcome = {row.test_id.partition("::")[2]: row for row in tests if row.outcome != "passed"}
    assert [(name, row.outcome) for name, row in by_outcome.items()] == [("test_x[fake:webgpu-1]", "crashed")]
    assert by_outcome["test_x[fake:webgpu-1]"].lane == "fake:webgpu"
    assert [row.exit_status for row in runs] == [1]
    workers = {lane: {row.worker for row in tests if row.lane == lane} for lane in ("fake:webgpu", "fake:cpu")}
    assert not workers["fake:webgpu"] & workers["fake:cpu"]


def test_the_record_says_what_every_test_on_a_lane_came_to(pytester):
    pytester.makepyfile(
        """
        import pytest
        pytestmark = pytest.mark.webaccel(backend="cpu", family="audio")
        def test_passes(webaccel_lane): pass
        def test_fails(webaccel_lane): assert 1 == 2
        def test_skips(webaccel_lane): pytest.skip("not today")
        @pytest.mark.xfail(reason="known", strict=True)
        def test_known(webaccel_lane): assert False
        def test_plain(): pass
        """
    )
    run(pytester, FAKE, "--webaccel-db=runs.duckdb", "--webaccel-seed=5")
    tests, (whole,) = stored(pytester)
    assert {row.test_id.split("::")[1]: (row.outcome, row.lane, row.family) for row in tests} == {
        "test_passes[fake:cpu]": ("passed", "fake:cpu", "audio"),
        "test_fails[fake:cpu]": ("failed", "fake:cpu", "audio"),
        "test_skips[fake:cpu]": ("skipped", "fake:cpu", "audio"),
        "test_known[fake:cpu]": ("xfailed", "fake:cpu", "audio"),
    }
    reasons = {row.test_id.split("::")[1]: row.reason for row in tests}
    assert reasons["test_skips[fake:cpu]"] == "not today"
    assert "1 == 2" in reasons["test_fails[fake:cpu]"]
    assert {row.evidence for row in tests} == {"fake"}
    assert (whole.seed, whole.evidence, whole.exit_status) == (5, "fake", 1)


def test_rows_reach_junit_and_the_database_from_workers(pytester):
    pytester.makepyfile(
        """
        from pytest_webaccel.scheduling.session import session_of
        from pytest_webaccel.rows import MeasurementRow
        def test_x(webaccel_lane, request):
            session = session_of(request.config)
            lane = str(webaccel_lane.lane)
            row = MeasurementRow(run_id=session.run_id, evidence="fake", test_id=request.node.nodeid, lane=lane,
                model="m", family="", engine="onnx", bits=32, metric="t", value=1.5, unit="ms")
            session.record(request.node, row)
        """
    )
    result, _ = outcomes(pytester, FAKE, "-n2", "--webaccel-db=runs.duckdb")
    assert result.ret == 0
    from pytest_webaccel.rows import MeasurementRow

    with Store.open(pytester.path / "runs.duckdb", read_only=True) as store:
        rows = store.rows(MeasurementRow)
    assert sorted(row.lane for row in rows) == ["fake:cpu", "fake:webgpu", "fake:webnn"]
    properties = [
        json.loads(each.get("value", ""))["value"]
        for each in ET.parse(pytester.path / "junit.xml").iter("property")
        if each.get("name") == "webaccel_measurements"
    ]
    assert properties == [1.5] * 3


def test_a_dead_workers_rows_are_in_the_record(pytester):
    pytester.makepyfile(
        """
        import os
        from pytest_webaccel.scheduling.session import session_of
        from pytest_webaccel.rows import MeasurementRow
        def test_x(webaccel_lane, request):
            session = session_of(request.config)
            row = MeasurementRow(run_id=session.run_id, evidence="fake", test_id=request.node.nodeid, lane="fake:cpu",
                model="m", family="", engine="onnx", bits=32, metric="t", value=1.5, unit="ms")
            session.record(request.node, row)
            os._exit(7)
        """
    )
    run(pytester, "--webaccel-lanes=fake:cpu", "-n1", "--webaccel-db=runs.duckdb")
    from pytest_webaccel.rows import MeasurementRow

    with Store.open(pytester.path / "runs.duckdb", read_only=True) as store:
        assert [row.value for row in store.rows(MeasurementRow)] == [1.5]


def test_a_database_that_cannot_be_used_costs_the_exit_status_and_nothing_else(pytester):
    pytester.makepyfile("def test_x(webaccel_lane): pass")
    pytester.path.joinpath("runs.duckdb").write_bytes(b"not a database, whatever its name says" * 99)
    result = run(pytester, FAKE, "--webaccel-db=runs.duckdb", "--webaccel-report=report.html")
    assert result.parseoutcomes()["passed"] == 3
    assert result.ret == 1
    assert "runs.duckdb" in result.stdout.str()
    assert "Traceback" not in result.stdout.str() + result.stderr.str()
    assert pytester.path.joinpath("report.html").is_file()


def test_a_failed_gate_fails_the_run_and_says_why(pytester):
    pytester.makepyfile("def test_x(webaccel_lane): pass")
    result = run(pytester, FAKE, "--webaccel-min-success=1")
    assert result.parseoutcomes()["passed"] == 3
    assert result.ret == 1
    assert "min_success=1" in result.stdout.str()


NOTHING = """
from pytest_webaccel.scheduling import lanes
from pytest_webaccel.terms import (Backend, Browser, Evidence, Lane, ProbeResult)

def probe(*_):
    return tuple(
        ProbeResult(Lane(Browser.CHROMIUM, backend), works=backend in WORKING, evidence=Evidence.SOFTWARE,
            reason="" if backend in WORKING else "No adapter.")
        for backend in Backend
    )

lanes._probe = probe
"""


@pytest.mark.parametrize(
    ("working", "test", "arguments", "status"),
    [
        (["cpu"], "", [], 1),
        ([], "", [], 1),
        (["cpu", "webgpu"], "", [], 0),
        (["cpu"], "", ["--webaccel-backend=cpu"], 0),
        (["cpu"], "", ["--webaccel-lanes=chromium:cpu"], 0),
        (["cpu", "webgpu"], "", ["-k", "cpu"], 0),
        (["cpu"], "", ["-k", "cpu"], 1),
        (["cpu", "webgpu"], "import pytest; pytest.skip('no')", [], 1),
    ],
)
def test_a_run_in_which_nothing_accelerated_ran_is_not_green(pytester, working, test, arguments, status):
    pytester.makeconftest(f"WORKING = {working!r}\n{NOTHING}")
    pytester.makepyfile(f"def test_x(webaccel_lane): {test or 'pass'}")
    result = run(pytester, *arguments)
    assert ("othing accelerated ran" in result.stdout.str()) is bool(status)
    assert result.ret == status


def test_ctrl_c_keeps_the_results_so_far(pytester):
    pytester.makepyfile(
        """
        import os, signal
        def test_a(webaccel_lane): pass
        def test_b(webaccel_lane): os.kill(os.getpid(), signal.SIGINT)
        def test_c(webaccel_lane): pass
        """
    )
    result = run(pytester, "--webaccel-lanes=fake:cpu", "--webaccel-db=runs.duckdb")
    assert result.ret == pytest.ExitCode.INTERRUPTED
    tests, (whole,) = stored(pytester)
    assert "test_a[fake:cpu]" in {row.test_id.split("::")[1] for row in tests if row.outcome == "passed"}
    assert whole.exit_status == pytest.ExitCode.INTERRUPTED
    assert not any("::test_c" in row.test_id for row in tests)


def test_ctrl_c_keeps_the_results_of_workers_and_leaves_none_running(pytester):
    pytester.makeconftest(
        """
        import os, pathlib
        def pytest_runtest_logreport(report):
            if report.when == "teardown" and "PYTEST_XDIST_WORKER" not in os.environ:
                pathlib.Path("seen").touch()
        """
    )
    pytester.makepyfile(
        """
        import os, pathlib, signal, threading
        def test_a(webaccel_lane): pass
        def test_b(webaccel_lane):
            pathlib.Path("worker.pid").write_text(str(os.getpid()))
            while not pathlib.Path("seen").exists():
                threading.Event().wait(0.01)
            os.kill(os.getppid(), signal.SIGINT)
            threading.Event().wait(60)
        """
    )
    result = run(pytester, "--webaccel-lanes=fake:cpu", "-n1", "--webaccel-db=runs.duckdb")
    assert result.ret == pytest.ExitCode.INTERRUPTED
    tests, _ = stored(pytester)
    assert [row.test_id.split("::")[1] for row in tests if row.outcome == "passed"] == ["test_a[fake:cpu]"]
    pid = int(Path(pytester.path / "worker.pid").read_text())
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_replacement_that_collects_other_tests_ends_the_run_red_instead_of_never(pytester):
    pytester.makepyfile(
        """
        import os, pathlib, pytest
        crashed = pathlib.Path("crashed")
        names = ["a", "b", "c", "d"] if not crashed.exists() else ["other"]
        @pytest.mark.parametrize("name", names)
        def test_x(webaccel_lane, name):
            if name == "b":
                crashed.touch()
                os._exit(7)
        """
    )
    result = run(pytester, "--webaccel-lanes=fake:cpu", "-n1")
    assert result.ret != 0
    assert "was not run" in result.stdout.str()


def test_without_xdist_everything_else_works(pytester):
    pytester.makepyfile("def test_x(webaccel_lane): pass")
    result = run(pytester, FAKE, "-p", "no:xdist")
    result.assert_outcomes(passed=3)


def test_the_doctor_prints_and_runs_no_test(pytester):
    pytester.makepyfile("def test_x(): raise AssertionError")
    pytester.makeconftest(
        """
        import importlib
        from pytest_webaccel.scheduling.lanes import fake_table
        doctor = importlib.import_module("pytest_webaccel.browsers.doctor")
        doctor.lanes_table = lambda *a, **k: fake_table()
        doctor.find_all = lambda: ()
        """
    )
    result = run(pytester, "--webaccel-doctor")
    assert "failed" not in result.stdout.str()
    assert "none found" in result.stdout.str()


def test_markers_are_registered(pytester):
    result = run(pytester, "--markers")
    result.stdout.fnmatch_lines(["@pytest.mark.webaccel(browser=*", "@pytest.mark.fault(name*"])
