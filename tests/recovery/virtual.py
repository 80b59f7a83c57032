"""A virtual clock for asyncio, and a lane that breaks as told."""

from __future__ import annotations

import asyncio
import selectors
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from pytest_webaccel.recovery import Step, Survey
from pytest_webaccel.terms import Backend, Browser, Damage, Lane, Symptom

if TYPE_CHECKING:
    from collections.abc import Coroutine

T = TypeVar("T")


class _Selector(selectors.DefaultSelector):
    """Instead of waiting, moves the clock to the moment waited for."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def select(self, timeout: float | None = None) -> Any:
        assert timeout is not None, "the loop waits for an event that nothing will bring"
        self.now += max(timeout, 0.0)
        return super().select(0)


class VirtualLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._virtual = _Selector()
        super().__init__(self._virtual)

    def time(self) -> float:
        return self._virtual.now


def run_virtually(main: Coroutine[Any, Any, T]) -> T:
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main)


def clock() -> float:
    return asyncio.get_running_loop().time()


def damage(symptom: Symptom = Symptom.SOCKET_CLOSED, at: float = 0.0, detail: str = "test") -> Damage:
    return Damage(symptom, detail, at)


@dataclass
class FakeLane:
    """``script`` gives, by step, what each call in turn does: seconds to take, or an error to raise.

    A step without an entry takes one second and succeeds.
    """

    script: dict[Step, list[float | BaseException]] = field(default_factory=dict)
    name: Lane = field(default_factory=lambda: Lane(Browser.FAKE, Backend.WEBGPU))
    spare_ready: bool = False
    models: int = 1
    startable: bool = True
    elsewhere: bool = False
    begun: list[Step] = field(default_factory=list)
    deadlines: list[float] = field(default_factory=list)
    running: int = 0

    def __post_init__(self) -> None:
        self._script = {step: deque(entries) for step, entries in self.script.items()}

    async def step(self, step: Step, deadline: float) -> None:
        self.begun.append(step)
        self.deadlines.append(deadline)
        entries = self._script.get(step)
        entry = entries.popleft() if entries else 1.0
        self.running += 1
        try:
            await asyncio.sleep(entry if isinstance(entry, float) else 1.0)
        finally:
            self.running -= 1
        if isinstance(entry, BaseException):
            raise entry

    def survey(self) -> Survey:
        return Survey(int(self.spare_ready), self.models, startable=self.startable, elsewhere=self.elsewhere)

    async def resend(self, *, deadline: float) -> None:
        await self.step(Step.RESEND, deadline)

    async def reload_models(self, *, deadline: float) -> None:
        await self.step(Step.RELOAD_MODELS, deadline)

    async def adopt_page(self, *, deadline: float) -> None:
        await self.step(Step.ADOPT_PAGE, deadline)

    async def fail_over(self, *, deadline: float) -> None:
        await self.step(Step.FAIL_OVER, deadline)

    async def reconnect(self, *, deadline: float) -> None:
        await self.step(Step.RECONNECT, deadline)

    async def new_device(self, *, deadline: float) -> None:
        await self.step(Step.NEW_DEVICE, deadline)

    async def new_page(self, *, deadline: float) -> None:
        await self.step(Step.NEW_PAGE, deadline)

    async def restart_browser(self, *, deadline: float) -> None:
        await self.step(Step.RESTART_BROWSER, deadline)

    async def use_spare(self, *, deadline: float) -> None:
        await self.step(Step.USE_SPARE, deadline)

    async def load_models(self, *, deadline: float) -> None:
        await self.step(Step.LOAD_MODELS, deadline)

    def repair_in_background(self) -> None:
        self.begun.append(Step.REPAIR_IN_BACKGROUND)

    async def replay(self, deadline: float) -> str:
        await self.step(Step.REPLAY, deadline)
        return "answer"
