from __future__ import annotations

import asyncio
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_webaccel.browsers import DRIVERS, Installation, find, probe
from pytest_webaccel.browsers.doctor import examine
from pytest_webaccel.browsers.launch import launch_facts
from pytest_webaccel.browsers.preferences import swiftshader, vulkan_driver
from pytest_webaccel.browsers.probe import (
    KEPT_OFF_GPU,
    WEBGPU_OUTLIVES_GPU_PROCESS,
    WEBNN_LOST_WITH_GPU_PROCESS,
    lanes_table,
    probe_sync,
)
from pytest_webaccel.browsers.settings import has_gpu
from pytest_webaccel.errors import BrowserError
from pytest_webaccel.faults import INJECTORS
from pytest_webaccel.pool.worker import Worker, installation_of
from pytest_webaccel.rows import LaneRow
from pytest_webaccel.terms import Backend, Browser, Evidence, Fault, Lane, ProbeResult, Strategy
from pytest_webaccel.testing import stand_in_ort

if TYPE_CHECKING:
    from pytest_webaccel.rows import Row

WEBGPU = Lane(Browser.CHROMIUM, Backend.WEBGPU)
SWIFTSHADER = swiftshader()  # before tests move the cache


@pytest.fixture
def bare(cache, tmp_path, monkeypatch):
    """A machine without any browser."""
    monkeypatch.setattr("pytest_webaccel.browsers.locate._packaged", lambda: iter(()))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("PLAYWRIGHT_BROWSERS_PATH", str(tmp_path / "none"))


def test_real_chromium_is_probed_on_every_backend_and_remembered(chromium, cache, monkeypatch):
    first = {result.lane.backend: result for result in probe_sync([chromium])}
    assert set(first) == set(Backend)
    for result in first.values():
        assert result.works or (result.reason and result.remedy)
    assert first[Backend.CPU].works
    assert first[Backend.WEBGPU].works
    assert first[Backend.WEBGPU].limits["maxComputeInvocationsPerWorkgroup"] >= 256
    if "swiftshader" in first[Backend.WEBGPU].adapter:
        assert first[Backend.WEBGPU].evidence is Evidence.SOFTWARE

    async def no_look(*_, **__):
        raise AssertionError("the browser was started again")

    monkeypatch.setattr(probe, "_look", no_look)
    again = {result.lane.backend: result for result in probe_sync([chromium])}
    assert again == first
    with pytest.raises(AssertionError, match="started again"):
        probe_sync([chromium], refresh=True)


def test_a_gpu_that_cannot_serve_the_browser_is_left_alone_and_its_lanes_say_so(chromium, cache, monkeypatch):
    """Without a GPU the GPU process does not start with the settings for one, as on a GPU that cannot draw."""
    if has_gpu():
        pytest.skip("the GPU here may well serve the browser")
    monkeypatch.setattr("pytest_webaccel.browsers.settings.has_gpu", lambda: True)
    found = {result.lane.backend: result for result in probe_sync([chromium])}
    assert all(KEPT_OFF_GPU in result.features for result in found.values())
    for backend in (Backend.WEBGPU, Backend.WEBNN):
        assert found[backend].works, found[backend].reason
        assert found[backend].evidence is Evidence.SOFTWARE
        assert found[backend].adapter.endswith("(the GPU here cannot serve this browser)")
    assert installation_of(found[Backend.WEBGPU]).software
    assert found == {result.lane.backend: result for result in probe_sync([chromium])}, "and it is remembered so"
    table = [found[Backend.WEBGPU]]
    rows: list[Row] = []
    worker = Worker(table, run_id="r", worker="w", strategy=Strategy.NONE, record=rows.append, ort=stand_in_ort()[0])
    try:
        with worker.lease(WEBGPU, "test"):
            pass  # the lane itself gets a device, with the same settings
    finally:
        worker.stop()
    assert [row.adapter for row in rows if isinstance(row, LaneRow)] == [found[Backend.WEBGPU].adapter]


