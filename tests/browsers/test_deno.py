"""What only the driver of Deno does, on a real Deno; what every driver does is in ``test_drivers.py``."""

from __future__ import annotations

import sys
from importlib import resources
from typing import TYPE_CHECKING, Any

import pytest

from pytest_webaccel.bridge.server import Bridge
from pytest_webaccel.browsers.deno import deno_arguments, deno_environment
from pytest_webaccel.browsers.preferences import swiftshader
from pytest_webaccel.browsers.probe import WEBGPU_OUTLIVES_GPU_PROCESS, probe_sync
from pytest_webaccel.browsers.process import lives
from pytest_webaccel.errors import BrowserError
from pytest_webaccel.terms import Backend, Evidence
from tests.browsers.driving import DEADLINE, LAVAPIPE, Stage, blank, family, watch

if TYPE_CHECKING:
    from collections.abc import Iterator

SWIFTSHADER = swiftshader()  # before tests move the cache


@pytest.fixture(scope="module")
def stage(deno) -> Iterator[Stage]:
    stage = Stage(deno)
    yield stage
    stage.end()


def test_one_process_is_all_of_it_and_its_version_is_the_installed_one(stage):
    async def scenario(driver: Any) -> None:
        assert driver.version == stage.installation.version
        assert [process.pid for process in family(driver.pid)] == [driver.pid]

    stage.run(scenario)


def test_what_a_page_logs_is_not_taken_for_an_answer(stage):
    async def scenario(driver: Any) -> None:
        await driver.open(blank(), deadline=DEADLINE)
        assert await driver.evaluate("console.log('to standard error'), 1", deadline=DEADLINE) == 1

    stage.run(scenario)


def test_what_nobody_handles_is_no_end_as_in_a_browser(stage):
    async def scenario(driver: Any) -> None:
        seen = watch(driver)
        await driver.open(blank(), deadline=DEADLINE)
        await driver.evaluate("void Promise.reject(new Error('alone'))", deadline=DEADLINE)
        await driver.evaluate("setTimeout(() => { throw new Error('late'); })", deadline=DEADLINE)
        assert await driver.evaluate("new Promise((done) => setTimeout(done, 20, 1))", deadline=DEADLINE) == 1
        assert seen.empty()

    stage.run(scenario)


def test_open_brings_another_process_and_nothing_of_the_page_before(stage):
    async def scenario(driver: Any) -> None:
        await driver.open(blank(), deadline=DEADLINE)
        first = driver.pid
        await driver.evaluate("globalThis.mark = 1", deadline=DEADLINE)
        await driver.open(f"{blank()}#token", deadline=DEADLINE)
        assert await driver.evaluate("[typeof mark, location.hash]", deadline=DEADLINE) == ["undefined", "#token"]
        assert not lives(first)

    stage.run(scenario)


REACH = """(async () => {
  const tried = {
    file: () => Deno.readTextFile("/etc/hostname"),
    write: () => Deno.writeTextFile("written", ""),
    variable: () => Deno.env.get("HOME"),
    program: () => new Deno.Command("true").output(),
    other: () => fetch("http://127.0.0.1:OTHER/page/main.mjs"),
    import: () => import("http://127.0.0.1:OTHER/page/checksum.mjs"),
    own: () => fetch("/page/checksum.mjs").then((answer) => answer.text()),
  };
  const told = {};
  for (const [name, work] of Object.entries(tried)) {
    told[name] = await (async () => work())().then(() => "reached", (error) => error.name);
  }
  return told;
})()"""


def test_a_page_reaches_its_own_server_and_nothing_else(stage):
    async def scenario(driver: Any) -> None:
        bridges = [Bridge(), Bridge()]
        for bridge in bridges:
            await bridge.start()
        own, other = bridges
        try:
            await driver.open(own.page_url(own.open("lane"), Backend.CPU), deadline=DEADLINE)
            told = await driver.evaluate(REACH.replace("OTHER", str(other.port)), deadline=DEADLINE)
        finally:
            for bridge in bridges:
                await bridge.stop()
        assert told.pop("own") == "reached"
        assert told.pop("import") in {"TypeError", "NotCapable"}
        assert set(told.values()) == {"NotCapable"}, told

    stage.run(scenario)


