"""The driver of Deno, on a real Deno; what it may reach, and what its page is."""

from __future__ import annotations

import asyncio
import os
import stat
import subprocess
import sys
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import pytest_webaccel
from pytest_webaccel.bridge.server import Bridge
from pytest_webaccel.browsers import Installation, find, make_driver
from pytest_webaccel.browsers.deno import deno_arguments, deno_environment
from pytest_webaccel.browsers.preferences import swiftshader
from pytest_webaccel.browsers.probe import WEBGPU_OUTLIVES_GPU_PROCESS, probe_sync
from pytest_webaccel.browsers.process import lives, wait_gone
from pytest_webaccel.browsers.profiles import sweep
from pytest_webaccel.errors import BrowserError
from pytest_webaccel.terms import Backend, Browser, Evidence, Symptom
from tests.browsers.driving import DEADLINE, LAVAPIPE, Stage, blank, family, living, next_damage, running, watch

if TYPE_CHECKING:
    from collections.abc import Iterator

SWIFTSHADER = swiftshader()  # before tests move the cache


@pytest.fixture(scope="module")
def deno() -> Installation:
    found = find(Browser.DENO)
    if found is None:
        pytest.skip("no Deno is here: pip install deno")
    return found


@pytest.fixture(scope="module")
def stage(deno) -> Iterator[Stage]:
    stage = Stage(deno)
    yield stage
    stage.end()


def test_start_reports_version_and_pid_and_makes_a_private_profile(stage):
    async def scenario(driver: Any) -> None:
        assert driver.version == stage.installation.version
        assert stat.S_IMODE(driver.profile.stat().st_mode) == 0o700
        assert [process.pid for process in family(driver.pid)] == [driver.pid]
        with pytest.raises(BrowserError, match="running already"):
            await driver.start(deadline=DEADLINE)

    stage.run(scenario)


def test_evaluate_returns_json_values_awaits_promises_and_passes_errors_on(stage):
    async def scenario(driver: Any) -> None:
        await driver.open(blank(), deadline=DEADLINE)
        assert await driver.evaluate("({a: [1, 'b', null, {c: 1.5}]})", deadline=DEADLINE) == {
            "a": [1, "b", None, {"c": 1.5}]
        }
        assert await driver.evaluate("Promise.resolve(6 * 7)", deadline=DEADLINE) == 42
        assert await driver.evaluate("undefined", deadline=DEADLINE) is None
        assert await driver.evaluate("console.log('to standard error'), 1", deadline=DEADLINE) == 1
        with pytest.raises(BrowserError, match="the page threw: RangeError: too far"):
            await driver.evaluate("Promise.reject(new RangeError('too far'))", deadline=DEADLINE)
        with pytest.raises(BrowserError, match="SyntaxError"):
            await driver.evaluate("not a program", deadline=DEADLINE)
        with pytest.raises(BrowserError, match="not answered within"):
            await driver.evaluate("new Promise(() => {})", deadline=0.1)

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


@pytest.mark.parametrize("hang", ["stopped", "looping"])
def test_a_page_that_hangs_is_seen_and_replaced(stage, hang):
    async def scenario(driver: Any) -> None:
        seen = watch(driver)
        await driver.open(blank(), deadline=DEADLINE)
        before = driver.pid
        driver.resume_page()  # harmless where nothing is stopped
        if hang == "stopped":
            await driver.stop_page(deadline=DEADLINE)
        else:
            with pytest.raises(BrowserError, match="not answered within"):
                await driver.evaluate("for (;;);", deadline=0.2)
        assert not await driver.page_runs(deadline=0.2)
        await driver.open(blank(), deadline=DEADLINE)
        assert await driver.page_runs(deadline=DEADLINE)
        assert not lives(before)
        assert seen.empty()

    stage.run(scenario)


