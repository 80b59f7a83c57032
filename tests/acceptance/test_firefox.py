"""Whole sessions on Firefox's lanes, through the public flags, markers and fixtures alone."""

from __future__ import annotations

import tempfile

import duckdb  # imported before pytester forgets modules: DuckDB cannot be imported twice
import psutil
import pytest

from pytest_webaccel import browsers
from pytest_webaccel.browsers.install.cache import cache_root
from pytest_webaccel.terms import Browser
from tests.models import scaled_sum

pytestmark = pytest.mark.skipif(
    browsers.find(Browser.FIREFOX) is None,
    reason="no Firefox is here: python -m pytest_webaccel install firefox, as root",
)

CACHE = cache_root()  # before pytester moves HOME

SUITE = """
    import pathlib
    import numpy
    import pytest

    FEEDS = {name: numpy.array([1, 2, 3], numpy.float32) for name in "xy"}

    def check(webaccel):
        model = webaccel.load(pathlib.Path("model.onnx"))
        assert webaccel.run(model, FEEDS)["z"].tolist() == [4, 8, 12]
        return model

    @pytest.mark.webaccel(backend=["webgpu", "cpu"])
    def test_answer(webaccel):
        assert sum(check(webaccel).placement.nodes.values()) >= 2

    @pytest.mark.webaccel(backend=["webgpu"])
    @pytest.mark.parametrize("case", [
        pytest.param(case, marks=pytest.mark.fault(case[0], recovery=case[1]), id="-".join(case))
        for case in [(fault, strategy) for fault in {faults} for strategy in ("simple", "coordinated")]
    ])
    def test_fault(webaccel, case):
        check(webaccel)

    @pytest.mark.webaccel(backend=["webgpu"])
    @pytest.mark.fault("device_lost")
    def test_without_meaning(webaccel):
        check(webaccel)
"""


def test_model_runs_on_firefox_and_faults_are_recovered_there(pytester, monkeypatch, tmp_path):
    monkeypatch.setenv("PYTEST_WEBACCEL_CACHE", str(CACHE))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    (pytester.path / "model.onnx").write_bytes(scaled_sum())
    faults = ["connection_lost", "browser_crash"]
    pytester.makepyfile(test_it=SUITE.replace("{faults}", repr(faults)))
    result = pytester.runpytest_subprocess(
        "-p", "no:cacheprovider", "--webaccel-lanes=firefox:webgpu,firefox:cpu", "--webaccel-db=runs.duckdb", "-rs"
    )
    result.assert_outcomes(passed=2 + 2 * 2, skipped=1)
    result.stdout.fnmatch_lines(["*no GPU process serves WebGPU in this build*"])
    with duckdb.connect(str(pytester.path / "runs.duckdb"), read_only=True) as connection:
        found = connection.execute("select fault, strategy, outcome, evidence, sum(lost) from recoveries group by all")
        assert sorted(found.fetchall()) == sorted(
            (fault, strategy, "recovered", "software", 0) for fault in faults for strategy in ("simple", "coordinated")
        )
    commands = [" ".join(process.info["cmdline"] or ()) for process in psutil.process_iter(["cmdline"])]
    assert not [command for command in commands if str(tmp_path) in command and "--profile" in command]
    assert not list(tmp_path.glob("webaccel*"))
