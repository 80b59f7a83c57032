"""Levels: named sets of faults, so that a run can say how hard it is hit instead of by what. Pure tables."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

from pytest_webaccel.terms import Fault, Level

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["LEVELS"]

#: What each level adds to the one below it. ``low`` leaves the page and what it holds whole or asks for another page,
#: ``medium`` breaks something in the page, ``high`` takes whole processes or silences them, ``critical`` is more than
#: one thing at once, or the process that runs the tests.
_ADDS: Mapping[Level, tuple[Fault, ...]] = {
    Level.LOW: (
        Fault.CONNECTION_LOST,
        Fault.NETWORK_LATENCY,
        Fault.NETWORK_BANDWIDTH,
        Fault.NETWORK_JITTER,
        Fault.PAGE_RELOAD,
    ),
    Level.MEDIUM: (
        Fault.CONNECTION_STALLED,
        Fault.PARTIAL_RESULT,
        Fault.COMPONENT_ERROR,
        Fault.DEVICE_DESTROYED,
        Fault.PAGE_CRASH,
    ),
    Level.HIGH: (
        Fault.DEVICE_LOST,
        Fault.COMPONENT_TIMEOUT,
        Fault.OUT_OF_MEMORY,
        Fault.BROWSER_CRASH,
    ),
    Level.CRITICAL: (
        Fault.CASCADE,
        Fault.MULTI_BROWSER,
        Fault.STAGGERED,
        Fault.WORKER_CRASH,
    ),
}

#: The faults of each level: its own and those of every lower one.
LEVELS: Mapping[Level, tuple[Fault, ...]] = dict(
    zip(_ADDS, itertools.accumulate(_ADDS.values(), lambda lower, own: (*lower, *own)), strict=True)
)
