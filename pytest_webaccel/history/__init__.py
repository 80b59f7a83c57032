"""The record of runs: spools that survive a killed worker, and the DuckDB store that the controller writes."""

from __future__ import annotations

from pytest_webaccel.history.spool import Spool, SpoolContents, read_spool, scan_spool
from pytest_webaccel.history.store import Store, expected_durations, record

__all__ = ["Spool", "SpoolContents", "Store", "expected_durations", "read_spool", "record", "scan_spool"]
