"""A suite of lane tests, run as a session of its own on one lane."""

from __future__ import annotations

import pytest

from pytest_webaccel import browsers
from pytest_webaccel.browsers.install.cache import cache_root
from pytest_webaccel.terms import Backend, Browser, Lane

__all__ = ["KERNEL_LANES", "run_on_lane"]

#: Lanes that have kernels of our own.
KERNEL_LANES = tuple(
    Lane(browser, backend)
    for browser, backend in (
        (Browser.CHROMIUM, Backend.WEBGPU),
        (Browser.CHROMIUM, Backend.WEBNN),
        (Browser.CHROMIUM, Backend.CPU),
        (Browser.FIREFOX, Backend.WEBGPU),
        (Browser.FIREFOX, Backend.CPU),
    )
)

CACHE = cache_root()  # before pytester moves HOME


def run_on_lane(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, lane: Lane, suite: str) -> pytest.RunResult:
    """Return the result of ``suite`` on a lane; skips where its browser is not here."""
    monkeypatch.setenv("PYTEST_WEBACCEL_CACHE", str(CACHE))
    if browsers.find(lane.browser) is None:
        pytest.skip(f"no {lane.browser} is here: python -m pytest_webaccel install")
    pytester.makepyfile(test_it=suite)
    asked = (f"--webaccel-lanes={lane}", "--webaccel-db=runs.duckdb", "-s")
    return pytester.runpytest_subprocess("-p", "no:cacheprovider", *asked, timeout=240)