def test_finding_that_ran_into_a_deadline_is_not_remembered(chromium, cache, monkeypatch):
    finding = {
        "works": False,
        "timedOut": True,
        "reason": "too slow",
        "adapter": "",
        "fallback": False,
        "accelerated": False,
        "features": [],
        "limits": {},
    }
    looks = []

    async def slow(*_, **__):
        looks.append(1)
        return "1", {str(backend): finding for backend in Backend}

    monkeypatch.setattr(probe, "_look", slow)
    assert [result.reason for result in probe_sync([chromium])] == ["too slow."] * 3
    probe_sync([chromium])
    assert len(looks) == 2


def test_browser_that_does_not_start_gives_lanes_with_reason_and_remedy(chromium, cache, monkeypatch):
    async def broken(*_, **__):
        raise BrowserError("it did not start: no display")

    monkeypatch.setattr(probe, "_look", broken)
    (result,) = probe_sync([chromium], [WEBGPU])
    assert not result.works
    assert "no display" in result.reason
    assert "install" in result.remedy


def test_machine_without_a_browser_still_gets_a_table_that_says_what_to_do(bare):
    table = lanes_table()
    assert [str(result.lane) for result in table] == ["chromium:webgpu", "chromium:webnn", "chromium:cpu"]
    assert all(not result.works and "install" in result.remedy for result in table)


def test_lanes_named_outright_come_back_in_their_order_each_once(bare):
    asked = [Lane(Browser.EDGE, Backend.CPU), WEBGPU, Lane(Browser.EDGE, Backend.CPU)]
    assert [result.lane for result in lanes_table(lanes=asked)] == asked[:2]


def test_browsers_times_backends(bare):
    table = lanes_table([Browser.CHROMIUM, Browser.FIREFOX], [Backend.WEBGPU])
    assert [str(result.lane) for result in table] == ["chromium:webgpu", "firefox:webgpu"]
    assert table[1].reason == "firefox was not found."
    assert "python -m pytest_webaccel install firefox" in table[1].remedy


def test_fake_browser_is_fake_evidence_once_registered_and_never_automatic(bare, monkeypatch):
    lane = Lane(Browser.FAKE, Backend.WEBGPU)
    monkeypatch.delitem(DRIVERS, Browser.FAKE, raising=False)
    assert not lanes_table(lanes=[lane])[0].works
    monkeypatch.setitem(DRIVERS, Browser.FAKE, lambda *_, **__: None)
    (result,) = lanes_table(lanes=[lane])
    assert (result.works, result.evidence) == (True, Evidence.FAKE)
    assert all(result.lane.browser is not Browser.FAKE for result in lanes_table())


def test_deno_is_never_automatic_and_says_how_it_is_had(bare, tmp_path, monkeypatch):
    found = Installation(Browser.DENO, tmp_path / "deno", "2.9.8", "package")
    with monkeypatch.context() as patch:
        patch.setattr(probe, "find", lambda browser, executable=None: found if browser is Browser.DENO else None)
        assert {result.lane.browser for result in lanes_table()} == {Browser.CHROMIUM}
    (absent,) = lanes_table([Browser.DENO], [Backend.WEBGPU])
    assert (absent.works, absent.reason) == (False, "no deno was found.")
    assert "pip install deno" in absent.remedy


def test_found_but_unsupported_browser_is_not_started():
    webkit = Installation(Browser.WEBKIT, Path("/usr/bin/MiniBrowser"), "2.50", "system")
    results = probe_sync([webkit])
    assert {result.reason for result in results} == {"found; lanes for it are not supported in this version."}


def test_probe_may_be_asked_for_inside_a_running_loop(bare):
    async def scenario() -> tuple[ProbeResult, ...]:
        return lanes_table(lanes=[WEBGPU])

    assert asyncio.run(scenario())[0].lane == WEBGPU


def test_doctor_shows_what_is_missing_and_is_not_healthy(bare):
    found = examine()
    text = found.to_text()
    assert not found.healthy
    assert "none found. Run `python -m pytest_webaccel install`" in text
    assert "onnxruntime-web 1.30.0 is not installed" in text
    assert "not ready" in text


