"""What only the Firefox driver does, on a real browser; what every driver does is in ``test_drivers.py``."""

from __future__ import annotations

import asyncio
import ipaddress
import sys
from importlib import resources
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

from pytest_webaccel.browsers import content, startup_cache
from pytest_webaccel.browsers.bidi import Connection
from pytest_webaccel.browsers.firefox import FirefoxDriver
from pytest_webaccel.errors import BrowserError
from pytest_webaccel.terms import Symptom
from tests.browsers.driving import DEADLINE, Stage, blank, listening, next_damage, running, watch

if TYPE_CHECKING:
    import psutil


@pytest.fixture(scope="module")
def stage(firefox):
    stage = Stage(firefox)
    yield stage
    stage.end()


def test_port_is_on_loopback_alone_and_grants_no_second_session(stage):
    async def scenario(driver: Any) -> None:
        (socket,) = listening(driver.pid)
        assert ipaddress.ip_address(socket.laddr.ip).is_loopback
        intruder = Connection("an intruder")
        await intruder.connect(f"ws://127.0.0.1:{socket.laddr.port}/session", deadline=DEADLINE)
        with pytest.raises(BrowserError, match="session not created"):
            await intruder.call("session.new", {"capabilities": {}}, deadline=DEADLINE)
        with pytest.raises(BrowserError, match="invalid session"):
            await intruder.call("browsingContext.getTree", deadline=DEADLINE)
        await intruder.end()

    stage.run(scenario)


def test_page_of_a_web_server_cannot_reach_the_port(stage):
    async def scenario(driver: Any) -> None:
        (socket,) = listening(driver.pid)
        address = f"http://127.0.0.1:{socket.laddr.port}/session"
        headers = {"Origin": "http://127.0.0.1:8000"}
        async with aiohttp.ClientSession() as client:
            with pytest.raises(aiohttp.WSServerHandshakeError):
                await client.ws_connect(address, headers=headers)

    stage.run(scenario)


def test_headless_has_no_gpu_process_and_says_so(stage):
    async def scenario(driver: Any) -> None:
        await driver.open(blank(), deadline=DEADLINE)
        adapter = "navigator.gpu.requestAdapter().then((adapter) => adapter.requestDevice()).then(() => true)"
        assert await driver.evaluate(adapter, deadline=DEADLINE) is True
        assert await driver.gpu_process(deadline=DEADLINE) is None
        with pytest.raises(BrowserError, match=r"no GPU process now.*root process"):
            await driver.crash_gpu(deadline=DEADLINE)

    stage.run(scenario)


def test_page_lives_in_the_process_that_is_said(stage):
    busy = "{ let sum = 0; for (let index = 0; index < 3e8; index++) sum += index % 7; }"

    def spent(processes: list[psutil.Process]) -> dict[int, float]:
        return {process.pid: sum(process.cpu_times()[:2]) for process in processes}

    async def scenario(driver: Any) -> None:
        for _ in range(2):
            await driver.open(blank(), deadline=DEADLINE)
            pages = content.role(driver.pid, "tab")
            before = spent(pages)
            await driver.evaluate(busy, deadline=DEADLINE)
            after = spent(pages)
            assert max(after, key=lambda pid: after[pid] - before[pid]) == driver.page_process

    stage.run(scenario)


def test_waits_for_the_gpu_end_with_its_work_and_not_at_the_next_tenth_of_a_second(stage):
    polling = (resources.files("pytest_webaccel") / "page" / "polling.mjs").read_text(encoding="utf-8")
    waits = """(async () => {
      const device = await (await navigator.gpu.requestAdapter()).requestDevice();
      const start = performance.now();
      for (let turn = 0; turn < 10; turn++) {
        const usage = GPUBufferUsage.MAP_READ | GPUBufferUsage.COPY_DST;
        const buffer = device.createBuffer({ size: 16, usage });
        device.queue.writeBuffer(buffer, 0, new Uint32Array([turn, 2, 3, 4]));
        const [, done] = await Promise.all([buffer.mapAsync(GPUMapMode.READ), device.queue.onSubmittedWorkDone()]);
        if (done !== undefined || new Uint32Array(buffer.getMappedRange())[0] !== turn) throw new Error("wrong");
        buffer.unmap();
      }
      return (performance.now() - start) / 10;
    })()"""

    one_after_the_other = """(async () => {
      const [own, counts] = [{}, []];
      for (let turn = 0; turn < 60; turn++) {
        let submitted = 0;
        own.submit = () => void submitted++;
        await hasten(own, new Promise((resolve) => setTimeout(resolve, 5)));
        counts.push(submitted);
      }
      return counts;
    })()"""

    async def scenario(driver: Any) -> None:
        await driver.open(blank(), deadline=DEADLINE)
        plain = await driver.evaluate(waits, deadline=DEADLINE)
        await driver.evaluate(f"{polling.replace('export ', '')}\nhastenWaits();", deadline=DEADLINE)
        hastened = await driver.evaluate(waits, deadline=DEADLINE)
        assert hastened < plain / 2, f"{plain:.0f} ms before, {hastened:.0f} ms after"
        submissions = await driver.evaluate(one_after_the_other, deadline=DEADLINE)
        assert max(submissions[-10:]) <= 2 * max(submissions[:10]), submissions

    stage.run(scenario)


def test_first_start_of_a_build_leaves_its_startup_cache_to_the_next(firefox, cache):
    async def scenario() -> None:
        assert not startup_cache.is_kept(firefox)
        async with running(firefox) as driver:
            await driver.open(blank(), deadline=DEADLINE)
        assert startup_cache.is_kept(firefox)
        async with running(firefox) as driver:
            assert list(driver.profile.rglob("startupCache/*"))
            await driver.open(blank(), deadline=DEADLINE)
            assert await driver.evaluate("1", deadline=DEADLINE) == 1

    asyncio.run(scenario())


class Process:
    """A process as far as its name goes."""

    def __init__(self, name: str) -> None:
        self._name = name

    def name(self) -> str:
        return self._name


@pytest.mark.parametrize(
    ("names", "chosen"),
    [
        (["Web Content", "MainThread", "Isolated Web Co", "Preallocated Co"], ["Isolated Web Co"]),
        (["MainThread", "Web Content", "WebExtensions"], ["Web Content"]),
        (["plugin-container", "plugin-container"], ["plugin-container", "plugin-container"]),
        (["WebExtensions"], []),
    ],
)
def test_process_that_is_being_made_is_not_taken_for_the_pages(monkeypatch, names, chosen):
    monkeypatch.setattr(content, "role", lambda root, wanted: [Process(name) for name in names])
    assert [process.name() for process in content.hosts(1, [])] == chosen


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells of the end of another's process")
def test_crashed_page_is_reported_where_firefox_does_not_tell(firefox, monkeypatch):
    async def scenario() -> None:
        monkeypatch.setattr(FirefoxDriver, "_event", lambda *_: None)
        async with running(firefox) as driver:
            seen = watch(driver)
            await driver.open(blank(), deadline=DEADLINE)
            driver.crash_page()
            assert (await next_damage(seen)).symptom is Symptom.PAGE_CRASHED
            await driver.open(blank(), deadline=DEADLINE)
            assert await driver.evaluate("1", deadline=DEADLINE) == 1
            assert seen.empty()

    asyncio.run(scenario())
