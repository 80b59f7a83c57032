"""What only the Chromium driver does, on a real browser; what every driver does is in ``test_drivers.py``."""

from __future__ import annotations

import asyncio

import psutil

from tests.browsers.driving import DEADLINE, blank, listening, living, running


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
                assert not living([psutil.Process(before)] if psutil.pid_exists(before) else [])
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
