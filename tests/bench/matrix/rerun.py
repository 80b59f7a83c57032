"""Trials of the fixture that users of Playwright write by hand: relaunch the browser, load the model, repeat the test.

In this process and without pytest between, so the peer pays for no runner: what a user sees is a little slower. The
old browser is closed behind the new one's start, which a hand-written fixture seldom does. ``playwright_new_page`` is
kinder still: it keeps the browser where it lives, and only opens another context and page.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import resource
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_webaccel.browsers.process import wait_gone
from pytest_webaccel.pool.runtime import LoopThread
from pytest_webaccel.pool.worker import installation_of
from pytest_webaccel.terms import Fault
from tests.bench.matrix.browsers import Launched, PeerBrowser, Reached, stop_process
from tests.bench.matrix.design import TWO_FAULTS, Arm
from tests.bench.matrix.ours import BUDGET_S, PATIENCE_S, base
from tests.bench.matrix.site import Site
from tests.bench.matrix.state import FAILED, RECOVERED, VOID, Result
from tests.bench.matrix.work import CLASSES, ROWS, Work, wrong

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_webaccel.terms import ProbeResult
    from tests.bench.matrix.design import Trial

__all__ = ["Playwright"]

_READY_S = 60.0
_ATTEMPTS = 3
#: Bytes that a page's process may still take when its memory is made scarce; as our own injector's.
_SPARE_BYTES = 256 << 20
#: Faults of the connection; they need one that can be broken.
_WIRED = frozenset({Fault.CONNECTION_LOST, Fault.CONNECTION_STALLED})
#: Faults after which the page lives and goes on with its test.
_GOES_ON = frozenset({Fault.DEVICE_LOST, Fault.DEVICE_DESTROYED, Fault.COMPONENT_ERROR})
#: Faults that may be seen by nothing but the test's own deadline, which is as short here as our own patience.
_QUIET = frozenset({Fault.DEVICE_LOST, Fault.DEVICE_DESTROYED, Fault.COMPONENT_TIMEOUT, Fault.CONNECTION_STALLED})


@dataclasses.dataclass
class _Held:
    """A browser and its page, in which the model is loaded."""

    browser: PeerBrowser
    page: Any = None
    url: str = ""


class Playwright:
    """Runs trials; keeps one browser for each lane and way of reaching it, as a session's fixture does."""

    def __init__(self, table: Sequence[ProbeResult]) -> None:
        self._probes = {str(probe.lane): probe for probe in table}
        self._loop: LoopThread | None = None
        self._site: Site | None = None
        self._playwright: Any = None
        self._held: dict[tuple[str, bool], _Held] = {}
        self._behind: set[asyncio.Task[None]] = set()

    def run(self, trial: Trial) -> Result:
        """Return what the trial came to."""
        if self._loop is None:
            self._loop, self._site = LoopThread(), Site()
            self._loop.call(self._begin(), deadline=_READY_S)
        try:
            result = self._loop.call(self._trial(trial), deadline=_READY_S + 2 * BUDGET_S)
            if trial.cell.strategy == Arm.NEW_PAGE:
                self._loop.call(self._drop(), deadline=_READY_S)  # what the old page left there must not add up
            return result
        except Exception as error:  # whatever a peer's stack raises before the fault says nothing of its recovery
            self.stop()
            return Result(**base(trial), outcome=VOID, detail=f"{type(error).__name__}: {error}"[:300])

    def stop(self) -> None:
        """End browsers, driver and server."""
        if self._loop is not None:
            self._loop.call(self._end(), deadline=_READY_S)
            self._loop.stop()
            self._loop = None
        if self._site is not None:
            self._site.stop()
            self._site = None

    # -- inside ------------------------------------------------------------------------------

    async def _begin(self) -> None:
        from playwright.async_api import async_playwright

        self._playwright = await async_playwright().start()

    async def _drop(self) -> None:
        await asyncio.gather(*(held.browser.stop() for held in self._held.values()), return_exceptions=True)
        self._held.clear()

    async def _end(self) -> None:
        await self._drop()
        await asyncio.gather(*self._behind, return_exceptions=True)
        await self._playwright.stop()

    async def _trial(self, trial: Trial) -> Result:
        fault = trial.twice if trial.cell.fault == TWO_FAULTS else Fault(trial.cell.fault)
        if fault is Fault.CONNECTION_LOST and trial.cell.fault == TWO_FAULTS:
            fault = Fault.BROWSER_CRASH  # a pipe is not cut; what ends it is the browser's end
        work = Work.drawn(trial.key)
        x = work.x.ravel().tolist()
        held = await self._ready(trial.cell.lane, wired=fault in _WIRED)
        undisturbed = await _timed(held.page.evaluate("x => run(x)", x))
        variant = _variant(fault, trial)
        test = asyncio.ensure_future(held.page.evaluate("x => runHeld(x)", x))
        await held.page.wait_for_function("window.started")
        fault_at = time.perf_counter()
        await self._cause(held, fault, variant)
        detected = await _fails(test, held, fault)
        if detected is None:
            return Result(**base(trial), outcome=VOID, detail=f"{variant} was caused, and the test passed all the same")
        seen_at = time.perf_counter()
        phases, attempts, answer, problem = await self._again(trial, held, fault, variant, x)
        total = (time.perf_counter() - fault_at) * 1000
        detect = (seen_at - fault_at) * 1000
        contradiction = problem or wrong(work, [] if answer is None else _shaped(answer))
        return Result(
            **base(trial),
            outcome=FAILED if contradiction else RECOVERED,
            total_ms=total,
            undisturbed_ms=undisturbed,
            deadline_ms=min(PATIENCE_S * 1000, detect) if detected == "TimeoutError" else 0.0,
            detect_ms=detect,
            reassign_ms=phases[0],
            load_ms=phases[1],
            replay_ms=phases[2],
            attempts=attempts,
            rungs=",".join([trial.cell.strategy] * attempts),
            symptom=detected,
            variant=variant,
            detail=contradiction[:300],
            evidence=str(self._probes[trial.cell.lane].evidence),
            budget_ms=BUDGET_S * 1000,
        )

    async def _ready(self, lane: str, *, wired: bool) -> _Held:
        """Return a browser whose page has the model loaded and has run it, as it is in the middle of a test run."""
        assert self._site is not None
        held = self._held.get((lane, wired))
        if held is not None and not await _works(held):
            await held.browser.stop()
            held = None
        if held is None:
            held = _Held(self._fresh(lane, wired=wired), url=self._site.url(lane))
            await held.browser.start()
            await _open(held)
            await held.page.evaluate("load()")
            self._held[lane, wired] = held
        x = Work.drawn("warm").x.ravel().tolist()
        await held.page.evaluate("x => run(x)", x)
        held.browser.find()
        return held

    def _fresh(self, lane: str, *, wired: bool) -> PeerBrowser:
        installation = installation_of(self._probes[lane])
        return Reached(self._playwright, installation) if wired else Launched(self._playwright, installation)

    async def _again(
        self, trial: Trial, held: _Held, fault: Fault, variant: str, x: list[float]
    ) -> tuple[list[float], int, Any, str]:
        """Repeat the test until it passes: phases in ms, attempts, answer, and why there is none."""
        phases = [0.0, 0.0, 0.0]
        problem = ""
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                async with asyncio.timeout(BUDGET_S):
                    phases[0] += await _timed(self._replace(trial, held, fault))
                    if trial.cell.fault == TWO_FAULTS and attempt == 1:
                        await self._cause(held, fault, variant)
                    phases[1] += await _timed(held.page.evaluate("load()"))
                    begun = time.perf_counter()
                    answer = await held.page.evaluate("x => run(x)", x)
                    phases[2] += (time.perf_counter() - begun) * 1000
                    return phases, attempt, answer, ""
            except Exception as error:
                problem = f"{type(error).__name__}: {error}"
        return phases, _ATTEMPTS, None, problem

    async def _replace(self, trial: Trial, held: _Held, fault: Fault) -> None:
        old = held.browser
        if trial.cell.strategy == Arm.NEW_PAGE and fault in _WIRED and isinstance(old, Reached):
            await old.connect()
        elif trial.cell.strategy != Arm.NEW_PAGE or not old.browser.is_connected():
            held.browser = self._fresh(trial.cell.lane, wired=isinstance(old, Reached))
            task = asyncio.ensure_future(old.stop())
            self._behind.add(task)
            task.add_done_callback(self._behind.discard)
            await held.browser.start()
        await _open(held)

    async def _cause(self, held: _Held, fault: Fault, variant: str) -> None:
        """Do to the peer what our injector of the same name does to a lane."""
        browser, page = held.browser, held.page
        if fault in {Fault.BROWSER_CRASH, Fault.MULTI_BROWSER, Fault.CASCADE}:
            browser.find()
            browser.kill()
        elif fault in _WIRED:
            assert isinstance(browser, Reached)
            (browser.wire.cut if fault is Fault.CONNECTION_LOST else browser.wire.stall)()
        elif fault is Fault.PAGE_CRASH:
            session = await page.context.new_cdp_session(page)
            self._post(session.send("Page.crash"))
        elif fault is Fault.PAGE_RELOAD:
            await page.goto("about:blank")
            await page.goto(held.url)
        elif fault in {Fault.DEVICE_LOST, Fault.COMPONENT_TIMEOUT, Fault.OUT_OF_MEMORY}:
            await self._strike_process(held, fault, variant)
        else:
            await page.evaluate(f"harm.{fault}()")

    async def _strike_process(self, held: _Held, fault: Fault, variant: str) -> None:
        pids = await held.browser.processes("gpu" if fault is Fault.DEVICE_LOST else "renderer")
        if fault is Fault.DEVICE_LOST:
            for pid in pids:
                os.kill(pid, signal.SIGKILL)
            await wait_gone(pids, deadline=5.0)
        elif fault is Fault.OUT_OF_MEMORY:
            for pid in pids:
                _limit(pid)
            self._post(held.page.evaluate("harm.heap()"))
        elif variant == "stopped":
            for pid in pids:
                stop_process(pid)
        else:
            self._post(held.page.evaluate("harm.page_loop()"))

    def _post(self, work: Any) -> None:
        """Have something done that nobody waits for, since it may never answer."""

        async def quietly() -> None:
            with contextlib.suppress(Exception):
                async with asyncio.timeout(_READY_S):
                    await work

        task = asyncio.ensure_future(quietly())
        self._behind.add(task)
        task.add_done_callback(self._behind.discard)


