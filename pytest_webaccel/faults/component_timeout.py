"""``component_timeout``: the page stops answering."""

from __future__ import annotations

import asyncio
import enum
from typing import TYPE_CHECKING

from pytest_webaccel.errors import RemoteError
from pytest_webaccel.faults.injector import BaseInjector, first_of, silent
from pytest_webaccel.terms import Backend, Browser, Damage, Fault, Symptom

if TYPE_CHECKING:
    import random

    from pytest_webaccel.faults.injector import FaultTarget, Injector
    from pytest_webaccel.terms import ProbeResult

__all__ = ["ComponentTimeout", "Hang"]


class Hang(enum.StrEnum):
    """What hangs."""

    STOPPED = "stopped"
    PAGE_LOOP = "page_loop"
    GPU_LOOP = "gpu_loop"


class ComponentTimeout(BaseInjector):
    """Stops the page's process, or has the page's thread or its GPU go round a loop without end.

    ``kind`` says which; None: one is drawn for each strike, of those that mean something on the lane. Nothing
    closes and nothing is lost: it is seen when a heartbeat stays out, or when page or GPU leave a word unanswered for
    ``patience_s`` seconds. A page whose GPU hangs goes on to answer words; only its device does not.
    """

    fault = Fault.COMPONENT_TIMEOUT
    symptoms = frozenset({Symptom.HEARTBEAT_MISSED, Symptom.DEADLINE_PASSED})

    def __init__(self, kind: Hang | None = None, *, patience_s: float = 1.0) -> None:
        self.kind = kind
        self.patience_s = patience_s

    @property
    def variety(self) -> str:
        """Which kind it is."""
        return str(self.kind or "")

    def meaning(self, lane: ProbeResult) -> str | None:
        """Return None, unless an endless loop on a GPU was asked for that the lane has not or waits for in its page."""
        if self.kind is Hang.GPU_LOOP and lane.lane.backend is not Backend.WEBGPU:
            return f"a shader is what loops without end, and the backend {lane.lane.backend} runs none"
        if self.kind is Hang.GPU_LOOP and lane.lane.browser is Browser.DENO:
            return "Deno waits for its GPU on its only thread: one that hangs is a page that hangs (page_loop)"
        return None

    def drawn(self, chance: random.Random, lane: ProbeResult) -> Injector:
        """Return the injector of one strike, its kind drawn where it was left open."""
        kinds = [ComponentTimeout(kind, patience_s=self.patience_s) for kind in Hang]
        fitting = [kind for kind in kinds if not kind.meaning(lane)]
        return chance.choice(fitting) if self.kind is None else ComponentTimeout(self.kind, patience_s=self.patience_s)

    async def _undo(self, target: FaultTarget, deadline: float) -> None:  # noqa: ARG002 - a signal takes no time
        """Let a stopped process go on. Nothing ends a loop but the end of what runs it."""
        if self.kind in {None, Hang.STOPPED}:
            target.driver.resume_page()

    async def _break(self, target: FaultTarget, deadline: float) -> None:
        match self.kind:
            case None | Hang.STOPPED:
                await target.driver.stop_page(deadline=deadline)
            case Hang.PAGE_LOOP:
                target.post_harm("page_loop")
            case Hang.GPU_LOOP:
                await target.harm("gpu_loop", deadline=deadline)

    async def _see(self, target: FaultTarget, deadline: float) -> Damage:
        passive = target.damage(self.symptoms, deadline=deadline)
        if self.kind is Hang.GPU_LOOP:
            return await first_of(passive, self._gpu_silent(target, deadline))
        return await first_of(passive, silent(target, Symptom.HEARTBEAT_MISSED, patience_s=self.patience_s))

    async def _gpu_silent(self, target: FaultTarget, deadline: float) -> Damage:
        """Return the damage once the device left work undone for ``patience_s`` seconds; TimeoutError if it did it."""
        try:
            await target.harm("await_device", {"ms": self.patience_s * 1000}, deadline=deadline)
        except RemoteError as error:
            return Damage(Symptom.DEADLINE_PASSED, str(error), asyncio.get_running_loop().time())
        raise TimeoutError("the device answers")
