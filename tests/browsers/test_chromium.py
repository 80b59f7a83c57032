"""The driver on a real browser."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import stat
import subprocess
import sys
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest

import pytest_webaccel
from pytest_webaccel.browsers import Installation, make_driver
from pytest_webaccel.browsers.chromium import ChromiumDriver
from pytest_webaccel.browsers.process import wait_gone
from pytest_webaccel.browsers.profiles import sweep
from pytest_webaccel.errors import BrowserError
from pytest_webaccel.terms import Browser, Damage, Symptom

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

DEADLINE = 20.0


@contextlib.asynccontextmanager
async def running(chromium: Installation, **options: bool) -> AsyncIterator[Any]:
    driver = ChromiumDriver(chromium, **options)
    await driver.start(deadline=DEADLINE)
    try:
        yield driver
    finally:
        await driver.stop(deadline=DEADLINE)


def blank() -> str:
    return Path(str(resources.files("pytest_webaccel") / "page" / "blank.html")).as_uri()


def watch(driver: ChromiumDriver) -> asyncio.Queue[Damage]:
    seen: asyncio.Queue[Damage] = asyncio.Queue()
    driver.on_damage(seen.put_nowait)
    return seen


async def next_damage(seen: asyncio.Queue[Damage]) -> Damage:
    return await asyncio.wait_for(seen.get(), DEADLINE)


def family(pid: int) -> list[psutil.Process]:
    root = psutil.Process(pid)
    return [root, *root.children(recursive=True)]


def living(processes: list[psutil.Process]) -> list[psutil.Process]:
    alive = []
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                alive.append(process)
    return alive


def test_start_reports_version_and_pid_and_makes_a_private_profile(chromium):
    async def scenario() -> None:
        async with running(chromium) as driver:
            assert driver.browser is chromium.browser
            assert driver.version.split(".")[0].isdigit()
            assert psutil.pid_exists(driver.pid)
            assert stat.S_IMODE(driver.profile.stat().st_mode) == 0o700
            assert str(driver.pid) not in driver.profile.name
            assert f"-{os.getpid()}-" in driver.profile.name

    asyncio.run(scenario())


def test_evaluate_returns_json_values_awaits_promises_and_passes_errors_on(chromium):
    async def scenario() -> None:
        async with running(chromium) as driver:
            await driver.open(blank(), deadline=DEADLINE)
            assert await driver.evaluate("({a: [1, 'b', null]})", deadline=DEADLINE) == {"a": [1, "b", None]}
            assert await driver.evaluate("Promise.resolve(6 * 7)", deadline=DEADLINE) == 42
            assert await driver.evaluate("-Infinity", deadline=DEADLINE) == float("-inf")
            assert await driver.evaluate("12345678901234567890n", deadline=DEADLINE) == 12345678901234567890
            assert await driver.evaluate("undefined", deadline=DEADLINE) is None
            with pytest.raises(BrowserError, match="RangeError: too far"):
                await driver.evaluate("Promise.reject(new RangeError('too far'))", deadline=DEADLINE)

    asyncio.run(scenario())


def test_evaluate_past_its_deadline_fails_and_the_page_stays_usable(chromium):
    async def scenario() -> None:
        async with running(chromium) as driver:
            await driver.open(blank(), deadline=DEADLINE)
            with pytest.raises(BrowserError, match="not answered within"):
                await driver.evaluate("new Promise(() => {})", deadline=0.1)
            assert await driver.evaluate("1 + 1", deadline=DEADLINE) == 2

    asyncio.run(scenario())


def test_open_replaces_the_page(chromium):
    async def scenario() -> None:
        async with running(chromium) as driver:
            await driver.open(blank(), deadline=DEADLINE)
            await driver.evaluate("globalThis.mark = 1", deadline=DEADLINE)
            await driver.open(blank(), deadline=DEADLINE)
            assert await driver.evaluate("typeof mark", deadline=DEADLINE) == "undefined"
            assert await driver.evaluate("isSecureContext", deadline=DEADLINE) is True

    asyncio.run(scenario())


def test_open_of_what_is_not_there_says_so(chromium, tmp_path):
    async def scenario() -> None:
        async with running(chromium) as driver:
            with pytest.raises(BrowserError, match="ERR_FILE_NOT_FOUND"):
                await driver.open((tmp_path / "missing.html").as_uri(), deadline=DEADLINE)

    asyncio.run(scenario())


def test_files_arrive_in_the_page_as_file_handles(chromium, tmp_path):
    page = tmp_path / "page.html"
    page.write_text("<!doctype html><input type=file id=webaccel-files multiple>")
    first, second = tmp_path / "a.bin", tmp_path / "b.bin"
    first.write_bytes(b"abc")
    second.write_bytes(bytes(range(256)))

    async def scenario() -> None:
        async with running(chromium) as driver:
            await driver.open(page.as_uri(), deadline=DEADLINE)
            await driver.offer_files([first, second], deadline=DEADLINE)
            read = (
                "Promise.all(Array.from(document.getElementById('webaccel-files').files,"
                "async (f) => [f.name, ...new Uint8Array(await f.arrayBuffer())]))"
            )
            assert await driver.evaluate(read, deadline=DEADLINE) == [
                ["a.bin", *b"abc"],
                ["b.bin", *range(256)],
            ]
            with pytest.raises(BrowserError, match="is no file"):
                await driver.offer_files([tmp_path / "none"], deadline=DEADLINE)
            await driver.open(blank(), deadline=DEADLINE)
            with pytest.raises(BrowserError, match="no <input"):
                await driver.offer_files([first], deadline=DEADLINE)

    asyncio.run(scenario())


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


def test_crashed_page_is_reported_once_fails_its_calls_and_can_be_replaced(chromium):
    async def scenario() -> None:
        async with running(chromium) as driver:
            seen = watch(driver)
            await driver.open(blank(), deadline=DEADLINE)
            waiting = asyncio.ensure_future(driver.evaluate("new Promise(() => {})", deadline=DEADLINE))
            await asyncio.sleep(0)
            driver.crash_page()
            assert (await next_damage(seen)).symptom is Symptom.PAGE_CRASHED
            with pytest.raises(BrowserError, match="the page crashed"):
                await waiting
            await driver.open(blank(), deadline=DEADLINE)
            assert await driver.evaluate("1", deadline=DEADLINE) == 1
            assert seen.empty()

    asyncio.run(scenario())


def test_kill_is_reported_ends_the_tree_and_the_driver_starts_again(chromium):
    async def scenario() -> None:
        async with running(chromium) as driver:
            seen = watch(driver)
            await driver.open(blank(), deadline=DEADLINE)
            tree = family(driver.pid)
            assert len(tree) > 2
            waiting = asyncio.ensure_future(driver.evaluate("new Promise(() => {})", deadline=DEADLINE))
            await asyncio.sleep(0)
            driver.kill()
            damage = await next_damage(seen)
            assert damage.symptom is Symptom.BROWSER_EXITED
            assert "SIGKILL" in damage.detail
            with pytest.raises(BrowserError):
                await waiting
            assert driver.pid is None
            assert await wait_gone([process.pid for process in tree], deadline=DEADLINE)
            with pytest.raises(BrowserError, match="not running"):
                await driver.evaluate("1", deadline=DEADLINE)
            await driver.start(deadline=DEADLINE)
            await driver.open(blank(), deadline=DEADLINE)
            assert await driver.evaluate("1", deadline=DEADLINE) == 1

    asyncio.run(scenario())


def test_stop_leaves_no_process_and_no_profile_reports_nothing_and_may_be_called_twice(chromium):
    async def scenario() -> None:
        driver: Any = ChromiumDriver(chromium)
        seen = watch(driver)
        await driver.stop(deadline=DEADLINE)
        await driver.start(deadline=DEADLINE)
        await driver.open(blank(), deadline=DEADLINE)
        tree, profile = family(driver.pid), driver.profile
        await driver.stop(deadline=DEADLINE)
        await driver.stop(deadline=DEADLINE)
        assert living(tree) == []
        assert not profile.exists()
        assert seen.empty()

    asyncio.run(scenario())


def test_stopped_process_of_the_tree_is_ended_too(chromium):
    async def scenario() -> None:
        async with running(chromium) as driver:
            tree = family(driver.pid)
            for process in tree:
                os.kill(process.pid, signal.SIGSTOP)
            await driver.stop(deadline=DEADLINE)
            assert living(tree) == []

    asyncio.run(scenario())


def test_browser_that_does_not_start_names_itself_its_words_and_the_remedy(tmp_path):
    broken = tmp_path / "broken-browser"
    broken.write_text("#!/bin/sh\necho 'cannot open display' >&2\nexit 3\n")
    broken.chmod(0o755)

    async def scenario() -> None:
        driver: Any = make_driver(Installation(Browser.CHROMIUM, broken, "", "explicit"))
        with pytest.raises(BrowserError) as caught:
            await driver.start(deadline=DEADLINE)
        message = str(caught.value)
        assert str(broken) in message
        assert "cannot open display" in message
        assert "python -m pytest_webaccel install" in message
        assert driver.pid is None
        assert driver.profile is None

    asyncio.run(scenario())


def test_browser_that_never_answers_fails_by_the_deadline_and_is_ended(tmp_path):
    silent = tmp_path / "silent-browser"
    silent.write_text('#!/bin/sh\necho $$ > "$(dirname "$0")/pid"\nexec sleep 600\n')
    silent.chmod(0o755)

    async def scenario() -> None:
        driver = make_driver(Installation(Browser.CHROMIUM, silent, "", "explicit"))
        with pytest.raises(BrowserError, match="did not start"):
            await driver.start(deadline=0.5)

    asyncio.run(scenario())
    pid = int((tmp_path / "pid").read_text())
    assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_debugging_port_is_offered_beside_the_pipe_only_when_asked(chromium):
    async def scenario() -> None:
        async with running(chromium, debugging_port=True) as driver:
            assert driver.endpoint.startswith("ws://127.0.0.1:")
            await driver.open(blank(), deadline=DEADLINE)
            assert await driver.evaluate("1", deadline=DEADLINE) == 1
        async with running(chromium) as driver:
            assert driver.endpoint is None
            listening = [
                connection
                for process in family(driver.pid)
                for connection in process.net_connections("inet")
                if connection.status == psutil.CONN_LISTEN
            ]
            assert listening == []

    asyncio.run(scenario())


CHILD = """
import asyncio, sys
from pathlib import Path
from pytest_webaccel.browsers import find
from pytest_webaccel.browsers.chromium import ChromiumDriver
from pytest_webaccel.terms import (Browser)
async def main():
    driver = ChromiumDriver(find(Browser.CHROMIUM))
    await driver.start(deadline=20)
    await driver.open(Path(sys.argv[1]).as_uri(), deadline=20)
    print(driver.pid, driver.profile, flush=True)
    await asyncio.Event().wait()
asyncio.run(main())
"""


def test_owner_killed_with_sigkill_leaves_no_process_and_its_profile_goes_at_the_next_sweep(chromium):
    page = str(resources.files("pytest_webaccel") / "page" / "blank.html")
    tree_of_this = str(Path(pytest_webaccel.__file__).parents[1])
    environment = {**os.environ, "PYTHONPATH": tree_of_this}
    command = [sys.executable, "-c", CHILD, page]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as owner:
        assert owner.stdout is not None
        pid, _, profile = owner.stdout.readline().strip().partition(" ")
        tree = family(int(pid))
        assert len(tree) > 2
        sweep()
        assert Path(profile).is_dir(), "a living owner's profile was swept"
        owner.kill()
        owner.wait()
    assert asyncio.run(wait_gone([process.pid for process in tree], deadline=DEADLINE))
    sweep()
    assert not Path(profile).exists()
