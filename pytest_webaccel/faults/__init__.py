"""Faults: the injectors, each causing one real fault, and the schedule that says when they fire."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_webaccel.faults.browser_crash import BrowserCrash
from pytest_webaccel.faults.connection_lost import ConnectionLost
from pytest_webaccel.faults.device_lost import DeviceLost
from pytest_webaccel.faults.injector import BaseInjector, FaultTarget, Injector
from pytest_webaccel.faults.schedule import FaultSchedule, choose
from pytest_webaccel.faults.worker_crash import WorkerCrash

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_webaccel.terms import Fault

__all__ = ["INJECTORS", "BaseInjector", "FaultSchedule", "FaultTarget", "Injector", "choose"]

_ALL: tuple[Injector, ...] = (ConnectionLost(), BrowserCrash(), DeviceLost(), WorkerCrash())

#: Every injector by the fault it causes. A new one joins above.
INJECTORS: Mapping[Fault, Injector] = {injector.fault: injector for injector in _ALL}
