"""Makes the suite run the plugin from this tree, whether or not it is installed."""

from __future__ import annotations

import importlib.metadata
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# How long the first draw takes is the machine's doing: Hypothesis reads every module of ours before it.
settings.register_profile("suite", suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("suite")

INSTALLED = any(entry.value == "pytest_webaccel.plugin" for entry in importlib.metadata.entry_points(group="pytest11"))

pytest_plugins = ["pytester"] if INSTALLED else ["pytester", "pytest_webaccel.plugin"]


@pytest.fixture
def pytester(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """A pytester whose runs, and their workers, load the plugin and see nothing of this machine's own settings."""
    for name in list(os.environ):
        if name.startswith(("PYTEST_WEBACCEL_", "PYTEST_XDIST_")) and name != "PYTEST_WEBACCEL_CACHE":
            monkeypatch.delenv(name)
    if not INSTALLED:
        pytester.plugins.append("pytest_webaccel.plugin")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)  # suites import from tests
    return pytester
