"""The page's own account of engines and devices, in a real browser: what no request from outside can bring about."""

from __future__ import annotations

import pytest

from tests.engines.pages import in_page

ENGINE = """
    const { OnnxEngine } = await import("/page/onnx.mjs");
    const engine = new OnnxEngine({ generation: 1 });
    for (const [model, url] of [["a", "one.mjs"], ["b", "one.mjs"], ["c", "two.mjs"]]) {
        engine.sessions.set(model, { url });
        engine.loads.set(model, {});
        engine.modules.set(url, {});
    }
    const left = () => [[...engine.sessions.keys()], [...engine.loads.keys()], [...engine.modules.keys()]];
"""


@pytest.mark.parametrize(
    "error", ['new WebAssembly.RuntimeError("unreachable")', 'new Error("Aborted(OOM)")', "5243136"]
)
def test_a_module_that_stopped_in_the_middle_is_forgotten_with_its_sessions_and_no_other(error):
    assert in_page(f'{ENGINE} engine.distrust({error}, "one.mjs"); return left();') == [["c"], ["c"], ["two.mjs"]]


def test_a_module_that_only_said_no_is_kept():
    found = in_page(f'{ENGINE} engine.distrust(new Error("no such operator"), "one.mjs"); return left();')
    assert found == [["a", "b", "c"], ["a", "b", "c"], ["one.mjs", "two.mjs"]]


DEVICE = """
    const { LaneDevice } = await import("/page/device.mjs");
    const told = [];
    const lane = new LaneDevice("cpu", (info) => told.push(info.reason));
    await lane.renew();
    const fake = () => {
        const device = {};
        device.lost = new Promise((done) => { device.end = (reason) => done({ reason, message: "" }); });
        lane.watch(device, lane.generation);
        return device;
    };
    const settled = () => new Promise((done) => setTimeout(done, 0));
    const device = fake();
"""


@pytest.mark.parametrize(
    ("before", "reason", "told"),
    [
        ("", "destroyed", ["destroyed"]),
        ("lane.mayEnd(device);", "destroyed", []),
        ("lane.mayEnd(device);", "unknown", ["unknown"]),
        ("lane.mayEnd(device); lane.watch(device, lane.generation);", "destroyed", ["destroyed"]),
    ],
    ids=["unmarked", "marked", "a crash", "in use again"],
)
def test_a_device_that_its_owner_may_end_is_not_lost_by_that(before, reason, told):
    found = in_page(f'{DEVICE} {before} device.end("{reason}"); await settled(); return told;')
    assert found == told
