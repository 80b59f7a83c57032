"""Kernels on many drawn shapes and values: most on Deno, which starts at once; a few on browsers, which confirm them.

KERNEL_EXAMPLES=200 has each test of the suite draw so many.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pytest_webaccel.terms import Backend, Lane
from tests.acceptance.lanes import MODEL_LANES, run_on_lane
from tests.browsers.driving import LAVAPIPE

SUITE = Path(__file__).with_name("wide_kernels.py")


def run(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, lane: Lane, examples: int) -> pytest.RunResult:
    monkeypatch.setenv("KERNEL_EXAMPLES", os.environ.get("KERNEL_EXAMPLES", str(examples)))
    return run_on_lane(pytester, monkeypatch, lane, SUITE.read_text(encoding="utf-8"), timeout=1800)


def outcomes(backend: Backend) -> dict[str, int]:
    """Return what is to come out of the suite: activations are rounded on WebGPU only."""
    return {"passed": 9} if backend is Backend.WEBGPU else {"passed": 8, "skipped": 1}


# Without a shader to compile, an example takes next to no time.
@pytest.mark.parametrize(("backend", "examples"), [("webgpu", 4), ("cpu", 25)])
def test_on_deno(pytester, monkeypatch, backend, examples):
    lane = Lane.parse(f"deno:{backend}")
    run(pytester, monkeypatch, lane, examples).assert_outcomes(**outcomes(lane.backend))


@pytest.mark.skipif(not LAVAPIPE.is_file(), reason="no lavapipe is here: apt-get install mesa-vulkan-drivers")
def test_on_denos_second_adapter(pytester, monkeypatch):
    for variable in ("VK_DRIVER_FILES", "VK_ICD_FILENAMES"):
        monkeypatch.setenv(variable, str(LAVAPIPE))
    result = run(pytester, monkeypatch, Lane.parse("deno:webgpu"), 3)
    result.assert_outcomes(**outcomes(Backend.WEBGPU))
    result.stdout.fnmatch_lines(["lane deno:webgpu: *llvmpipe*"])


# On the CPU Deno runs the same module as browsers do.
@pytest.mark.parametrize("lane", [lane for lane in MODEL_LANES if lane.backend is not Backend.CPU], ids=str)
def test_browsers_confirm(pytester, monkeypatch, lane):
    run(pytester, monkeypatch, lane, 3).assert_outcomes(**outcomes(lane.backend))