async def _fails(test: asyncio.Future[Any], held: _Held, fault: Fault) -> str | None:
    """Wait for the test's failure and return its name; None where it passes.

    Where nothing tells of the fault the test goes on, and fails by what it meets or by its own deadline.
    """
    patience = PATIENCE_S if fault in _QUIET else BUDGET_S
    try:
        async with asyncio.timeout(patience):
            if fault in _GOES_ON:
                await held.page.evaluate("release()")
            await test
    except Exception as error:
        return type(error).__name__
    finally:
        test.cancel()
        await asyncio.gather(test, return_exceptions=True)
    return None


async def _open(held: _Held) -> None:
    context = await held.browser.browser.new_context()
    held.page = await context.new_page()
    await held.page.goto(held.url)
    await held.page.wait_for_function("window.ready")


async def _works(held: _Held) -> bool:
    try:
        async with asyncio.timeout(2.0):
            return bool(await held.page.evaluate("window.ready"))
    except Exception:
        return False


async def _timed(work: Any) -> float:
    begun = time.perf_counter()
    await work
    return (time.perf_counter() - begun) * 1000


def _variant(fault: Fault, trial: Trial) -> str:
    return ("stopped", "page_loop")[trial.number % 2] if fault is Fault.COMPONENT_TIMEOUT else str(fault)


def _shaped(answer: Any) -> Any:
    import numpy as np

    array = np.asarray(answer, dtype=float)
    return array.reshape(ROWS, CLASSES) if array.size == ROWS * CLASSES else array


def _limit(pid: int) -> None:
    """Let a process take only a little more memory than it has, so that the machine's own is never in danger."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace").splitlines()
    present = next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmData:"))
    hard = resource.prlimit(pid, resource.RLIMIT_DATA)[1]
    resource.prlimit(pid, resource.RLIMIT_DATA, (present + _SPARE_BYTES, hard))
