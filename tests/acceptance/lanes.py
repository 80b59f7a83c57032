"""A suite of lane tests, run as a session of its own on one browser's WebGPU lane."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pytest_webaccel import browsers
from pytest_webaccel.browsers.install.cache import cache_root

if TYPE_CHECKING:
    from pytest_webaccel.terms import Browser

__all__ = ["run_on_webgpu"]

CACHE = cache_root()  # before pytester moves HOME


def run_on_webgpu(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, name: Browser, suite: str
) -> pytest.RunResult:
    """Return the result of ``suite`` on the WebGPU lane of ``name``; skips where that browser is not here."""
    monkeypatch.setenv("PYTEST_WEBACCEL_CACHE", str(CACHE))
    if browsers.find(name) is None:
        pytest.skip(f"no {name} is here: python -m pytest_webaccel install")
    pytester.makepyfile(test_it=suite)
    asked = (f"--webaccel-lanes={name}:webgpu", "--webaccel-db=runs.duckdb", "-s")
    return pytester.runpytest_subprocess("-p", "no:cacheprovider", *asked, timeout=240)
