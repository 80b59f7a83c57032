"""``device_destroyed``: the soft kind of a lost device."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_webaccel.faults.injector import BaseInjector
from pytest_webaccel.terms import Backend, Fault, Symptom

if TYPE_CHECKING:
    from pytest_webaccel.faults.injector import FaultTarget
    from pytest_webaccel.terms import ProbeResult

__all__ = ["DeviceDestroyed"]


class DeviceDestroyed(BaseInjector):
    """Has the page call ``destroy()`` on every GPUDevice, or on the MLContext, that the lane works with.

    Unlike ``device_lost`` no process dies: a driver that resets, or code of the page's own that cleans up too much,
    does the same. The page's ``lost`` promise resolves with the reason ``destroyed``.
    """

    fault = Fault.DEVICE_DESTROYED
    symptoms = frozenset({Symptom.DEVICE_LOST})

    def meaning(self, lane: ProbeResult) -> str | None:
        """Return None where the lane has a device or a context."""
        if lane.lane.backend is Backend.CPU:
            return "WebAssembly uses no device, so there is none to destroy"
        return None

    async def _break(self, target: FaultTarget, deadline: float) -> None:
        await target.harm("device_destroyed", deadline=deadline)
