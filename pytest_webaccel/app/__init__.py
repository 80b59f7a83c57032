"""The user's own app under fault: its server, its browser, the faults aimed at it, and how it recovered."""

from __future__ import annotations

from pytest_webaccel.app.faults import STRATEGY, AppFaults
from pytest_webaccel.app.lease import AppLease, Apps, objection
from pytest_webaccel.app.page import AppPage
from pytest_webaccel.app.source import Source, source_of

__all__ = ["STRATEGY", "AppFaults", "AppLease", "AppPage", "Apps", "Source", "objection", "source_of"]