def test_doctor_shows_browser_lanes_and_evidence(chromium, cache, monkeypatch):
    monkeypatch.setattr("pytest_webaccel.browsers.doctor.find_all", lambda: (chromium,))
    monkeypatch.setattr("pytest_webaccel.browsers.probe.find", lambda browser, executable=None: chromium)
    found = examine()
    text = found.to_text()
    assert str(chromium.executable) in text
    assert "chromium:webgpu" in text
    assert "maxStorageBufferBindingSize" in text
    assert {lane["lane"] for lane in found.to_json()["lanes"]} >= {"chromium:webgpu", "chromium:webnn", "chromium:cpu"}


def test_real_firefox_is_probed_named_and_said_to_have_no_gpu_process_to_lose(cache, monkeypatch):
    monkeypatch.setattr("pytest_webaccel.browsers.preferences.swiftshader", lambda: SWIFTSHADER)
    firefox = find(Browser.FIREFOX)
    if firefox is None:
        pytest.skip("no Firefox is installed: run `python -m pytest_webaccel install firefox` as root")
    results = {result.lane.backend: result for result in probe_sync([firefox])}
    assert results[Backend.CPU].works
    assert not results[Backend.WEBNN].works
    assert "has no WebNN" in results[Backend.WEBNN].reason
    webgpu = results[Backend.WEBGPU]
    assert webgpu.works, webgpu.reason
    assert WEBGPU_OUTLIVES_GPU_PROCESS in webgpu.features
    if vulkan_driver():
        assert "SwiftShader" in webgpu.adapter
        assert "loops-cut-short" not in webgpu.features
    assert webgpu.evidence is Evidence.SOFTWARE, "an adapter without a name is not shown to be hardware"
    meaning = INJECTORS[Fault.DEVICE_LOST].meaning(webgpu)
    assert meaning is not None
    assert "no GPU process" in meaning


