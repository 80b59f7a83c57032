"""What the fake page does to itself when a fault asks for it: what ``page/harm.mjs`` is in the browser."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from pytest_webaccel.terms import Backend
from pytest_webaccel.testing.engine import OperationError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_webaccel.testing.page import FakePage

__all__ = ["PageHarm"]


class PageHarm:
    """The harm that one page has come to."""

    def __init__(self, page: FakePage) -> None:
        self._page = page
        self._exhausted = False
        self._gpu_free = asyncio.Event()
        self._gpu_free.set()

    async def do(self, kind: str, args: Mapping[str, Any]) -> Any:
        """Do one kind of harm; raises OperationError as the page would answer."""
        page = self._page
        match kind:
            case "page_loop":
                page.stall()
                await asyncio.Event().wait()
            case "heap":
                page.die()
                await asyncio.Event().wait()
            case "gpu_loop":
                self._need_gpu()
                self._gpu_free.clear()
                return {"devices": 1}
            case "await_device":
                self._need_gpu()
                await self._await_device(float(args["ms"]))
            case "device_destroyed":
                if page.backend is Backend.CPU:
                    raise OperationError("usage", "the lane has no device that could be destroyed")
                page.lose_device("destroyed", "destroy() was called", any_backend=True)
                return {"devices": 1}
            case "component_error":
                sessions = page.engine.break_sessions()
                if not sessions:
                    raise OperationError("usage", "no model is loaded whose session could be released")
                return {"sessions": sessions}
            case "gpu_memory":
                self._need_gpu()
                self._exhausted = True
                raise OperationError("memory", "GPUOutOfMemoryError: the fake GPU gives no more")
            case "speak":
                return "x" * int(args["bytes"])
            case "free":
                self._exhausted = False
            case _:
                raise OperationError("usage", f"no harm {kind}")
        return None

    @property
    def gpu_hangs(self) -> bool:
        """Whether what is asked of the GPU is never done."""
        return not self._gpu_free.is_set()

    def renewed(self) -> None:
        """A new device: what the old one held is free again; what hangs goes on hanging."""
        self._exhausted = False

    async def meet(self) -> None:
        """Have work on the device meet the harm that was done to it."""
        await self._gpu_free.wait()
        if self._exhausted:
            raise OperationError("operator", "GPUOutOfMemoryError: the fake GPU gives no more")

    async def _await_device(self, milliseconds: float) -> None:
        try:
            async with asyncio.timeout(milliseconds / 1000):
                await self._gpu_free.wait()
        except TimeoutError:
            raise OperationError("device", f"the GPU left its work undone for {milliseconds:g} ms") from None

    def _need_gpu(self) -> None:
        if self._page.backend is not Backend.WEBGPU:
            raise OperationError("usage", "the lane has no WebGPU device")
