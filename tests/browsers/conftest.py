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


@pytest.fixture(scope="session")
def firefox() -> Installation:
    """The installed Firefox."""
    found = find(Browser.FIREFOX)
    if found is None:
        pytest.skip("no Firefox is installed: run `python -m pytest_webaccel install firefox` as root")
    return found


@pytest.fixture(scope="session")
def deno() -> Installation:
    """The Deno that is here."""
    found = find(Browser.DENO)
    if found is None:
        pytest.skip("no Deno is here: pip install deno")
    return found


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache of one's own."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("PYTEST_WEBACCEL_CACHE", str(folder))
    return folder
