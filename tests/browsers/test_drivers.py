"""What every driver does, on each browser that is here and on Deno."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import stat
import subprocess
import sys
import time
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest

import pytest_webaccel
from pytest_webaccel.browsers import Installation, make_driver
from pytest_webaccel.browsers.process import lives, wait_gone
from pytest_webaccel.browsers.profiles import sweep
from pytest_webaccel.errors import BrowserError
from pytest_webaccel.terms import Browser, Symptom
from tests.browsers.driving import DEADLINE, Stage, blank, family, living, next_damage, watch

if TYPE_CHECKING:
    from collections.abc import Iterator

BROWSERS = (Browser.CHROMIUM, Browser.FIREFOX)
#: All that are driven, and how many processes each has at least.
PROCESSES = {Browser.CHROMIUM: 3, Browser.FIREFOX: 3, Browser.DENO: 1}
#: For a test of what Deno has not: a page apart from its process, files, numbers that JSON lacks.
browsers_only = pytest.mark.parametrize("installation", BROWSERS, ids=str, indirect=True)


@pytest.fixture(scope="module", params=PROCESSES, ids=str)
def installation(request: pytest.FixtureRequest) -> Installation:
    found: Installation = request.getfixturevalue(request.param)
    return found


@pytest.fixture(scope="module")
def stage(installation: Installation) -> Iterator[Stage]:
    stage = Stage(installation)
    yield stage
    stage.end()


def test_start_reports_version_and_pid_and_makes_a_private_profile(stage):
    async def scenario(driver: Any) -> None:
        assert driver.browser is stage.installation.browser
        assert driver.version.split(".")[0].isdigit()
        assert psutil.pid_exists(driver.pid)
        assert stat.S_IMODE(driver.profile.stat().st_mode) == 0o700
        assert str(driver.pid) not in driver.profile.name
        assert f"-{os.getpid()}-" in driver.profile.name
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
        with pytest.raises(BrowserError, match="the page threw: RangeError: too far"):
            await driver.evaluate("Promise.reject(new RangeError('too far'))", deadline=DEADLINE)
        with pytest.raises(BrowserError, match="SyntaxError"):
            await driver.evaluate("not a program", deadline=DEADLINE)

    stage.run(scenario)


@browsers_only
def test_evaluate_returns_numbers_that_json_lacks(stage):
    async def scenario(driver: Any) -> None:
        await driver.open(blank(), deadline=DEADLINE)
        assert await driver.evaluate("-Infinity", deadline=DEADLINE) == float("-inf")
        assert await driver.evaluate("12345678901234567890n", deadline=DEADLINE) == 12345678901234567890

    stage.run(scenario)


def test_evaluate_past_its_deadline_fails_and_the_page_stays_usable(stage):
    async def scenario(driver: Any) -> None:
        await driver.open(blank(), deadline=DEADLINE)
        with pytest.raises(BrowserError, match="not answered within"):
            await driver.evaluate("new Promise(() => {})", deadline=0.1)
        assert await driver.evaluate("1 + 1", deadline=DEADLINE) == 2

    stage.run(scenario)


@browsers_only
def test_open_replaces_the_page_by_one_that_is_in_front(stage):
    beats = """new Promise((resolve) => {
      const start = performance.now();
      let beats = 0;
      const beat = () => (++beats < 20 ? setTimeout(beat, 1) : resolve(performance.now() - start));
      beat();
    })"""

    async def scenario(driver: Any) -> None:
        await driver.open(blank(), deadline=DEADLINE)
        await driver.evaluate("globalThis.mark = 1", deadline=DEADLINE)
        await driver.open(blank(), deadline=DEADLINE)
        assert await driver.evaluate("typeof mark", deadline=DEADLINE) == "undefined"
        assert await driver.evaluate("isSecureContext", deadline=DEADLINE) is True
        assert await driver.evaluate("document.visibilityState", deadline=DEADLINE) == "visible"
        assert await driver.evaluate(beats, deadline=30) < 10_000, "timers wait a second each, as in a hidden page"

    stage.run(scenario)


@browsers_only
def test_open_of_what_is_not_there_says_so_and_the_next_page_opens(stage, tmp_path):
    async def scenario(driver: Any) -> None:
        with pytest.raises(BrowserError, match=r"missing\.html could not be opened"):
            await driver.open((tmp_path / "missing.html").as_uri(), deadline=DEADLINE)
        await driver.open(blank(), deadline=DEADLINE)
        assert await driver.evaluate("1", deadline=DEADLINE) == 1

    stage.run(scenario)


@browsers_only
def test_files_arrive_in_the_page_as_file_handles(stage, tmp_path):
    page = tmp_path / "page.html"
    page.write_text("<!doctype html><input type=file id=webaccel-files multiple hidden>")
    first, second = tmp_path / "a.bin", tmp_path / "b.bin"
    first.write_bytes(b"abc")
    second.write_bytes(bytes(range(256)))

    async def scenario(driver: Any) -> None:
        assert driver.takes_files
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

    stage.run(scenario)


@browsers_only
def test_crashed_page_is_reported_once_fails_its_calls_and_can_be_replaced(stage):
    async def scenario(driver: Any) -> None:
        seen = watch(driver)
        await driver.open(blank(), deadline=DEADLINE)
        waiting = asyncio.ensure_future(driver.evaluate("new Promise(() => {})", deadline=DEADLINE))
        await asyncio.sleep(0)
        driver.crash_page()
        assert (await next_damage(seen)).symptom is Symptom.PAGE_CRASHED
        with pytest.raises(BrowserError, match="the page crashed"):
            await waiting
        assert driver.pid is not None
        await driver.open(blank(), deadline=DEADLINE)
        assert await driver.evaluate("1", deadline=DEADLINE) == 1
        assert seen.empty()

    stage.run(scenario)


@browsers_only
def test_reload_brings_another_document_at_the_same_address(stage):
    async def scenario(driver: Any) -> None:
        address = f"{blank()}#token"
        await driver.open(address, deadline=DEADLINE)
        await driver.evaluate("globalThis.mark = 1", deadline=DEADLINE)
        await driver.reload(deadline=DEADLINE)
        assert await driver.evaluate("typeof mark", deadline=DEADLINE) == "undefined"
        assert await driver.evaluate("location.href", deadline=DEADLINE) == address
        driver.crash_page()  # its process is still known
        with pytest.raises(BrowserError, match="the page crashed"):
            await driver.evaluate("new Promise(() => {})", deadline=DEADLINE)

    stage.run(scenario)


def test_stopped_page_answers_nothing_until_it_is_resumed_and_breaks_nothing(stage):
    async def scenario(driver: Any) -> None:
        seen = watch(driver)
        await driver.open(blank(), deadline=DEADLINE)
        driver.resume_page()  # harmless where nothing is stopped
        await driver.stop_page(deadline=DEADLINE)
        with pytest.raises(BrowserError, match="not answered within"):
            await driver.evaluate("1", deadline=0.3)
        assert not await driver.page_runs(deadline=0.2)
        driver.resume_page()
        assert await driver.evaluate("1", deadline=DEADLINE) == 1
        assert await driver.page_runs(deadline=DEADLINE)
        assert seen.empty()

    stage.run(scenario)


@pytest.mark.parametrize("seen_to_hang", [False, True], ids=["unseen", "seen"])
@pytest.mark.parametrize("hang", ["stopped", "looping"])
def test_page_that_hangs_is_replaced_and_nothing_of_it_stays(stage, hang, seen_to_hang):
    async def scenario(driver: Any) -> None:
        seen = watch(driver)
        await driver.open(blank(), deadline=DEADLINE)
        before, root = set(family(driver.pid)), driver.pid
        if hang == "stopped":
            await driver.stop_page(deadline=DEADLINE)
        else:
            with pytest.raises(BrowserError, match="not answered within"):
                await driver.evaluate("for (;;);", deadline=0.3)
        if seen_to_hang:
            assert not await driver.page_runs(deadline=0.2)
        await driver.open(blank(), deadline=DEADLINE)
        assert await driver.evaluate("6 * 7", deadline=DEADLINE) == 42
        assert lives(root) is (root == driver.pid)
        gone = [process.pid for process in before - set(family(driver.pid))]
        assert await wait_gone(gone, deadline=DEADLINE)
        busy = [process for process in living(family(driver.pid)) if process.status() == psutil.STATUS_STOPPED]
        assert busy == []
        assert seen.empty()

    stage.run(scenario)


def test_kill_is_reported_ends_the_tree_and_the_driver_starts_again(stage):
    async def scenario(driver: Any) -> None:
        seen = watch(driver)
        await driver.open(blank(), deadline=DEADLINE)
        tree = family(driver.pid)
        assert len(tree) >= PROCESSES[driver.browser]
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
        assert seen.empty()

    stage.run(scenario)


@pytest.mark.parametrize("state", ["running", "stopped"])
def test_stop_leaves_no_process_and_no_profile_reports_nothing_and_may_be_called_twice(stage, state):
    async def scenario(driver: Any) -> None:
        seen = watch(driver)
        await driver.open(blank(), deadline=DEADLINE)
        if state == "stopped":
            await driver.stop_page(deadline=DEADLINE)
        tree, profile = family(driver.pid), driver.profile
        await driver.stop(deadline=DEADLINE)
        await driver.stop(deadline=DEADLINE)
        assert living(tree) == []
        assert not profile.exists()
        assert seen.empty()

    stage.run(scenario)


def test_stopped_process_of_the_tree_is_ended_too(stage):
    async def scenario(driver: Any) -> None:
        tree = family(driver.pid)
        for process in tree:
            with contextlib.suppress(psutil.NoSuchProcess):  # one of many may just be ending
                process.suspend()
        await driver.stop(deadline=DEADLINE)
        assert living(tree) == []

    stage.run(scenario)


@pytest.mark.parametrize("browser", PROCESSES)
def test_browser_that_does_not_start_names_itself_its_words_and_the_remedy(tmp_path, browser):
    broken = tmp_path / "broken-browser"
    broken.write_text("#!/bin/sh\necho 'cannot open display' >&2\nexit 3\n")
    broken.chmod(0o755)
    remedy = "pip install deno" if browser is Browser.DENO else "python -m pytest_webaccel install"

    async def scenario() -> None:
        driver: Any = make_driver(Installation(browser, broken, "", "explicit"))
        with pytest.raises(
            BrowserError, match=rf"{re.escape(str(broken))}\) did not start: .*cannot open display.*`{remedy}`"
        ):
            await driver.start(deadline=DEADLINE)
        assert driver.pid is None
        assert driver.profile is None

    asyncio.run(scenario())


@pytest.mark.parametrize("browser", PROCESSES)
def test_browser_that_never_answers_fails_by_the_deadline_and_is_ended(tmp_path, browser):
    silent = tmp_path / "silent-browser"
    silent.write_text('#!/bin/sh\necho $$ > "$(dirname "$0")/pid"\nexec sleep 600\n')
    silent.chmod(0o755)

    async def scenario() -> None:
        driver = make_driver(Installation(browser, silent, "", "explicit"))
        with pytest.raises(BrowserError, match="did not start"):
            await driver.start(deadline=0.5)

    asyncio.run(scenario())
    pid = int((tmp_path / "pid").read_text())
    assert not lives(pid)


CHILD = """
import asyncio, sys
from pathlib import Path
from pytest_webaccel.browsers import find, make_driver
from pytest_webaccel.terms import Browser
async def main():
    driver = make_driver(find(Browser(sys.argv[2])))
    await driver.start(deadline=20)
    await driver.open(Path(sys.argv[1]).as_uri(), deadline=20)
    print(driver.pid, driver.profile, flush=True)
    await asyncio.Event().wait()
asyncio.run(main())
"""


def test_owner_killed_with_sigkill_leaves_no_process_and_its_profile_goes_at_the_next_sweep(installation):
    page = str(resources.files("pytest_webaccel") / "page" / "blank.html")
    tree_of_this = str(Path(pytest_webaccel.__file__).parents[1])
    environment = {**os.environ, "PYTHONPATH": tree_of_this}
    command = [sys.executable, "-c", CHILD, page, str(installation.browser)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as owner:
        assert owner.stdout is not None
        pid, _, profile = owner.stdout.readline().strip().partition(" ")
        tree = family(int(pid))
        assert len(tree) >= PROCESSES[installation.browser]
        sweep()
        assert Path(profile).is_dir(), "a living owner's profile was swept"
        owner.kill()
        owner.wait()
    assert asyncio.run(wait_gone([process.pid for process in tree], deadline=DEADLINE))
    until = time.monotonic() + DEADLINE
    while Path(profile).exists() and time.monotonic() < until:  # another process may be at it, which starts a browser
        sweep()
    assert not Path(profile).exists()
