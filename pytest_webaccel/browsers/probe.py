"""Finds out what really works: starts each browser once and runs something tiny on every backend.

That a browser names an interface proves nothing, so a lane works only after its own numbers were
checked in the page. What was found is remembered by build, flags and graphics driver.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import dataclasses
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pytest_webaccel.browsers import Installation, drivable, find, make_driver, memory
from pytest_webaccel.browsers.findings import failed, judge, timed_out
from pytest_webaccel.browsers.install import BROWSERS as INSTALLABLE
from pytest_webaccel.browsers.launch import adapter_hint, launch_facts, tries_gpu
from pytest_webaccel.errors import BrowserError
from pytest_webaccel.terms import ON_REQUEST, Backend, Browser, Evidence, Lane, ProbeResult

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterable, Sequence

    from pytest_webaccel.browsers.driver import Driver

__all__ = [
    "KEPT_OFF_GPU",
    "WEBGPU_OUTLIVES_GPU_PROCESS",
    "WEBNN_LOST_WITH_GPU_PROCESS",
    "lanes_table",
    "probe",
    "probe_sync",
]

_INSTALL = "Run `python -m pytest_webaccel install`."
_DENO = "Run `pip install deno`, or name its program with --webaccel-executable."
_DOCTOR = "`python -m pytest_webaccel doctor` shows what works here."
#: Milliseconds that each step of the probe page may take; the first start of SwiftShader is slow on a busy machine.
_STEP_MS = 15_000
#: Seconds for the start of a browser, and for the whole of its probe page.
_START = 30.0
_PAGE = 90.0

#: Seconds for the GPU process to end, and for the page to say what it saw of that.
_CRASH = 5.0

#: Feature of a WebNN whose context dies with the GPU process, so that the fault ``device_lost`` means something.
WEBNN_LOST_WITH_GPU_PROCESS = "webnn-lost-with-gpu-process"

#: Feature of a WebGPU that no GPU process serves, so that the fault ``device_lost`` means nothing.
WEBGPU_OUTLIVES_GPU_PROCESS = "webgpu-outlives-gpu-process"

_TAKE_CONTEXT = """
Promise.race([
  navigator.ml.createContext({ deviceType: "cpu" }).then((context) => {
    globalThis.webaccelContext = context; // or it is collected, and never lost
    globalThis.webaccelLost = Promise.resolve(context.lost).then(() => true);
    return true;
  }),
  new Promise((resolve) => setTimeout(resolve, 5000, false)),
])
"""
_SEE_LOSS = """
Promise.race([webaccelLost, new Promise((resolve) => setTimeout(resolve, 1500, false))])
"""
_TAKE_DEVICE = """
Promise.race([
  navigator.gpu.requestAdapter().then((adapter) => adapter.requestDevice()).then((device) => {
    globalThis.webaccelDevice = device; // or it is collected, and never lost
    globalThis.webaccelDeviceLost = device.lost.then(() => true);
    return true;
  }),
  new Promise((resolve) => setTimeout(resolve, 5000, false)),
])
"""
_SEE_DEVICE_LOSS = """
Promise.race([webaccelDeviceLost, new Promise((resolve) => setTimeout(resolve, 1500, false))])
"""

#: Feature of a lane whose browser is kept off the GPU that is here, since it cannot be served by it.
KEPT_OFF_GPU = "kept-off-gpu"

Result = TypeVar("Result")


async def probe(
    installations: Sequence[Installation],
    lanes: Iterable[Lane] | None = None,
    *,
    headed: bool = False,
    refresh: bool = False,
) -> tuple[ProbeResult, ...]:
    """Return what works of ``lanes`` (None: every backend of each installation), one result a lane.

    Each installation is started at most once, and not at all when its answer is remembered, unless
    ``refresh``. A lane without an installation, or whose browser does not start, gets ``works=False`` with
    the reason and the one thing to do. Never raises for a browser's sake.
    """
    wanted = None if lanes is None else list(dict.fromkeys(lanes))
    found: dict[Lane, ProbeResult] = {}
    for installation in installations:
        if wanted is None or any(lane.browser is installation.browser for lane in wanted):
            for result in await _probe_one(installation, headed=headed, refresh=refresh):
                found.setdefault(result.lane, result)
    if wanted is None:
        return tuple(found.values())
    return tuple(found.get(lane) or _missing(lane) for lane in wanted)


def probe_sync(
    installations: Sequence[Installation],
    lanes: Iterable[Lane] | None = None,
    *,
    headed: bool = False,
    refresh: bool = False,
) -> tuple[ProbeResult, ...]:
    """Return what :func:`probe` returns; may be called with or without a running event loop."""
    return _run(probe(installations, lanes, headed=headed, refresh=refresh))


def _run(work: Coroutine[Any, Any, Result]) -> Result:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, work).result()


async def _probe_one(installation: Installation, *, headed: bool, refresh: bool) -> tuple[ProbeResult, ...]:
    browser = installation.browser
    if browser is Browser.FAKE:
        return tuple(_fake(installation, backend) for backend in Backend)
    if not drivable(browser):
        reason = "found; lanes for it are not supported in this version"
        remedy = f"Use one of the supported browsers instead. {_INSTALL}"
        return tuple(failed(Lane(browser, backend), reason, remedy, installation) for backend in Backend)
    script = (resources.files("pytest_webaccel") / "page" / "probe.js").read_text(encoding="utf-8")
    name = memory.key(installation, launch_facts(browser, headed=headed), script)
    if not refresh and (known := memory.recall(name, installation)) is not None:
        return known
    try:
        results, seen = await _judged(installation, script, headed=headed)
        if tries_gpu(browser) and not _accelerated(results):
            # A driver that computes and cannot draw keeps the GPU process, and so WebNN as well, from starting.
            aside = dataclasses.replace(installation, software=True)
            others, also = await _judged(aside, script, headed=headed)
            if _accelerated(others):
                results, seen = tuple(map(_kept_off, others)), also
    except (BrowserError, ValueError) as error:
        said = any(command in str(error) for command in ("pytest_webaccel install", "pip install"))
        remedy = _DOCTOR if said else _INSTALL
        return tuple(failed(Lane(browser, backend), str(error), remedy, installation) for backend in Backend)
    if not timed_out(seen):
        memory.remember(name, results)
    return results


async def _judged(installation: Installation, script: str, *, headed: bool) -> tuple[tuple[ProbeResult, ...], object]:
    version, seen = await _look(installation, script, headed=headed)
    return judge(dataclasses.replace(installation, version=version or installation.version), seen), seen


def _accelerated(results: Iterable[ProbeResult]) -> bool:
    return any(result.works and result.lane.accelerated for result in results)


def _kept_off(result: ProbeResult) -> ProbeResult:
    """Return the result with the mark that has its browser started so again, and words for people."""
    adapter = (
        f"{result.adapter} (the GPU here cannot serve this browser)" if result.lane.accelerated else result.adapter
    )
    return dataclasses.replace(result, adapter=adapter, features=(*result.features, KEPT_OFF_GPU))


async def _look(installation: Installation, script: str, *, headed: bool) -> tuple[str, object]:
    driver = make_driver(installation, headed=headed)
    with resources.as_file(resources.files("pytest_webaccel") / "page" / "blank.html") as page:
        try:
            await driver.start(deadline=_START)
            # A local file is a secure context, which WebGPU and WebNN require.
            await driver.open(page.absolute().as_uri(), deadline=_START)
            seen = await driver.evaluate(f"{script}\nwebaccelProbe({_STEP_MS})", deadline=_PAGE)
            await _try_losses(driver, seen)
        finally:
            await driver.stop(deadline=10.0)
    _name_adapter(installation.browser, seen)
    return driver.version, seen


def _working(seen: object, backend: Backend) -> dict[str, Any] | None:
    """Return what the page said about a backend that works; None where it does not, or nothing usable was said."""
    finding = seen.get(str(backend)) if isinstance(seen, dict) else None
    if not isinstance(finding, dict) or finding.get("works") is not True:
        return None
    return finding if isinstance(finding.get("features"), list) else None


async def _try_losses(driver: Driver, seen: object) -> None:
    """Kill the GPU process under a WebGPU device and a ``cpu`` context of WebNN, and note what became of them.

    Builds differ, and nothing tells but trying. It is the last thing done in this browser. A WebNN of which
    nothing is seen counts as not lost; of a WebGPU it is said only where a device was there to be lost.
    """
    webgpu, webnn = _working(seen, Backend.WEBGPU), _working(seen, Backend.WEBNN)
    if webnn is not None and ("cpu" not in webnn["features"] or not await _says(driver, _TAKE_CONTEXT)):
        webnn = None
    if webgpu is not None and not await _says(driver, _TAKE_DEVICE):
        webgpu = None
    if webnn is None and webgpu is None:
        return
    crashed = True
    try:
        await driver.crash_gpu(deadline=_CRASH)
    except (BrowserError, TimeoutError):
        crashed = False
    if webnn is not None and crashed and await _says(driver, _SEE_LOSS):
        webnn["features"].append(WEBNN_LOST_WITH_GPU_PROCESS)
    if webgpu is not None and not (crashed and await _says(driver, _SEE_DEVICE_LOSS)):
        webgpu["features"].append(WEBGPU_OUTLIVES_GPU_PROCESS)


async def _says(driver: Driver, expression: str) -> bool:
    try:
        return await driver.evaluate(expression, deadline=_STEP_MS / 1000) is True
    except (BrowserError, TimeoutError):
        return False


def _name_adapter(browser: Browser, seen: object) -> None:
    """Say what computes where the adapter itself does not, and it is known."""
    webgpu = _working(seen, Backend.WEBGPU)
    if webgpu is not None and not webgpu.get("adapter"):
        webgpu["adapter"] = adapter_hint(browser)


def _fake(installation: Installation, backend: Backend) -> ProbeResult:
    return ProbeResult(
        lane=Lane(Browser.FAKE, backend),
        works=True,
        evidence=Evidence.FAKE,
        version=installation.version,
        executable=str(installation.executable),
        adapter="fake",
    )


def _missing(lane: Lane) -> ProbeResult:
    if lane.browser is Browser.FAKE:
        return failed(lane, "the fake browser is not registered", "Import pytest_webaccel.testing in a conftest.py.")
    if not drivable(lane.browser):
        return failed(lane, f"lanes for {lane.browser} are not supported in this version", "Use chromium instead.")
    if lane.browser is Browser.CHROMIUM:
        return failed(lane, "no chromium was found", _INSTALL)
    if lane.browser is Browser.DENO:
        return failed(lane, "no deno was found", _DENO)
    how = f"Run `python -m pytest_webaccel install {lane.browser}`" if lane.browser in INSTALLABLE else "Install it"
    return failed(
        lane,
        f"{lane.browser} was not found",
        f"{how}, name its program with --webaccel-executable, or use chromium.",
    )


def lanes_table(
    browsers: Sequence[Browser] | None = None,
    backends: Sequence[Backend] | None = None,
    lanes: Sequence[Lane] | None = None,
    executable: Path | None = None,
    *,
    headed: bool = False,
    refresh: bool = False,
) -> tuple[ProbeResult, ...]:
    """Return what works of the lanes that the settings ask for, one result a lane, in a stable order.

    ``lanes`` names them outright. Otherwise they are ``browsers`` times ``backends``; None means every supported
    browser that is installed (Deno is none), and every backend. ``executable`` is an explicit program for the one
    browser asked for (by its file name where none is). Raises ConfigurationError when it is no program.
    """
    if lanes is not None:
        chosen = list(dict.fromkeys(lanes))
    else:
        names = list(browsers) if browsers is not None else _automatic(executable)
        chosen = [Lane(browser, backend) for browser in names for backend in backends or tuple(Backend)]
    explicit = _browser_of(executable, [lane.browser for lane in chosen]) if executable is not None else None
    installations = []
    for browser in dict.fromkeys(lane.browser for lane in chosen):
        if browser is Browser.FAKE:
            found = Installation(browser, Path("fake"), "0", "explicit") if drivable(browser) else None
        else:
            found = find(browser, executable if browser is explicit else None)
        if found is not None:
            installations.append(found)
    return probe_sync(installations, chosen, headed=headed, refresh=refresh)


def _automatic(executable: Path | None) -> list[Browser]:
    if executable is not None:
        return [_browser_of(executable, [])]
    usable: list[Browser] = [browser for browser in Browser if browser not in ON_REQUEST and drivable(browser)]
    present: list[Browser] = [browser for browser in usable if find(browser) is not None]
    # With none at all, chromium's lanes say what to do.
    return present or [Browser.CHROMIUM]


def _browser_of(executable: Path, asked: Sequence[Browser]) -> Browser:
    """Return which browser ``executable`` is: the only one asked for, or the one its name tells."""
    if len(set(asked)) == 1:
        return asked[0]
    name = executable.name.lower()
    for part, browser in (
        ("edge", Browser.EDGE),
        ("firefox", Browser.FIREFOX),
        ("google-chrome", Browser.CHROME),
        ("deno", Browser.DENO),
    ):
        if part in name:
            return browser
    return Browser.CHROMIUM
