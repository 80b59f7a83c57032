"""A whole session on Deno's lanes, through the public flags, markers and fixtures alone."""

from __future__ import annotations

import tempfile
from typing import TYPE_CHECKING

import duckdb  # imported before pytester forgets modules: DuckDB cannot be imported twice
import psutil
import pytest

from pytest_webaccel import browsers
from pytest_webaccel.browsers.install.cache import cache_root
from pytest_webaccel.terms import Backend, Browser, Lane
from tests.acceptance.lanes import require_lane
from tests.models import scaled_sum

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.skipif(browsers.find(Browser.DENO) is None, reason="no Deno is here: pip install deno")

CACHE = cache_root()  # before pytester moves HOME

SUITE = """
    import pathlib

    import numpy
    import pytest

    from pytest_webaccel.engines.packing import quantise

    CHANCE = numpy.random.default_rng(0)
    X = CHANCE.standard_normal((3, 200)).astype("f4")
    WEIGHTS = quantise(CHANCE.standard_normal((70, 200)).astype("f4"), bits=3)
    FEEDS = {name: numpy.array([1, 2, 3], numpy.float32) for name in "xy"}


    def check_kernel(webaccel):
        y = webaccel.kernel("matmul_nbits", x=X, weights=WEIGHTS)["y"]
        numpy.testing.assert_allclose(y, X @ WEIGHTS.dequantised().T, rtol=1e-4, atol=1e-4)


    def check_model(webaccel):
        model = webaccel.load(pathlib.Path("model.onnx"))
        assert webaccel.run(model, FEEDS)["z"].tolist() == [4, 8, 12]
        return model


    @pytest.mark.webaccel(backend="webgpu")
    def test_kernel(webaccel):
        check_kernel(webaccel)
        webaccel.measure("answer", 42.0, unit="units")


    @pytest.mark.webaccel(backend="webgpu")
    @pytest.mark.parametrize("fault", ["browser_crash", "connection_lost", "device_destroyed"])
    def test_kernel_after_a_fault(webaccel, webaccel_faults, fault):
        check_kernel(webaccel)
        webaccel_faults.inject(fault)
        check_kernel(webaccel)


    @pytest.mark.webaccel(backend=["webgpu", "cpu"])
    def test_model(webaccel):
        assert sum(check_model(webaccel).placement.nodes.values()) >= 2


    @pytest.mark.webaccel(backend="webgpu")
    @pytest.mark.parametrize("case", [
        pytest.param(fault, marks=pytest.mark.fault(fault), id=fault)
        for fault in ["browser_crash", "device_destroyed", "component_timeout", "cascade"]
    ])
    def test_model_in_mid_request(webaccel, case):
        check_model(webaccel)


    @pytest.mark.webaccel(backend="webgpu")
    @pytest.mark.parametrize("case", [
        pytest.param(fault, marks=pytest.mark.fault(fault), id=fault)
        for fault in ["page_crash", "page_reload", "device_lost", "out_of_memory"]
    ])
    def test_without_meaning(webaccel, case):
        check_model(webaccel)


    @pytest.mark.webaccel(backend="webgpu")
    def test_app(webaccel_page):
        pass
"""


def test_kernels_and_models_run_on_deno_and_faults_are_recovered_there(pytester, monkeypatch, tmp_path):
    for backend in (Backend.WEBGPU, Backend.CPU):
        require_lane(monkeypatch, Lane(Browser.DENO, backend))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    (pytester.path / "model.onnx").write_bytes(scaled_sum())
    (pytester.path / "app").mkdir()
    (pytester.path / "app" / "index.html").write_text("<!doctype html>")
    pytester.makepyfile(test_it=SUITE)
    result = pytester.runpytest_subprocess(
        *("-p", "no:cacheprovider", "-rs", "--webaccel-browser=deno", "--webaccel-backend=webgpu,cpu"),
        *("--webaccel-db=runs.duckdb", "--webaccel-report=report.html", "--webaccel-app=app"),
        timeout=240,
    )
    result.assert_outcomes(passed=1 + 3 + 2 + 4, skipped=4 + 1)
    result.stdout.fnmatch_lines_random(
        [
            "*page_crash has no meaning on deno:webgpu: Deno has no page apart from its process*",
            "*page_reload has no meaning on deno:webgpu: Deno shows no page*",
            "*device_lost has no meaning on deno:webgpu: no GPU process serves WebGPU*",
            "*out_of_memory has no meaning on deno:webgpu: Deno has no page*",
            "*webaccel_page is not to be had on deno:webgpu: Deno has no page that Playwright could show*",
        ]
    )
    with duckdb.connect(str(pytester.path / "runs.duckdb"), read_only=True) as connection:
        found = connection.execute("select distinct lane, browser, backend from lanes order by 1")
        assert found.fetchall() == [("deno:cpu", "deno", "cpu"), ("deno:webgpu", "deno", "webgpu")]
        found = connection.execute("select lane, metric, value from measurements where metric = 'answer'")
        assert found.fetchall() == [("deno:webgpu", "answer", 42.0)]
        found = connection.execute("select fault, outcome, count(*), sum(lost) from recoveries group by all order by 1")
        assert found.fetchall() == [
            ("browser_crash", "recovered", 2, 0),
            ("cascade", "recovered", 1, 0),
            ("component_timeout", "recovered", 1, 0),
            ("connection_lost", "recovered", 1, 0),
            ("device_destroyed", "recovered", 2, 0),
        ]
    assert "deno:webgpu" in (pytester.path / "report.html").read_text()
    assert not left_behind(tmp_path)


def left_behind(folder: Path) -> list[object]:
    """Return the processes and profiles of the session whose temporary files lay in ``folder``."""
    found: list[object] = list(folder.glob("webaccel*"))
    for process in psutil.process_iter():
        try:
            if str(folder) in process.environ().get("DENO_DIR", ""):
                found.append(process)
        except psutil.Error:
            continue
    return found


def test_nobody_gets_deno_who_does_not_ask(pytester, monkeypatch):
    monkeypatch.setenv("PYTEST_WEBACCEL_CACHE", str(CACHE))
    pytester.makepyfile(
        test_it="""
        import pytest

        @pytest.mark.webaccel(backend="cpu")
        def test_any(webaccel):
            assert str(webaccel.lane).split(":")[0] != "deno"

        @pytest.mark.webaccel(browser="deno")
        def test_named(webaccel):
            raise AssertionError
        """
    )
    collected = pytester.runpytest_subprocess("-p", "no:cacheprovider", "--collect-only", "-q")
    assert "deno:" not in collected.stdout.str()
    asked = pytester.runpytest_subprocess("-p", "no:cacheprovider", "-rs", "-k", "named", "--webaccel-backend=cpu")
    assert asked.parseoutcomes()["skipped"] == 1
    asked.stdout.fnmatch_lines(["*deno joins a run only where --webaccel-browser or --webaccel-lanes names it*"])
