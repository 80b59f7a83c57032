"""A browser without a browser: a driver whose page is a :class:`~pytest_webaccel.testing.page.FakePage`.

It misbehaves as scripted, and dies as a real one does.
"""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import random
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_webaccel.browsers import DRIVERS
from pytest_webaccel.errors import BrowserError
from pytest_webaccel.terms import Browser, Damage, Symptom
from pytest_webaccel.testing.page import FakePage, Latency, Sleep, no_wait

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping, Sequence

    from pytest_webaccel.browsers.driver import DamageListener
    from pytest_webaccel.browsers.locate import Installation

__all__ = ["FakeDriver", "FakeFleet", "Misbehaviour", "install_fake_browser", "stand_in_ort"]

#: Process ids of fakes lie above every real one of Linux (2**22), so that no signal finds anybody.
_pids = itertools.count(1 << 23)


@dataclasses.dataclass(slots=True)
class Misbehaviour:
    """What a fake browser does wrong. Operations are counted over the browser's life, from 1.

    ``refuse_starts`` and ``stall_starts`` are used up start by start, refusals first: a refused start
    fails at once, a stalled one never ends by itself. At ``crash_at`` the browser dies,
    at ``crash_page_at`` its page, at ``stall_at`` the page stops answering, at ``lose_device_at`` the
    GPU process dies.
    """

    refuse_starts: int = 0
    stall_starts: int = 0
    crash_at: frozenset[int] = frozenset()
    crash_page_at: frozenset[int] = frozenset()
    stall_at: frozenset[int] = frozenset()
    lose_device_at: frozenset[int] = frozenset()


class FakeDriver:
    """A :class:`~pytest_webaccel.browsers.driver.Driver`; see there for what each method promises.

    ``sleep`` waits for the made-up latencies. ``evaluations`` holds the values that
    :meth:`evaluate` gives, by expression.
    """

    browser = Browser.FAKE
    takes_files = True

    def __init__(
        self,
        *,
        seed: int | str = 0,
        sleep: Sleep = asyncio.sleep,
        latency: Latency | None = None,
        misbehaviour: Misbehaviour | None = None,
        evaluations: Mapping[str, object] | None = None,
    ) -> None:
        self.version = ""
        self.page: FakePage | None = None
        self.operations = 0
        self.executions: list[Mapping[int, int]] = []
        self.misbehaviour = misbehaviour or Misbehaviour()
        self._seed = seed
        self._sleep = sleep
        self._latency = latency or Latency()
        self._evaluations = {"1": 1, **(evaluations or {})}
        self._random = random.Random(f"driver\0{seed}")
        self._pid: int | None = None
        self._pages = 0
        self._listeners: list[DamageListener] = []
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def pid(self) -> int | None:
        """A number while it runs, which is no process's id."""
        return self._pid

    def on_damage(self, listener: DamageListener) -> None:
        """Have ``listener`` called for a crashed page or an exited browser."""
        self._listeners.append(listener)

    async def start(self, *, deadline: float) -> None:
        """Start, unless scripted otherwise."""
        if self.misbehaviour.refuse_starts:
            self.misbehaviour.refuse_starts -= 1
            raise BrowserError("fake: it refuses to start, as scripted")
        stalls = self.misbehaviour.stall_starts > 0
        self.misbehaviour.stall_starts -= stalls
        try:
            async with asyncio.timeout(deadline):
                await (asyncio.Event().wait() if stalls else self._sleep(self._latency.of("start", self._random)))
        except TimeoutError:
            raise BrowserError(f"fake: it did not start within {deadline:g} s") from None
        self._pid = next(_pids)
        self.version = "fake"

    async def open(self, url: str, *, deadline: float) -> None:
        """Show a lane's page; the page that was there is gone."""
        self._require_running("open a page")
        await self._drop_page()
        try:
            async with asyncio.timeout(deadline):
                await self._sleep(self._latency.of("open", self._random))
        except TimeoutError:
            raise BrowserError(f"fake: it did not open the page within {deadline:g} s") from None
        self._require_running("open a page")
        self._pages += 1
        seed = f"{self._seed}\0{self._pages}"
        page = FakePage(
            url, seed=seed, sleep=self._sleep, latency=self._latency, before=self._count, die=self.crash_page
        )
        self.executions.append(page.session.executions)
        self.page = page
        page.open()

    async def evaluate(self, expression: str, *, deadline: float) -> object:
        """Return the value that was given for ``expression``; raises BrowserError where none was.

        ``1`` is one of those. A page that is stalled answers nothing within ``deadline`` seconds.
        """
        self._require_running("evaluate")
        if self.page is not None and self.page.stalled:
            await asyncio.sleep(deadline)
            raise BrowserError(f"fake: the page did not answer within {deadline:g} s")
        if expression not in self._evaluations:
            raise BrowserError(f"fake: it runs no JavaScript; give FakeDriver a value for {expression[:80]!r}")
        return self._evaluations[expression]

    async def page_runs(self, *, deadline: float) -> bool:
        """Return whether there is a page that is not stalled; one that is costs ``deadline`` seconds."""
        try:
            await self.evaluate("1", deadline=deadline)
        except BrowserError:
            return False
        return True

    async def offer_files(self, paths: Sequence[Path], *, deadline: float) -> None:
        """Hand local files to the page."""
        del deadline
        self._require_running("offer files")
        if self.page is None:
            raise BrowserError("fake: there is no page to offer files to")
        self.page.take_files(paths)

    async def crash_gpu(self, *, deadline: float) -> None:
        """Lose the page's WebGPU device; the end of the GPU process is reported too, as a real driver does."""
        del deadline
        self._require_running("crash its GPU process")
        await self._sleep(self._latency.of("exit", self._random))
        if self.page is not None:
            self.page.lose_device()
        self._tell(Symptom.DEVICE_LOST, "the fake GPU process ended")

    async def gpu_process(self, *, deadline: float) -> int | None:
        """Return None: there is no process."""
        del deadline
        self._require_running("name its processes")
        return None

    async def page_processes(self, *, deadline: float) -> Sequence[int]:
        """Return nothing: there is no process."""
        del deadline
        self._require_running("name its processes")
        return []

    async def reload(self, *, deadline: float) -> None:
        """Replace the page by another at the same address."""
        self._require_running("reload its page")
        if self.page is None:
            raise BrowserError("fake: there is no page to reload")
        await self.open(self.page.url, deadline=deadline)

    async def stop_page(self, *, deadline: float) -> None:
        """Stop the page as SIGSTOP stops a process."""
        del deadline
        self._require_running("stop its page")
        if self.page is None:
            raise BrowserError("fake: there is no page to stop")
        self.page.stall()

    def resume_page(self) -> None:
        """Let a stopped page go on."""
        if self.page is not None:
            self.page.wake()

    def crash_page(self) -> None:
        """End the page as a crashed renderer does."""
        if self._pid is not None:
            self._spawn(self._die(Symptom.PAGE_CRASHED, "the fake page crashed"))

    def kill(self) -> None:
        """Die at once; the exit is reported as damage."""
        if self._pid is not None:
            self._pid = None
            self._spawn(self._die(Symptom.BROWSER_EXITED, "the fake browser was killed"))

    async def stop(self, *, deadline: float) -> None:
        """End; never raises."""
        del deadline
        self._pid = None
        await self._drop_page()
        await asyncio.gather(*(task for task in self._tasks if task is not asyncio.current_task()))

    # -- inside ------------------------------------------------------------------------------

    def _require_running(self, what: str) -> None:
        if self._pid is None:
            raise BrowserError(f"fake: it cannot {what}: it is not running")

    async def _drop_page(self) -> None:
        page, self.page = self.page, None
        if page is not None:
            await page.close()

    async def _die(self, symptom: Symptom, detail: str) -> None:
        if self.page is not None:
            await self.page.close()
        await self._sleep(self._latency.of("exit", self._random))
        self._tell(symptom, detail)

    def _tell(self, symptom: Symptom, detail: str) -> None:
        damage = Damage(symptom, detail, asyncio.get_running_loop().time())
        for listener in self._listeners:
            listener(damage)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _count(self, op: str) -> None:
        del op
        self.operations += 1
        if self.operations in self.misbehaviour.crash_at:
            self.kill()
        if self.page is None:
            return
        if self.operations in self.misbehaviour.crash_page_at:
            self.crash_page()
        if self.operations in self.misbehaviour.stall_at:
            self.page.stall()
        if self.operations in self.misbehaviour.lose_device_at:
            self.page.lose_device()


