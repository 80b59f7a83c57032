"""What only the Chromium driver does, on a real browser; what every driver does is in ``test_drivers.py``."""

from __future__ import annotations

import asyncio
import os
import signal
import time

import psutil
import pytest

from pytest_webaccel.browsers.process import lives
from pytest_webaccel.errors import BrowserError
from pytest_webaccel.terms import Symptom
from tests.browsers.driving import DEADLINE, blank, listening, living, next_damage, running, watch


def test_crash_gpu_loses_the_device_and_a_new_adapter_comes_every_time(chromium):
    hold = """(async () => {
      const device = await (await navigator.gpu.requestAdapter()).requestDevice();
      globalThis.lost = device.lost.then((info) => info.reason);
    })()"""

    async def scenario() -> None:
        async with running(chromium) as driver:
            await driver.open(blank(), deadline=DEADLINE)
            for _ in range(4):  # the crash limit of Chromium's own would strike at the third
                await driver.evaluate(hold, deadline=DEADLINE)
                before = await driver.gpu_process(deadline=DEADLINE)
                await driver.crash_gpu(deadline=DEADLINE)
                assert not lives(before)
                assert await driver.evaluate("lost", deadline=DEADLINE) == "unknown"
            await driver.evaluate(hold, deadline=DEADLINE)

    asyncio.run(scenario())


def test_debugging_port_is_offered_beside_the_pipe_only_when_asked(chromium):
    async def scenario() -> None:
        async with running(chromium, debugging_port=True) as driver:
            assert driver.endpoint.startswith("ws://127.0.0.1:")
            await driver.open(blank(), deadline=DEADLINE)
            assert await driver.evaluate("1", deadline=DEADLINE) == 1
        async with running(chromium) as driver:
            assert driver.endpoint is None
            assert listening(driver.pid) == []

    asyncio.run(scenario())


def test_every_end_of_the_gpu_process_is_reported_and_none_that_comes_with_the_end_of_the_browser(chromium):
    async def scenario() -> None:
        async with running(chromium) as driver:
            seen = watch(driver)
            for end in (driver.kill, lambda: os.kill(driver.pid, signal.SIGKILL), None):
                await driver.open(blank(), deadline=DEADLINE)
                for _ in range(2):  # the one that comes in its place is watched too
                    while (pid := driver.watched_gpu_process) is None:
                        await driver.evaluate("1", deadline=DEADLINE)
                    await driver.crash_gpu(deadline=DEADLINE)
                    damage = await next_damage(seen)
                    assert damage.symptom is Symptom.DEVICE_LOST
                    assert str(pid) in damage.detail
                if end is None:
                    await driver.stop(deadline=DEADLINE)
                else:
                    end()
                    assert (await next_damage(seen)).symptom is Symptom.BROWSER_EXITED
                    await driver.start(deadline=DEADLINE)
                assert seen.empty()

    asyncio.run(scenario())


def test_browser_whose_page_hung_when_it_was_stopped_shows_pages_when_it_is_started_again(chromium):
    async def scenario() -> None:
        async with running(chromium) as driver:
            await driver.open(blank(), deadline=DEADLINE)
            await driver.evaluate("void setTimeout(() => { for (;;); })", deadline=DEADLINE)
            assert not await driver.page_runs(deadline=0.2)
            await driver.stop(deadline=DEADLINE)
            await driver.start(deadline=DEADLINE)
            await driver.open(blank(), deadline=DEADLINE)
            assert await driver.page_runs(deadline=DEADLINE)

    asyncio.run(scenario())


def test_page_that_was_only_busy_or_waits_for_something_is_asked_to_close_like_any_other(chromium, monkeypatch):
    monkeypatch.setattr("pytest_webaccel.browsers.chromium._CLOSE_S", 3 * DEADLINE)

    async def never(*_: object, **__: object) -> None:
        raise AssertionError("its process was killed")

    async def scenario() -> None:
        async with running(chromium) as driver:
            monkeypatch.setattr(driver._renderers, "kill", never)
            await driver.open(blank(), deadline=DEADLINE)
            await driver.evaluate(
                "void setTimeout(() => { const t = Date.now(); while (Date.now() - t < 400); })", deadline=DEADLINE
            )
            assert not await driver.page_runs(deadline=0.1)
            assert await driver.page_runs(deadline=DEADLINE)
            with pytest.raises(BrowserError, match="not answered within"):
                await driver.evaluate("new Promise(() => {})", deadline=0.1)
            await driver.open(blank(), deadline=DEADLINE)
            assert await driver.page_runs(deadline=DEADLINE)

    asyncio.run(scenario())


def test_page_that_cannot_crash_when_told_to_is_killed(chromium):
    async def scenario() -> None:
        async with running(chromium) as driver:
            seen = watch(driver)
            await driver.open(blank(), deadline=DEADLINE)
            (renderer,) = await driver.page_processes(deadline=DEADLINE)
            os.kill(renderer, signal.SIGSTOP)
            driver.crash_page()
            assert (await next_damage(seen)).symptom is Symptom.PAGE_CRASHED
            await driver.open(blank(), deadline=DEADLINE)
            assert await driver.evaluate("1", deadline=DEADLINE) == 1

    asyncio.run(scenario())


def test_page_that_loops_without_end_is_gone_before_the_next_one_is_there(chromium):
    async def scenario() -> None:
        async with running(chromium) as driver:
            await driver.open(blank(), deadline=DEADLINE)
            before = [psutil.Process(pid) for pid in await driver.page_processes(deadline=DEADLINE)]
            await driver.evaluate("void setTimeout(() => { for (;;); })", deadline=DEADLINE)
            await driver.open(blank(), deadline=DEADLINE)
            assert living(before) == []

    asyncio.run(scenario())


def test_page_that_does_not_run_is_not_asked_to_close(chromium, monkeypatch):
    monkeypatch.setattr("pytest_webaccel.browsers.chromium._CLOSE_S", 3 * DEADLINE)

    async def scenario() -> None:
        async with running(chromium) as driver:
            await driver.open(blank(), deadline=DEADLINE)
            before = [psutil.Process(pid) for pid in await driver.page_processes(deadline=DEADLINE)]
            assert await driver.page_runs(deadline=DEADLINE)
            await driver.evaluate("void setTimeout(() => { for (;;); })", deadline=DEADLINE)
            assert not await driver.page_runs(deadline=0.2)
            begun = time.monotonic()
            await driver.open(blank(), deadline=DEADLINE)
            assert time.monotonic() - begun < 0.4, "left alone, a page that hangs closes after half a second"
            assert living(before) == []
            assert await driver.evaluate("1", deadline=DEADLINE) == 1

    asyncio.run(scenario())
