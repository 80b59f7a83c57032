"""A suite of lane tests, run as a session of its own on one lane."""

from __future__ import annotations

import os

import pytest

from pytest_webaccel.browsers.install.cache import cache_root
from pytest_webaccel.browsers.probe import lanes_table
from pytest_webaccel.terms import Backend, Browser, Lane

__all__ = ["KERNEL_LANES", "MODEL_LANES", "STATE_LANES", "require_lane", "run_on_lane"]

#: Whether everything runs on every lane, which takes some minutes more.
WHOLE = os.environ.get("KERNEL_LANES") == "all"
#: Lanes that have kernels of our own.
KERNEL_LANES = tuple(
    Lane(browser, backend)
    for browser, backend in (
        (Browser.CHROMIUM, Backend.WEBGPU),
        (Browser.CHROMIUM, Backend.WEBNN),
        (Browser.CHROMIUM, Backend.CPU),
        (Browser.FIREFOX, Backend.WEBGPU),
        *([(Browser.FIREFOX, Backend.CPU)] if WHOLE else []),
    )
)

#: Those that models of kernels run on.
MODEL_LANES = tuple(lane for lane in KERNEL_LANES if WHOLE or lane.browser is Browser.CHROMIUM)
#: Those of them that keep states.
STATE_LANES = tuple(lane for lane in MODEL_LANES if lane.backend is not Backend.WEBNN)

CACHE = cache_root()  # before pytester moves HOME


def require_lane(monkeypatch: pytest.MonkeyPatch, lane: Lane) -> None:
    """Have sessions of this test use the machine's own browsers; skips where the lane does not work."""
    monkeypatch.setenv("PYTEST_WEBACCEL_CACHE", str(CACHE))
    for probe in lanes_table(lanes=[lane]):
        if not probe.works:
            pytest.skip(f"{lane} does not work here: {probe.reason}")


def run_on_lane(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, lane: Lane, suite: str, *, timeout: float = 240
) -> pytest.RunResult:
    """Return the result of ``suite`` on a lane; skips where the lane does not work."""
    require_lane(monkeypatch, lane)
    pytester.makepyfile(test_it=suite)
    asked = (f"--webaccel-lanes={lane}", "--webaccel-db=runs.duckdb", "-s")
    return pytester.runpytest_subprocess("-p", "no:cacheprovider", *asked, timeout=timeout)
