"""``out_of_memory``: GPU memory, or the page's heap, is exhausted."""

from __future__ import annotations

import asyncio
import contextlib
import enum
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_webaccel.errors import BrowserError, DamagedLaneError, RemoteError
from pytest_webaccel.faults.device_lost import WEBGPU_OUTLIVES_GPU_PROCESS
from pytest_webaccel.faults.injector import BaseInjector
from pytest_webaccel.terms import Backend, Browser, Damage, Fault, Symptom

if TYPE_CHECKING:
    import random
    from collections.abc import Sequence

    from pytest_webaccel.faults.injector import FaultTarget, Injector
    from pytest_webaccel.terms import ProbeResult

__all__ = ["Memory", "OutOfMemory"]

_log = logging.getLogger(__name__)

#: Bytes that the processes may still take beyond what they have.
_SPARE_BYTES = 256 << 20
#: Milliseconds that the device may take to say whether it gave one buffer.
_BUFFER_MS = 5_000


class Memory(enum.StrEnum):
    """Which memory is exhausted."""

    HEAP = "heap"
    GPU = "gpu"


class OutOfMemory(BaseInjector):
    """Makes memory scarce for the page's process, or the GPU's, and has the page take all there is.

    The process may take ``spare_bytes`` beyond what it has (``RLIMIT_DATA``), so the machine's own memory is never
    in danger. ``memory`` says which; None: one is drawn for each strike, of those that mean something on the lane.
    A page whose heap is full dies, or its engine says so. A GPU that is full refuses every further buffer; a request
    that needs no new one may rightly be answered all the same.
    """

    fault = Fault.OUT_OF_MEMORY
    symptoms = frozenset({Symptom.MEMORY_EXHAUSTED, Symptom.PAGE_CRASHED, Symptom.DEVICE_LOST})

    def __init__(self, memory: Memory | None = None, *, spare_bytes: int = _SPARE_BYTES) -> None:
        self.memory = memory
        self.spare_bytes = spare_bytes
        self._limited: dict[int, tuple[int, int]] = {}
        self._refused: Damage | None = None

    @property
    def variety(self) -> str:
        """Which kind it is."""
        return str(self.memory or "")

    @property
    def degrades(self) -> bool:
        """Whether a request may be answered all the same: where only the GPU gives no more."""
        return self.memory is Memory.GPU

    def meaning(self, lane: ProbeResult) -> str | None:
        """Return None where the memory of one process can be limited and the lane uses that memory."""
        if lane.lane.browser is not Browser.FAKE and not sys.platform.startswith("linux"):
            return "only Linux can limit the memory of a process that runs, and without that the whole machine is hit"
        if lane.lane.browser is Browser.DENO:
            return "Deno has no page apart from its process: the whole of it would die, as by browser_crash"
        if self.memory is not Memory.GPU:
            return None
        if lane.lane.backend is not Backend.WEBGPU:
            return f"the backend {lane.lane.backend} takes no GPU memory"
        if WEBGPU_OUTLIVES_GPU_PROCESS in lane.features:
            return "no process of its own serves WebGPU in this build: the whole browser would die, as by browser_crash"
        return None

    def drawn(self, chance: random.Random, lane: ProbeResult) -> Injector:
        """Return the injector of one strike, its memory drawn where it was left open."""
        kinds = [OutOfMemory(memory, spare_bytes=self.spare_bytes) for memory in Memory]
        fitting = [kind for kind in kinds if not kind.meaning(lane)]
        return chance.choice(fitting) if self.memory is None else OutOfMemory(self.memory, spare_bytes=self.spare_bytes)

    async def _undo(self, target: FaultTarget, deadline: float) -> None:
        """Lift the limits, and have a page that lives give back what it took."""
        self._lift()
        if self._refused is not None:
            self._refused = None
            await target.harm("free", deadline=deadline)

    async def _break(self, target: FaultTarget, deadline: float) -> None:
        on_gpu = self.memory is Memory.GPU
        if on_gpu:
            process = await target.driver.gpu_process(deadline=deadline)
            processes: Sequence[int] = [] if process is None else [process]
        else:
            processes = await target.driver.page_processes(deadline=deadline)
        if not processes and target.probe.lane.browser is not Browser.FAKE:
            raise BrowserError(f"the browser has no process for its {'GPU' if on_gpu else 'page'} now")
        try:
            for process in processes:
                self._limit(process)
            await target.harm("gpu_memory" if on_gpu else "heap", {"ms": _BUFFER_MS}, deadline=deadline)
        except DamagedLaneError as error:
            _log.debug("%s: %s, as it should", target.probe.lane, error)  # of what it dies is for observe to say
        except RemoteError as error:
            if error.kind != "memory":
                raise
            self._refused = Damage(Symptom.MEMORY_EXHAUSTED, str(error), asyncio.get_running_loop().time())
        except BaseException:
            self._lift()
            raise

    async def _see(self, target: FaultTarget, deadline: float) -> Damage:
        try:
            return self._refused or await target.damage(self.symptoms, deadline=deadline)
        finally:
            if self.memory is not Memory.GPU:
                self._lift()  # those that live on must hold the page that comes

    def _limit(self, process: int) -> None:
        import resource

        if process not in self._limited:
            present = _data_bytes(process)
            before = resource.prlimit(process, resource.RLIMIT_DATA)
            resource.prlimit(process, resource.RLIMIT_DATA, (present + self.spare_bytes, before[1]))
            self._limited[process] = before

    def _lift(self) -> None:
        import resource

        while self._limited:
            process, before = self._limited.popitem()
            with contextlib.suppress(ProcessLookupError):
                resource.prlimit(process, resource.RLIMIT_DATA, before)


def _data_bytes(process: int) -> int:
    """Return what counts against RLIMIT_DATA of a process now."""
    for line in Path(f"/proc/{process}/status").read_text(encoding="ascii", errors="replace").splitlines():
        if line.startswith("VmData:"):
            return int(line.split()[1]) * 1024
    raise ProcessLookupError(f"process {process} has no memory any more")
