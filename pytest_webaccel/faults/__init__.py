"""Faults that are really caused, and the schedule that says when they fire."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_webaccel.faults.browser_crash import BrowserCrash
from pytest_webaccel.faults.component_error import ComponentError
from pytest_webaccel.faults.component_timeout import ComponentTimeout, Hang
from pytest_webaccel.faults.composite import Cascade, MultiBrowser, Pair, Staggered
from pytest_webaccel.faults.connection_lost import ConnectionLost
from pytest_webaccel.faults.connection_stalled import ConnectionStalled
from pytest_webaccel.faults.device_destroyed import DeviceDestroyed
from pytest_webaccel.faults.device_lost import DeviceLost
from pytest_webaccel.faults.injector import BaseInjector, FaultTarget, Injector
from pytest_webaccel.faults.network import NetworkBandwidth, NetworkJitter, NetworkLatency
from pytest_webaccel.faults.out_of_memory import Memory, OutOfMemory
from pytest_webaccel.faults.page_crash import PageCrash
from pytest_webaccel.faults.page_reload import PageReload
from pytest_webaccel.faults.partial_result import Part, PartialResult
from pytest_webaccel.faults.schedule import FaultSchedule, choose
from pytest_webaccel.faults.worker_crash import WorkerCrash

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_webaccel.terms import Fault

__all__ = [
    "INJECTORS",
    "BaseInjector",
    "ComponentTimeout",
    "FaultSchedule",
    "FaultTarget",
    "Hang",
    "Injector",
    "Memory",
    "OutOfMemory",
    "Pair",
    "Part",
    "PartialResult",
    "choose",
]

_ALL: tuple[Injector, ...] = (
    ConnectionLost(),
    ConnectionStalled(),
    NetworkLatency(),
    NetworkBandwidth(),
    NetworkJitter(),
    PageCrash(),
    PageReload(),
    BrowserCrash(),
    DeviceLost(),
    DeviceDestroyed(),
    ComponentTimeout(),
    ComponentError(),
    OutOfMemory(),
    PartialResult(),
    WorkerCrash(),
    Cascade(),
    MultiBrowser(),
    Staggered(),
)

#: Every injector by the fault it causes. A new one joins above.
INJECTORS: Mapping[Fault, Injector] = {injector.fault: injector for injector in _ALL}