def test_a_stopped_page_goes_on_where_it_is_resumed(stage):
    async def scenario(driver: Any) -> None:
        await driver.open(blank(), deadline=DEADLINE)
        await driver.stop_page(deadline=DEADLINE)
        driver.resume_page()
        assert await driver.evaluate("6 * 7", deadline=DEADLINE) == 42

    stage.run(scenario)


def test_kill_is_reported_and_the_driver_starts_again(stage):
    async def scenario(driver: Any) -> None:
        seen = watch(driver)
        await driver.open(blank(), deadline=DEADLINE)
        waiting = asyncio.ensure_future(driver.evaluate("new Promise(() => {})", deadline=DEADLINE))
        await asyncio.sleep(0)
        driver.kill()
        damage = await next_damage(seen)
        assert damage.symptom is Symptom.BROWSER_EXITED
        assert "SIGKILL" in damage.detail
        with pytest.raises(BrowserError):
            await waiting
        with pytest.raises(BrowserError, match="not running"):
            await driver.evaluate("1", deadline=DEADLINE)
        await driver.start(deadline=DEADLINE)
        await driver.open(blank(), deadline=DEADLINE)
        assert await driver.page_runs(deadline=DEADLINE)
        assert seen.empty()

    stage.run(scenario)


def test_stop_leaves_no_process_and_no_profile_reports_nothing_and_may_be_called_twice(deno):
    async def scenario() -> None:
        async with running(deno) as driver:
            seen = watch(driver)
            await driver.open(blank(), deadline=DEADLINE)
            await driver.stop_page(deadline=DEADLINE)
            tree, profile = family(driver.pid), driver.profile
            await driver.stop(deadline=DEADLINE)
            await driver.stop(deadline=DEADLINE)
            assert living(tree) == []
            assert not profile.exists()
            assert seen.empty()

    asyncio.run(scenario())


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


def script(path: Path, text: str) -> Installation:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return Installation(Browser.DENO, path, "", "explicit")


def test_one_that_does_not_start_names_itself_its_words_and_the_remedy(tmp_path):
    async def scenario() -> None:
        driver: Any = make_driver(script(tmp_path / "broken-deno", "echo 'no memory' >&2; exit 3"))
        with pytest.raises(BrowserError, match=r"broken-deno.* did not start: .*no memory.*pip install deno"):
            await driver.start(deadline=DEADLINE)
        assert driver.pid is None
        assert driver.profile is None

    asyncio.run(scenario())


def test_one_that_never_answers_fails_by_the_deadline_and_is_ended(tmp_path):
    async def scenario() -> None:
        driver = make_driver(script(tmp_path / "silent-deno", 'echo $$ > "$(dirname "$0")/pid"\nexec sleep 600'))
        with pytest.raises(BrowserError, match="did not start"):
            await driver.start(deadline=0.5)

    asyncio.run(scenario())
    assert not lives(int((tmp_path / "pid").read_text()))


CHILD = """
import asyncio, sys
from pytest_webaccel.browsers import find, make_driver
from pytest_webaccel.terms import Browser
async def main():
    driver = make_driver(find(Browser.DENO))
    await driver.start(deadline=20)
    await driver.open(sys.argv[1], deadline=20)
    print(driver.pid, driver.profile, flush=True)
    await asyncio.Event().wait()
asyncio.run(main())
"""


def test_owner_killed_with_sigkill_leaves_no_process_and_its_profile_goes_at_the_next_sweep(deno):
    environment = {**os.environ, "PYTHONPATH": str(Path(pytest_webaccel.__file__).parents[1])}
    command = [sys.executable, "-c", CHILD, blank()]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as owner:
        assert owner.stdout is not None
        pid, _, profile = owner.stdout.readline().strip().partition(" ")
        tree = family(int(pid))
        owner.kill()
        owner.wait()
    assert asyncio.run(wait_gone([process.pid for process in tree], deadline=DEADLINE))
    sweep()
    assert not Path(profile).exists()


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