def mesa() -> str:
    """Return the version of Mesa's drivers, as Debian knows it."""
    if shutil.which("dpkg-query") is None:
        return ""
    command = ["dpkg-query", "--show", "--showformat=${Version}", "mesa-vulkan-drivers"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout


def test_driver_that_ends_loops_early_is_told(cache, monkeypatch):
    firefox, lavapipe = find(Browser.FIREFOX), Path("/usr/share/vulkan/icd.d/lvp_icd.x86_64.json")
    if firefox is None or not lavapipe.is_file() or not mesa().startswith("22.3.6"):
        pytest.skip("no Firefox with Mesa's lavapipe 22.3.6 is here, the driver that does")
    monkeypatch.setenv("VK_DRIVER_FILES", str(lavapipe))
    monkeypatch.setenv("VK_ICD_FILENAMES", str(lavapipe))
    webgpu = next(one for one in probe_sync([firefox]) if one.lane.backend is Backend.WEBGPU)
    assert webgpu.works, webgpu.reason
    assert "loops-cut-short" in webgpu.features
    assert webgpu.evidence is Evidence.SOFTWARE


def test_firefox_joins_the_automatic_lanes_where_it_is_found(bare, tmp_path, monkeypatch):
    asked: list[Lane] = []

    def note(found, lanes, **_):
        asked.extend(lanes)
        return ()

    monkeypatch.setattr(probe, "probe_sync", note)
    lanes_table()
    assert {lane.browser for lane in asked} == {Browser.CHROMIUM}
    for name in ("chromium", "firefox"):
        (tmp_path / name).write_text("#!/bin/sh\necho 1.2.3\n")
        (tmp_path / name).chmod(0o755)
    asked.clear()
    lanes_table()
    assert {lane.browser for lane in asked} == {Browser.CHROMIUM, Browser.FIREFOX}


def test_probe_of_deno_is_made_again_where_its_driver_changes(monkeypatch):
    before = launch_facts(Browser.DENO, headed=False)
    assert before == launch_facts(Browser.DENO, headed=False)
    for name in ("VK_DRIVER_FILES", "DENO_WEBGPU_BACKEND"):
        with monkeypatch.context() as patch:
            patch.setenv(name, "/elsewhere")
            assert before != launch_facts(Browser.DENO, headed=False), name


@pytest.mark.parametrize("browser", [Browser.CHROMIUM, Browser.FIREFOX])
def test_probe_is_made_again_where_anything_of_a_start_changes(browser, monkeypatch):
    before = launch_facts(browser, headed=False)
    assert before == launch_facts(browser, headed=False)
    assert before != launch_facts(browser, headed=True)
    if browser is Browser.FIREFOX:
        monkeypatch.setenv("VK_DRIVER_FILES", "/elsewhere.json")
        assert before != launch_facts(browser, headed=False)
        monkeypatch.undo()
        monkeypatch.setattr("pytest_webaccel.browsers.preferences._BARE", ())
        assert before != launch_facts(browser, headed=False)


class Scripted:
    """A driver that answers the probe as told, and dies as told."""

    version = "1"

    def __init__(self, seen, *, lost=True, fails=()):
        self.seen, self.lost, self.fails = seen, lost, fails
        self.crashed = self.stopped = False

    async def start(self, *, deadline):
        pass

    async def open(self, url, *, deadline):
        pass

    async def evaluate(self, expression, *, deadline):
        assert deadline > 0
        if "webaccelProbe" in expression:
            return self.seen
        step = "take" if "createContext" in expression else "see"
        if step in self.fails:
            raise BrowserError("the page threw")
        return True if step == "take" else self.lost

    async def crash_gpu(self, *, deadline):
        if "crash" in self.fails:
            raise BrowserError("there is no GPU process")
        self.crashed = True

    async def stop(self, *, deadline):
        self.stopped = True


def page_saw(**webnn):
    plain = {"works": True, "timedOut": False, "reason": "", "adapter": "", "fallback": False, "accelerated": False}
    return {str(backend): {**plain, "features": ["cpu"], "limits": {}} for backend in Backend} | {
        "webnn": {**plain, "features": ["cpu"], "limits": {}, **webnn}
    }


@pytest.mark.parametrize(
    ("driver", "lost"),
    [
        (Scripted(page_saw()), True),
        (Scripted(page_saw(), lost=False), False),
        (Scripted(page_saw(works=False)), False),
        (Scripted(page_saw(), fails=["take"]), False),
        (Scripted(page_saw(), fails=["crash"]), False),
        (Scripted(page_saw(), fails=["see"]), False),
    ],
)
def test_whether_webnn_dies_with_the_gpu_process_is_tried_and_not_assumed(chromium, cache, monkeypatch, driver, lost):
    monkeypatch.setattr(probe, "make_driver", lambda *_, **__: driver)
    webnn = next(one for one in probe_sync([chromium]) if one.lane.backend is Backend.WEBNN)
    assert (WEBNN_LOST_WITH_GPU_PROCESS in webnn.features) is lost
    assert driver.stopped
    meaning = INJECTORS[Fault.DEVICE_LOST].meaning(webnn)
    assert (meaning is None) is lost


def script(*, found, lost=True, fails=()):
    """A browser whose WebGPU works and whose WebNN does not."""
    return Scripted(page_saw(works=False), lost=lost, fails=fails), found


@pytest.mark.parametrize(
    ("driver", "outlives"),
    [
        script(found=False),
        script(fails=["crash"], found=True),  # there is no GPU process
        script(fails=["see"], found=False),  # no device was to be had, so nothing is known
    ],
)
def test_whether_webgpu_dies_with_the_gpu_process_is_tried_too(chromium, cache, monkeypatch, driver, outlives):
    monkeypatch.setattr(probe, "make_driver", lambda *_, **__: driver)
    webgpu = next(one for one in probe_sync([chromium]) if one.lane.backend is Backend.WEBGPU)
    assert (WEBGPU_OUTLIVES_GPU_PROCESS in webgpu.features) is outlives
    assert (INJECTORS[Fault.DEVICE_LOST].meaning(webgpu) is not None) is outlives


def test_reason_and_remedy_are_sentences_of_their_own(bare):
    (result,) = lanes_table([Browser.WEBKIT], [Backend.WEBGPU])
    assert f"{result.reason} {result.remedy}".endswith("not supported in this version. Use chromium instead.")
