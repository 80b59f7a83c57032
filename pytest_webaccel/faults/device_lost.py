"""``device_lost``: the GPU process dies, and with it the WebGPU device or the WebNN context."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_webaccel.faults.injector import BaseInjector
from pytest_webaccel.terms import Backend, Fault, Symptom

if TYPE_CHECKING:
    from pytest_webaccel.faults.injector import FaultTarget
    from pytest_webaccel.terms import ProbeResult

__all__ = ["WEBGPU_OUTLIVES_GPU_PROCESS", "WEBNN_LOST_WITH_GPU_PROCESS", "DeviceLost"]

#: Feature by which a probe says that no GPU process serves this build's WebGPU, as in a headless Firefox.
WEBGPU_OUTLIVES_GPU_PROCESS = "webgpu-outlives-gpu-process"

#: Feature by which a probe says that this build's WebNN context dies with the GPU process. Builds
#: differ (Chromium 147 loses it, 153 does not), so it is probed and never assumed.
WEBNN_LOST_WITH_GPU_PROCESS = "webnn-lost-with-gpu-process"


class DeviceLost(BaseInjector):
    """Kills the browser's GPU process; the page itself lives on."""

    fault = Fault.DEVICE_LOST
    symptoms = frozenset({Symptom.DEVICE_LOST})

    def meaning(self, lane: ProbeResult) -> str | None:
        """Return None on WebGPU and WebNN where a device or context dies with the GPU process, as the probe saw."""
        build = f"{lane.lane.browser} {lane.version}".strip()
        match lane.lane.backend:
            case Backend.WEBGPU if WEBGPU_OUTLIVES_GPU_PROCESS in lane.features:
                return f"no GPU process serves WebGPU in this build ({build}), so none can be killed under a device"
            case Backend.WEBGPU:
                return None
            case Backend.WEBNN if WEBNN_LOST_WITH_GPU_PROCESS in lane.features:
                return None
            case Backend.WEBNN:
                return f"the WebNN context lives outside the GPU process in this build ({build})"
            case Backend.CPU:
                return "WebAssembly uses no GPU device, so there is none to lose"

    async def _break(self, target: FaultTarget, deadline: float) -> None:
        await target.driver.crash_gpu(deadline=deadline)