def test_the_token_of_a_page_is_not_in_its_command_line(stage):
    async def scenario(driver: Any) -> None:
        bridge = Bridge()
        await bridge.start()
        channel = bridge.open("lane")
        try:
            await driver.open(bridge.page_url(channel, Backend.CPU), deadline=DEADLINE)
            await channel.wait_connected(deadline=DEADLINE)
            (process,) = family(driver.pid)
            assert channel.token not in " ".join(process.cmdline())
            assert channel.token not in str(process.environ())
        finally:
            await bridge.stop()

    stage.run(scenario)


def test_an_empty_page_may_reach_nothing(stage):
    assert not [flag for flag in deno_arguments(blank()) if flag.startswith("--allow")]

    async def scenario(driver: Any) -> None:
        await driver.open(blank(), deadline=DEADLINE)
        with pytest.raises(BrowserError, match="NotCapable"):
            await driver.evaluate("fetch('http://127.0.0.1:8123/')", deadline=DEADLINE)

    stage.run(scenario)


def test_a_page_that_is_not_there_is_an_error_and_the_next_one_opens(stage):
    async def scenario(driver: Any) -> None:
        bridge = Bridge()
        await bridge.start()
        url = bridge.page_url(bridge.open("lane"), Backend.CPU)
        await bridge.stop()
        with pytest.raises(BrowserError, match="could not be opened: the page threw: TypeError"):
            await driver.open(url, deadline=DEADLINE)
        with pytest.raises(BrowserError, match="shows no page"):
            await driver.evaluate("1", deadline=DEADLINE)
        await driver.open(blank(), deadline=DEADLINE)
        assert await driver.page_runs(deadline=DEADLINE)

    stage.run(scenario)


def test_what_it_has_not_is_refused(stage, tmp_path):
    async def scenario(driver: Any) -> None:
        await driver.open(blank(), deadline=DEADLINE)
        assert not driver.takes_files
        assert await driver.gpu_process(deadline=DEADLINE) is None
        assert await driver.page_processes(deadline=DEADLINE) == [driver.pid]
        with pytest.raises(BrowserError, match="no GPU process"):
            await driver.crash_gpu(deadline=DEADLINE)
        with pytest.raises(BrowserError, match="no page apart from its process"):
            driver.crash_page()
        with pytest.raises(BrowserError, match="no page apart from its process"):
            await driver.reload(deadline=DEADLINE)
        with pytest.raises(BrowserError, match="no page apart from its process"):
            await driver.offer_files([tmp_path], deadline=DEADLINE)

    stage.run(scenario)


def test_the_interface_to_the_gpu_is_vulkan_unless_the_user_names_one(monkeypatch):
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.delenv("DENO_WEBGPU_BACKEND", raising=False)
    assert deno_environment(gpu=True)["DENO_WEBGPU_BACKEND"] == "vulkan"
    monkeypatch.setenv("DENO_WEBGPU_BACKEND", "gl")
    assert "DENO_WEBGPU_BACKEND" not in deno_environment(gpu=True)


def test_the_script_that_stands_in_for_the_page_comes_with_the_package():
    assert (resources.files("pytest_webaccel") / "page" / "deno.mjs").is_file()


def test_real_deno_is_probed_on_its_adapter(deno, cache, monkeypatch):
    monkeypatch.setattr("pytest_webaccel.browsers.preferences.swiftshader", lambda: SWIFTSHADER)
    results = {result.lane.backend: result for result in probe_sync([deno])}
    assert results[Backend.CPU].works
    assert "has no WebNN" in results[Backend.WEBNN].reason
    webgpu = results[Backend.WEBGPU]
    if not webgpu.works:
        pytest.skip(f"no WebGPU in this Deno: {webgpu.reason}")
    assert WEBGPU_OUTLIVES_GPU_PROCESS in webgpu.features
    if "SwiftShader" in webgpu.adapter:
        assert webgpu.evidence is Evidence.SOFTWARE
        assert "loops-cut-short" not in webgpu.features


@pytest.mark.skipif(not LAVAPIPE.is_file(), reason="no lavapipe is here, a second software adapter")
def test_another_driver_is_another_adapter_and_is_not_remembered_as_the_first(deno, cache, monkeypatch):
    monkeypatch.setenv("VK_DRIVER_FILES", str(LAVAPIPE))
    monkeypatch.setenv("VK_ICD_FILENAMES", str(LAVAPIPE))
    webgpu = next(one for one in probe_sync([deno]) if one.lane.backend is Backend.WEBGPU)
    assert webgpu.works, webgpu.reason
    assert "llvmpipe" in webgpu.adapter
    assert webgpu.evidence is Evidence.SOFTWARE
