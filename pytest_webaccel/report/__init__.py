"""Reports: figures, HTML sections, the page that stands alone, terminal lines, and gates."""

from __future__ import annotations

from pytest_webaccel.report.data import ReportData

__all__ = ["ReportData"]
