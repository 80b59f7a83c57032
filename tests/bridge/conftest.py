"""The stage on which one set of tests runs twice: with the fake page, and with a real Chromium."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import pytest

from pytest_webaccel.bridge.protocol import Limits
from pytest_webaccel.bridge.server import Bridge
from pytest_webaccel.browsers import find, make_driver
from pytest_webaccel.browsers.install.ort import ort_dist, ort_version
from pytest_webaccel.engines.onnx import OrtCopy
from pytest_webaccel.errors import InstallError
from pytest_webaccel.terms import Backend, Browser
from pytest_webaccel.testing import FakeDriver, VirtualLoop, stand_in_ort

#: Real seconds that one test may take.
TEST_S = 90.0


class Stage:
    """A browser, a loop to run in, and what differs between a fake and a real one."""

    def __init__(self, runner, driver):
        self.runner = runner
        self.driver = driver
        self.unretrieved: list[Any] = []
        runner.get_loop().set_exception_handler(lambda loop, context: self.unretrieved.append(context))

    @property
    def real(self) -> bool:
        return self.driver.browser is not Browser.FAKE

    def run(self, work):
        async def bounded():
            async with asyncio.timeout(TEST_S):
                return await work

        return self.runner.run(bounded())

    @contextlib.asynccontextmanager
    async def bridge(self, limits=None):
        bridge = Bridge(limits)
        await bridge.start()
        try:
            yield bridge
        finally:
            await bridge.stop()

    @contextlib.asynccontextmanager
    async def page(self, backend=Backend.CPU, limits=None, *, offer=True):
        """A channel whose page is connected and has its device; also its bridge and the damage it sees."""
        async with self.bridge(limits) as bridge:
            channel = bridge.open(f"{self.driver.browser}:{backend}")
            channel.damages = []
            channel.on_damage = channel.damages.append
            channel.bridge = bridge
            channel.url = bridge.page_url(channel, backend)
            if offer:
                channel.offer = lambda paths, deadline: self.driver.offer_files(paths, deadline=deadline)
            await self.driver.open(channel.url, deadline=20.0)
            await channel.wait_connected(deadline=20.0)
            if limits is None:
                await channel.request("renew", deadline=30.0)
            yield channel

    @contextlib.asynccontextmanager
    async def stalled(self):
        """The page's thread is taken; at the end it is free again."""
        if not self.real:
            self.driver.page.stall()
            yield
            self.driver.page.wake()
            return
        busy = "(() => { const end = performance.now() + 2500; while (performance.now() < end); })()"
        task = asyncio.ensure_future(self.driver.evaluate(busy, deadline=30.0))
        yield
        await task

    def ort(self, bridge) -> OrtCopy:
        if not self.real:
            folder, version = stand_in_ort()
        else:
            try:
                folder = ort_dist(None)
            except InstallError as error:
                pytest.skip(str(error))
            version = ort_version(folder)
        return OrtCopy(folder, version, bridge.share(f"ort-{version}", folder))


async def seen(channel, symptom):
    """Wait until the channel saw ``symptom``, without a pause that could be too short or too long."""
    arrived = asyncio.Event()
    before = channel.on_damage

    def note(damage):
        before(damage)
        if damage.symptom is symptom:
            arrived.set()

    channel.on_damage = note
    if any(damage.symptom is symptom for damage in channel.damages):
        arrived.set()
    async with asyncio.timeout(30):
        await arrived.wait()


@pytest.fixture(scope="module", params=["fake", "chromium"])
def shared_stage(request):
    if request.param == "fake":
        with asyncio.Runner(loop_factory=VirtualLoop) as runner:
            yield from _started(Stage(runner, FakeDriver(seed=7)))
        return
    installation = find(Browser.CHROMIUM)
    if installation is None:
        pytest.skip("no Chromium is installed: run `python -m pytest_webaccel install`")
    with asyncio.Runner() as runner:
        yield from _started(Stage(runner, make_driver(installation)))


def _started(stage):
    try:
        stage.run(stage.driver.start(deadline=30.0))
        yield stage
    finally:
        stage.run(stage.driver.stop(deadline=10.0))


@pytest.fixture
def stage(shared_stage):
    """The stage; after each test nothing may have failed unseen in its loop."""
    yield shared_stage
    import gc

    gc.collect()
    unseen, shared_stage.unretrieved[:] = list(shared_stage.unretrieved), []
    assert not unseen


@pytest.fixture
def small_limits() -> Limits:
    return Limits(heartbeat_s=1.2, busy_heartbeat_s=1.2)
