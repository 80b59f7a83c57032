"""Faults of whole sessions: what is struck, by what, and what the record says of it."""

from __future__ import annotations

import re

import duckdb
import pytest

from tests import models

CONFTEST = """
import numpy as np, pathlib, pytest
here = pathlib.Path(__file__).parent

@pytest.fixture
def answer(webaccel):
    model = webaccel.load(here / "good.onnx")
    feeds = {"x": np.ones(2, np.float32), "y": np.ones(2, np.float32)}
    return lambda: webaccel.run(model, feeds)["z"].tolist()
"""

SUITE = """
import pytest

@pytest.mark.parametrize("n", range(5))
def test_it(answer, n):
    assert answer() == [4, 4]
"""


@pytest.fixture
def suite(pytester):
    pytester.makeconftest(CONFTEST)
    (pytester.path / "good.onnx").write_bytes(models.scaled_sum())
    return pytester


def run(pytester: pytest.Pytester, *arguments: str) -> pytest.RunResult:
    more = ("-p", "no:cacheprovider", "--webaccel-db=runs.duckdb", *arguments)
    return pytester.runpytest_subprocess(*more, timeout=120)


def recorded(pytester: pytest.Pytester, columns: str) -> list[tuple[object, ...]]:
    with duckdb.connect(str(pytester.path / "runs.duckdb"), read_only=True) as connection:
        return connection.execute(f"select {columns} from recoveries order by all").fetchall()


def test_faults_that_no_lane_can_suffer_are_said_recorded_and_not_green(suite):
    suite.makepyfile(SUITE)
    result = run(suite, "--webaccel-lanes=fake:cpu", "--webaccel-fault=device_lost,device_destroyed")
    result.assert_outcomes(passed=5)
    assert result.ret == 1
    result.stdout.fnmatch_lines(["*no fault was caused, since no lane of this run can suffer one. device_lost has no*"])
    result.stdout.no_fnmatch_line("*none were planned*")
    rows = recorded(suite, "fault, outcome, lane, detail like 'never caused: %'")
    assert rows == [
        ("device_destroyed", "unknown", "fake:cpu", True),
        ("device_lost", "unknown", "fake:cpu", True),
    ]


def test_faults_that_one_lane_of_several_can_suffer_strike_there_and_the_run_is_green(suite):
    suite.makepyfile(SUITE)
    result = run(suite, "--webaccel-lanes=fake:cpu,fake:webgpu", "--webaccel-fault=device_lost")
    result.assert_outcomes(passed=10)
    assert result.ret == 0
    assert set(recorded(suite, "lane, outcome")) == {("fake:webgpu", "recovered")}


def test_a_plan_that_can_never_fire_fails_its_test_and_is_recorded(suite):
    suite.makepyfile(
        """
        import pytest

        @pytest.mark.fault("connection_lost", times=2)
        def test_it(answer):
            assert answer() == [4, 4]
        """
    )
    result = run(suite, "--webaccel-lanes=fake:cpu")
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(
        ["*planned and never caused: connection_lost at mid_request. The test made 1 requests*"]
    )
    assert recorded(suite, "outcome, detail like 'planned and never caused%'") == [
        ("recovered", False),
        ("unknown", True),
    ]


def test_comparative_mode_holds_strategies_against_the_same_faults(suite):
    suite.makepyfile(SUITE)
    arguments = ("--webaccel-mode=comparative", "--webaccel-fault=medium", "--webaccel-seed=5")
    run(suite, "--webaccel-lanes=fake:webgpu", *arguments).assert_outcomes(passed=20)
    met: dict[str, dict[str, object]] = {}
    for test, strategy, *what in recorded(suite, "test_id, strategy, fault, kind, point"):
        alone = re.sub(rf"-?{strategy}-?", "", str(test))
        met.setdefault(alone, {})[str(strategy)] = what
    assert len(met) == 5
    for test, faults in met.items():
        assert len(faults) == 4, test
        first, *others = faults.values()
        assert others == [first] * 3, (test, faults)
    assert len({str(next(iter(faults.values()))) for faults in met.values()}) > 1, "several faults of the level"


@pytest.mark.parametrize("workers", [(), ("-n", "2")], ids=["alone", "workers"])
def test_the_same_seed_gives_the_same_faults_and_another_gives_others(suite, workers):
    suite.makepyfile(SUITE)
    found = []
    for seed in (7, 7, 8):
        (suite.path / "runs.duckdb").unlink(missing_ok=True)
        arguments = (f"--webaccel-seed={seed}", "--webaccel-fault=medium", *workers)
        run(suite, "--webaccel-lanes=fake:webgpu", *arguments).assert_outcomes(passed=5)
        found.append(recorded(suite, "test_id, fault, kind, point"))
    assert found[0] == found[1]
    assert found[0] != found[2]
