from __future__ import annotations

import pytest

from pytest_webaccel.browsers import Installation, find
from pytest_webaccel.terms import Browser


@pytest.fixture(scope="session")
def chromium() -> Installation:
    """The installed Chromium; these tests prove nothing without a real one, so its absence is a failure."""
    found = find(Browser.CHROMIUM)
    if found is None:
        pytest.fail("no Chromium is installed: run `python -m pytest_webaccel install`")
    return found


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache of one's own."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("PYTEST_WEBACCEL_CACHE", str(folder))
    return folder
