"""Hooks that other plugins may implement."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pytest_webaccel.report.data import ReportData

__all__ = ["pytest_webaccel_summary"]


@pytest.hookspec
def pytest_webaccel_summary(data: ReportData) -> list[str] | None:
    """Return lines to add to the terminal summary of a run that used a lane.

    ``data`` holds the run's rows: tests, lanes, recoveries, measurements, parity. Called in the
    controller only, after the rows were stored.
    """
