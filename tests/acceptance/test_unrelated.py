"""Runs that have little or nothing to do with us are left as they are."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import pytest


def test_a_marker_of_somebody_elses_that_is_called_fault_is_left_alone(pytester):
    pytester.makeini("[pytest]\nmarkers = fault: theirs")
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.fault("overcurrent", severity=3)
        def test_theirs(): pass
        """
    )
    pytester.runpytest_subprocess("-p", "no:cacheprovider").assert_outcomes(passed=1)


def test_one_of_our_faults_on_a_test_without_a_lane_is_an_error_in_one_paragraph(pytester):
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.fault("browser_crash")
        def test_it(): pass
        """
    )
    result = pytester.runpytest_subprocess("-p", "no:cacheprovider")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*uses no lane, so nothing would break*"])
    assert "Traceback" not in result.stdout.str()


def test_collecting_only_fails_no_gate(pytester):
    pytester.makepyfile("def test_it(webaccel): pass")
    result = pytester.runpytest_subprocess("--co", "-q", "--webaccel-browser=fake", "--webaccel-min-success=0.5")
    assert result.ret == 0
    assert "gate min_success" not in result.stdout.str()


def test_what_failed_last_on_the_cpu_may_be_run_again_alone(pytester):
    pytester.makepyfile(
        """
        import pathlib

        def test_it(webaccel):
            fixed = pathlib.Path("fixed")
            assert webaccel.lane.backend != "cpu" or fixed.exists()
        """
    )
    arguments = ("--webaccel-lanes=fake:webgpu,fake:cpu",)
    pytester.runpytest_subprocess(*arguments).assert_outcomes(passed=1, failed=1)
    (pytester.path / "fixed").touch()
    result = pytester.runpytest_subprocess("--lf", *arguments)
    result.assert_outcomes(passed=1)
    assert result.ret == 0


@pytest.mark.parametrize("arguments", [("-n", "2", "-k", "plain"), ("-n", "1")])
def test_nothing_is_left_in_the_temporary_folder(pytester, monkeypatch, tmp_path, arguments):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    pytester.makepyfile(
        """
        import os, signal

        def test_plain(): pass
        def test_dies_on_its_lane(webaccel): os.kill(os.getpid(), signal.SIGKILL)
        """
    )
    arguments = (*arguments, "--webaccel-lanes=fake:webgpu", "--max-worker-restart=0")
    pytester.runpytest_subprocess("-p", "no:cacheprovider", *arguments)
    assert not list(tmp_path.glob("webaccel*"))


def test_the_plugin_imports_nothing_that_a_run_without_lanes_has_no_use_for():
    code = (
        "import sys, pytest_webaccel.plugin\n"
        "heavy = {'duckdb', 'playwright', 'aiohttp', 'numpy', 'matplotlib', 'scipy', 'psutil', 'onnx', 'asyncio'}\n"
        "ours = {name for name in sys.modules if name.startswith('pytest_webaccel.')}\n"
        "print(sorted(heavy & set(sys.modules)), sorted(ours))"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root)
    ours = [f"pytest_webaccel.{name}" for name in ("declarations", "fixtures", "hookspecs", "plugin")]
    assert done.stdout.strip() == f"[] {ours}"