class FakeFleet:
    """Makes fake browsers and remembers them. Each gets a seed of its own from ``seed``.

    ``misbehave`` gives, for the number of a browser from 0 on, what it does wrong.
    """

    def __init__(
        self,
        seed: int = 0,
        *,
        sleep: Sleep = asyncio.sleep,
        latency: Latency | None = None,
        misbehave: Callable[[int], Misbehaviour] = lambda number: Misbehaviour(),
    ) -> None:
        self.seed = seed
        self.drivers: list[FakeDriver] = []
        self._sleep = sleep
        self._latency = latency
        self._misbehave = misbehave

    def make(self) -> FakeDriver:
        """Return a new fake browser, not started."""
        number = len(self.drivers)
        driver = FakeDriver(
            seed=f"{self.seed}\0{number}",
            sleep=self._sleep,
            latency=self._latency,
            misbehaviour=self._misbehave(number),
        )
        self.drivers.append(driver)
        return driver

    @property
    def running(self) -> int:
        """How many browsers run."""
        return sum(driver.pid is not None for driver in self.drivers)


def install_fake_browser(seed: int, *, sleep: Sleep = no_wait) -> FakeFleet:
    """Register the fake browser, so that lanes such as ``fake:webgpu`` can be leased.

    Its latencies are made up from ``seed`` and, by default, reported and not waited for. Returns the
    fleet that the browsers come from.
    """
    fleet = FakeFleet(seed, sleep=sleep)

    def factory(installation: Installation, *, headed: bool = False, debugging_port: bool = False) -> FakeDriver:
        del installation, headed, debugging_port
        return fleet.make()

    DRIVERS[Browser.FAKE] = factory
    return fleet


def stand_in_ort() -> tuple[Path, str]:
    """Return the folder and version that stand in for onnxruntime-web where every browser is fake."""
    return Path(__file__).parent / "ort", "fake"
